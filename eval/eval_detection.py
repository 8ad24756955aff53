"""ActivityNet's detection mAP (docs/evaluation.md) of files, dictionaries, data frames or arrays.

Shapes: I tIoU thresholds, C classes, P predictions by class and descending score, G ground truths, K candidate pairs.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from eval.table import (
    Codes,
    Doubles,
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
    """The score of a set of detections; unpacks as (mAP, average_mAP)."""

    tiou: Doubles  # (I,)
    ap: Doubles  # (C, I)
    truth: Table
    ambiguous: Table | None = None  # segments that the kit ignores
    unmatched: Unmatched = field(default_factory=Unmatched)
    unlisted: str = "count"  # how detections in unlisted videos were treated

    @property
    def notes(self) -> list[str]:
        """Messages about detections whose video or label the ground truth lacks."""
        notes = [unlisted_text(self.unmatched.videos, self.unlisted)] if self.unmatched.videos else []
        return notes + ([unknown_text(self.unmatched.labels)] if self.unmatched.labels else [])

    @property
    def labels(self) -> list[str]:
        return self.truth.labels

    @cached_property
    def ground_truth(self) -> str:
        """A digest of the ground truth."""
        return digest(self.truth, *([] if self.ambiguous is None else [self.ambiguous]))

    @property
    def mAP(self) -> Doubles:
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
    tiou: float | Sequence[float] | Doubles = TIOU_THUMOS,
    subset: str | None = None,
    ties: str = "official",
    single: bool = False,
    unlisted: str = "count",
    score_key: str = "score",
) -> DetectionScore:
    """Detection mAP of `predictions`. eval/table.py lists the accepted sources and says which subset None selects.

    `single` rounds overlaps to single precision, as mmaction2's evaluator stores them. Detections in videos that the ground
    truth does not list are false positives (`unlisted="count"`) or ignored (`"ignore"`). Unknown labels raise one warning.
    """
    truth, found = read_ground_truth(ground_truth, subset), read_predictions(predictions, score_key)
    score = score_tables(truth, found, tiou, ties, single, unlisted)
    if score.unmatched.labels:
        warnings.warn(unknown_text(score.unmatched.labels), stacklevel=2)
    return score


def score_tables(
    truth: Table,
    found: Table,
    tiou: float | Sequence[float] | Doubles,
    ties: str = "official",
    single: bool = False,
    unlisted: str = "count",
) -> DetectionScore:
    """`detection_map` for tables, without the warning."""
    thresholds = checked_thresholds(tiou)
    fitted, unmatched = known(found, truth, unlisted)
    ap = detection_ap(truth, fitted, thresholds, ties, single)
    return DetectionScore(thresholds, ap, truth, unmatched=unmatched, unlisted=unlisted)


def checked_thresholds(tiou: float | Sequence[float] | Doubles) -> Doubles:
    try:
        thresholds = np.atleast_1d(np.asarray(tiou, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        thresholds = np.zeros(0)
    if thresholds.ndim != 1 or not len(thresholds) or not np.isfinite(thresholds).all():
        raise InputError(f"tiou is {short(tiou)}; expected one or more numbers such as [0.3, 0.5, 0.7].")
    return thresholds


def detection_ap(truth: Table, found: Table, tiou: Doubles, ties: str = "official", single: bool = False) -> Doubles:
    """AP (C, I) of the classes of `truth`. `found` has the same labels, and the same videos first (see `known`).

    `ties="official"` orders equal scores and equal overlaps as numpy's default sort, reversed, does; so does the toolkit, and
    numpy does not specify that order. `"stable"` takes the earlier prediction and the later ground truth first.
    """
    ranking = rank(truth, found, ties)
    hit = match(candidates_of(ranking, tiou.min(), ties, single), tiou, len(truth))
    return average_precisions(hit, ranking.bounds, np.bincount(truth.label, minlength=len(truth.labels)))


class Pairs(NamedTuple):
    """Predictions, and the ground truths of the same class and video as each."""

    segments: Doubles  # (P, 2)
    truths: Doubles  # (G, 2)
    first: Codes  # (P,) prediction p can match truths[first[p] : last[p]]
    last: Codes  # (P,)


class Ranking(NamedTuple):
    """Predictions by class, then by descending score, with the ground truths that each may match."""

    order: Codes  # (P,) rows of the predictions
    bounds: Codes  # (C+1,) predictions of class c are number bounds[c] to bounds[c + 1] - 1
    by_group: Codes  # (G,) rows of the ground truths, by class, then by video: the order of those in `pairs`
    pairs: Pairs


class Candidates(NamedTuple):
    """The ground truths that overlap each prediction enough, best overlap first."""

    offset: Codes  # (P+1,) where the candidates of each prediction begin
    truth: Codes  # (K,) their numbers
    overlap: Doubles  # (K,)
    tied: NDArray[np.bool_]  # (P,) whether two candidates have equal overlaps


def rank(truth: Table, found: Table, ties: str = "official") -> Ranking:
    """The order in which the predictions of `found` are matched; for the arguments see `detection_ap`."""
    if ties not in TIES:
        raise InputError(f"ties is {ties!r}; expected one of {', '.join(TIES)}.")
    order = np.argsort(found.label, kind="stable")
    bounds = np.searchsorted(found.label[order], np.arange(len(truth.labels) + 1))
    for begin, end in itertools.pairwise(bounds):
        scores = found.scores[order[begin:end]]
        best = np.argsort(scores)[::-1] if ties == "official" else np.argsort(-scores, kind="stable")
        order[begin:end] = order[begin:end][best]

    group = truth.label * len(found.videos) + truth.video
    by_group = np.argsort(group, kind="stable")
    own_group = (found.label * len(found.videos) + found.video)[order]
    first, last = (np.searchsorted(group[by_group], own_group, side=side) for side in ("left", "right"))
    return Ranking(order, bounds, by_group, Pairs(found.segments[order], truth.segments[by_group], first, last))


def candidates_of(ranking: Ranking, lowest: float, ties: str, single: bool) -> Candidates:
    """The candidates of each prediction with an overlap of at least `lowest`, in the order of `ties`."""
    candidates = find_candidates(ranking.pairs, lowest, single)
    if ties == "official":
        _order_ties(candidates, ranking.pairs, single)
    return candidates


@inner
def iou(start: float, end: float, other_start: float, other_end: float) -> float:
    """Temporal IoU; nan if both segments are empty."""
    shared = max(0.0, min(end, other_end) - max(start, other_start))
    return shared / ((other_end - other_start) + (end - start) - shared)


@compiled
def find_candidates(pairs: Pairs, lowest: float, single: bool) -> Candidates:
    """Find the candidates with an overlap of at least `lowest`; on equal overlaps, the later ground truth is first.

    nan, the overlap of two empty segments, is not below any threshold and ranks first, as in the official code.
    """
    segments, truths, first, last = pairs
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
    return Candidates(offset, candidate[: offset[-1]], overlap[: offset[-1]], tied)


def _order_ties(candidates: Candidates, pairs: Pairs, single: bool) -> None:
    """Reorder, in place, candidates with equal overlaps as numpy's default sort, reversed, does."""
    for p in np.flatnonzero(candidates.tied):
        group = pairs.truths[pairs.first[p] : pairs.last[p]]
        start, end = pairs.segments[p]
        with np.errstate(all="ignore"):
            shared = np.maximum(0, np.minimum(end, group[:, 1]) - np.maximum(start, group[:, 0]))
            values = shared / ((group[:, 1] - group[:, 0]) + (end - start) - shared)
        values = values.astype(np.float32) if single else values
        own = slice(candidates.offset[p], candidates.offset[p + 1])
        best = np.argsort(values)[::-1][: own.stop - own.start]
        candidates.truth[own] = pairs.first[p] + best
        candidates.overlap[own] = values[best]


