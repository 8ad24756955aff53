"""ASM-Loc's networks: the base network, and the full one with attention inside and between segments.

Attention is computed where there are boxes and nowhere else (docs/asm_loc.md, section 3). The boxes that a time lies in all
hold it, so the times it attends to are one interval, from the earliest start of those boxes to the latest end.

Shapes: B batch, T time, F features, D hidden channels, C action classes, class C the background; M times of the batch that
lie in a box, G runs of them of at most S times, N boxes of the batch, P pairs of a box and a time in it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dropout import Dropout
from model import lay_out
from rows import Rows, convolve
from thumos_features import NO_BOXES, Indices
from utils import UserError

HEADS = 8
LONGER = 2.0  # runs of times attend together that differ in length by this factor at most


class Run(NamedTuple):
    """Overlapping boxes and the times in them, several such runs together."""

    place_gs: Tensor  # among the M times; the first one's again where a run is shorter
    attends_gss: Tensor


class Places(NamedTuple):
    """Where the boxes of a batch are."""

    time_m: Tensor  # numbers of the times that lie in a box, among all B*T
    runs: list[Run]
    from_runs_m: Tensor  # place of each of these times in the runs, laid end to end
    time_of_pair: Tensor  # (P,) among the M times, box by box
    first_of_box: Tensor  # (N,) pair
    box_of_pair: Tensor  # (P,) time by time
    first_of_time: Tensor  # (M,) pair
    box_bn: Tensor  # (videos with boxes, most boxes of one); the first one's again where a video has fewer
    there_bn: Tensor
    from_videos_n: Tensor  # place of each box in that

    def to(self, device: torch.device) -> "Places":
        moved = {name: value.to(device) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return self._replace(**moved, runs=[Run(*(value.to(device) for value in run)) for run in self.runs])


def find_places(boxes: Sequence[Indices], times: int) -> Places:
    """Where the boxes (n, 2) of each video are, when all have so many times; one whose first is past its last is empty."""
    video_n = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    box_n2 = np.concatenate([*boxes, NO_BOXES]) + times * video_n[:, None]
    filled = np.flatnonzero(box_n2[:, 0] <= box_n2[:, 1])
    first, last = box_n2[filled].T
    by_first = np.argsort(first, kind="stable")
    starts, reach = first[by_first], np.maximum.accumulate(last[by_first])
    new_run = np.flatnonzero(np.r_[True, starts[1:] > reach[:-1]]) if len(starts) else starts
    run_start, run_end = starts[new_run], reach[np.r_[new_run[1:], len(starts)] - 1] if len(starts) else reach
    time_m = ragged(run_start, run_end - run_start + 1)

    by_last = np.argsort(last, kind="stable")
    ends, earliest = last[by_last], np.minimum.accumulate(first[by_last][::-1])[::-1]
    from_m = earliest[np.searchsorted(ends, time_m)] if len(ends) else time_m
    to_m = reach[np.searchsorted(starts, time_m, side="right") - 1] if len(starts) else time_m

    length_g = run_end - run_start + 1
    offset_g = np.cumsum(length_g) - length_g
    runs, from_runs_m, filled_so_far = [], np.zeros(len(time_m), dtype=np.int64), 0
    for group in alike(length_g):
        count, longest = len(group), int(length_g[group].max())
        step_s = np.arange(longest)
        inside_gs = step_s < length_g[group, None]
        place_gs = offset_g[group, None] + np.where(inside_gs, step_s, 0)
        start_g1 = run_start[group, None]
        low_gs, high_gs = from_m[place_gs] - start_g1, to_m[place_gs] - start_g1
        attends = (low_gs[:, :, None] <= step_s) & (step_s <= high_gs[:, :, None])
        runs.append(Run(torch.from_numpy(place_gs), torch.from_numpy(attends)))
        laid = filled_so_far + np.arange(count * longest).reshape(count, longest)
        from_runs_m[place_gs[inside_gs]] = laid[inside_gs]
        filled_so_far += count * longest

    length_n = np.maximum(box_n2[:, 1] - box_n2[:, 0] + 1, 0)
    place_of_first = np.searchsorted(time_m, box_n2[:, 0])
    time_of_pair = ragged(place_of_first, length_n)
    box_of_pair = np.repeat(np.arange(len(length_n)), length_n)
    by_time = np.argsort(time_of_pair, kind="stable")
    per_time = np.bincount(time_of_pair, minlength=len(time_m))

    _, video_n, per_video = np.unique(video_n, return_inverse=True, return_counts=True)
    most = int(per_video.max(initial=0))
    there_bn = np.arange(most) < per_video[:, None]
    box_bn = np.where(there_bn, (np.cumsum(per_video) - per_video)[:, None] + np.arange(most), 0)
    return Places(
        torch.from_numpy(time_m),
        runs,
        torch.from_numpy(from_runs_m),
        torch.from_numpy(time_of_pair),
        torch.from_numpy(np.cumsum(length_n) - length_n),
        torch.from_numpy(box_of_pair[by_time]),
        torch.from_numpy(np.cumsum(per_time) - per_time),
        torch.from_numpy(box_bn),
        torch.from_numpy(there_bn),
        torch.from_numpy(np.flatnonzero(there_bn)),
    )


def ragged(first: Indices, length: Indices) -> Indices:
    """first[0], first[0] + 1, .. of so many numbers, then those from first[1] on, and so on."""
    before = np.cumsum(length) - length
    return np.arange(length.sum()) + np.repeat(first - before, length)


def alike(length_g: Indices) -> list[NDArray[np.intp]]:
    """Runs of similar length together, so that little is computed for nothing where one is shorter than another."""
    order = np.argsort(length_g, kind="stable")
    groups: list[list[int]] = []
    for run in order.tolist():
        if groups and length_g[run] <= LONGER * length_g[groups[-1][0]]:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [np.array(group) for group in groups]


def bias_of(layer: nn.Conv1d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class Attention(nn.Module):
    """Multi-head attention among what is there, and a batch norm over all B*T times, to be added to what comes in."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_query, self.conv_key, self.conv_value, self.conv_out = (nn.Conv1d(width, width, 1) for _ in range(4))
        self.bn = nn.BatchNorm1d(width)
        nn.init.zeros_(self.bn.weight)

    def queries_keys_values(self, x_nd: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, 3D)."""
        layers = [self.conv_query, self.conv_key, self.conv_value]
        weight = torch.cat([layer.weight.squeeze(2) for layer in layers]).to(dtype)
        return F.linear(x_nd.to(dtype), weight, torch.cat([bias_of(layer) for layer in layers]).to(dtype))

    def attended(self, joined_gs: Tensor, attends: Tensor) -> Tensor:
        """(G*S, D) from queries, keys and values (G, S, 3D); `attends` (G, 1 or S, S) says of which."""
        groups, size, width = joined_gs.shape
        query, key, value = joined_gs.view(groups, size, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, attends[:, None])
        return found.transpose(1, 2).reshape(groups * size, width // 3)

    def out(self, x_nd: Tensor) -> Tensor:
        """In single precision, the bias left out."""
        return F.linear(x_nd, self.conv_out.weight.squeeze(2).to(x_nd.dtype)).float()

    def added(self, x_td: Tensor, more_md: Tensor, time_m: Tensor) -> Tensor:
        """`x_td` (B*T, D) plus the batch norm of the output: its bias, and at the times `time_m` `more_md` more than that."""
        bn, bias_d, count, there = self.bn, bias_of(self.conv_out), len(x_td), len(more_md)
        running_mean, running_var = bn.running_mean, bn.running_var
        assert running_mean is not None and running_var is not None
        mean_d, variance_d = running_mean - bias_d, running_var  # means, too, as what they are more than the bias
        if self.training:
            variance_there_d, mean_there_d = torch.zeros_like(bias_d), 0 * bias_d
            if there:
                variance_there_d, mean_there_d = torch.var_mean(more_md, dim=0, correction=0)
            share = there / count
            mean_d = share * mean_there_d
            variance_d = share * (variance_there_d + (mean_there_d - mean_d) ** 2) + (1 - share) * mean_d**2
            with torch.no_grad():
                running_mean.lerp_(mean_d + bias_d, bn.momentum or 0)
                running_var.lerp_(variance_d * (count / (count - 1)), bn.momentum or 0)
                if bn.num_batches_tracked is not None:
                    bn.num_batches_tracked += 1
            mean_d = mean_d + 0 * bias_d  # decays, as a parameter whose gradient is zero
        scale_d = bn.weight * (variance_d + bn.eps).rsqrt()
        return (x_td + (bn.bias - mean_d * scale_d)).index_add_(0, time_m, more_md * scale_d)


class Inside(Attention):
    """Times attend to the times with which they share a box."""

    def forward(self, x_td: Tensor, places: Places, dtype: torch.dtype) -> Tensor:
        joined_md = self.queries_keys_values(x_td[places.time_m], dtype)
        found = [self.attended(joined_md[place_gs], attends_gss) for place_gs, attends_gss in places.runs]
        found_md = torch.cat(found)[places.from_runs_m] if found else joined_md[:, : x_td.shape[1]]
        return self.added(x_td, self.out(found_md), places.time_m)


class Between(Attention):
    """Boxes of a video, each the mean of its times, attend to one another; a time gets the mean of its boxes."""

    def forward(self, x_td: Tensor, places: Places, dtype: torch.dtype) -> Tensor:
        mean_nd = means(x_td[places.time_m], places.time_of_pair, places.first_of_box)
        joined_nd = self.queries_keys_values(mean_nd, dtype)
        found_nd = joined_nd[:, : x_td.shape[1]]
        if len(mean_nd):
            found_nd = self.attended(joined_nd[places.box_bn], places.there_bn[:, None])[places.from_videos_n]
        return self.added(x_td, means(self.out(found_nd), places.box_of_pair, places.first_of_time), places.time_m)


def means(table: Tensor, numbers: Tensor, first: Tensor) -> Tensor:
    """The mean of each bag of rows of a table, zero of an empty one; `first` says where among the `numbers` each begins."""
    if len(numbers):
        return F.embedding_bag(numbers, table, first, mode="mean")
    return table.new_zeros(len(first), table.shape[1]) + 0 * table.sum()


class Output(NamedTuple):
    score_fg: Tensor  # (B, C+1)
    score_bg: Tensor | None
    attention: Tensor  # (B, T, 2), of foreground and background
    logits: Tensor  # (B, T, C+1)
    uncertainty: Tensor | None  # (B, T)


class ASMNet(nn.Module):
    """The base network, or the full one, of one step. `dtype` is that of the large products.

    Dropout comes before the classifier; `everywhere`: on the features, the attention and the uncertainty too.
    """

    def __init__(
        self,
        len_feature: int,
        num_classes: int,
        hidden: int,
        full: bool,
        k_divisors: tuple[int, int],
        dropout: float = 0.7,
        everywhere: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if hidden % HEADS:
            raise UserError(
                f"--hidden {hidden} cannot be shared by the {HEADS} heads of attention; expected a multiple of them."
            )
        embedding = nn.Conv1d(len_feature, hidden, 3, padding=1)
        lay_out(nn.Sequential(embedding), 2, 1, 0)
        self.feature_embedding = nn.Sequential(*[nn.Identity()] * everywhere, embedding)  # at the official place
        self.att_branch = nn.Conv1d(hidden, 2, 1)
        self.snippet_cls = nn.Linear(hidden, num_classes + 1)
        self.full = full
        if full:
            self.MHSA_Intra, self.MHSA_Inter = Inside(hidden), Between(hidden)
            self.uncertainty_branch = nn.Conv1d(hidden, 1, 1, bias=False)
            nn.init.normal_(self.uncertainty_branch.weight, std=1e-4)
        self.dropout, self.everywhere = Dropout(dropout), everywhere
        self.k_divisors, self.dtype = k_divisors, dtype

    def forward(self, x: Tensor | Rows, localized_only: bool = False) -> Output:
        """`localized_only` leaves out what localization does not use."""
        rows = Rows.shown(x)
        size_b, size_t = rows.index_bt.shape
        maybe = self.dropout if self.everywhere else lambda values, _: values
        embedding = self.feature_embedding[-1]
        assert isinstance(embedding, nn.Conv1d)
        weight_3fd, bias_d = embedding.weight.permute(2, 1, 0).to(self.dtype), bias_of(embedding).to(self.dtype)
        x_btd = convolve(maybe(rows.dense(), rows).to(self.dtype), weight_3fd, bias_d, slope=0.0).float()
        if self.full:
            places = find_places(rows.boxes or [NO_BOXES] * size_b, size_t).to(x_btd.device)
            x_td = x_btd.flatten(0, 1)
            for attention in (self.MHSA_Intra, self.MHSA_Inter):
                x_td = attention(x_td, places, self.dtype)
            x_btd = x_td.view(x_btd.shape)
        weight_2d, bias_2 = self.att_branch.weight.squeeze(2), bias_of(self.att_branch)
        uncertainty_bt = None
        if not self.full or localized_only:
            attention_bt2 = F.linear(maybe(x_btd, rows), weight_2d, bias_2)
        elif self.everywhere:
            attention_bt2 = F.linear(maybe(x_btd, rows), weight_2d, bias_2)
            uncertainty_bt = F.linear(maybe(x_btd, rows), self.uncertainty_branch.weight.squeeze(2)).squeeze(2)
        else:
            both_bt3 = F.linear(x_btd, torch.cat([weight_2d, self.uncertainty_branch.weight.squeeze(2)]))
            attention_bt2, uncertainty_bt = both_bt3[:, :, :2] + bias_2, both_bt3[:, :, 2]
        attention_bt2 = attention_bt2.softmax(dim=2)
        logits = self.classified(x_btd, rows)
        score_fg, score_bg = (
            None if localized_only and branch else self.video_score(logits * attention_bt2[:, :, branch : branch + 1], divisor)
            for branch, divisor in enumerate(self.k_divisors)
        )
        assert score_fg is not None
        return Output(score_fg, score_bg, attention_bt2, logits, uncertainty_bt)

    def classified(self, x_btd: Tensor, rows: Rows) -> Tensor:
        """Logits (B, T, C+1). Dropout leaves out whole times, and then single values of those that remain and no others."""
        size_b, size_t, _ = x_btd.shape
        p = self.dropout.p
        if not self.dropout.training or p in (0, 1):
            return self.snippet_cls(self.dropout(x_btd, rows))
        kept_bt = self.dropout(x_btd.new_ones(size_b, size_t), rows)
        most = math.ceil(size_t * (1 - p) + 6 * (size_t * p * (1 - p)) ** 0.5)  # the same for all processes that share a batch
        if most > size_t or bool(((kept_bt > 0).sum(dim=1) > most).any()):
            most = size_t
        time_bm = kept_bt.argsort(dim=1, descending=True, stable=True)[:, :most]
        flat = (time_bm + size_t * torch.arange(size_b, device=time_bm.device)[:, None]).flatten()
        x_bmd = (x_btd.flatten(0, 1)[flat] * kept_bt.flatten()[flat, None]).view(size_b, most, -1)
        logits_bmc = self.snippet_cls(self.dropout(x_bmd, rows))
        everywhere = self.snippet_cls.bias.expand(size_b, size_t, -1)
        return everywhere.scatter(1, time_bm[:, :, None].expand_as(logits_bmc), logits_bmc)

    @staticmethod
    def video_score(cas_btc: Tensor, divisor: int) -> Tensor:
        """Softmax over classes of the mean of each class's k largest values, k a share of all times."""
        return cas_btc.topk(max(cas_btc.shape[1] // divisor, 1), dim=1).values.mean(dim=1).softmax(dim=1)
