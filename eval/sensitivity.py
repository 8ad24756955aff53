"""Boundary errors and recall of parts of the ground truth: by class, length, coverage and number of instances (docs/seeing.md).

Shapes: P detections, by class and descending score; G instances; C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.kinds import BOUNDARIES, HIT
from eval.mending import Scored
from eval.table import Codes, Doubles, Table

PARTS = 5  # groups of instances, of about equal size


@dataclass(frozen=True)
class Shift:
    """Medians of the boundary errors of detections that find one instance, well or badly: positive is late."""

    name: str
    detections: int
    start_seconds: float
    end_seconds: float
    start_share: float  # in lengths of the instance
    end_share: float


@dataclass(frozen=True)
class Part:
    """The instances with a property between `low` and `high`, the latter included."""

    low: float
    high: float
    instances: int
    recall: float
    mAP: float  # normalized: precision as if each class had all its instances, found at the recall of this part


def parts_of(values: Doubles) -> list[tuple[float, float, NDArray[np.bool_]]]:
    """Groups of values, cut at the quantiles; nan belongs to none."""
    values = np.round(values, 6)  # differences of decimal times are not exact
    known = values[np.isfinite(values)]
    if not len(known):
        return []
    edges = np.unique(np.quantile(known, np.linspace(0, 1, PARTS + 1), method="inverted_cdf"))
    edges = edges if len(edges) > 1 else np.repeat(edges, 2)
    bounds = [(low, high, values > low if number else values >= low) for number, (low, high) in enumerate(_pairs(edges))]
    return [(low, high, above & (values <= high)) for low, high, above in bounds]


def _pairs(edges: Doubles) -> list[tuple[float, float]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def lengths(truth: Table) -> Doubles:
    """(G,) seconds."""
    return truth.segments[:, 1] - truth.segments[:, 0]


def properties(truth: Table, durations: Mapping[str, float]) -> dict[str, Doubles]:
    """(G,) properties of instances by name; a video without duration has no coverage."""
    group = truth.video * len(truth.labels) + truth.label
    _, place, count = np.unique(group, return_inverse=True, return_counts=True)
    seconds = np.array([durations.get(name, np.nan) for name in truth.videos])
    return {
        "length in seconds": lengths(truth),
        "coverage of the video": lengths(truth) / seconds[truth.video],
        "instances of the class in the video": count[place].astype(np.float64),
    }


def sensitivity(scored: Scored, durations: Mapping[str, float]) -> dict[str, list[Part]]:
    """Recall and normalized mAP of the parts of the ground truth, by property."""
    return {
        name: [
            Part(low, high, int(inside.sum()), _recall(scored, inside), normalized_map(scored, inside))
            for low, high, inside in parts_of(values)
            if inside.any()
        ]
        for name, values in properties(scored.truth, durations).items()
    }


def _recall(scored: Scored, inside: NDArray[np.bool_]) -> float:
    return float((scored.judged.state[inside] == HIT).mean())


def normalized_map(scored: Scored, inside: NDArray[np.bool_]) -> float:
    """mAP of the instances `inside` (G,); detections that hit others do not count.

    With few instances, the same recall among the same false positives has a lower precision; so the precision is computed
    as if the class had all its instances (Hoiem's normalization). With all instances `inside` this is mAP.
    """
    kind, taken, bounds = scored.judged.kind, scored.judged.taken, scored.judged.ranking.bounds
    counts = scored.counts
    part = np.bincount(scored.truth.label[inside], minlength=len(counts))
    hit = kind == HIT
    other = hit.copy()
    other[hit] = ~inside[taken[hit]]
    values = []
    for label in np.flatnonzero(part):
        own = slice(bounds[label], bounds[label + 1])
        mine = hit[own][~other[own]]
        found = np.cumsum(mine) * (counts[label] / part[label])
        wrong = np.cumsum(~mine)
        precision = found[mine] / (found[mine] + wrong[mine])
        values.append(np.maximum.accumulate(precision[::-1]).sum() / part[label])
    return float(np.mean(values))


def shifts(scored: Scored, found: Table) -> dict[str, list[Shift]]:
    """Boundary errors by class and by length of the instance."""
    judged, truth = scored.judged, scored.truth
    own = np.flatnonzero(np.isin(judged.kind, (HIT, *BOUNDARIES)))
    instance = judged.instance[own]
    errors = judged.ranking.pairs.segments[own] - truth.segments[instance]
    names = [(name, scored.label[own] == number) for number, name in enumerate(truth.labels)]
    by_length = [(f"{low:.3g} to {high:.3g} s", inside[instance]) for low, high, inside in parts_of(lengths(truth))]
    shares = errors / np.maximum(lengths(truth)[instance], 1e-9)[:, None]
    return {
        "class": [_shift(name, errors[part], shares[part]) for name, part in names if part.any()],
        "length": [_shift(name, errors[part], shares[part]) for name, part in by_length if part.any()],
    }


def _shift(name: str, errors: Doubles, shares: Doubles) -> Shift:
    return Shift(name, len(errors), *np.median(errors, axis=0).tolist(), *np.median(shares, axis=0).tolist())


def confusion(scored: Scored) -> Codes:
    """(C, C + 1) detections by their class and that of the instance that they concern; the last column is background."""
    classes = len(scored.truth.labels)
    instance = scored.judged.instance
    column = np.where(instance >= 0, scored.truth.label[instance], classes)
    return np.bincount(scored.label * (classes + 1) + column, minlength=classes * (classes + 1)).reshape(classes, -1)
