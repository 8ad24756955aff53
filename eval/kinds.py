"""The kind of each detection and instance: what is wrong with it, if anything (docs/seeing.md).

Shapes: P detections, by class and descending score; G instances, the segments of the ground truth; V videos; K claims.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from eval.eval_detection import Candidates, Ranking, assign, candidates_of, iou, rank
from eval.table import Codes, Doubles, Table

KINDS = (
    "true positive",
    "duplicate",
    "merge",
    "fragment",
    "starts early",
    "starts late",
    "ends early",
    "ends late",
    "wrong class",
    "background",
    "ignored",
)
HIT, DUPLICATE, MERGE, FRAGMENT, STARTS_EARLY, STARTS_LATE, ENDS_EARLY, ENDS_LATE, WRONG_CLASS, BACKGROUND, IGNORED = range(11)
MISSED = len(KINDS)  # of an instance
STATES = (*KINDS, "missed")
BOUNDARIES = (STARTS_EARLY, STARTS_LATE, ENDS_EARLY, ENDS_LATE)
TOUCHES = 0.1  # tIoU from which a detection concerns an instance
INSIDE = 0.5  # share of a detection inside an instance, from which it concerns it, and of an instance that a merge covers


class Spans(NamedTuple):
    """Segments with their classes and videos."""

    segments: Doubles
    label: Codes
    video: Codes


class Judged(NamedTuple):
    """The detections in the order in which they are matched, and what each concerns."""

    ranking: Ranking
    taken: Codes  # (P,) the instance that a true positive takes, or -1
    kind: Codes  # (P,) index into KINDS
    instance: Codes  # (P,) the instance that a detection concerns, or -1
    overlap: Doubles  # (P,) tIoU with it, or 0
    claims: Codes  # (K, 2) detection and an instance that it would hit if its kind were mended
    state: Codes  # (G,) index into STATES: what is wrong with the best detection of an instance


def judge(truth: Table, found: Table, tiou: float, ties: str) -> Judged:
    """Judge every detection of `found`, whose labels and first videos are those of `truth` (see eval.table.known)."""
    ranking = rank(truth, found, ties)
    taken = _assigned(candidates_of(ranking, tiou, ties, False), tiou, len(truth))
    taken = np.where(taken >= 0, ranking.by_group[taken], -1) if len(truth) else taken
    by_video = np.argsort(truth.video, kind="stable")
    bounds = np.searchsorted(truth.video[by_video], np.arange(len(found.videos) + 1))
    spans = Spans(ranking.pairs.segments, found.label[ranking.order], found.video[ranking.order])
    truths = Spans(truth.segments[by_video], truth.label[by_video], truth.video[by_video])
    place = np.argsort(by_video)
    inside = np.where(taken >= 0, place[taken], -1) if len(truth) else taken
    kind, instance, overlap, claims = find_kinds(spans, truths, bounds, inside, float(tiou))
    instance = np.where(instance >= 0, by_video[instance], -1)
    claims = np.stack([claims[:, 0], by_video[claims[:, 1]]], axis=1)

    free = np.ones(len(truth), dtype=bool)
    free[taken[taken >= 0]] = False
    claims = claims[free[claims[:, 1]]]
    scores = found.scores[ranking.order]
    claims = claims[np.lexsort((claims[:, 0], -scores[claims[:, 0]]))]
    state = np.where(free, MISSED, HIT)
    claimed, first = np.unique(claims[:, 1], return_index=True)
    state[claimed] = kind[claims[first, 0]]
    return Judged(ranking, taken, kind, instance, overlap, claims, state)


@compiled
def _assigned(candidates: Candidates, tiou: float, num_truths: int) -> Codes:
    return assign(candidates, tiou, num_truths)


@compiled
def find_kinds(
    found: Spans, truths: Spans, bounds: Codes, taken: Codes, tiou: float
) -> tuple[Codes, Codes, Doubles, NDArray[np.int64]]:
    """The kind of each detection, the instance that it concerns, their tIoU, and the claims.

    `truths` are sorted by video; those of video v are number bounds[v] to bounds[v + 1] - 1. `taken` is -1 for a detection
    that is no true positive. Two empty segments overlap, as in scoring.
    """
    count = len(found.segments)
    kind, instance, overlap = np.full(count, BACKGROUND), np.full(count, -1), np.zeros(count)
    first_end, last_start = np.full(len(truths.segments), np.inf), np.full(len(truths.segments), -np.inf)  # of pieces
    piece = np.zeros(count, dtype=np.bool_)
    claims = [(0, 0) for _ in range(0)]
    for p in range(count):
        start, end = found.segments[p, 0], found.segments[p, 1]
        first, last = bounds[found.video[p]], bounds[found.video[p] + 1]
        own, other = nearest(start, end, found.label[p], truths, first, last, tiou)
        covered = merged(start, end, found.label[p], truths, first, last)
        if taken[p] >= 0:
            kind[p], instance[p] = HIT, taken[p]
        elif own >= 0 and tiou_of(start, end, truths, own) >= tiou:
            kind[p], instance[p] = DUPLICATE, own
        elif len(covered) > 1:
            kind[p], instance[p] = MERGE, covered[0] if own < 0 else own
            for g in covered:
                claims.append((p, g))
        elif own >= 0:
            kind[p], instance[p] = boundary(start, end, truths.segments[own]), own
            claims.append((p, own))
            if is_inside(start, end, truths.segments[own, 0], truths.segments[own, 1]):
                piece[p] = True
                first_end[own], last_start[own] = min(first_end[own], end), max(last_start[own], start)
        elif other >= 0:
            kind[p], instance[p] = WRONG_CLASS, other
            if tiou_of(start, end, truths, other) >= tiou:
                claims.append((p, other))
        if instance[p] >= 0:
            overlap[p] = tiou_of(start, end, truths, instance[p])
    for p in range(count):  # a piece of an instance is a fragment if another piece is apart from it
        if piece[p] and (first_end[instance[p]] <= found.segments[p, 0] or last_start[instance[p]] >= found.segments[p, 1]):
            kind[p] = FRAGMENT
    pairs = np.empty((len(claims), 2), dtype=np.int64)
    for k in range(len(claims)):
        pairs[k, 0], pairs[k, 1] = claims[k]
    return kind, instance, overlap, pairs


@inner
def tiou_of(start: float, end: float, truths: Spans, g: int) -> float:
    """tIoU with instance g; two empty segments overlap, as in scoring."""
    overlap = iou(start, end, truths.segments[g, 0], truths.segments[g, 1])
    return 1.0 if np.isnan(overlap) else overlap


@inner
def is_inside(start: float, end: float, low: float, high: float) -> bool:
    """True if most of the first segment lies in the second."""
    shared = min(end, high) - max(start, low)
    return shared > 0 and shared >= INSIDE * (end - start)


@inner
def nearest(start: float, end: float, label: int, truths: Spans, first: int, last: int, tiou: float) -> tuple[int, int]:
    """The instances of this class and of the others that a detection touches with the largest tIoU; -1 if it touches none."""
    best, chosen = np.full(2, -1.0), np.full(2, -1)
    for g in range(first, last):
        overlap = tiou_of(start, end, truths, g)
        foreign = int(truths.label[g] != label)
        inside = is_inside(start, end, truths.segments[g, 0], truths.segments[g, 1])
        if overlap > best[foreign] and (overlap >= min(TOUCHES, tiou) or inside):
            best[foreign], chosen[foreign] = overlap, g
    return chosen[0], chosen[1]


@inner
def merged(start: float, end: float, label: int, truths: Spans, first: int, last: int) -> list[int]:
    """The instances of this class that lie in a detection, most of each."""
    covered = [0 for _ in range(0)]
    for g in range(first, last):
        if truths.label[g] == label and is_inside(truths.segments[g, 0], truths.segments[g, 1], start, end):
            covered.append(g)
    return covered


@inner
def boundary(start: float, end: float, truth: Doubles) -> int:
    """The kind of a detection by the larger of its two boundary errors."""
    by_start, by_end = start - truth[0], end - truth[1]
    if abs(by_start) >= abs(by_end):
        return STARTS_EARLY if by_start < 0 else STARTS_LATE
    return ENDS_EARLY if by_end < 0 else ENDS_LATE
