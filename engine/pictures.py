"""Figures of an evaluation for TensorBoard."""

import numpy as np
from matplotlib.figure import Figure

from config import Config
from engine.charts import bars, precision_recall
from eval.bootstrap import Interval
from eval.diagnosis import diagnose
from test import Evaluation, as_table

USUAL = 0.5  # tIoU of the diagnosis, if it is one of the run's


def pictures(evaluation: Evaluation, config: Config) -> dict[str, Figure]:
    """AP of each class, what each kind of error costs, and precision by recall."""
    score = evaluation.score
    tiou = float(score.tiou[np.abs(score.tiou - USUAL).argmin()])
    found = diagnose(as_table(evaluation.found, evaluation.classes), score.truth, tiou, ties=config.ties)
    order = np.argsort(-score.ap.mean(axis=1), kind="stable")
    ap = {config.title: [_alone(value) for value in score.ap.mean(axis=1)[order]]}
    gains = {config.title: [_alone(gain) for name, gain in found.gains.items() if name != "everything"]}
    names = [name for name in found.gains if name != "everything"]
    return {
        "AP of each class": bars([score.labels[label] for label in order], ap, "AP in %, averaged over all tIoUs"),
        "Gain in mAP if mended": bars(names, gains, f"gain in mAP at tIoU {tiou:g} if mended, in points of %"),
        "Precision by recall": precision_recall({config.title: [(own.recall, own.precision) for own in found.classes]}, tiou),
    }


def _alone(value: float) -> Interval:
    return Interval(float(value), np.nan, np.nan, np.nan)
