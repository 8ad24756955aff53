"""Plain, slow versions of the fast kernels, to compare with them."""

import math
from unittest.mock import patch

import numpy as np
import torch.nn.functional as F

from fast import dropout
from model import BaS_Net


def sample_snippets(num_seg, times, choice):
    """Training sampler, snippet by snippet, drawing with `choice` as the official code does."""
    if num_seg == times:
        return list(range(times))
    grid = [int(i * num_seg / times) for i in range(times)]
    picked = []
    for i in range(times - 1):
        picked.append(choice(range(grid[i], grid[i + 1] + 1)) if grid[i] != grid[i + 1] else grid[i])
    last = grid[-1]
    picked.append(choice(range(last, num_seg)) if last < num_seg - 1 else last)
    return picked


def per_item_batch(videos, config, iteration):
    """One batch of a data loader with one process: each item reads its files and draws snippet by snippet."""
    from dataset.draws import SNIPPETS, batch_videos, random_state

    items = []
    for v in batch_videos(len(videos), config.batch_size, iteration, 0, "B6" not in config.repaired):
        streams = [np.load(path).astype(np.float32) for path in videos[v].files]
        choice = random_state(SNIPPETS, 0, iteration, v).choice
        index = sample_snippets(videos[v].num_seg, config.num_segments, choice)
        items.append(np.concatenate([stream[index] for stream in streams], axis=1))
    return np.stack(items)


def upsample(values, scale):
    """Linear interpolation point by point, extrapolated past the end."""
    if len(values) == 1:
        return [float(values[0])] * scale
    fine = []
    for j in range(len(values) * scale):
        x = j * (1.0 / scale)
        right = min(max(math.ceil(x), 1), len(values) - 1)
        slope = float(values[right] - values[right - 1])
        fine.append(slope * (x - (right - 1)) + float(values[right - 1]))
    return fine


def resize(values, points):
    """Linear interpolation between the middles of snippets, point by point, in single precision."""
    fine = []
    for j in range(points):
        x = np.float32((j + 0.5) * (len(values) / points) - 0.5)
        left = math.floor(x)
        share = x - np.float32(left)
        if left < 0:
            left, share = 0, np.float32(0)
        if left >= len(values) - 1:
            left, share = len(values) - 1, np.float32(0)
        right = min(left + 1, len(values) - 1)
        fine.append(float(values[left] * (np.float32(1) - share) + values[right] * share))
    return fine


def localize(curves):
    """Rows (class, score, start, end) of all detections, step by step as the official codes go."""
    common = None if curves.common is None else refine(curves.common, curves)
    rows = []
    for column, number in enumerate(curves.classes):
        activation = refine(curves.activation[:, column], curves)
        proposals = []
        for sweep in curves.sweeps:
            for score, first, last in propose(activation, common, sweep, curves):
                start, end = place(first, last, curves)
                proposals.append((score + float(sweep.class_term[column]), start, end))
        if proposals and curves.whole_video_score is not None:
            proposals.append((curves.whole_video_score, 0.0, curves.points * curves.seconds_per_point))
        scores = [p[0] for p in proposals]
        spans = [p[1:] for p in proposals]
        kept = suppress(spans, scores, curves.nms_threshold, curves.nms_pad, curves.nms_keeps_equal)
        rows += [(number, scores[i], *spans[i]) for i in kept]
    return rows


