"""Figures of an evaluation for TensorBoard."""

import numpy as np
from matplotlib.figure import Figure

from config import Config
from engine.charts import bars, precision_recall
from eval.bootstrap import Interval
from eval.diagnosis import class_reports
from eval.mending import Scored
from eval.table import known
from test import Evaluation, as_table

USUAL = 0.5  # tIoU of the diagnosis, if it is one of the run's
MOST = 500_000  # detections that are diagnosed; their number times a few microseconds is the time it takes


def pictures(evaluation: Evaluation, config: Config) -> dict[str, Figure]:
    """AP of each class, what each kind of error costs, and precision by recall; none for more than MOST detections."""
    if sum(len(part.scores) for part in evaluation.found.values()) > MOST:
        return {}
    score = evaluation.score
    tiou = float(score.tiou[np.abs(score.tiou - USUAL).argmin()])
    found, _ = known(as_table(evaluation.found, evaluation.classes), score.truth, "count")
    scored = Scored.of(score.truth, found, tiou, config.ties)
    mended = {name: gain for name, gain in scored.gains().items() if name != "everything"}
    order = np.argsort(-score.ap.mean(axis=1), kind="stable")
    ap = {config.title: [_alone(value) for value in score.ap.mean(axis=1)[order]]}
    curves = [(own.recall, own.precision) for own in class_reports(scored)]
    return {
        "AP of each class": bars([score.labels[label] for label in order], ap, "AP in %, averaged over all tIoUs"),
        "Gain in mAP if mended": bars(
            list(mended),
            {config.title: list(map(_alone, mended.values()))},
            f"gain in mAP at tIoU {tiou:g} if mended, in points of %",
        ),
        "Precision by recall": precision_recall({config.title: curves}, tiou),
    }


def _alone(value: float) -> Interval:
    return Interval(float(value), np.nan, np.nan, np.nan)