@compiled
def match(candidates: Candidates, tiou: Doubles, num_truths: int) -> NDArray[np.bool_]:
    """(P, I) whether a prediction is a hit."""
    hit = np.zeros((len(candidates.offset) - 1, len(tiou)), dtype=np.bool_)
    for i in range(len(tiou)):
        hit[:, i] = assign(candidates, tiou[i], num_truths) >= 0
    return hit


@inner
def assign(candidates: Candidates, tiou: float, num_truths: int) -> Codes:
    """(P,) the ground truth that a prediction takes, or -1: its best unmatched candidate with an overlap of at least `tiou`."""
    offset, candidate, overlap, _ = candidates
    free = np.ones(num_truths, dtype=np.bool_)
    taken = np.full(len(offset) - 1, -1)
    for p in range(len(offset) - 1):
        for k in range(offset[p], offset[p + 1]):
            if overlap[k] < tiou:
                break
            if free[candidate[k]]:
                free[candidate[k]] = False
                taken[p] = candidate[k]
                break
    return taken


@compiled
def average_precisions(hit: NDArray[np.bool_], bounds: Codes, count: Codes) -> Doubles:
    """(C, I) area under the monotone envelope of the precision-recall curve (VOC 2011)."""
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


def averages(tiou: Doubles, mean_ap: Doubles) -> dict[str, float]:
    """The average mAPs that papers print, by tIoU range, for the ranges that the thresholds cover."""
    chosen = {}
    for first, last, step in ((0.1, 0.5, 0.1), (0.1, 0.7, 0.1), (0.1, 0.9, 0.1), (0.3, 0.7, 0.1), (0.5, 0.95, 0.05)):
        wanted = np.arange(round((last - first) / step) + 1) * step + first
        nearest = np.abs(tiou[:, None] - wanted).argmin(axis=0)
        if np.abs(tiou[nearest] - wanted).max() < 1e-6:
            chosen[f"{first:g}:{last:g}"] = float(mean_ap[nearest].mean())
    return chosen


class ANETdetection:
    """ActivityNet's evaluator interface: two files (or their contents) in, mAP per tIoU and its average out."""

    def __init__(
        self,
        ground_truth_filename: Source,
        prediction_filename: Source,
        subset: str = "test",
        tiou_thresholds: float | Sequence[float] | Doubles = TIOU_THUMOS,
        verbose: bool = False,
        check_status: bool = False,
        ties: str = "official",
        unlisted: str = "count",
        score_key: str = "score",
    ):
        if check_status:
            warnings.warn("check_status: the list of blocked videos is not fetched; all videos count", stacklevel=2)
        self.tiou_thresholds = checked_thresholds(tiou_thresholds)
        self.verbose, self.ties, self.unlisted = verbose, ties, unlisted
        self.ground_truth = read_ground_truth(ground_truth_filename, subset)
        self.prediction = read_predictions(prediction_filename, score_key)

    def evaluate(self) -> tuple[Doubles, float]:
        score = detection_map(self.ground_truth, self.prediction, self.tiou_thresholds, ties=self.ties, unlisted=self.unlisted)
        self.ap = dict(zip(score.labels, score.ap, strict=True))
        self.mAP, self.average_mAP = score
        if self.verbose:
            for threshold, value in zip(self.tiou_thresholds, self.mAP, strict=True):
                print(f"mAP@{threshold:.2f}: {value:.4f}")
            print(f"Average mAP: {self.average_mAP:.4f}")
        return self.mAP, self.average_mAP
