"""The localization core: activation curves of one video -> runs -> outer-inner scores -> suppression -> detections.

It works on arrays, without torch, and knows no method: a method describes its curves, `localize` does the rest.
Shapes: T snippets of the network's output, N fine points, K classes to localize, I thresholds, R runs, S sweeps, D detections.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from utils import cores

Arrays = dict[str, NDArray[Any]]
FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
Doubles = NDArray[np.float64]

Records = NDArray[np.void]
Record = Any  # one element of `Records`, its fields as attributes

VIDEOS_AT_ONCE = 16  # videos that one call of the kernel localizes
NONE = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Sweep:
    """One sequence thresholded at several levels; every run above a threshold is a proposal of each class.

    A proposal's score is the mean of a curve over the run, minus its mean over the surroundings, plus the class term. The
    scoring curve is a weighted sum of the class's activation and the common sequence.
    """

    thresholds: Sequence[float]  # ascending; a point is inside a run if it is positive and at least the threshold
    class_term: FloatArray  # (K,)
    support: Literal["activation", "common"] = "activation"  # the thresholded sequence
    activation_share: float = 1.0  # weight of the activation in the scoring curve
    common_share: float = 0.0  # weight of the common sequence in it
    thresholded: bool = True  # the scoring curve takes the thresholded sequence as zero outside the runs


@dataclass(frozen=True)
class Curves:
    """The activation curves of one video, and the settings by which they are localized."""

    classes: IntArray  # (K,) class numbers, ascending
    activation: FloatArray  # (T, K), single precision or double
    sweeps: Sequence[Sweep]
    points: int  # N: a multiple of T, or any number with `resize`
    seconds_per_point: float
    outer_width: float  # width of the surroundings on each side, in lengths of the run
    nms_threshold: float  # a detection survives if its overlap with every better survivor is below this
    nms_pad: float = 0.0  # seconds added to lengths and intersections in suppression
    nms_keeps_equal: bool = False  # a detection whose overlap equals the threshold survives too
    common: FloatArray | None = None  # (T,) a sequence that all classes share: feature magnitude, attention
    resize: bool = False  # True: snippet i is the middle of part i of T equal parts, as in image resizing; False: its start
    shortest_run: int = 1  # points
    first_point_counts: bool = True  # False: a threshold that only the first point reaches has no run
    right_surroundings_less: int = 0  # points by which the right surroundings are shorter
    shrink: float = 0.0  # share of its length that a proposal loses at each end
    whole_video_score: float | None = None  # score of one more proposal, the whole video, for classes that have any
    warp: FloatArray | None = None  # (L+1,) start of each snippet on the network's time axis, if they are not evenly spaced
    warped_seconds: float | None = None  # duration of a video with a `warp` (None: that of its points); exact to the last bit

    def __post_init__(self) -> None:
        """Check shapes and ranges here: compiled kernels do not check array bounds."""
        snippets, num_classes = self.activation.shape
        arrays = [self.activation] if self.common is None else [self.activation, self.common]
        if any(array.dtype not in (np.float32, np.float64) for array in arrays):
            raise ValueError(f"activation and common need single or double precision, not {[str(a.dtype) for a in arrays]}")
        if not self.sweeps or not all(np.isfinite(sweep.thresholds).all() for sweep in self.sweeps):
            raise ValueError("expected at least one sweep, with finite thresholds")
        if not 0 <= self.outer_width <= 1e9 or self.points != int(self.points) or self.points < 1:
            raise ValueError(f"outer_width {self.outer_width} or points {self.points} is out of range")
        if len(self.classes) != num_classes or any(len(sweep.class_term) != num_classes for sweep in self.sweeps):
            raise ValueError(f"classes and class_term need one number for each of the {num_classes} columns of activation")
        if snippets == 0 or (self.points % snippets and not self.resize):
            raise ValueError(f"{self.points} points is no multiple of {snippets} snippets of activation")
        if self.common is None and any(sweep.support == "common" or sweep.common_share for sweep in self.sweeps):
            raise ValueError("a sweep over the common sequence needs Curves.common")
        if self.common is not None and self.common.shape != (snippets,):
            raise ValueError(f"common is {self.common.shape}; activation has {snippets} snippets")
        if any(sorted(sweep.thresholds) != list(sweep.thresholds) for sweep in self.sweeps):
            raise ValueError("thresholds of a sweep must ascend")


@dataclass(frozen=True)
class Detections:
    """Detections of one video, sorted by ascending class and descending score."""

    classes: IntArray  # (D,)
    scores: FloatArray  # (D,)
    segments: FloatArray  # (D, 2) seconds


def localize(curves: Curves) -> Detections:
    """Localize one video. For BaS-Net's settings see docs/basnet.md, section 5."""
    return _localize_part([curves])[0]


