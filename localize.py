"""The localization core: activation curves of one video -> runs -> outer-inner scores -> suppression -> detections.

Arrays only, no torch, and nothing about any one method: a method describes its curves, `localize` does the rest.
Shapes: T network rows, N fine points, K classes to localize, I thresholds, R runs.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from utils import cores

Arrays = dict[str, NDArray[Any]]
FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
Floats = NDArray[np.float64]

Records = NDArray[np.void]
Record = Any  # a row of one of the tables below, its columns as attributes

VIDEOS_AT_ONCE = 16  # that a thread takes
NONE = np.zeros(0, dtype=np.float32)


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
    activation: FloatArray  # (T, K), single precision or double
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
    warped_seconds: float | None = None  # how long a video with a `warp` lasts (None: its points); the last bit may matter

    def __post_init__(self) -> None:
        """A method's mistake is told here: kernels do not look past the ends of arrays before they read there."""
        rows, num_classes = self.activation.shape
        arrays = [self.activation] if self.common is None else [self.activation, self.common]
        if any(array.dtype not in (np.float32, np.float64) for array in arrays):
            raise ValueError(f"activation and common need single or double precision, not {[str(a.dtype) for a in arrays]}")
        if not self.sweeps or not all(np.isfinite(sweep.thresholds).all() for sweep in self.sweeps):
            raise ValueError("there must be a sweep, and its thresholds finite")
        if not 0 <= self.outer_width <= 1e9 or self.points != int(self.points) or self.points < 1:
            raise ValueError(f"outer_width {self.outer_width} or points {self.points} is out of range")
        if len(self.classes) != num_classes or any(len(sweep.class_term) != num_classes for sweep in self.sweeps):
            raise ValueError(f"classes and class_term need one number for each of the {num_classes} columns of activation")
        if rows == 0 or (self.points % rows and not self.resize):
            raise ValueError(f"{self.points} points is no multiple of {rows} rows of activation")
        if self.common is None and any(sweep.support == "common" or sweep.common_share for sweep in self.sweeps):
            raise ValueError("a sweep over the common sequence needs Curves.common")
        if self.common is not None and self.common.shape != (rows,):
            raise ValueError(f"common is {self.common.shape}; activation has {rows} rows")
        if any(sorted(sweep.thresholds) != list(sweep.thresholds) for sweep in self.sweeps):
            raise ValueError("thresholds of a sweep must ascend")


@dataclass(frozen=True)
class Detections:
    """Detections of one video: classes ascending, inside a class by descending score."""

    classes: IntArray  # (D,)
    scores: FloatArray  # (D,)
    segments: FloatArray  # (D, 2) seconds


def localize(curves: Curves) -> Detections:
    """Detections of every class of `curves`, by what its fields say (BaS-Net's: docs/basnet.md, section 5)."""
    return _run([curves])[0]


def localize_all(videos: Iterable[Curves], threads: int | None = None) -> list[Detections]:
    """`localize` of each video. While this thread describes curves, others (one a core) localize those described."""
    videos = iter(videos)
    pool = ThreadPoolExecutor(threads or cores())
    try:
        parts = [pool.submit(_run, part) for part in iter(lambda: list(islice(videos, VIDEOS_AT_ONCE)), [])]
        return [detections for part in parts for detections in part.result()]
    finally:
        pool.shutdown(cancel_futures=True)  # what waits when Ctrl-C comes is not begun


NUMBERS = {  # fields of `Curves` that the kernel takes as they are
    "points": np.int64,
    "seconds_per_point": np.float64,
    "outer_width": np.float64,
    "nms_threshold": np.float64,
    "nms_pad": np.float64,
    "nms_keeps_equal": np.bool_,
    "resize": np.bool_,
    "shortest_run": np.int64,
    "first_point_counts": np.bool_,
    "right_surroundings_less": np.int64,
    "shrink": np.float64,
    "whole_video_score": np.float64,  # nan: none
    "warped_seconds": np.float64,  # nan: as many points as there are
}
SIZES = ("num_classes", "rows", "common_rows", "knots", "num_sweeps", "levels")  # of the arrays that belong to a video
RULE = np.dtype([*((name, np.int64) for name in SIZES), *NUMBERS.items()])
SWEEP = np.dtype(
    [
        ("levels", np.int64),
        ("by_common", np.bool_),
        ("activation_share", np.float64),
        ("common_share", np.float64),
        ("thresholded", np.bool_),
    ]
)
numbers_of = attrgetter(*NUMBERS)