def refine(values, curves):
    return resize(values, curves.points) if curves.resize else upsample(values, curves.points // len(values))


def propose(activation, common, sweep, curves):
    """(contrast, first, last) of every run above every threshold, means taken over plain slices."""
    support = activation if sweep.support == "activation" else common
    found = []
    for threshold in sweep.thresholds:
        inside = [value >= threshold and value > 0 for value in support]
        if not curves.first_point_counts and inside[0] and not any(inside[1:]):
            continue
        curve = [0.0] * len(support)
        for name, values, share in (
            ("activation", activation, sweep.activation_share),
            ("common", common, sweep.common_share),
        ):
            for j in range(len(curve) if share else 0):
                if inside[j] or not (sweep.thresholded and sweep.support == name):
                    curve[j] += share * values[j]
        start = None
        for index in range(len(curve) + 1):
            on = index < len(curve) and inside[index]
            if on and start is None:
                start = index
            if not on and start is not None:
                first, last, start = start, index - 1, None
                length = last - first + 1
                left = max(0, int(first - curves.outer_width * length))
                right = min(len(curve) - 1, int(last + curves.outer_width * length) - curves.right_surroundings_less)
                outer = curve[left:first] + curve[last + 1 : max(last, right) + 1]
                contrast = math.fsum(curve[first : last + 1]) / length - (math.fsum(outer) / len(outer) if outer else 0.0)
                if length >= curves.shortest_run:
                    found.append((contrast, first, last))
    return found


def place(first, last, curves):
    """Seconds at which a run starts and ends."""
    duration = curves.points * curves.seconds_per_point
    times = [first * curves.seconds_per_point, (last + 1) * curves.seconds_per_point]
    if curves.warp is not None:
        knots = [value / curves.warp[-1] for value in curves.warp]
        for i, time in enumerate(times):
            share = time / duration
            right = min(max(sum(knot < share for knot in knots), 1), len(knots) - 1)
            snippet = (share - knots[right - 1]) / (knots[right] - knots[right - 1]) + right - 1
            times[i] = snippet / (len(knots) - 1) * duration
    length = times[1] - times[0]
    return times[0] + curves.shrink * length, times[1] - curves.shrink * length


def suppress(segments, scores, threshold, pad, keeps_equal=False):
    """Survivors of hard non-maximum suppression, pair by pair."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i), reverse=True)
    kept = []
    for i in order:
        overlaps = [overlap(segments[j], segments[i], pad, keeps_equal) for j in kept]
        if all(value < threshold or (keeps_equal and value == threshold) for value in overlaps):
            kept.append(i)
    return kept


def overlap(a, b, pad=0.0, keeps_equal=False):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]) + pad)
    own, other = a[1] - a[0] + pad, b[1] - b[0] + pad
    union = other - shared + own if keeps_equal else own + other - shared  # each in the order of its official code
    with np.errstate(all="ignore"):  # of two empty segments: 0/0 is nan, as the official codes have it
        return float(np.float64(shared) / union)


def average_precision(truths, found, tiou):
    """AP of one class at one threshold; truths {video: [(s, e)]}, found [(video, s, e, score)] in any order."""
    taken = set()
    hits = []
    for video, start, end, _ in sorted(found, key=lambda row: -row[3]):
        candidates = sorted(((overlap((start, end), t), i) for i, t in enumerate(truths.get(video, []))), reverse=True)
        hit = next(((video, i) for value, i in candidates if value >= tiou and (video, i) not in taken), None)
        hits.append(hit is not None)
        taken.add(hit)
    total = sum(map(len, truths.values()))
    points = [(sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    area, previous = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - previous) * max(p for r, p in points if r >= recall)
        previous = recall
    return area


def detection_map_by_rows(truth, found, tiou, ties="official"):
    """AP (C, I) by the toolkit's algorithm on data frames, row by row. Columns: video, label, start, end, score.

    A detection in a video without ground truth of its class is a false positive, whether the video is listed or not.
    """
    ap = []
    for label in sorted(set(truth.label)):
        truths = truth[truth.label == label].reset_index(drop=True)
        rows = found[found.label == label].reset_index(drop=True)
        rank = rows.score.values.argsort()[::-1] if ties == "official" else (-rows.score.values).argsort(kind="stable")
        rows = rows.loc[rank].reset_index(drop=True)
        taken = -np.ones((len(tiou), len(truths)))
        hit = np.zeros((len(tiou), len(rows)))
        by_video = truths.groupby("video")
        for place, row in rows.iterrows():
            try:
                same = by_video.get_group(row["video"]).reset_index()
            except KeyError:
                continue
            with np.errstate(all="ignore"):
                starts, ends = same["start"].values, same["end"].values
                shared = np.maximum(0, np.minimum(row["end"], ends) - np.maximum(row["start"], starts))
                overlaps = shared / ((ends - starts) + (row["end"] - row["start"]) - shared)
            for i, threshold in enumerate(tiou):
                for best in overlaps.argsort(kind="stable" if ties == "stable" else None)[::-1]:
                    if overlaps[best] < threshold:
                        break
                    if taken[i, same.loc[best]["index"]] >= 0:
                        continue
                    hit[i, place] = 1
                    taken[i, same.loc[best]["index"]] = place
                    break
        ap.append([interpolated_precision(row, len(truths)) for row in hit])
    return np.array(ap).reshape(-1, len(tiou))


def interpolated_precision(hit, count):
    """Area under the envelope of precision over recall, point by point."""
    found = np.cumsum(hit)
    precision = [0.0, *(found / np.arange(1, len(hit) + 1)), 0.0]
    recall = [0.0, *(found / count), 1.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)) if recall[i] != recall[i - 1])


def official_draws():
    """Let every Dropout draw its mask as torch does."""
    return patch.object(dropout.Dropout, "draw", staticmethod(dropout.as_torch))


class PlainBaSNet(BaS_Net):
    """A plain network with the same weights: convolutions of every time, branch by branch."""

    def forward(self, x_btf):
        fore_weights = self.plain_filter(x_btf)
        cas_base, cas_supp = self.plain_cas(x_btf), self.plain_cas(fore_weights * x_btf)
        return self.video_score(cas_base), cas_base, self.video_score(cas_supp), cas_supp, fore_weights

    def plain_filter(self, x_btf):
        module = self.filter_module
        hidden_bht = F.leaky_relu(plain(module.conv_1[0], x_btf.transpose(1, 2)), 0.01)
        return plain(module.conv_2[0], hidden_bht).sigmoid().transpose(1, 2)

    def plain_cas(self, x_btf):
        module = self.cas_module
        hidden_bht = F.leaky_relu(plain(module.conv_1[0], x_btf.transpose(1, 2)), 0.01)
        hidden_bht = F.leaky_relu(plain(module.conv_2[0], hidden_bht), 0.01)
        hidden_bht = F.dropout(hidden_bht, module.drop_out.p, self.training)
        return plain(module.conv_3[0], hidden_bht).transpose(1, 2)


def plain(layer, x_bct):
    """A convolution of torch.nn with the weights of `layer`."""
    return F.conv1d(x_bct, layer.weight, layer.bias, padding=layer.padding)
