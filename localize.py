"""The localization core: activation curves of one video -> runs -> outer-inner scores -> suppression -> detections.

Arrays only, no torch, and nothing about any one method: a method describes its curves, `localize` does the rest.
Shapes: T network rows, N = scale * T fine points, K classes to localize.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]


@dataclass(frozen=True)
class Curves:
    """What is to be localized in one video, and by which rule."""

    classes: IntArray  # (K,) class numbers, ascending
    activation: FloatArray  # (T, K) float32, thresholded to find runs and averaged to score them
    class_term: FloatArray  # (K,) added to the score of every proposal of the class
    thresholds: Sequence[float]  # ascending
    scale: int  # fine points per network row
    seconds_per_row: float  # time of one network row
    outer_width: float  # of the contrast region on each side, in lengths of the run
    nms_threshold: float  # a detection survives while its overlap with every better one is below this
    nms_pad: float  # seconds added to lengths and intersections in suppression


@dataclass(frozen=True)
class Detections:
    """Detections of one video: classes ascending, inside a class by descending score."""

    classes: IntArray  # (D,)
    scores: FloatArray  # (D,)
    segments: FloatArray  # (D, 2) seconds


def localize(curves: Curves) -> Detections:
    """Detections of every class of `curves` (docs/basnet.md, section 5)."""
    fine = upsample(curves.activation, curves.scale)
    seconds = curves.seconds_per_row / curves.scale
    parts = []
    for column, number in enumerate(curves.classes):
        scores, first, last = propose(fine[:, column], curves.thresholds, curves.outer_width)
        scores = scores + curves.class_term[column]
        segments = np.stack([first * seconds, (last + 1) * seconds], axis=1)
        keep = suppress(segments, scores, curves.nms_threshold, curves.nms_pad)
        parts.append((np.full(len(keep), number), scores[keep], segments[keep]))
    if not parts:
        return Detections(np.zeros(0, int), np.zeros(0), np.zeros((0, 2)))
    return Detections(*(np.concatenate(group) for group in zip(*parts, strict=True)))


def min_max(sequence: FloatArray) -> FloatArray:
    """Scale (T, K) over time by its extremes clipped at zero; values are not clipped and may be negative."""
    high = np.maximum(sequence.max(axis=0), 0)
    low = np.maximum(sequence.min(axis=0), 0)
    span = high - low
    return (sequence - low) / np.where(span > 0, span, 1)


def upsample(sequence: FloatArray, scale: int) -> NDArray[np.float64]:
    """Linear interpolation of (T, K) at multiples of 1/scale, extrapolated past the last row (quirk B10)."""
    rows = len(sequence)
    if rows == 1:
        return np.repeat(sequence.astype(np.float64), scale, axis=0)
    position = np.arange(rows * scale) * (1.0 / scale)
    right = np.clip(np.searchsorted(np.arange(rows), position), 1, rows - 1)
    left = right - 1
    slope = (sequence[right] - sequence[left]).astype(np.float64)
    return slope * (position - left)[:, None] + sequence[left]


def runs(support: NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """First and last index of every maximal stretch of True."""
    edges = np.flatnonzero(np.diff(support, prepend=False, append=False))
    return edges[::2], edges[1::2] - 1


def propose(
    curve: NDArray[np.float64], thresholds: Sequence[float], outer_width: float
) -> tuple[NDArray[np.float64], IntArray, IntArray]:
    """Runs of `curve` above each threshold with the contrast of their mean to their surroundings' mean.

    Surroundings count as zero where they are below the threshold themselves.
    """
    found = [(np.zeros(0), np.zeros(0, int), np.zeros(0, int))]
    for threshold in thresholds:
        support = (curve >= threshold) & (curve > 0)
        first, last = runs(support)
        total = np.concatenate([[0.0], np.cumsum(np.where(support, curve, 0.0))])
        margin = outer_width * (last - first + 1)
        outer_first = np.maximum(0, (first - margin).astype(int))
        outer_last = np.minimum(len(curve) - 1, (last + margin).astype(int))
        inner_sum = total[last + 1] - total[first]
        outer_sum = (total[first] - total[outer_first]) + (total[outer_last + 1] - total[last + 1])
        outer_count = (first - outer_first) + (outer_last - last)
        contrast = inner_sum / (last - first + 1) - outer_sum / np.maximum(outer_count, 1)
        found.append((contrast, first, last))
    scores, first, last = (np.concatenate(group) for group in zip(*found, strict=True))
    return scores, first, last


def suppress(segments: FloatArray, scores: FloatArray, threshold: float, pad: float) -> IntArray:
    """Hard non-maximum suppression; indices of the survivors by descending score."""
    start, end = segments[:, 0], segments[:, 1]
    length = end - start + pad
    order = np.argsort(scores, kind="stable")[::-1]
    keep = []
    while len(order):
        best, rest = order[0], order[1:]
        keep.append(best)
        shared = np.maximum(0, np.minimum(end[best], end[rest]) - np.maximum(start[best], start[rest]) + pad)
        order = rest[shared / (length[best] + length[rest] - shared) < threshold]
    return np.array(keep, dtype=int)