def _run(videos: list[Curves]) -> list[Detections]:
    """The kernel on some videos at once: a record each, a record for each sweep, and their arrays joined end to end."""
    rules, sweeps, levels, terms, activations, commons, warps = [], [], [], [], [], [], []
    for curves in videos:
        rows, num_classes = curves.activation.shape
        common = NONE if curves.common is None else curves.common
        warp = NONE if curves.warp is None else curves.warp
        sizes = (num_classes, rows, len(common), len(warp), len(curves.sweeps), sum(len(x.thresholds) for x in curves.sweeps))
        rules.append((*sizes, *numbers_of(curves)))
        activations.append(curves.activation.ravel(order="F"))
        commons.append(common)
        warps.append(warp)
        for sweep in curves.sweeps:
            shares = sweep.activation_share, sweep.common_share
            sweeps.append((len(sweep.thresholds), sweep.support == "common", *shares, sweep.thresholded))
            levels.append(sweep.thresholds)
            terms.append(sweep.class_term)
    if len({(array.dtype, other.dtype) for array, other in zip(activations, commons, strict=True)}) > 1:
        return [_run([curves])[0] for curves in videos]  # joined, those of single precision would become double
    counts, scores, segments = detect(
        np.array(rules, dtype=RULE),
        np.array(sweeps, dtype=SWEEP),
        np.concatenate(levels, dtype=np.float64),
        np.concatenate(terms, dtype=np.float64),
        np.concatenate(activations),
        np.concatenate(commons),
        np.concatenate(warps, dtype=np.float64),
    )
    classes = np.repeat(np.concatenate([curves.classes for curves in videos]).astype(np.int64), counts)
    first_class = np.cumsum([0, *(len(curves.classes) for curves in videos)])
    first = np.concatenate(([0], np.cumsum(counts)))[first_class].tolist()
    return [Detections(classes[i:j], scores[i:j], segments[i:j]) for i, j in pairwise(first)]


def min_max(sequence: FloatArray) -> FloatArray:
    """Scale (T, K) over time by its extremes clipped at zero; values are not clipped and may be negative."""
    high = np.maximum(sequence.max(axis=0), 0)
    low = np.maximum(sequence.min(axis=0), 0)
    span = high - low
    return (sequence - low) / np.where(span > 0, span, 1)


# ------------------------------------------------------------------------------------------- rows -> fine points


@inner
def refine(sequence: FloatArray, rule: Record) -> Floats:
    """(T,) rows as (N,) fine points."""
    if len(sequence) == 0:
        return np.zeros(0)
    if rule["resize"]:  # a name that numpy's records have as a method
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
    opened = np.zeros(levels, dtype=np.int64)  # where the run began that each threshold is in
    closed = [(0, 0, 0) for _ in range(0)]  # threshold, start, end
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
            opened[i] = j
        for i in range(level, before):
            closed.append((i, opened[i], j))
    count = np.zeros(levels, dtype=np.int64)
    last = np.zeros(levels, dtype=np.int64)
    for i, _, end in closed:
        count[i] += 1
        last[i] = end
    if not first_point_counts:
        count[last == 1] = 0
    offset = np.zeros(levels + 1, dtype=np.int64)
    offset[1:] = np.cumsum(count)
    starts, ends = np.empty(offset[-1], dtype=np.int64), np.empty(offset[-1], dtype=np.int64)
    slot = offset[:-1].copy()
    for i, start, end in closed:
        if count[i]:
            starts[slot[i]], ends[slot[i]] = start, end
            slot[i] += 1
    return offset, starts, ends


@inner
def positive_sums(curve: Floats, share: float) -> Floats:
    """(N+1,) sums of what comes before each point and can lie in a run; large negative values would cost precision."""
    total = np.zeros(len(curve) + 1)
    if share != 0:
        for j in range(len(curve)):
            total[j + 1] = total[j] + (share * curve[j] if curve[j] > 0 else 0.0)
    return total


@inner
def prefix_sums(first: Floats, first_share: float, second: Floats, second_share: float) -> Floats:
    """(N+1,) sums of what comes before each point of a mixture of two curves."""
    total = np.zeros(len(first) + 1)
    if first_share != 0 or second_share != 0:
        for j in range(len(first)):
            value = first_share * first[j]
            if second_share != 0:
                value += second_share * second[j]
            total[j + 1] = total[j] + value
    return total


