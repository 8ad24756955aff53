"""A plain UM that follows the official code step by step, to compare with methods/um.py in results and in time."""

import numpy as np
import torch
import torch.nn.functional as F

from methods.um import UM
from tests.oracles import plain


class PlainUM(UM):
    """The same weights, applied by convolutions of every time; whole sequences sorted, selected features gathered."""

    def loss(self, batch):
        features_bth, cas_btc = self.plain_features(batch.snippets.dense().transpose(1, 2))
        action_bk, background_bk = self.plain_selection(features_bth.norm(p=2, dim=2))
        config, label = self.config, batch.label_bc / batch.label_bc.sum(dim=1, keepdim=True)
        highest_bkc = cas_btc.sort(dim=1, descending=True).values[:, : action_bk.shape[1]]
        terms = {
            "loss_cls": self.plain_entropy(highest_bkc.mean(dim=1).softmax(dim=1), label),
            "loss_be": self.plain_entropy(
                gather(cas_btc, background_bk).mean(dim=1).softmax(dim=1), torch.full_like(label, 1 / label.shape[1])
            ),
        }
        over = 2 if "L1" in config.quirks else 1  # channels, or the selected times
        action_b = gather(features_bth, action_bk).mean(dim=over).norm(p=2, dim=1)
        background_b = gather(features_bth, background_bk).mean(dim=over).norm(p=2, dim=1)
        terms["loss_um"] = (((config.margin - action_b).relu() + background_b) ** 2).mean()
        terms["loss_total"] = terms["loss_cls"] + config.alpha * terms["loss_um"] + config.beta * terms["loss_be"]
        return terms

    def plain_features(self, x_btf):
        module = self.network.cas_module
        features_bht = plain(module.conv[0], x_btf.transpose(1, 2)).relu()
        dropped_bht = F.dropout(features_bht, module.drop_out.p, self.network.training)
        return features_bht.transpose(1, 2), plain(module.classifier[0], dropped_bht).transpose(1, 2)

    @torch.no_grad()
    def activations(self, snippets):
        features_bth, cas_btc = self.plain_features(snippets.dense().transpose(1, 2))
        score_bc = (
            cas_btc.sort(dim=1, descending=True).values[:, : cas_btc.shape[1] // self.config.r_act].mean(dim=1).softmax(dim=1)
        )
        found = {"cas": cas_btc.softmax(dim=2), "magnitude": features_bth.norm(p=2, dim=2), "score": score_bc}
        return {name: value.numpy() for name, value in found.items()}

    def plain_selection(self, magnitude_bt):
        kept_bt = F.dropout(torch.ones_like(magnitude_bt), self.network.drop_out.p, self.network.training)
        times = magnitude_bt.shape[1]
        k_action, k_background = times // self.config.r_act, times // self.config.r_bkg
        action_bt = (magnitude_bt * kept_bt).sort(dim=1, descending=True).indices
        if "L2" in self.config.quirks:
            return action_bt[:, :k_action], (magnitude_bt * kept_bt).topk(k_background, largest=False).indices
        lack_bt = (magnitude_bt.max(dim=1, keepdim=True).values - magnitude_bt) * kept_bt
        return action_bt[:, :k_action], lack_bt.sort(dim=1, descending=True).indices[:, :k_background]

    def plain_entropy(self, score_bc, target_bc):
        logs = target_bc * score_bc.log().clamp(min=-100) + (1 - target_bc) * (1 - score_bc).log().clamp(min=-100)
        return -(logs.sum(dim=1) if self.config.bce_reduction == "classsum" else logs.mean(dim=1)).mean()


def gather(values_btx, index_bk):
    return values_btx.gather(1, index_bk[:, :, None].expand(-1, -1, values_btx.shape[2]))


def plain_detections(config, arrays):
    """Rows (class, score, start, end) of one video's detections."""
    cas_tc, magnitude_t, score_c = arrays["cas"], arrays["magnitude"], arrays["score"]
    classes = np.where(score_c >= np.float32(config.class_th))[0]
    classes = classes if len(classes) else [score_c.argmax()]
    ordered = np.sort(magnitude_t)[::-1]
    high, low = ordered[: len(ordered) // config.r_act].mean(), ordered[-(len(ordered) // config.r_bkg) :].mean()
    share_t = np.clip((magnitude_t - low) / (high - low if high > low else 1), 0, 1)
    fused_tc = np.clip(scaled(cas_tc * share_t[:, None]), 0, 1)
    share_n = upsampled(share_t, config.scale)
    seconds = 16 * int(arrays["num_seg"]) / (config.scale * len(cas_tc) * 25)
    rows = []
    for number in classes:
        fused_n = upsampled(fused_tc[:, number], config.scale)
        term = np.float64(np.float32(config.class_weight) * score_c[number])
        proposals = []
        for threshold in config.cas_thresholds:
            inside = (fused_n >= threshold) & (fused_n > 0)
            proposals += proposed(inside, np.where(inside, fused_n, 0), term, config.outer)
        for threshold in config.mag_thresholds:
            proposals += proposed((share_n >= threshold) & (share_n > 0), fused_n, term, config.outer)
        found = np.array(proposals).reshape(-1, 3) * (1, seconds, seconds)
        rows += [(number, *row) for row in found[suppressed(found, config)]]
    return np.array(rows).reshape(-1, 4)


def scaled(sequence_tc):
    high, low = np.maximum(sequence_tc.max(axis=0), 0), np.maximum(sequence_tc.min(axis=0), 0)
    return (sequence_tc - low) / np.where(high > low, high - low, 1)


def upsampled(sequence_t, scale):
    """Linear interpolation at multiples of 1/scale, extrapolated past the last snippet."""
    x = np.arange(len(sequence_t) * scale) * (1.0 / scale)
    right = np.clip(np.searchsorted(np.arange(len(sequence_t)), x), 1, len(sequence_t) - 1)
    slope = (sequence_t[right] - sequence_t[right - 1]).astype(np.float64)
    return slope * (x - (right - 1)) + sequence_t[right - 1]


def proposed(inside, curve, term, width):
    """(score, first, last + 1) of each run of more than one point."""
    where = np.where(inside)[0]
    found = []
    for run in np.split(where, np.where(np.diff(where) != 1)[0] + 1):
        if len(run) > 1:
            first, last = run[0], run[-1]
            outer = [*range(max(0, int(first - width * len(run))), first)]
            outer += range(last + 1, min(len(curve) - 1, int(last + width * len(run))) + 1)
            contrast = curve[first : last + 1].mean() - (curve[outer].mean() if outer else 0)
            found.append((contrast + term, first, last + 1))
    return found


def suppressed(found, config):
    """Rows of (score, start, end) that survive, best first: the authors' rule, or leftthomas's."""
    score, start, end = found.T
    pad = 1.0 if "O2" in config.quirks else 0.0
    order, kept = np.argsort(score)[::-1], []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        shared = np.maximum(0, np.minimum(end[best], end[order]) - np.maximum(start[best], start[order]) + pad)
        length, lengths = end[best] - start[best] + pad, end[order] - start[order] + pad
        official = config.variant == "official"
        overlap = shared / (length + lengths - shared if official else lengths - shared + length)
        order = order[overlap < config.nms_th if config.variant == "official" else overlap <= config.nms_th]
    return kept