def localize_all(videos: Iterable[Curves], threads: int | None = None) -> list[Detections]:
    """`localize` each video. This thread draws from `videos` while worker threads (one a core) localize."""
    videos = iter(videos)
    pool = ThreadPoolExecutor(threads or cores())
    try:
        parts = [pool.submit(_localize_part, part) for part in iter(lambda: list(islice(videos, VIDEOS_AT_ONCE)), [])]
        return [detections for part in parts for detections in part.result()]
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, no waiting part starts


FIELDS = {  # numbers of `Curves` that the kernel takes unchanged
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
    "whole_video_score": np.float64,  # nan: None
    "warped_seconds": np.float64,  # nan: None
}
SIZES = ("num_classes", "snippets", "common_snippets", "knots", "num_sweeps", "levels")  # of one video's arrays
RULE = np.dtype([*((name, np.int64) for name in SIZES), *FIELDS.items()])
SWEEP = np.dtype(
    [
        ("levels", np.int64),
        ("by_common", np.bool_),
        ("activation_share", np.float64),
        ("common_share", np.float64),
        ("thresholded", np.bool_),
    ]
)
fields_of = attrgetter(*FIELDS)


class Joined(NamedTuple):
    """Arrays of some videos, each concatenated over the videos."""

    sweeps: Records
    levels: Doubles  # thresholds of all sweeps
    terms: Doubles  # class terms of all sweeps
    activation: FloatArray  # class by class
    common: FloatArray
    warp: Doubles


def _localize_part(videos: list[Curves]) -> list[Detections]:
    """Call the kernel once for some videos: one record per video, one per sweep, arrays concatenated."""
    rules, sweeps, levels, terms, activations, commons, warps = [], [], [], [], [], [], []
    for curves in videos:
        snippets, num_classes = curves.activation.shape
        common = NONE if curves.common is None else curves.common
        warp = NONE if curves.warp is None else curves.warp
        num_levels = sum(len(sweep.thresholds) for sweep in curves.sweeps)
        sizes = (num_classes, snippets, len(common), len(warp), len(curves.sweeps), num_levels)
        rules.append((*sizes, *fields_of(curves)))
        activations.append(curves.activation.ravel(order="F"))
        commons.append(common)
        warps.append(warp)
        for sweep in curves.sweeps:
            shares = sweep.activation_share, sweep.common_share
            sweeps.append((len(sweep.thresholds), sweep.support == "common", *shares, sweep.thresholded))
            levels.append(sweep.thresholds)
            terms.append(sweep.class_term)
    if len({(array.dtype, other.dtype) for array, other in zip(activations, commons, strict=True)}) > 1:
        return [_localize_part([curves])[0] for curves in videos]  # concatenation would turn single precision into double
    joined = Joined(
        np.array(sweeps, dtype=SWEEP),
        np.concatenate(levels, dtype=np.float64),
        np.concatenate(terms, dtype=np.float64),
        np.concatenate(activations),
        np.concatenate(commons),
        np.concatenate(warps, dtype=np.float64),
    )
    counts, scores, segments = localize_joined(np.array(rules, dtype=RULE), joined)
    classes = np.repeat(np.concatenate([curves.classes for curves in videos]).astype(np.int64), counts)
    first_class = np.cumsum([0, *(len(curves.classes) for curves in videos)])
    first = np.concatenate(([0], np.cumsum(counts)))[first_class].tolist()
    return [Detections(classes[i:j], scores[i:j], segments[i:j]) for i, j in pairwise(first)]


def narrowed(arrays: Arrays, classes: IntArray) -> Arrays:
    """Activations of a video that have of `cas` (T, C) only the columns of `classes`, which are ascending."""
    return arrays | {"cas": arrays["cas"][:, classes], "classes": classes}


def columns_of(arrays: Arrays, classes: IntArray) -> FloatArray:
    """(T, K) columns `classes` of `cas`, whether the activations are complete or `narrowed`."""
    if "classes" in arrays:
        assert np.isin(classes, arrays["classes"]).all()
        classes = np.searchsorted(arrays["classes"], classes)
    return arrays["cas"][:, classes]


def min_max(sequence: FloatArray) -> FloatArray:
    """Min-max scale (T, K) over time. Minimum and maximum are clipped at zero; the result is not and may be negative."""
    high = np.maximum(sequence.max(axis=0), 0)
    low = np.maximum(sequence.min(axis=0), 0)
    span = high - low
    return (sequence - low) / np.where(span > 0, span, 1)


# --------------------------------------------------------------------------------------- snippets -> fine points


