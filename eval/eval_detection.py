"""ActivityNet's detection mAP (docs/evaluation.md): files, dictionaries, data frames or arrays in, arrays inside.

Shapes: I tIoU thresholds, C classes, P predictions by class and descending score, G ground truths, K candidate pairs.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from eval.table import (
    Codes,
    Floats,
    InputError,
    Source,
    Table,
    Unmatched,
    digest,
    known,
    read_ground_truth,
    read_predictions,
    short,
    unknown_text,
    unlisted_text,
)

TIOU_THUMOS = np.linspace(0.1, 0.9, 9)
TIES = ("official", "stable")


@dataclass(frozen=True)
class DetectionScore:
    """What a set of detections is worth; unpacks as (mAP, average_mAP)."""

    tiou: Floats  # (I,)
    ap: Floats  # (C, I)
    truth: Table  # what was scored against
    ambiguous: Table | None = None  # what the kit leaves out of account
    unmatched: Unmatched = field(default_factory=Unmatched)
    unlisted: str = "count"  # what was done with detections in unlisted videos

    @property
    def notes(self) -> list[str]:
        """What became of detections whose video or label the ground truth does not have."""
        notes = [unlisted_text(self.unmatched.videos, self.unlisted)] if self.unmatched.videos else []
        return notes + ([unknown_text(self.unmatched.labels)] if self.unmatched.labels else [])

    @property
    def labels(self) -> list[str]:
        return self.truth.labels

    @cached_property
    def ground_truth(self) -> str:
        """A digest of what was scored against."""
        return digest(self.truth, *([] if self.ambiguous is None else [self.ambiguous]))

    @property
    def mAP(self) -> Floats:
        return self.ap.mean(axis=0)

    @property
    def average_mAP(self) -> float:
        return float(self.mAP.mean())

    @property
    def averages(self) -> dict[str, float]:
        return averages(self.tiou, self.mAP)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.mAP, self.average_mAP))


def detection_map(
    ground_truth: Source,
    predictions: Source,
    tiou: float | Sequence[float] | Floats = TIOU_THUMOS,
    subset: str | None = None,
    ties: str = "official",
    single: bool = False,
    unlisted: str = "count",
    score_key: str = "score",
) -> DetectionScore:
    """Detection mAP of `predictions`; eval/table.py says what the two may be and which subset None stands for.

    `single` rounds overlaps to single precision, as mmaction2's evaluator stores them. Detections in videos that the ground
    truth does not list are false positives (`unlisted="count"`) or left out (`"ignore"`). One warning tells of unknown labels.
    """
    truth, found = read_ground_truth(ground_truth, subset), read_predictions(predictions, score_key)
    score = score_tables(truth, found, tiou, ties, single, unlisted)
    if score.unmatched.labels:
        warnings.warn(unknown_text(score.unmatched.labels), stacklevel=2)
    return score


def score_tables(
    truth: Table,
    found: Table,
    tiou: float | Sequence[float] | Floats,
    ties: str = "official",
    single: bool = False,
    unlisted: str = "count",
) -> DetectionScore:
    """`detection_map` of tables, without the warning."""
    thresholds = checked_thresholds(tiou)
    fitted, unmatched = known(found, truth, unlisted)
    ap = detection_ap(truth, fitted, thresholds, ties, single)
    return DetectionScore(thresholds, ap, truth, unmatched=unmatched, unlisted=unlisted)


def checked_thresholds(tiou: float | Sequence[float] | Floats) -> Floats:
    try:
        thresholds = np.atleast_1d(np.asarray(tiou, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        thresholds = np.zeros(0)
    if thresholds.ndim != 1 or not len(thresholds) or not np.isfinite(thresholds).all():
        raise InputError(f"tiou is {short(tiou)}; expected one or more numbers such as [0.3, 0.5, 0.7].")
    return thresholds


def detection_ap(truth: Table, found: Table, tiou: Floats, ties: str = "official", single: bool = False) -> Floats:
    """AP (C, I) of the classes of `truth`; `found` has its labels, and its videos first (`known`).

    Equal scores and equal overlaps go as in numpy's default sort, reversed (`official`: the toolkit's code does the same, and
    what that sort does with equals is left to numpy), or the earlier prediction and the later ground truth first (`stable`).
    """
    if ties not in TIES:
        raise InputError(f"ties is {ties!r}; expected one of {', '.join(TIES)}.")
    order = np.argsort(found.label, kind="stable")
    bounds = np.searchsorted(found.label[order], np.arange(len(truth.labels) + 1))
    for begin, end in itertools.pairwise(bounds):
        scores = found.scores[order[begin:end]]
        rank = np.argsort(scores)[::-1] if ties == "official" else np.argsort(-scores, kind="stable")
        order[begin:end] = order[begin:end][rank]
    segments = found.segments[order]

    group = truth.label * len(found.videos) + truth.video  # ground truths of one class in one video compete
    by_group = np.argsort(group, kind="stable")
    truths = truth.segments[by_group]
    wanted = (found.label * len(found.videos) + found.video)[order]
    first, last = (np.searchsorted(group[by_group], wanted, side=side) for side in ("left", "right"))

    offset, candidate, overlap, tied = candidates(segments, truths, first, last, tiou.min(), single)
    if ties == "official":
        _order_ties(np.flatnonzero(tied), segments, truths, first, last, offset, candidate, overlap, single)
    hit = match(offset, candidate, overlap, tiou, len(truths))
    return average_precisions(hit, bounds, np.bincount(truth.label, minlength=len(truth.labels)))


@inner
def iou(start: float, end: float, other_start: float, other_end: float) -> float:
    """Plain temporal IoU; of two empty segments nan."""
    shared = max(0.0, min(end, other_end) - max(start, other_start))
    return shared / ((other_end - other_start) + (end - start) - shared)


@compiled
def candidates(
    segments: Floats, truths: Floats, first: Codes, last: Codes, lowest: float, single: bool
) -> tuple[Codes, Codes, Floats, NDArray[np.bool_]]:
    """The ground truths that each prediction may take, best overlap first: (P+1,) where those of each begin, (K,) which,
    (K,) their overlaps, (P,) whether two of them are equal; of equal overlaps the later ground truth comes first.

    nan, the overlap of two empty segments, is not below any threshold and so the best of all, as officially.
    """
    offset = np.zeros(len(segments) + 1, dtype=np.int64)
    tied = np.zeros(len(segments), dtype=np.bool_)
    room = 2 * len(segments) + 16
    candidate, overlap = np.empty(room, dtype=np.int64), np.empty(room)
    for p in range(len(segments)):
        begin = end = offset[p]
        if end + last[p] - first[p] > room:
            room = 2 * (end + last[p] - first[p])
            candidate = np.append(candidate[:end], np.empty(room - end, dtype=np.int64))
            overlap = np.append(overlap[:end], np.empty(room - end))
        for g in range(first[p], last[p]):
            value = iou(segments[p, 0], segments[p, 1], truths[g, 0], truths[g, 1])
            if single:
                value = np.float64(np.float32(value))
            if value < lowest:
                continue
            place = end
            while place > begin and not (value < overlap[place - 1] or (np.isnan(overlap[place - 1]) and not np.isnan(value))):
                if value == overlap[place - 1] or np.isnan(overlap[place - 1]):
                    tied[p] = True
                overlap[place], candidate[place] = overlap[place - 1], candidate[place - 1]
                place -= 1
            overlap[place], candidate[place] = value, g
            end += 1
        offset[p + 1] = end
    return offset, candidate[: offset[-1]], overlap[: offset[-1]], tied


def _order_ties(
    rows: Codes,
    segments: Floats,
    truths: Floats,
    first: Codes,
    last: Codes,
    offset: Codes,
    candidate: Codes,
    overlap: Floats,
    single: bool,
) -> None:
    """Put the candidates of predictions with equal overlaps into the order of numpy's default sort, reversed."""
    for p in rows:
        group = truths[first[p] : last[p]]
        start, end = segments[p]
        with np.errstate(all="ignore"):
            shared = np.maximum(0, np.minimum(end, group[:, 1]) - np.maximum(start, group[:, 0]))
            values = shared / ((group[:, 1] - group[:, 0]) + (end - start) - shared)
        values = values.astype(np.float32) if single else values
        best = np.argsort(values)[::-1][: offset[p + 1] - offset[p]]
        candidate[offset[p] : offset[p + 1]] = first[p] + best
        overlap[offset[p] : offset[p + 1]] = values[best]


