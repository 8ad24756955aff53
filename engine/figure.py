"""The picture of one video: its sequences, detections and ground truth, over time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from config import Config
from localize import Detections
from thumos_features import Video

MOST_SHOWN = 60  # detections of a class, best first
MOST_CLASSES = 5  # besides those of the ground truth: an untrained network finds all


def draw(
    config: Config,
    video: Video,
    detections: Detections,
    sequences: Mapping[str, NDArray[Any]],
    warp: NDArray[np.floating] | None = None,
) -> Figure:
    """One panel per sequence, then the time lines of detections and ground truth, by class; `warp` is the activations'."""
    truth = [row for row in video.annotations if row["label"] in config.classes]
    classes = shown_classes(detections, {config.classes.index(row["label"]) for row in truth})
    colours = {number: f"C{place}" for place, number in enumerate(classes)}
    heights = [1.0] * len(sequences) + [0.8 * max(1, len(classes))]
    figure = Figure(figsize=(11, 1.5 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    for panel, (title, values) in zip(panels, sequences.items(), strict=False):
        place = np.arange(len(values)) / len(values)
        if warp is not None:
            place = np.interp(place, warp / warp[-1], np.arange(len(warp)) / (len(warp) - 1))
        time = place * video.seconds
        for number in classes if values.ndim == 2 else [None]:
            line = values if number is None else values[:, number]
            panel.plot(time, line, color="0.3" if number is None else colours[number], lw=1)
        for row in truth:
            panel.axvspan(*map(float, row["segment"]), color=colours[config.classes.index(row["label"])], alpha=0.15, lw=0)
        panel.set_ylabel(title)
    draw_time_lines(panels[-1], config, detections, truth, colours)
    named = ", ".join(config.classes[number] for number in classes) or "no action found"
    title = f"{video.name}: {named}{' (truth shaded)' * bool(truth)}"
    panels[0].set_title(title, parse_math=False)  # a name may have a dollar sign
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(0, video.seconds)
    return figure


def shown_classes(detections: Detections, true: set[int]) -> list[int]:
    """The classes of the ground truth, and of the best detections."""
    by_score = detections.classes[np.argsort(-detections.scores, kind="stable")].tolist()
    found = [number for number in dict.fromkeys(by_score) if number not in true]
    return sorted(true | set(found[:MOST_CLASSES]))


def draw_time_lines(panel: Axes, config: Config, detections: Detections, truth: list, colours: dict[int, str]) -> None:
    for place, (number, colour) in enumerate(colours.items()):
        mine = np.flatnonzero(detections.classes == number)[:MOST_SHOWN][::-1]
        best = detections.scores[mine].max(initial=1e-9)
        for index in mine:
            start, end = detections.segments[index]
            strength = max(0.05, detections.scores[index] / best)
            panel.barh(place, end - start, left=start, height=0.35, color=colour, alpha=strength**2, lw=0)
        for row in truth:
            if config.classes.index(row["label"]) == number:
                start, end = map(float, row["segment"])
                panel.barh(place + 0.35, end - start, left=start, height=0.2, color="black", lw=0)
    names = [config.classes[number] + "\nblack: truth" * bool(truth) for number in colours]
    panel.set_yticks(range(len(colours)), names, fontsize=8, parse_math=False)
    panel.set_ylim(max(1, len(colours)) - 0.4, -0.4)  # the first class on top
