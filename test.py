"""Network -> activations -> detections -> scores: three functions, each usable alone.

Shapes: V videos, C classes; activations are those of methods/, one dict of arrays per video.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from config import Config
from eval.classification import classification_map, exact_accuracy
from eval.eval_detection import ANETdetection, count_segments
from localize import localize
from methods import Arrays, Method
from thumos_features import Video, test_features
from utils import UserError

EVAL_BATCH = 8  # videos per forward pass; results do not depend on it beyond rounding


@dataclass(frozen=True)
class Evaluation:
    """All that is reported of one state of the network."""

    mAP: list[float]  # one per tIoU threshold
    averages: dict[str, float]  # such as "0.1:0.7", as far as the thresholds allow
    test_acc: float
    classification_mAP: float
    ground_truth: str  # how much there is of it
    detections: dict[str, Any]  # ActivityNet's JSON

    @property
    def average_mAP(self) -> float:
        """The official average, over all thresholds: it chooses the best model."""
        return float(np.mean(self.mAP))

    @property
    def num_detections(self) -> int:
        return sum(map(len, self.detections["results"].values()))


def evaluate(
    method: Method,
    videos: list[Video],
    database: dict[str, Any],
    config: Config,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    activations = compute_activations(method, videos, config, device, between)
    return score(method, activations, detect(method, activations, config), videos, database, config)


def compute_activations(
    method: Method,
    videos: list[Video],
    config: Config,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Arrays]:
    """What localization needs of every video, computed in batches; `between` runs after each."""
    method.network.eval()
    activations: dict[str, Arrays] = {}
    for start in range(0, len(videos), EVAL_BATCH):
        part = videos[start : start + EVAL_BATCH]
        batch = method.activations(test_features(part, config).to(device))
        if not np.isfinite(batch["score"]).all():
            raise UserError(
                f"the network's scores of {part[0].name} and its neighbours are not finite: its weights have diverged. "
                "Earlier checkpoints are untouched; a lower --lr usually helps."
            )
        for row, video in enumerate(part):
            arrays = {key: array[row] for key, array in batch.items()}
            activations[video.name] = arrays | {"num_seg": np.int64(video.num_seg)}
        between()
    return activations


def detect(method: Method, activations: dict[str, Arrays], config: Config) -> dict[str, Any]:
    """Detections in ActivityNet's form; a video without any has no entry."""
    results = {}
    for name, arrays in activations.items():
        found = localize(method.curves(arrays, int(arrays["num_seg"])))
        rows = zip(found.classes, found.scores.tolist(), found.segments.tolist(), strict=True)
        results[name] = [{"label": config.classes[c], "score": s, "segment": segment} for c, s, segment in rows]
    return {
        "version": "VERSION 1.3",
        "results": {name: rows for name, rows in results.items() if rows},
        "external_data": {"used": True, "details": "Features from I3D Network"},
    }


def score(
    method: Method,
    activations: dict[str, Arrays],
    detections: dict[str, Any],
    videos: list[Video],
    database: dict[str, Any],
    config: Config,
) -> Evaluation:
    tiou = np.array(config.tiou_thresholds)
    evaluator = ANETdetection({"database": database}, detections, "test", tiou)
    mean_ap, _ = evaluator.evaluate()
    num_videos, num_instances = count_segments(evaluator.ground_truth)
    label_vc = np.stack([video.label_c for video in videos])
    score_vc = np.stack([activations[video.name]["score"][: config.num_classes] for video in videos])
    predicted_vc = np.stack([method.predicted(row) for row in score_vc])
    return Evaluation(
        mAP=mean_ap.tolist(),
        averages=averages(tiou, mean_ap),
        test_acc=exact_accuracy(predicted_vc, label_vc),
        classification_mAP=classification_map(score_vc, label_vc),
        ground_truth=f"{num_videos} videos, {num_instances} instances",
        detections=detections,
    )


def averages(tiou: np.ndarray, mean_ap: np.ndarray) -> dict[str, float]:
    """The averages that papers print, each under its range, as far as the thresholds cover it."""
    chosen = {}
    for first, last, step in ((0.1, 0.5, 0.1), (0.1, 0.7, 0.1), (0.1, 0.9, 0.1), (0.5, 0.95, 0.05)):
        inside = (tiou > first - 1e-6) & (tiou < last + 1e-6)
        if inside.sum() == round((last - first) / step) + 1:
            chosen[f"{first:g}:{last:g}"] = float(mean_ap[inside].mean())
    return chosen