@compiled
def match(offset: Codes, candidate: Codes, overlap: Floats, tiou: Floats, num_truths: int) -> NDArray[np.bool_]:
    """(P, I) whether a prediction takes a ground truth: the best that is free and overlaps enough."""
    free = np.ones((len(tiou), num_truths), dtype=np.bool_)
    hit = np.zeros((len(offset) - 1, len(tiou)), dtype=np.bool_)
    for p in range(len(offset) - 1):
        for i in range(len(tiou)):
            for k in range(offset[p], offset[p + 1]):
                if overlap[k] < tiou[i]:
                    break
                if free[i, candidate[k]]:
                    free[i, candidate[k]] = False
                    hit[p, i] = True
                    break
    return hit


@compiled
def average_precisions(hit: NDArray[np.bool_], bounds: Codes, count: Codes) -> Floats:
    """(C, I) area under the monotone envelope of precision over recall (VOC 2011)."""
    ap = np.zeros((len(count), hit.shape[1]))
    for c in range(len(count)):
        for i in range(hit.shape[1]):
            found = 0
            for p in range(bounds[c], bounds[c + 1]):
                found += hit[p, i]
            envelope = 0.0
            for p in range(bounds[c + 1] - 1, bounds[c] - 1, -1):
                if hit[p, i]:
                    envelope = max(envelope, found / (p - bounds[c] + 1))
                    ap[c, i] += envelope / count[c]
                    found -= 1
    return ap


