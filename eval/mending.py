"""What each kind of error costs: mAP after mending one kind, one video or, step by step, everything (docs/seeing.md).

A detection that is mended hits the instance that it concerns, if no detection has hit it yet, and else is removed. Missed
instances are taken out of the count. So no mending lowers an AP, and mending everything gives 100 %.

Shapes: P detections, by class and descending score; G instances; C classes; K claims.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eval.eval_detection import average_precisions
from eval.kinds import BACKGROUND, BOUNDARIES, FRAGMENT, HIT, KINDS, MERGE, MISSED, Judged, judge
from eval.table import Codes, Doubles, Table

Flags = NDArray[np.bool_]
GROUPS = {"localization": (MERGE, FRAGMENT, *BOUNDARIES), "boundaries": BOUNDARIES}


@dataclass(frozen=True)
class Step:
    """One oracle."""

    name: str
    alone: float  # mAP with this oracle only
    together: float  # mAP with it and those before it


@dataclass(frozen=True)
class Scored:
    """Judged detections as scoring sees them."""

    judged: Judged
    truth: Table
    label: Codes  # (P,)
    video: Codes  # (P,)
    scores: Doubles  # (P,)

    @classmethod
    def of(cls, truth: Table, found: Table, tiou: float, ties: str) -> "Scored":
        judged = judge(truth, found, tiou, ties)
        order = judged.ranking.order
        return cls(judged, truth, found.label[order], found.video[order], found.scores[order])

    @property
    def counts(self) -> Codes:
        return np.bincount(self.truth.label, minlength=len(self.truth.labels))

    @property
    def ap(self) -> Doubles:
        """(C,) the AP that scoring gives."""
        hit = self.judged.kind == HIT
        return average_precisions(hit[:, None], self.judged.ranking.bounds, self.counts)[:, 0]

    def mended(self, detections: Flags, instances: Flags) -> Doubles:
        """(C,) AP after mending `detections` (P,) and taking the missed `instances` (G,) out of the count."""
        claims = self.judged.claims
        claims = claims[detections[claims[:, 0]]]
        taken, first = np.unique(claims[:, 1], return_index=True)  # each instance by its best claim
        by = claims[first, 0]
        keep = np.flatnonzero(~detections)
        label = np.concatenate([self.label[keep], self.truth.label[taken]])
        row = np.concatenate([keep, by])
        hit = np.concatenate([self.judged.kind[keep] == HIT, np.ones(len(by), dtype=bool)])
        order = np.lexsort((row, -self.scores[row], label))
        classes = len(self.truth.labels)
        counts = self.counts - np.bincount(self.truth.label[instances], minlength=classes)
        bounds = np.searchsorted(label[order], np.arange(classes + 1))
        ap = average_precisions(hit[order][:, None], bounds, counts)[:, 0]
        return np.where(counts > 0, ap, 1.0)

    def gain(self, kinds: tuple[int, ...]) -> float:
        """Gain in mAP from mending these kinds, which may include MISSED."""
        missed = (self.judged.state == MISSED) & (MISSED in kinds)
        return float(self.mended(np.isin(self.judged.kind, kinds), missed).mean() - self.ap.mean())

    def gains(self) -> dict[str, float]:
        """Gain in mAP by kind, for groups of kinds, for all wrong detections, and for everything."""
        wrong = tuple(range(HIT + 1, BACKGROUND + 1))
        gains = {KINDS[kind]: self.gain((kind,)) for kind in wrong} | {"missed": self.gain((MISSED,))}
        gains |= {name: self.gain(kinds) for name, kinds in GROUPS.items()}
        return gains | {"all detections": self.gain(wrong), "everything": self.gain((*wrong, MISSED))}

    def gains_of_videos(self) -> Doubles:
        """(V,) gain in mAP from mending everything in each video of the ground truth.

        Only the classes of the video change, so the others are not computed again.
        """
        num_videos = len(self.truth.videos)
        kind, bounds, claims = self.judged.kind, self.judged.ranking.bounds, self.judged.claims
        wrong, missed, plain = kind != HIT, self.judged.state == MISSED, self.ap
        owners, rows = _groups(self.video, num_videos)
        claimed, claim_rows = _groups(self.video[claims[:, 0]], num_videos)
        truth_owners, truth_rows = _groups(self.truth.video, num_videos)
        gains = np.zeros(num_videos)
        for video in range(num_videos):
            own = owners[rows[video] : rows[video + 1]]
            own_claims = claims[np.sort(claimed[claim_rows[video] : claim_rows[video + 1]])]
            taken, first = np.unique(own_claims[:, 1], return_index=True)
            by, by_label = own_claims[first, 0], self.truth.label[taken]
            lost = truth_owners[truth_rows[video] : truth_rows[video + 1]]
            lost_label = self.truth.label[lost[missed[lost]]]
            for label in np.unique(np.concatenate([self.label[own[wrong[own]]], by_label, lost_label])):
                rest = np.arange(bounds[label], bounds[label + 1])
                rest = rest[(self.video[rest] != video) | ~wrong[rest]]
                row = np.concatenate([rest, by[by_label == label]])
                hit = np.concatenate([~wrong[rest], np.ones(len(row) - len(rest), dtype=bool)])
                hit = hit[np.lexsort((row, -self.scores[row]))][:, None]
                count = self.counts[label] - (lost_label == label).sum()
                ap = average_precisions(hit, np.array([0, len(row)]), np.array([count]))[0, 0] if count else 1.0
                gains[video] += (ap - plain[label]) / len(plain)
        return gains


def _groups(codes: Codes, number: int) -> tuple[Codes, Codes]:
    """Rows by code, and where the rows of each code begin among them."""
    order = np.argsort(codes, kind="stable")
    return order, np.searchsorted(codes[order], np.arange(number + 1))


# ------------------------------------------------------------------------------------------------------------- oracles


def ladder(truth: Table, found: Table, tiou: float, ties: str, tuned: Table | None = None) -> list[Step]:
    """mAP if an oracle gave the classes of each video, the boundaries of what overlaps an instance, and the order of scores.

    `tuned`, if given, are the detections with the best thresholds of each video, another oracle.
    """

    def score(table: Table) -> float:
        return float(Scored.of(truth, table, tiou, ties).ap.mean())

    def in_order(table: Table) -> Table:
        return _in_order(Scored.of(truth, table, tiou, ties), table)

    def with_boundaries(table: Table) -> Table:
        return _with_boundaries(Scored.of(truth, table, tiou, ties), table)

    oracles: dict[str, Callable[[Table], Table]] = {
        "as found": lambda table: table,
    }
    if tuned is not None:
        oracles["best thresholds of each video"] = lambda _: tuned
    oracles |= {
        "true classes of each video": lambda table: _of_true_classes(truth, table),
        "true boundaries": with_boundaries,
        "true order of scores": in_order,
    }
    tables = itertools.accumulate(oracles.values(), lambda table, oracle: oracle(table), initial=found)
    together = [score(table) for table in itertools.islice(tables, 1, None)]
    return [Step(name, score(oracle(found)), value) for (name, oracle), value in zip(oracles.items(), together, strict=True)]


def _of_true_classes(truth: Table, found: Table) -> Table:
    """The detections of classes that their video has."""
    classes = len(truth.labels)
    keep = np.isin(found.video * classes + found.label, truth.video * classes + truth.label)
    return replace(
        found, video=found.video[keep], label=found.label[keep], segments=found.segments[keep], scores=found.scores[keep]
    )


def _with_boundaries(scored: Scored, found: Table) -> Table:
    """Each detection that concerns an instance of its class gets the instance's boundaries."""
    judged, segments = scored.judged, found.segments.copy()
    own = (judged.instance >= 0) & (scored.label == scored.truth.label[judged.instance])
    segments[judged.ranking.order[own]] = scored.truth.segments[judged.instance[own]]
    return replace(found, segments=segments)


def _in_order(scored: Scored, found: Table) -> Table:
    """True positives before all other detections."""
    scores = np.empty(len(found))
    scores[scored.judged.ranking.order] = np.where(scored.judged.kind == HIT, 1.0, 0.0)
    return replace(found, scores=scores)