@inner
def contrasts(
    offset: IntArray,
    starts: IntArray,
    ends: IntArray,
    masked_total: Floats,
    plain_total: Floats,
    outer_width: float,
    right_less: int,
) -> Floats:
    """Mean over each run less the mean over its surroundings, from sums of what comes before each point and each run.

    The curve that scores has two parts, each given by its prefix sums: one counts inside the runs of the same threshold
    only, one everywhere.
    """
    points = len(plain_total) - 1
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
def place(starts: IntArray, ends: IntArray, warp: Floats, rule: Record) -> Floats:
    """(R, 2) seconds at which runs of points start and end."""
    seconds = np.empty((len(starts), 2))
    duration = rule.points * rule.seconds_per_point if np.isnan(rule.warped_seconds) else rule.warped_seconds
    knots = warp / warp[-1] if len(warp) else warp
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
    low, high, row = knots[right - 1], knots[right], 1 / rows
    start = (right - 1) * row
    end = right * row if right < rows else 1.0
    return (end - start) / (high - low) * (share - low) + start


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
            length, other_length = end - start + pad, segments[other, 1] - segments[other, 0] + pad
            # where equals stay, the last bit decides: each rule adds in the order of its official code
            union = other_length - shared + length if keeps_equal else length + other_length - shared
            overlap = shared / union
            if overlap < threshold or (keeps_equal and overlap == threshold):
                rest[survivors] = other
                survivors += 1
        left = survivors
    return kept[:count]


# ------------------------------------------------------------------------------------------------------- one class


@inner
def detect_class(
    fine: Floats, common: Floats, terms: Floats, sweeps: Records, levels: Floats, warp: Floats, rule: Record
) -> tuple[Floats, Floats]:
    """Scores (D,) and segments (D, 2) of one class by descending score, from fine points; `terms` (S,) are its class terms."""
    scores, starts, ends = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for s in range(len(sweeps)):
        sweep = sweeps[s]
        thresholds, levels = take(levels, sweep.levels)
        support = common if sweep.by_common else fine
        masked_share = 0.0
        if sweep.thresholded:
            masked_share = sweep.common_share if sweep.by_common else sweep.activation_share
        masked = positive_sums(support, masked_share)
        own_share = sweep.activation_share if sweep.by_common else sweep.activation_share - masked_share
        common_share = sweep.common_share - masked_share if sweep.by_common else sweep.common_share
        plain = prefix_sums(fine, own_share, common, common_share)
        offset, start, end = find_runs(support, thresholds, rule.first_point_counts)
        contrast = contrasts(offset, start, end, masked, plain, rule.outer_width, rule.right_surroundings_less)
        long = end - start >= rule.shortest_run
        scores = np.concatenate((scores, contrast[long] + terms[s]))
        starts, ends = np.concatenate((starts, start[long])), np.concatenate((ends, end[long]))
    segments = place(starts, ends, warp, rule)
    if not np.isnan(rule.whole_video_score) and len(scores):
        scores = np.append(scores, rule.whole_video_score)
        segments = np.concatenate((segments, np.array([[0.0, rule.points * rule.seconds_per_point]])))
    order = np.argsort(scores, kind="mergesort")[::-1]  # of equal scores the later proposal goes first
    kept = suppress(segments, order, rule.nms_threshold, rule.nms_pad, rule.nms_keeps_equal)
    return scores[kept], segments[kept]


# --------------------------------------------------------------------------------------------------------- all videos


@compiled
def detect(
    rules: Records,
    sweeps: Records,
    levels: Floats,
    terms: Floats,
    activation: FloatArray,
    common: FloatArray,
    warp: Floats,
) -> tuple[IntArray, Floats, Floats]:
    """How many detections each class of each video has, then scores (D,) and segments (D, 2) of all."""
    found = []
    for v in range(len(rules)):
        rule = rules[v]
        own_sweeps, sweeps = take(sweeps, rule.num_sweeps)
        own_levels, levels = take(levels, rule.levels)
        own_terms, terms = take(terms, rule.num_sweeps * rule.num_classes)
        own_common, common = take(common, rule.common_rows)
        own_warp, warp = take(warp, rule.knots)
        fine_common = refine(own_common, rule)
        for k in range(rule.num_classes):
            rows, activation = take(activation, rule.rows)
            class_terms = own_terms[k :: rule.num_classes]
            fine = refine(rows, rule)
            found.append(detect_class(fine, fine_common, class_terms, own_sweeps, own_levels, own_warp, rule))
    counts = np.array([len(scores) for scores, _ in found], dtype=np.int64)
    scores, segments = np.empty(counts.sum()), np.empty((counts.sum(), 2))
    first = 0
    for score, segment in found:
        scores[first : first + len(score)], segments[first : first + len(score)] = score, segment
        first += len(score)
    return counts, scores, segments


@inner
def take(array: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first `count` of an array, and the rest."""
    return array[:count], array[count:]