def averages(tiou: Floats, mean_ap: Floats) -> dict[str, float]:
    """The averages that papers print, each under its range, as far as the thresholds cover it."""
    chosen = {}
    for first, last, step in ((0.1, 0.5, 0.1), (0.1, 0.7, 0.1), (0.1, 0.9, 0.1), (0.3, 0.7, 0.1), (0.5, 0.95, 0.05)):
        wanted = np.arange(round((last - first) / step) + 1) * step + first
        nearest = np.abs(tiou[:, None] - wanted).argmin(axis=0)
        if np.abs(tiou[nearest] - wanted).max() < 1e-6:
            chosen[f"{first:g}:{last:g}"] = float(mean_ap[nearest].mean())
    return chosen


class ANETdetection:
    """The familiar evaluator: two files (or their contents) in, mAP per tIoU and its average out."""

    def __init__(
        self,
        ground_truth_filename: Source,
        prediction_filename: Source,
        subset: str = "test",
        tiou_thresholds: float | Sequence[float] | Floats = TIOU_THUMOS,
        verbose: bool = False,
        check_status: bool = False,
        ties: str = "official",
        unlisted: str = "count",
        score_key: str = "score",
    ):
        if check_status:
            warnings.warn("check_status: the list of blocked videos is not fetched; all are counted", stacklevel=2)
        self.tiou_thresholds = checked_thresholds(tiou_thresholds)
        self.verbose, self.ties, self.unlisted = verbose, ties, unlisted
        self.ground_truth = read_ground_truth(ground_truth_filename, subset)
        self.prediction = read_predictions(prediction_filename, score_key)

    def evaluate(self) -> tuple[Floats, float]:
        score = detection_map(self.ground_truth, self.prediction, self.tiou_thresholds, ties=self.ties, unlisted=self.unlisted)
        self.ap = dict(zip(score.labels, score.ap, strict=True))
        self.mAP, self.average_mAP = score
        if self.verbose:
            for threshold, value in zip(self.tiou_thresholds, self.mAP, strict=True):
                print(f"mAP@{threshold:.2f}: {value:.4f}")
            print(f"Average mAP: {self.average_mAP:.4f}")
        return self.mAP, self.average_mAP
