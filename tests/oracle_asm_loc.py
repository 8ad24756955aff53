"""A plain ASM-Loc, with T x T masks and one box after another, to compare with the fast one."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from fast.attention import HEADS, Attention
from methods.asm_loc.network import ASMNet, ASMOutput
from tests.oracles import plain


class PlainASMNet(ASMNet):
    """The same weights, applied with masks over all pairs of times and over boxes padded to `most`."""

    most = 200

    def forward(self, snippets, localized_only=False):
        x_btd = snippets.dense().transpose(1, 2).to(self.att_branch.weight.dtype)
        boxes = snippets.boxes or [np.zeros((0, 2), dtype=int)] * len(x_btd)
        p = self.dropout.p
        if self.everywhere:
            x_btd = F.dropout(x_btd, p, self.training)
        x_btd = F.relu(plain(self.feature_embedding[-2], x_btd.transpose(1, 2))).transpose(1, 2)
        if self.full:
            member_btn, there_bn = members(boxes, x_btd.shape[1], self.most, x_btd.dtype)
            x_btd = x_btd + inside(self.MHSA_Intra, x_btd, member_btn)
            x_btd = x_btd + between(self.MHSA_Inter, x_btd, member_btn, there_bn)
        x_bdt = x_btd.transpose(1, 2)
        again = (lambda x: F.dropout(x, p, self.training)) if self.everywhere else (lambda x: x)
        attention = plain(self.att_branch, again(x_bdt)).transpose(1, 2).softmax(dim=2)
        doubt = plain(self.uncertainty_branch, again(x_bdt)).squeeze(1) if self.full else None
        kept = F.dropout(x_btd.new_ones(*x_btd.shape[:2], 1), p, self.training)
        logits = self.snippet_cls(F.dropout(x_btd * kept, p, self.training))
        scores = []
        for branch, divisor in enumerate(self.k_divisors):
            ordered = (logits * attention[..., branch : branch + 1]).sort(dim=1, descending=True).values
            scores.append(ordered[:, : max(x_btd.shape[1] // divisor, 1)].mean(dim=1).softmax(dim=1))
        return ASMOutput(scores[0], scores[1], attention, logits, doubt)


def members(boxes, times, most=8, dtype=torch.float32):
    """(B, T, N) 1 where a time is in a box, else 0, and (B, N) True for boxes that exist; N is `most`."""
    member_btn = torch.zeros(len(boxes), times, most, dtype=dtype)
    there_bn = torch.zeros(len(boxes), most, dtype=torch.bool)
    for b, own in enumerate(boxes):
        for n, (first, last) in enumerate(own):
            member_btn[b, first : last + 1, n] = 1
            there_bn[b, n] = True
    return member_btn, there_bn


def inside(module: Attention, x_btd, member_btn):
    allowed = (member_btn @ member_btn.transpose(1, 2)) > 0
    return module.bn(plain(module.conv_out, attend(module, x_btd, allowed))).transpose(1, 2)


def between(module: Attention, x_btd, member_btn, there_bn):
    mean = (member_btn / member_btn.sum(dim=1, keepdim=True).clamp(min=1e-5)).transpose(1, 2) @ x_btd
    found = attend(module, mean, there_bn[:, :, None] & there_bn[:, None, :]).transpose(1, 2)
    back = member_btn @ found / member_btn.sum(dim=2, keepdim=True).clamp(min=1e-5)
    return module.bn(plain(module.conv_out, back.transpose(1, 2))).transpose(1, 2)


def attend(module: Attention, x_bnd, allowed):
    """(B, D, N)"""
    parts = [plain(conv, x_bnd.transpose(1, 2)) for conv in (module.conv_query, module.conv_key, module.conv_value)]
    size_b, width, count = parts[0].shape
    query, key, value = (part.view(size_b, HEADS, width // HEADS, count).transpose(2, 3) for part in parts)
    pairs = (query * (width // HEADS) ** -0.5) @ key.transpose(2, 3)
    shares = pairs.masked_fill(~allowed[:, None], -math.inf).softmax(dim=3)
    shares = torch.where(allowed[:, None], shares, 0.0)
    return (shares @ value).transpose(2, 3).reshape(size_b, width, count)


# ------------------------------------------------------------------------------------------------------- segments


def at(knots, values, q):
    """Linear interpolation at one place."""
    h = min(max(sum(k < q for k in knots), 1), len(knots) - 1)
    return (values[h] - values[h - 1]) / (knots[h] - knots[h - 1]) * (q - knots[h - 1]) + values[h - 1]


class Tie(Exception):
    """The length of a stretched run lies half way between two whole numbers: the order of its sum decides."""


def weights(by_class, num_seg, delta, gamma, alpha, f=1.5625):
    """`by_class`: for each class its (score, start, end)."""
    w = [1.0] * num_seg
    most = gamma * (2 * delta + 1)
    for rows in by_class:
        ordered = sorted(rows, key=lambda row: -row[0])
        sums = np.cumsum([row[0] for row in ordered])
        count = sum(value <= alpha * max(sums) for value in sums)
        for _, t0, t1 in ordered[:count]:
            m, d = (t0 + t1) / 2, t1 - t0
            a, b = max(round((m - (delta + 0.5) * d) * f), 0), min(round((m + (delta + 0.5) * d) * f), num_seg - 1)
            if a < b and b - a + 1 <= most:
                for i in range(a, b + 1):
                    w[i] = max(w[i], min(most / (b - a + 1), most))
    i = 0
    while i < num_seg:
        j = i
        while j < num_seg and w[j] > 1:
            j += 1
        if j > i:
            total = sum(w[i:j])
            if abs(total % 1 - 0.5) < 1e-9:
                raise Tie
            w[i:j] = [round(total) * value / total for value in w[i:j]]
        i = max(j, i + 1)
    return w


def boxes(segments, num_seg, cumsum, times, delta, f=1.5625):
    """`segments`: (start, end) in the order of A."""
    different = list(dict.fromkeys(segments))
    kept = []
    for segment in sorted(different, key=lambda s: -s[0])[::-1]:
        if not kept or segment[1] > kept[-1][1]:
            kept.append(segment)
    found = []
    for t0, t1 in kept:
        s, e, scale = (
            on_axis(t0, num_seg, cumsum, times, f),
            on_axis(t1, num_seg, cumsum, times, f),
            scale_of(num_seg, cumsum, times, f),
        )
        m, d = (s + e) / 2, e - s
        found.append((max(round((m - (delta + 0.5) * d) * scale), 0), min(round((m + (delta + 0.5) * d) * scale), times - 1)))
    return sorted(found, key=lambda box: -box[0])


def scale_of(num_seg, cumsum, times, f=1.5625):
    return f * times / (num_seg if cumsum is None else round(cumsum[-1]))


def on_axis(t, num_seg, cumsum, times, f=1.5625):
    return t if cumsum is None else (at(range(num_seg + 1), cumsum, t * f + 1) - 1) / f


def labels(rows, label_c, num_seg, cumsum, times, f=1.5625):
    """`rows`: (class, start, end)."""
    y = np.zeros((times, len(label_c) + 1), dtype=np.float32)
    y[:, -1] = 1
    scale = scale_of(num_seg, cumsum, times, f)
    for c, t0, t1 in rows:
        if label_c[c]:
            a = max(round(on_axis(t0, num_seg, cumsum, times, f) * scale), 0)
            b = min(round(on_axis(t1, num_seg, cumsum, times, f) * scale), times - 1)
            y[a : b + 1, c] = 1
            y[a : b + 1, -1] = 0
    return y / np.maximum(y.sum(axis=1, keepdims=True), 1e-6)
