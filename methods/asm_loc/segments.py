"""A video's stretched time axis, attention boxes and pseudo-labels, from the previous step's detections.

Short detections stretch the time axis (docs/asm_loc.md, section 2). Boxes and pseudo-labels are on the stretched axis.

Shapes: L snippets of a video, T times of the network, M snippets of the stretched video, K snippets mixed at a time, N boxes,
C action classes; class C is the background.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from localize import Detections
from methods.asm_loc.settings import ASMLocConfig
from thumos_features import Indices, Mixture, Video

Doubles = NDArray[np.floating]  # in double precision
Mixed = tuple[Indices, Doubles]  # (T, K) indices of the snippets mixed at each time, and (T, K) their shares

# -------------------------------------------------------------------------------------------------------- sampling


def interpolate(knots: Doubles, values: Doubles, at: Doubles) -> Doubles:
    """Linear interpolation; the first and the last piece also extrapolate, and a knot belongs to the piece on its left."""
    right = np.clip(np.searchsorted(knots, at), 1, len(knots) - 1)
    left = right - 1
    return (values[right] - values[left]) / (knots[right] - knots[left]) * (at - knots[left]) + values[left]


def neighbours(num_seg: int, at: Doubles) -> Mixed:
    """The two snippets around each position `at` on the axis 0..num_seg-1, with the shares of linear interpolation."""
    right = np.clip(np.ceil(at).astype(np.int64), 1, max(num_seg - 1, 1))
    share = at - (right - 1)
    return np.stack([right - 1, np.minimum(right, num_seg - 1)], axis=1), np.stack([1 - share, share], axis=1)


def unmixed(index: Indices) -> Mixed:
    """The snippets of `index`, each with share 1."""
    return np.repeat(index[:, None], 2, axis=1), np.tile([1.0, 0.0], (len(index), 1))


def uniform(num_seg: int, most: int) -> Indices:
    """Snippets of a test video: all L if at most `most`, else floor(i*L/most). A single snippet is repeated."""
    if num_seg == 1:
        return np.zeros(2, dtype=np.int64)
    if num_seg <= most:
        return np.arange(num_seg)
    return np.floor(np.arange(most) * (num_seg / most)).astype(np.int64)


def at_random(num_seg: int, times: int, random: np.random.RandomState) -> Mixed:
    """Snippets of a training video at T times: a short video is interpolated; a long one is cut into T parts to draw from.

    The last snippet of a long video is never drawn (quirk Q9).
    """
    if num_seg < times:
        return neighbours(num_seg, np.linspace(0, num_seg - 1, times))
    if num_seg == times:
        return unmixed(np.arange(times))
    ends = np.rint(np.linspace(0, num_seg - 1, times + 1)).astype(np.int64)
    return unmixed(ends[:-1] + random.randint(0, np.diff(ends)))


def stretched(warp: Doubles) -> Mixed:
    """The M snippets of the stretched video, interpolated where the stretched axis `warp` (L+1,) reaches 1, 2, .. M."""
    num_seg = len(warp) - 1
    reached = interpolate(warp, np.arange(num_seg + 1.0), np.arange(1.0, whole_length(warp) + 1))
    return neighbours(num_seg, reached - 1)


def composed(inner: Mixed, outer: Mixed) -> Mixed:
    """Mixtures `outer` of the mixtures `inner`, as mixtures of the snippets of `inner`."""
    index, shares = inner[0][outer[0]], inner[1][outer[0]] * outer[1][:, :, None]
    return index.reshape(len(index), -1), shares.reshape(len(index), -1)


def whole_length(warp: Doubles) -> int:
    """M, the integer length of the stretched axis."""
    return round(float(warp[-1]))


# --------------------------------------------------------------------------------------------- detections to snippets


def num_stretching(scores: Doubles, share: float) -> int:
    """How many of a class's detections, best first, stretch time: those whose scores add up to at most `share` of all."""
    total = np.cumsum(scores)
    return int((total <= share * total.max()).sum()) if len(total) else 0


def snippets_between(starts: Doubles, ends: Doubles, scale: float, count: int) -> Indices:
    """(N, 2) first and last of `count` snippets, `scale` per second, from starts to ends; first > last if there are none."""
    first = np.maximum(np.rint(starts * scale), 0)
    last = np.minimum(np.rint(ends * scale), count - 1)
    return np.stack([first, last], axis=1).astype(np.int64)


def widened(segments: Doubles, delta: float) -> tuple[Doubles, Doubles]:
    """(N,) starts and (N,) ends of segments (N, 2) that are widened by `delta` lengths on each side."""
    middle, length = (segments[:, 0] + segments[:, 1]) / 2, segments[:, 1] - segments[:, 0]
    return middle - (delta + 0.5) * length, middle + (delta + 0.5) * length


