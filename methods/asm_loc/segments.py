"""What detections of one step make of a video in the next: stretched time, boxes to attend in, labels to learn from.

Detections of short actions stretch the time axis (docs/asm_loc.md, section 2); everything else of a step is on that axis.

Shapes: L feature rows of a video, T times at which the network is shown one, M rows of stretched time, N boxes, C action
classes; class C is the background.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from localize import Detections
from methods.asm_loc.settings import ASMLocConfig
from thumos_features import Indices, Mixture, Video

Doubles = NDArray[np.floating]  # in double precision
Mixed = tuple[Indices, Doubles]  # numbers of K rows at each of some times, and the share of each row

# -------------------------------------------------------------------------------------------------------- sampling


def interpolate(knots: Doubles, values: Doubles, at: Doubles) -> Doubles:
    """Linear interpolation, extrapolated by the first and the last two knots; at a knot the piece to its left counts."""
    right = np.clip(np.searchsorted(knots, at), 1, len(knots) - 1)
    left = right - 1
    return (values[right] - values[left]) / (knots[right] - knots[left]) * (at - knots[left]) + values[left]


def between(rows: int, at: Doubles) -> Mixed:
    """The two rows that each place `at` on the axis 0..rows-1 lies between, and their shares."""
    right = np.clip(np.ceil(at).astype(np.int64), 1, max(rows - 1, 1))
    share = at - (right - 1)
    return np.stack([right - 1, np.minimum(right, rows - 1)], axis=1), np.stack([1 - share, share], axis=1)


def whole(rows: Indices) -> Mixed:
    """Rows as they are."""
    return np.repeat(rows[:, None], 2, axis=1), np.tile([1.0, 0.0], (len(rows), 1))


def uniform(num_seg: int, most: int) -> Indices:
    """Rows of a test video: all if they are at most so many, else floor(i*L/T). A single row is shown twice."""
    if num_seg == 1:
        return np.zeros(2, dtype=np.int64)
    if num_seg <= most:
        return np.arange(num_seg)
    return np.floor(np.arange(most) * (num_seg / most)).astype(np.int64)


def at_random(num_seg: int, times: int, random: np.random.RandomState) -> Mixed:
    """Rows of a training video at exactly T times: a short one is stretched, of a long one a row of each stretch is drawn.

    The last row of a long video cannot be drawn (quirk Q9).
    """
    if num_seg < times:
        return between(num_seg, np.linspace(0, num_seg - 1, times))
    if num_seg == times:
        return whole(np.arange(times))
    ends = np.rint(np.linspace(0, num_seg - 1, times + 1)).astype(np.int64)
    return whole(ends[:-1] + random.randint(0, np.diff(ends)))


def stretched(warp: Doubles) -> Mixed:
    """The M rows of stretched time: where row by row the weights that add up to `warp` (L+1,) reach 1, 2, .. M."""
    rows = len(warp) - 1
    reached = interpolate(warp, np.arange(rows + 1.0), np.arange(1.0, whole_length(warp) + 1))
    return between(rows, reached - 1)


def of(inner: Mixed, outer: Mixed) -> Mixed:
    """Mixtures of mixtures: `outer` takes for rows what `inner` shows."""
    rows, shares = inner[0][outer[0]], inner[1][outer[0]] * outer[1][:, :, None]
    return rows.reshape(len(rows), -1), shares.reshape(len(rows), -1)


def whole_length(warp: Doubles) -> int:
    return round(float(warp[-1]))


# ------------------------------------------------------------------------------------------------- detections to rows


def chosen(scores: Doubles, share: float) -> int:
    """How many of a class's detections, best first, stretch time: as long as their scores add up to a share of all at most."""
    total = np.cumsum(scores)
    return int((total <= share * total.max()).sum()) if len(total) else 0


def rows_between(starts: Doubles, ends: Doubles, scale: float, rows: int) -> Indices:
    """(N, 2) first and last of so many rows, `scale` of them a second; none where the first is the greater."""
    first = np.maximum(np.rint(starts * scale), 0)
    last = np.minimum(np.rint(ends * scale), rows - 1)
    return np.stack([first, last], axis=1).astype(np.int64)


def widened(segments: Doubles, delta: float) -> tuple[Doubles, Doubles]:
    """Starts and ends of segments (N, 2) made longer by `delta` lengths on each side."""
    middle, length = (segments[:, 0] + segments[:, 1]) / 2, segments[:, 1] - segments[:, 0]
    return middle - (delta + 0.5) * length, middle + (delta + 0.5) * length