@inner
def refine(sequence: FloatArray, rule: Record) -> Doubles:
    """Interpolate a sequence (T,) to fine points (N,)."""
    if len(sequence) == 0:
        return np.zeros(0)
    if rule["resize"]:  # as an attribute, it would be the `resize` method of numpy's records
        return resize(sequence, rule.points)
    return upsample(sequence, rule.points // len(sequence))


@inner
def upsample(sequence: FloatArray, scale: int) -> Doubles:
    """Linear interpolation at multiples of 1/scale, extrapolated past the last snippet (quirk B10)."""
    snippets, step = len(sequence), 1.0 / scale
    fine = np.empty(snippets * scale)
    for j in range(snippets * scale):
        if snippets == 1:
            fine[j] = sequence[0]
        else:
            position = j * step
            right = min(max(int(np.ceil(position)), 1), snippets - 1)
            left = right - 1
            fine[j] = np.float64(sequence[right] - sequence[left]) * (position - left) + sequence[left]
    return fine


@inner
def resize(sequence: FloatArray, points: int) -> Doubles:
    """Linear interpolation in single precision between the middles of snippets, as OpenCV resizes an image."""
    snippets, one = len(sequence), np.float32(1)
    fine = np.empty(points)
    for j in range(points):
        position = np.float32((j + 0.5) * (snippets / points) - 0.5)
        left = min(max(int(np.floor(position)), 0), snippets - 1)
        share = np.float32(0) if position < 0 or left == snippets - 1 else position - np.float32(left)
        fine[j] = sequence[left] * (one - share) + sequence[min(left + 1, snippets - 1)] * share
    return fine


# ----------------------------------------------------------------------------------------- fine points -> proposals


class Runs(NamedTuple):
    """Runs of points above each threshold of a sweep."""

    offset: IntArray  # (I+1,) the runs of threshold i are number offset[i] to offset[i + 1] - 1
    starts: IntArray  # (R,)
    ends: IntArray  # (R,) exclusive


@inner
def find_runs(curve: Doubles, thresholds: Doubles, first_point_counts: bool) -> Runs:
    """Find the runs above each threshold, all thresholds in one pass.

    When the curve rises over a threshold it opens a run, when it falls below it closes the run.
    """
    points, levels = len(curve), len(thresholds)
    opened = np.zeros(levels, dtype=np.int64)  # start of the open run of each threshold
    closed = [(0, 0, 0) for _ in range(0)]  # threshold, start, end
    level = 0  # number of thresholds that the curve has reached
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
    return Runs(offset, starts, ends)


@inner
def positive_sums(curve: Doubles, share: float) -> Doubles:
    """(N+1,) prefix sums of the positive part: no run has a negative point, and large ones would cost precision."""
    total = np.zeros(len(curve) + 1)
    if share != 0:
        for j in range(len(curve)):
            total[j + 1] = total[j] + (share * curve[j] if curve[j] > 0 else 0.0)
    return total


@inner
def prefix_sums(first: Doubles, first_share: float, second: Doubles, second_share: float) -> Doubles:
    """(N+1,) prefix sums of the weighted sum of two curves."""
    total = np.zeros(len(first) + 1)
    if first_share != 0 or second_share != 0:
        for j in range(len(first)):
            value = first_share * first[j]
            if second_share != 0:
                value += second_share * second[j]
            total[j + 1] = total[j] + value
    return total


@inner
def contrasts(runs: Runs, masked_total: Doubles, plain_total: Doubles, outer_width: float, right_less: int) -> Doubles:
    """(R,) mean of the scoring curve over each run minus its mean over the surroundings.

    The scoring curve is the sum of two parts, each given by its prefix sums (N+1,). The masked part is zero outside the runs
    of the same threshold; the plain part counts everywhere.
    """
    points, offset = len(plain_total) - 1, runs.offset
    contrast = np.empty(len(runs.starts))
    for i in range(len(offset) - 1):
        start, end = runs.starts[offset[i] : offset[i + 1]], runs.ends[offset[i] : offset[i + 1]]
        runs_total = np.zeros(len(start) + 1)
        for k in range(len(start)):
            runs_total[k + 1] = runs_total[k] + (masked_total[end[k]] - masked_total[start[k]])
        for k in range(len(start)):
            length = end[k] - start[k]
            left = max(0, int(start[k] - outer_width * length))
            right = max(end[k], min(points, int(end[k] - 1 + outer_width * length) + 1 - right_less))
            earlier = np.searchsorted(start[:k], left)  # runs that start before `left`; `later`: before `right`
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
def place(starts: IntArray, ends: IntArray, warp: Doubles, rule: Record) -> Doubles:
    """(R, 2) start and end of each run in seconds."""
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
def unwarp(share: float, knots: Doubles) -> float:
    """Map a share of the network's time axis to a share of the video, linearly between `knots` (L+1,) and beyond them."""
    snippets = len(knots) - 1
    right = min(max(int(np.searchsorted(knots, share)), 1), snippets)
    low, high, snippet = knots[right - 1], knots[right], 1 / snippets
    start = (right - 1) * snippet
    end = right * snippet if right < snippets else 1.0
    return (end - start) / (high - low) * (share - low) + start


@inner
def suppress(segments: Doubles, order: IntArray, threshold: float, pad: float, keeps_equal: bool) -> IntArray:
    """Hard non-maximum suppression of segments visited in `order`; returns the survivors in that order."""
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
            # if equal overlaps survive, the last bit decides: each rule adds in the order of its official code
            union = other_length - shared + length if keeps_equal else length + other_length - shared
            overlap = shared / union
            if overlap < threshold or (keeps_equal and overlap == threshold):
                rest[survivors] = other
                survivors += 1
        left = survivors
    return kept[:count]


# ------------------------------------------------------------------------------------------------------- one class


@inner
def localize_class(fine: Doubles, common: Doubles, terms: Doubles, video: Joined, rule: Record) -> tuple[Doubles, Doubles]:
    """Scores (D,) and segments (D, 2) of one class by descending score.

    `fine` and `common` are (N,), `terms` (S,) are the class's terms, `video` has the sweeps, thresholds and warp.
    """
    scores, starts, ends = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    levels = video.levels
    for s in range(len(video.sweeps)):
        sweep = video.sweeps[s]
        thresholds, levels = take(levels, sweep.levels)
        support = common if sweep.by_common else fine
        masked_share = 0.0
        if sweep.thresholded:
            masked_share = sweep.common_share if sweep.by_common else sweep.activation_share
        masked = positive_sums(support, masked_share)
        own_share = sweep.activation_share if sweep.by_common else sweep.activation_share - masked_share
        common_share = sweep.common_share - masked_share if sweep.by_common else sweep.common_share
        plain = prefix_sums(fine, own_share, common, common_share)
        runs = find_runs(support, thresholds, rule.first_point_counts)
        contrast = contrasts(runs, masked, plain, rule.outer_width, rule.right_surroundings_less)
        long = runs.ends - runs.starts >= rule.shortest_run
        scores = np.concatenate((scores, contrast[long] + terms[s]))
        starts, ends = np.concatenate((starts, runs.starts[long])), np.concatenate((ends, runs.ends[long]))
    segments = place(starts, ends, video.warp, rule)
    if not np.isnan(rule.whole_video_score) and len(scores):
        scores = np.append(scores, rule.whole_video_score)
        segments = np.concatenate((segments, np.array([[0.0, rule.points * rule.seconds_per_point]])))
    order = np.argsort(scores, kind="mergesort")[::-1]  # on equal scores, the later proposal is first
    kept = suppress(segments, order, rule.nms_threshold, rule.nms_pad, rule.nms_keeps_equal)
    return scores[kept], segments[kept]


# --------------------------------------------------------------------------------------------------------- all videos


@compiled
def localize_joined(rules: Records, joined: Joined) -> tuple[IntArray, Doubles, Doubles]:
    """The number of detections of each class of each video, then scores (D,) and segments (D, 2) of all videos."""
    found = []
    for v in range(len(rules)):
        rule = rules[v]
        video, joined = split(joined, rule)
        common = refine(video.common, rule)
        for k in range(rule.num_classes):
            fine = refine(video.activation[k * rule.snippets : (k + 1) * rule.snippets], rule)
            found.append(localize_class(fine, common, video.terms[k :: rule.num_classes], video, rule))
    counts = np.array([len(scores) for scores, _ in found], dtype=np.int64)
    scores, segments = np.empty(counts.sum()), np.empty((counts.sum(), 2))
    first = 0
    for score, segment in found:
        scores[first : first + len(score)], segments[first : first + len(score)] = score, segment
        first += len(score)
    return counts, scores, segments


@inner
def split(joined: Joined, rule: Record) -> tuple[Joined, Joined]:
    """The arrays of the first video, which has this rule, and those of the others."""
    sweeps, more_sweeps = take(joined.sweeps, rule.num_sweeps)
    levels, more_levels = take(joined.levels, rule.levels)
    terms, more_terms = take(joined.terms, rule.num_sweeps * rule.num_classes)
    activation, more_activation = take(joined.activation, rule.num_classes * rule.snippets)
    common, more_common = take(joined.common, rule.common_snippets)
    warp, more_warp = take(joined.warp, rule.knots)
    others = Joined(more_sweeps, more_levels, more_terms, more_activation, more_common, more_warp)
    return Joined(sweeps, levels, terms, activation, common, warp), others


@inner
def take(array: NDArray[Any], count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first `count` elements of an array, and the rest."""
    return array[:count], array[count:]