def stretched_lengths(ranked: Sequence[tuple[Doubles, Doubles]], num_seg: int, config: ASMLocConfig) -> Doubles:
    """(L,) length of each snippet on the stretched axis: 1, or more in short detections.

    A detection of at most gamma * (2 * delta + 1) snippets, after widening, is stretched to about that many. Each run of
    stretched snippets has an integer length.
    """
    weight_l = np.ones(num_seg)
    most = config.gamma * (2 * config.delta + 1)
    for scores, segments in ranked:
        best = segments[: num_stretching(scores, config.proposal_share)]
        for first, last in snippets_between(*widened(best, config.delta), config.snippets_per_second, num_seg).tolist():
            count = last - first + 1
            if 1 < count <= most:
                weight_l[first : last + 1] = np.maximum(weight_l[first : last + 1], min(most / count, most))
    longer = np.flatnonzero(weight_l > 1)
    for run in np.split(longer, np.flatnonzero(np.diff(longer) > 1) + 1) if len(longer) else []:
        total = weight_l[run].sum()
        weight_l[run] = round(float(total)) * weight_l[run] / total
    return weight_l


def warp_of(weight_l: Doubles) -> Doubles:
    """(L+1,) start of each snippet on the stretched axis, and end of the last one."""
    return np.concatenate([[0.0], np.cumsum(weight_l)])


# ---------------------------------------------------------------------------------------------------- one video's step


class Plan:
    """A video's input, boxes and pseudo-labels in one step, from its detections `found` in the previous step."""

    def __init__(self, found: Detections, video: Video, trained_on: bool, config: ASMLocConfig):
        self.found, self.config, self.num_seg = found, config, video.num_seg
        self.label_c = video.label_c > 0
        detected = list(dict.fromkeys(found.classes.tolist()))
        annotated = list(dict.fromkeys(config.classes.index(row["label"]) for row in video.annotations))
        self.localized = annotated if trained_on else detected
        stretching = annotated if trained_on and config.stretch_by == "annotated" else detected
        weight_l = stretched_lengths(self._ranked(stretching), video.num_seg, config)
        self.warp = warp_of(weight_l) if video.num_seg > 1 else None

    def _ranked(self, classes: Sequence[int]) -> list[tuple[Doubles, Doubles]]:
        """Scores and segments of each class, best first."""
        groups = []
        for number in classes:
            own = np.flatnonzero(self.found.classes == number)
            order = own[np.argsort(-self.found.scores[own], kind="stable")]
            groups.append((self.found.scores[order], self.found.segments[order]))
        return groups

    @cached_property
    def stretched(self) -> Mixed:
        return unmixed(np.zeros(2, dtype=np.int64)) if self.warp is None else stretched(self.warp)

    def sample(self, random: np.random.RandomState | None) -> Mixture:
        if random is None:
            return self.test_sample
        mixed = composed(self.stretched, at_random(len(self.stretched[0]), self.config.num_segments, random))
        return self._mixture(mixed, self.training_boxes)

    @cached_property
    def test_sample(self) -> Mixture:
        index = uniform(len(self.stretched[0]), self.config.num_segments)
        return self._mixture((self.stretched[0][index], self.stretched[1][index]), self.boxes(len(index)))

    def _mixture(self, mixed: Mixed, boxes: Indices) -> Mixture:
        return Mixture(mixed[0], mixed[1].astype(np.float32), boxes, self.warp)

    @cached_property
    def training_boxes(self) -> Indices:
        return self.boxes(self.config.num_segments)

    def _on_axis(self, seconds: Doubles) -> Doubles:
        """Seconds of the video, as seconds of the stretched axis."""
        if self.warp is None:
            return seconds
        per_second, knots = self.config.snippets_per_second, np.arange(len(self.warp), dtype=np.float64)
        return (interpolate(knots, self.warp, seconds * per_second + 1) - 1) / per_second

    def _scale(self, times: int) -> float:
        """Times of the network per second of the stretched axis."""
        return self.config.snippets_per_second * times / (self.num_seg if self.warp is None else whole_length(self.warp))

    def boxes(self, times: int) -> Indices:
        """(N, 2) first and last time of each segment that is not inside another, widened by `--delta`."""
        ranked = self._ranked(self.localized)
        different = list(dict.fromkeys(tuple(segment) for _, segments in ranked for segment in segments.tolist()))
        kept: list[tuple[float, float]] = []
        for start, end in sorted(different, key=lambda segment: -segment[0])[::-1]:
            if not kept or end > kept[-1][1]:
                kept.append((start, end))
        segments = self._on_axis(np.array(kept, dtype=np.float64).reshape(-1, 2))
        boxes = snippets_between(*widened(segments, self.config.delta), self._scale(times), times)
        return boxes[np.argsort(-boxes[:, 0], kind="stable")]

    def labels(self, times: int) -> NDArray[np.float32]:
        """(T, C+1) the video's classes that are detected at each time, in equal shares, or else the background."""
        num_classes = len(self.label_c)
        right = self.label_c[self.found.classes]
        classes, segments = self.found.classes[right], self._on_axis(self.found.segments[right])
        spans = snippets_between(segments[:, 0], segments[:, 1], self._scale(times), times)
        steps = np.zeros((times + 1, num_classes + 1), dtype=np.int64)
        there = spans[:, 0] <= spans[:, 1]
        np.add.at(steps, (spans[there, 0], classes[there]), 1)
        np.add.at(steps, (spans[there, 1] + 1, classes[there]), -1)
        label_tc = (steps.cumsum(axis=0)[:-1] > 0).astype(np.float32)
        label_tc[:, -1] = ~label_tc.any(axis=1)
        return label_tc / label_tc.sum(axis=1, keepdims=True)
