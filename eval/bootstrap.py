"""Confidence intervals of mAP, and of differences between runs, over the choice of test videos (docs/seeing.md).

mAP is no mean over videos, so each resample draws videos with replacement, counts their detections and instances as often as
they were drawn, and computes AP anew. Matching does not depend on the draw, so it is done once.

Shapes: R runs, B resamples, V videos, C classes, I tIoU thresholds, P detections by class and descending score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled
from eval.eval_detection import candidates_of, checked_thresholds, match, rank
from eval.table import Codes, Doubles, InputError, Table, known


@dataclass(frozen=True)
class Interval:
    """A value with the bounds between which `confidence` of the resamples lie.

    AP is higher on fewer or repeated videos, so the bounds of one run's AP lie too high for that of other videos. In
    differences of runs this cancels.
    """

    value: float
    low: float
    high: float
    above: float  # share of the resamples above zero, half of those at zero included


@dataclass(frozen=True)
class Bootstrap:
    """AP of some runs on the same resamples of the test videos."""

    tiou: Doubles  # (I,)
    labels: list[str]
    ap: Doubles  # (R, C, I) on all test videos
    resampled: Doubles  # (R, B, C, I), nan for a class without instances in a resample
    confidence: float

    def score(self, run: int, tiou: int | None = None) -> Interval:
        """mAP of a run, at the threshold number `tiou` or averaged over all."""
        return self._interval(self._map(self.ap[run], tiou), self._map(self.resampled[run], tiou))

    def difference(self, run: int, other: int = 0, tiou: int | None = None) -> Interval:
        """mAP of `run` minus that of `other` on the same videos."""
        values = self._map(self.resampled[run], tiou) - self._map(self.resampled[other], tiou)
        return self._interval(self._map(self.ap[run], tiou) - self._map(self.ap[other], tiou), values)

    def class_scores(self, run: int) -> list[Interval]:
        """(C,) AP of a run, averaged over the thresholds."""
        resampled = self.resampled[run].mean(axis=2)
        return [self._interval(value, resampled[:, number]) for number, value in enumerate(self.ap[run].mean(axis=1))]

    def class_differences(self, run: int, other: int = 0) -> list[Interval]:
        """(C,) AP, averaged over the thresholds, of `run` minus that of `other`."""
        values = (self.ap[run] - self.ap[other]).mean(axis=1)
        resampled = (self.resampled[run] - self.resampled[other]).mean(axis=2)
        return [self._interval(value, resampled[:, number]) for number, value in enumerate(values)]

    def _map(self, ap: Doubles, tiou: int | None) -> Doubles:
        with np.errstate(invalid="ignore"):  # a draw may lack all annotated videos
            means: Doubles = np.nansum(ap, axis=-2) / np.isfinite(ap).sum(axis=-2)
        return means.mean(axis=-1) if tiou is None else means[..., tiou]

    def _interval(self, value: Doubles, resampled: Doubles) -> Interval:
        known = resampled[np.isfinite(resampled)]
        if not len(known):
            return Interval(float(value), np.nan, np.nan, np.nan)
        low, high = np.quantile(known, [(1 - self.confidence) / 2, (1 + self.confidence) / 2])
        return Interval(float(value), float(low), float(high), float((known > 0).mean() + (known == 0).mean() / 2))


def bootstrap(
    truth: Table,
    runs: Sequence[Table],
    tiou: float | Sequence[float] | Doubles,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    rules: Sequence[tuple[str, bool]] = (),
) -> Bootstrap:
    """Score the detections of each run on all test videos, and on `resamples` draws of as many videos.

    The draws are the same for all runs. Detections in unlisted videos are false positives; these videos can be drawn too.
    `rules` are the `ties` and `single` of each run, as in `detection_map`.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(f"{resamples} resamples, confidence {confidence}: expected at least one, and a share of 1.")
    thresholds = checked_thresholds(tiou)
    fitted = [known(found, truth)[0] for found in runs]
    names = sorted({name for table in fitted for name in table.videos} - set(truth.videos))
    place = {name: number for number, name in enumerate([*truth.videos, *names])}
    codes = [np.array([place[name] for name in table.videos], dtype=np.int64)[table.video] for table in fitted]
    used = np.unique(np.concatenate([truth.video, *codes]))  # others have neither instance nor detection
    weights = np.zeros((resamples + 1, len(place)), dtype=np.int64)
    weights[0, used] = 1
    weights[1:, used] = np.random.default_rng(seed).multinomial(len(used), np.full(len(used), 1 / len(used)), resamples)
    counts = np.zeros((len(place), len(truth.labels)), dtype=np.int64)
    np.add.at(counts, (truth.video, truth.label), 1)
    values = []
    for table, video, (ties, single) in zip(fitted, codes, rules or [("official", False)] * len(runs), strict=True):
        ranking = rank(truth, table, ties)
        hit = match(candidates_of(ranking, thresholds.min(), ties, single), thresholds, len(truth))
        values.append(weighted_ap(hit, ranking.bounds, video[ranking.order], weights, weights @ counts))
    ap = np.stack(values)
    return Bootstrap(thresholds, truth.labels, ap[:, 0], ap[:, 1:], confidence)


@compiled
def weighted_ap(hit: NDArray[np.bool_], bounds: Codes, video: Codes, weights: Codes, counts: Codes) -> Doubles:
    """(B, C, I) AP where each detection counts as often as its video was drawn; nan for a class without instances.

    `weights` (B, V) are draws of each video, `counts` (B, C) the drawn instances.
    """
    draws, classes = counts.shape
    some = np.array([hit[p].any() for p in range(len(hit))], dtype=np.bool_)  # most detections are hits nowhere
    ap = np.full((draws, classes, hit.shape[1]), np.nan)
    for b in range(draws):
        for c in range(classes):
            if counts[b, c] == 0:
                continue
            total = 0
            found, envelope = np.zeros(hit.shape[1], dtype=np.int64), np.zeros(hit.shape[1])
            ap[b, c] = 0
            for p in range(bounds[c], bounds[c + 1]):
                weight = weights[b, video[p]]
                total += weight
                if some[p] and weight:
                    for i in range(hit.shape[1]):
                        found[i] += weight * hit[p, i]
            for p in range(bounds[c + 1] - 1, bounds[c] - 1, -1):
                weight = weights[b, video[p]]
                if some[p] and weight:
                    for i in range(hit.shape[1]):
                        if hit[p, i]:
                            envelope[i] = max(envelope[i], found[i] / total)
                            ap[b, c, i] += weight * envelope[i] / counts[b, c]
                            found[i] -= weight
                total -= weight
    return ap
