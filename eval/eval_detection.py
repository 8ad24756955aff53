"""ActivityNet's detection mAP (docs/evaluation.md): files or dictionaries in, arrays inside.

Shapes: I tIoU thresholds, P predictions and G ground truths of one class.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Segments = dict[str, dict[str, list[tuple[float, ...]]]]  # label -> video -> rows

TIOU_THUMOS = np.linspace(0.1, 0.9, 9)


def detection_ap(ground_truth: Segments, predictions: Segments, tiou: Floats) -> dict[str, Floats]:
    """AP (I,) of every class of the ground truth; rows are (start, end) and (start, end, score)."""
    unknown = sorted(set(predictions) - set(ground_truth))
    if unknown:
        warnings.warn(f"predictions with a label that the ground truth lacks are ignored: {unknown}", stacklevel=2)
    return {label: _class_ap(videos, predictions.get(label, {}), tiou) for label, videos in ground_truth.items()}


def _class_ap(truths: dict[str, list[tuple[float, ...]]], found: dict[str, list[tuple[float, ...]]], tiou: Floats) -> Floats:
    videos = [name for name, rows in found.items() for _ in rows]
    rows = np.array([row for rows in found.values() for row in rows], dtype=np.float64).reshape(-1, 3)
    truth = {name: np.array(rows, dtype=np.float64) for name, rows in truths.items()}
    free = {name: np.ones((len(tiou), len(segments)), dtype=bool) for name, segments in truth.items()}
    hit = np.zeros((len(tiou), len(rows)), dtype=bool)
    for place, index in enumerate(np.argsort(rows[:, 2], kind="stable")[::-1]):
        name = videos[index]
        if name not in truth:
            continue
        overlap = segment_iou(rows[index, :2], truth[name])
        for best in np.argsort(overlap)[::-1]:  # unstable as officially: equal overlaps go as numpy's sort puts them
            # written as "not below" so that the 0/0 of two equal empty segments counts as a hit, as officially
            take = ~(overlap[best] < tiou) & free[name][:, best] & ~hit[:, place]
            hit[take, place] = True
            free[name][take, best] = False
    count = sum(map(len, truths.values()))
    return np.array([average_precision(row, count) for row in hit])


def segment_iou(segment: Floats, others: Floats) -> Floats:
    """Plain temporal IoU of one (2,) segment with (G, 2) others."""
    shared = np.maximum(0, np.minimum(segment[1], others[:, 1]) - np.maximum(segment[0], others[:, 0]))
    union = (others[:, 1] - others[:, 0]) + (segment[1] - segment[0]) - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / union


def average_precision(hit: NDArray[np.bool_], count: int) -> float:
    """Area under the monotone envelope of precision over recall (VOC 2011), for hits in descending score."""
    found = np.cumsum(hit)
    precision = np.concatenate([[0.0], found / np.arange(1, len(hit) + 1), [0.0]])
    recall = np.concatenate([[0.0], found / count, [1.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    step = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[step] - recall[step - 1]) * envelope[step]))


def ground_truth_segments(database: Mapping[str, Any], subset: str) -> Segments:
    """Annotations of one subset of an ActivityNet database."""
    segments: Segments = defaultdict(lambda: defaultdict(list))
    for name, video in database.items():
        if video["subset"] == subset:
            for row in video["annotations"]:
                segments[row["label"]][name].append((float(row["segment"][0]), float(row["segment"][1])))
    return segments


def count_segments(segments: Segments) -> tuple[int, int]:
    """How many videos and instances there are."""
    videos = {name for rows in segments.values() for name in rows}
    return len(videos), sum(len(rows) for group in segments.values() for rows in group.values())


def prediction_segments(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> Segments:
    """Detections in ActivityNet's form: video -> list of label, score, segment."""
    segments: Segments = defaultdict(lambda: defaultdict(list))
    for name, rows in results.items():
        for row in rows:
            start, end = row["segment"]
            segments[row["label"]][name].append((float(start), float(end), float(row["score"])))
    return segments


class ANETdetection:
    """The familiar evaluator: two files (or their contents) in, mAP per tIoU and its average out."""

    def __init__(
        self,
        ground_truth_filename: str | Path | Mapping[str, Any],
        prediction_filename: str | Path | Mapping[str, Any],
        subset: str = "test",
        tiou_thresholds: Sequence[float] | Floats = TIOU_THUMOS,
        verbose: bool = False,
        check_status: bool = False,
    ):
        if check_status:
            warnings.warn("check_status: the list of blocked videos is not fetched; all are counted", stacklevel=2)
        self.tiou_thresholds = np.asarray(tiou_thresholds, dtype=np.float64)
        self.verbose = verbose
        self.ground_truth = ground_truth_segments(_load(ground_truth_filename)["database"], subset)
        self.prediction = prediction_segments(_load(prediction_filename)["results"])
        if not self.ground_truth:
            raise ValueError(f"{ground_truth_filename}: no annotation in subset {subset!r}")

    def evaluate(self) -> tuple[Floats, float]:
        self.ap = detection_ap(self.ground_truth, self.prediction, self.tiou_thresholds)
        self.mAP = np.mean(list(self.ap.values()), axis=0)
        self.average_mAP = float(self.mAP.mean())
        if self.verbose:
            for threshold, value in zip(self.tiou_thresholds, self.mAP, strict=True):
                print(f"mAP@{threshold:.2f}: {value:.4f}")
            print(f"Average mAP: {self.average_mAP:.4f}")
        return self.mAP, self.average_mAP


def _load(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    return json.loads(Path(source).read_text(encoding="utf-8-sig"))
