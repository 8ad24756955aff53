"""The localization core: activation curves of one video -> runs -> outer-inner scores -> suppression -> detections.

Arrays only, no torch, and nothing about any one method: a method describes its curves, `localize` does the rest.
Shapes: T network rows, N fine points, K classes to localize, I thresholds, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiled import compiled, inner

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """One sequence thresholded at several levels; every run above a threshold is a proposal of each class.

    A proposal scores the mean of a curve over the run, less its mean over the surroundings, plus the class term. The curve
    is a mixture of the class's activation and the common sequence.
    """

    thresholds: Sequence[float]  # ascending; a point is inside if it is at least this and positive
    class_term: FloatArray  # (K,)
    support: Literal["activation", "common"] = "activation"  # what is thresholded
    activation_share: float = 1.0  # in the curve that scores
    common_share: float = 0.0
    thresholded: bool = True  # in that curve, what is thresholded counts as zero outside the runs


@dataclass(frozen=True)
class Curves:
    """What is to be localized in one video, and by which rule."""

    classes: IntArray  # (K,) class numbers, ascending
    activation: FloatArray  # (T, K)
    sweeps: Sequence[Sweep]
    points: int  # N: a multiple of T, or any number with `resize`
    seconds_per_point: float
    outer_width: float  # of the surroundings on each side, in lengths of the run
    nms_threshold: float  # a detection survives while its overlap with every better one is below this
    nms_pad: float = 0.0  # seconds added to lengths and intersections in suppression
    nms_keeps_equal: bool = False  # an overlap equal to the threshold survives too
    common: FloatArray | None = None  # (T,) a sequence that all classes share: feature magnitude, attention
    resize: bool = False  # rows are the middles of equal parts, as in resizing an image; else row i is the start of part i
    shortest_run: int = 1  # points
    first_point_counts: bool = True  # False: a support that is the first point alone is none
    right_surroundings_less: int = 0  # points by which the surroundings on the right fall short
    shrink: float = 0.0  # share of its length that a proposal loses at each end
    whole_video_score: float | None = None  # score of one more proposal, the whole video, for classes that have any
    warp: FloatArray | None = None  # (L+1,) time at which each feature row starts on the network's axis, if not evenly


@dataclass(frozen=True)
class Detections:
    """Detections of one video: classes ascending, inside a class by descending score."""

    classes: IntArray  # (D,)
    scores: FloatArray  # (D,)
    segments: FloatArray  # (D, 2) seconds


def localize(curves: Curves) -> Detections:
    """Detections of every class of `curves`, by what its fields say (BaS-Net's: docs/basnet.md, section 5)."""
    sweeps, rule = _pack(curves)
    common = np.zeros(0, dtype=np.float32) if curves.common is None else np.ascontiguousarray(curves.common)
    parts = []
    for column, number in enumerate(curves.classes):
        terms = np.array([sweep.class_term[column] for sweep in curves.sweeps], dtype=np.float64)
        scores, segments = detect_class(np.ascontiguousarray(curves.activation[:, column]), common, terms, sweeps, rule)
        parts.append((np.full(len(scores), number), scores, segments))
    if not parts:
        return Detections(np.zeros(0, int), np.zeros(0), np.zeros((0, 2)))
    return Detections(*(np.concatenate(group) for group in zip(*parts, strict=True)))


class _Sweeps(NamedTuple):
    """The sweeps of `Curves` as kernels take them; S sweeps."""

    thresholds: Floats  # of all sweeps
    offset: IntArray  # (S+1,) where those of each begin
    by_common: NDArray[np.bool_]
    activation_share: Floats
    common_share: Floats
    thresholded: NDArray[np.bool_]


class _Rule(NamedTuple):
    """The numbers of `Curves` as kernels take them."""

    points: int
    resize: bool
    seconds_per_point: float
    outer_width: float
    right_surroundings_less: int
    shortest_run: int
    first_point_counts: bool
    shrink: float
    whole_video_score: float  # nan: none
    warp: Floats  # empty: none
    nms_threshold: float
    nms_pad: float
    nms_keeps_equal: bool


def _pack(curves: Curves) -> tuple[_Sweeps, _Rule]:
    sweeps = curves.sweeps
    if curves.common is None and any(sweep.support == "common" or sweep.common_share for sweep in sweeps):
        raise ValueError("a sweep over the common sequence needs Curves.common")
    packed = _Sweeps(
        np.concatenate([np.asarray(sweep.thresholds, dtype=np.float64) for sweep in sweeps]),
        np.cumsum([0, *(len(sweep.thresholds) for sweep in sweeps)]),
        np.array([sweep.support == "common" for sweep in sweeps]),
        np.array([sweep.activation_share for sweep in sweeps], dtype=np.float64),
        np.array([sweep.common_share for sweep in sweeps], dtype=np.float64),
        np.array([sweep.thresholded for sweep in sweeps]),
    )
    return packed, _Rule(
        int(curves.points),
        bool(curves.resize),
        float(curves.seconds_per_point),
        float(curves.outer_width),
        int(curves.right_surroundings_less),
        int(curves.shortest_run),
        bool(curves.first_point_counts),
        float(curves.shrink),
        float("nan") if curves.whole_video_score is None else float(curves.whole_video_score),
        np.zeros(0) if curves.warp is None else np.asarray(curves.warp, dtype=np.float64),
        float(curves.nms_threshold),
        float(curves.nms_pad),
        bool(curves.nms_keeps_equal),
    )


def min_max(sequence: FloatArray) -> FloatArray:
    """Scale (T, K) over time by its extremes clipped at zero; values are not clipped and may be negative."""
    high = np.maximum(sequence.max(axis=0), 0)
    low = np.maximum(sequence.min(axis=0), 0)
    span = high - low
    return (sequence - low) / np.where(span > 0, span, 1)


# ------------------------------------------------------------------------------------------- rows -> fine points


@inner
def refine(sequence: FloatArray, rule: _Rule) -> Floats:
    """(T,) rows as (N,) fine points."""
    if len(sequence) == 0:
        return np.zeros(0)
    if rule.resize:
        return resize(sequence, rule.points)
    return upsample(sequence, rule.points // len(sequence))


@inner
def upsample(sequence: FloatArray, scale: int) -> Floats:
    """Linear interpolation at multiples of 1/scale, extrapolated past the last row (quirk B10)."""
    rows, step = len(sequence), 1.0 / scale
    fine = np.empty(rows * scale)
    for j in range(rows * scale):
        if rows == 1:
            fine[j] = sequence[0]
        else:
            position = j * step
            right = min(max(int(np.ceil(position)), 1), rows - 1)
            left = right - 1
            fine[j] = np.float64(sequence[right] - sequence[left]) * (position - left) + sequence[left]
    return fine


@inner
def resize(sequence: FloatArray, points: int) -> Floats:
    """Linear interpolation in single precision between the middles of rows, as OpenCV resizes an image."""
    rows, one = len(sequence), np.float32(1)
    fine = np.empty(points)
    for j in range(points):
        position = np.float32((j + 0.5) * (rows / points) - 0.5)
        left = min(max(int(np.floor(position)), 0), rows - 1)
        share = np.float32(0) if position < 0 or left == rows - 1 else position - np.float32(left)
        fine[j] = sequence[left] * (one - share) + sequence[min(left + 1, rows - 1)] * share
    return fine


# ----------------------------------------------------------------------------------------- fine points -> proposals


@inner
def find_runs(curve: Floats, thresholds: Floats, first_point_counts: bool) -> tuple[IntArray, IntArray, IntArray]:
    """Runs above each threshold: (I+1,) where those of each begin among the (R,) starts and (R,) ends, ends excluded.

    All thresholds in one pass: each step of the curve over a threshold opens a run, each step back closes it.
    """
    points, levels = len(curve), len(thresholds)
    start = np.empty((levels, points // 2 + 1), dtype=np.int64)
    end = np.empty((levels, points // 2 + 1), dtype=np.int64)
    count = np.zeros(levels, dtype=np.int64)
    level = 0  # thresholds that the curve is above
    for j in range(points + 1):
        before = level
        if j < points and curve[j] > 0:
            while level < levels and curve[j] >= thresholds[level]:
                level += 1
            while level > 0 and not curve[j] >= thresholds[level - 1]:
                level -= 1
        else:
            level = 0
        for i in range(before, level):
            start[i, count[i]] = j
        for i in range(level, before):
            end[i, count[i]] = j
            count[i] += 1
    offset = np.zeros(levels + 1, dtype=np.int64)
    for i in range(levels):
        if not first_point_counts and count[i] == 1 and end[i, 0] == 1:
            count[i] = 0
        offset[i + 1] = offset[i] + count[i]
    starts, ends = np.empty(offset[-1], dtype=np.int64), np.empty(offset[-1], dtype=np.int64)
    for i in range(levels):
        starts[offset[i] : offset[i + 1]] = start[i, : count[i]]
        ends[offset[i] : offset[i + 1]] = end[i, : count[i]]
    return offset, starts, ends


@inner
def prefix_sums(curve: Floats) -> Floats:
    """(N+1,) sums of what comes before each point."""
    total = np.empty(len(curve) + 1)
    total[0] = 0.0
    for j in range(len(curve)):
        total[j + 1] = total[j] + curve[j]
    return total


@inner
def contrasts(
    offset: IntArray, starts: IntArray, ends: IntArray, masked: Floats, plain: Floats, outer_width: float, right_less: int
) -> Floats:
    """Mean over each run less the mean over its surroundings, from sums of what comes before each point and each run.

    The curve that scores is `masked`, which counts inside the runs of the same threshold only, plus `plain`.
    """
    points = len(masked)
    masked_total, plain_total = prefix_sums(masked), prefix_sums(plain)
    contrast = np.empty(len(starts))
    for i in range(len(offset) - 1):
        start, end = starts[offset[i] : offset[i + 1]], ends[offset[i] : offset[i + 1]]
        runs_total = np.zeros(len(start) + 1)
        for k in range(len(start)):
            runs_total[k + 1] = runs_total[k] + (masked_total[end[k]] - masked_total[start[k]])
        for k in range(len(start)):
            length = end[k] - start[k]
            left = max(0, int(start[k] - outer_width * length))
            right = max(end[k], min(points, int(end[k] - 1 + outer_width * length) + 1 - right_less))
            earlier = np.searchsorted(start[:k], left)  # runs that start before the surroundings do, then before they end
            later = k + 1 + np.searchsorted(start[k + 1 :], right)
            outer = runs_total[k] - runs_total[earlier] + runs_total[later] - runs_total[k + 1]
            if earlier > 0 and end[earlier - 1] > left:
                outer += masked_total[end[earlier - 1]] - masked_total[left]
            if end[later - 1] > right:
                outer -= masked_total[end[later - 1]] - masked_total[right]
            outer += plain_total[start[k]] - plain_total[left] + plain_total[right] - plain_total[end[k]]
            inside = runs_total[k + 1] - runs_total[k] + plain_total[end[k]] - plain_total[start[k]]
            outside = (start[k] - left) + (right - end[k])
            contrast[offset[i] + k] = inside / length - (outer / outside if outside else 0.0)
    return contrast


# ------------------------------------------------------------------------------------------ proposals -> detections


@inner
def place(starts: IntArray, ends: IntArray, rule: _Rule) -> Floats:
    """(R, 2) seconds at which runs of points start and end."""
    seconds = np.empty((len(starts), 2))
    duration = rule.points * rule.seconds_per_point
    knots = rule.warp / rule.warp[-1] if len(rule.warp) else rule.warp
    for r in range(len(starts)):
        start, end = starts[r] * rule.seconds_per_point, ends[r] * rule.seconds_per_point
        if len(knots):
            start, end = unwarp(start / duration, knots) * duration, unwarp(end / duration, knots) * duration
        cut = rule.shrink * (end - start)
        seconds[r, 0], seconds[r, 1] = start + cut, end - cut
    return seconds


@inner
def unwarp(share: float, knots: Floats) -> float:
    """A share of the network's time axis as a share of the video: linear between the rows' `knots`, and beyond them."""
    rows = len(knots) - 1
    right = min(max(int(np.searchsorted(knots, share)), 1), rows)
    low, high = knots[right - 1], knots[right]
    return ((share - low) / (high - low) + (right - 1)) / rows


@inner
def suppress(segments: Floats, order: IntArray, threshold: float, pad: float, keeps_equal: bool) -> IntArray:
    """Hard non-maximum suppression of segments visited in `order`; the survivors in that order."""
    rest = order.copy()
    kept = np.empty_like(rest)
    left, count = len(rest), 0
    while left:
        best = rest[0]
        kept[count] = best
        count += 1
        start, end = segments[best, 0], segments[best, 1]
        survivors = 0
        for i in range(1, left):
            other = rest[i]
            shared = max(0.0, min(end, segments[other, 1]) - max(start, segments[other, 0]) + pad)
            overlap = shared / ((end - start + pad) + (segments[other, 1] - segments[other, 0] + pad) - shared)
            if overlap < threshold or (keeps_equal and overlap == threshold):
                rest[survivors] = other
                survivors += 1
        left = survivors
    return kept[:count]


# ------------------------------------------------------------------------------------------------------- one class


@compiled
def detect_class(
    activation: FloatArray, common: FloatArray, terms: Floats, sweeps: _Sweeps, rule: _Rule
) -> tuple[Floats, Floats]:
    """Scores (D,) and segments (D, 2) of one class by descending score; `terms` (S,) are its class terms."""
    fine, shared = refine(activation, rule), refine(common, rule)
    scores, starts, ends = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for s in range(len(terms)):
        thresholds = sweeps.thresholds[sweeps.offset[s] : sweeps.offset[s + 1]]
        support = shared if sweeps.by_common[s] else fine
        offset, start, end = find_runs(support, thresholds, rule.first_point_counts)
        masked, plain = np.zeros(rule.points), np.zeros(rule.points)
        for curve, share, supports in (
            (fine, sweeps.activation_share[s], not sweeps.by_common[s]),
            (shared, sweeps.common_share[s], sweeps.by_common[s]),
        ):
            if share != 0:
                if supports and sweeps.thresholded[s]:
                    masked += share * curve
                else:
                    plain += share * curve
        contrast = contrasts(offset, start, end, masked, plain, rule.outer_width, rule.right_surroundings_less)
        long = end - start >= rule.shortest_run
        scores = np.concatenate((scores, contrast[long] + terms[s]))
        starts, ends = np.concatenate((starts, start[long])), np.concatenate((ends, end[long]))
    segments = place(starts, ends, rule)
    if not np.isnan(rule.whole_video_score) and len(scores):
        scores = np.append(scores, rule.whole_video_score)
        segments = np.concatenate((segments, np.array([[0.0, rule.points * rule.seconds_per_point]])))
    order = np.argsort(scores, kind="mergesort")[::-1]  # of equal scores the later proposal goes first
    kept = suppress(segments, order, rule.nms_threshold, rule.nms_pad, rule.nms_keeps_equal)
    return scores[kept], segments[kept]
