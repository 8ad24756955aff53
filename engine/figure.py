"""The picture of one video of a run: its sequences, detections and ground truth, over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from config import Config
from engine.charts import Lane, Strip, strip
from localize import Detections
from thumos_features import Video


def draw(
    config: Config,
    video: Video,
    detections: Detections,
    sequences: Mapping[str, NDArray[Any]],
    warp: NDArray[np.floating] | None = None,
) -> Figure:
    """One panel per sequence, then for each class its instances and detections; `warp` is the activations'."""
    instances = [(row["label"], *map(float, row["segment"])) for row in video.annotations]
    labels = [config.classes[number] for number in detections.classes]
    lane = Lane(config.title, labels, detections.segments, detections.scores)
    curves = {title: (times(video, len(values), warp), values) for title, values in sequences.items()}
    return strip(Strip(video.name, video.seconds, instances, [lane], curves, config.classes))


def times(video: Video, count: int, warp: NDArray[np.floating] | None) -> NDArray[np.float64]:
    """(T,) seconds of the values of a sequence."""
    place = np.arange(count) / count
    if warp is not None:
        place = np.interp(place, warp / warp[-1], np.arange(len(warp)) / (len(warp) - 1))
    return place * video.seconds