def weights(ranked: Sequence[tuple[Doubles, Doubles]], num_seg: int, config: ASMLocConfig) -> Doubles:
    """(L,) how long each row lasts: those of a short detection so long that it lasts about `gamma` times its widened length.

    Each stretched run of rows lasts a whole number in the end.
    """
    weight_l = np.ones(num_seg)
    most = config.gamma * (2 * config.delta + 1)
    for scores, segments in ranked:
        best = segments[: chosen(scores, config.proposal_share)]
        for first, last in rows_between(*widened(best, config.delta), config.snippets_per_second, num_seg).tolist():
            count = last - first + 1
            if 1 < count <= most:
                weight_l[first : last + 1] = np.maximum(weight_l[first : last + 1], min(most / count, most))
    longer = np.flatnonzero(weight_l > 1)
    for run in np.split(longer, np.flatnonzero(np.diff(longer) > 1) + 1) if len(longer) else []:
        total = weight_l[run].sum()
        weight_l[run] = round(float(total)) * weight_l[run] / total
    return weight_l


def warp_of(weight_l: Doubles) -> Doubles:
    """(L+1,) when each row starts, and the last one ends, on the stretched axis."""
    return np.concatenate([[0.0], np.cumsum(weight_l)])


# ---------------------------------------------------------------------------------------------------- one video's step


class Plan:
    """A video in a step that follows another: all that comes of the `found` detections of the step before."""

    def __init__(self, found: Detections, video: Video, trained_on: bool, config: ASMLocConfig):
        self.found, self.config, self.num_seg = found, config, video.num_seg
        self.label_c = video.label_c > 0
        detected = list(dict.fromkeys(found.classes.tolist()))
        annotated = list(dict.fromkeys(config.classes.index(row["label"]) for row in video.annotations))
        self.localized = annotated if trained_on else detected
        stretching = annotated if trained_on and config.stretch_by == "annotated" else detected
        weight_l = weights(self._ranked(stretching), video.num_seg, config)
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
        return whole(np.zeros(2, dtype=np.int64)) if self.warp is None else stretched(self.warp)

    def sample(self, random: np.random.RandomState | None) -> Mixture:
        if random is None:
            return self.shown_at_test
        mixed = of(self.stretched, at_random(len(self.stretched[0]), self.config.num_segments, random))
        return self._mixture(mixed, self.training_boxes)

    @cached_property
    def shown_at_test(self) -> Mixture:
        rows = uniform(len(self.stretched[0]), self.config.num_segments)
        return self._mixture((self.stretched[0][rows], self.stretched[1][rows]), self.boxes(len(rows)))

    def _mixture(self, mixed: Mixed, boxes: Indices) -> Mixture:
        return Mixture(mixed[0], mixed[1].astype(np.float32), boxes, self.warp)

    @cached_property
    def training_boxes(self) -> Indices:
        return self.boxes(self.config.num_segments)

    def _on_axis(self, seconds: Doubles) -> Doubles:
        """The same on the stretched axis."""
        if self.warp is None:
            return seconds
        per_second, knots = self.config.snippets_per_second, np.arange(len(self.warp), dtype=np.float64)
        return (interpolate(knots, self.warp, seconds * per_second + 1) - 1) / per_second

    def _scale(self, times: int) -> float:
        """Times of the network a second of the stretched axis."""
        return self.config.snippets_per_second * times / (self.num_seg if self.warp is None else whole_length(self.warp))

    def boxes(self, times: int) -> Indices:
        """(N, 2) first and last time of every segment, those inside others dropped, each widened by `--delta`."""
        ranked = self._ranked(self.localized)
        different = list(dict.fromkeys(tuple(row) for _, segments in ranked for row in segments.tolist()))
        kept: list[tuple[float, float]] = []
        for start, end in sorted(different, key=lambda segment: -segment[0])[::-1]:
            if not kept or end > kept[-1][1]:
                kept.append((start, end))
        segments = self._on_axis(np.array(kept, dtype=np.float64).reshape(-1, 2))
        boxes = rows_between(*widened(segments, self.config.delta), self._scale(times), times)
        return boxes[np.argsort(-boxes[:, 0], kind="stable")]

    def labels(self, times: int) -> NDArray[np.float32]:
        """(T, C+1) what of the video's classes was detected at each time, in equal shares, or else the background."""
        num_classes = len(self.label_c)
        right = self.label_c[self.found.classes]
        classes, segments = self.found.classes[right], self._on_axis(self.found.segments[right])
        rows = rows_between(segments[:, 0], segments[:, 1], self._scale(times), times)
        steps = np.zeros((times + 1, num_classes + 1), dtype=np.int64)
        there = rows[:, 0] <= rows[:, 1]
        np.add.at(steps, (rows[there, 0], classes[there]), 1)
        np.add.at(steps, (rows[there, 1] + 1, classes[there]), -1)
        label_tc = (steps.cumsum(axis=0)[:-1] > 0).astype(np.float32)
        label_tc[:, -1] = ~label_tc.any(axis=1)
        return label_tc / label_tc.sum(axis=1, keepdims=True)
