"""Plot one video: activations of both branches, foreground weights, detections and ground truth.

`python -m tools.plot --dataset demo --model_file FILE --video NAME --figure FILE.png`, and flags of main_eval.py.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dataset.make_demo import ensure_demo
from dataset.store import Files
from engine.checkpoint import load_network, settings_of
from localize import Detections, localize
from methods.base import build_method
from options import make_config, parse_args
from test import compute_activations, take_steps
from thumos_features import Video, gather_input, load_data
from utils import UserError, atomic_write, run_command

MOST_SHOWN = 60  # detections of a class, best first


def main() -> None:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--video", help="name of a test video (default: the first)")
    own.add_argument("--figure", type=Path, default=Path("video.png"))
    chosen, rest = own.parse_known_args()
    run_command(
        lambda: draw_video(parse_args(rest, settings_of=settings_of), chosen.video, chosen.figure), "--debug" in sys.argv
    )


def draw_video(args: argparse.Namespace, name: str | None, figure_file: Path) -> None:
    ensure_demo(args.dataset, args.data_path)
    config = make_config(args, training=False)
    videos = {video.name: video for video in load_data(config, ["test"]).test}
    if config.model_file is None or (name or next(iter(videos))) not in videos:
        raise UserError(f"--video {name}, --model_file {config.model_file}: expected a test video's name and a checkpoint.")
    video = videos[name or next(iter(videos))]
    method = build_method(config)
    load_network(method.network, config.model_file, config)
    method.network.eval()
    take_steps(method, [video], Files(1), torch.device("cpu"))
    snippets = gather_input([video], Files(1), [method.sample(video, None)])
    arrays = compute_activations(method, [video], Files(1), torch.device("cpu"))[video.name]
    sequences = {key: array[0] for key, array in method.sequences(snippets).items()}
    figure = draw(video, config.classes, localize(method.curves(arrays)), sequences, arrays.get("warp"))
    with atomic_write(figure_file, "wb") as stream:
        figure.savefig(stream, dpi=110, format=figure_file.suffix.lstrip(".") or "png")
    print(figure_file)


def draw(
    video: Video,
    names: Sequence[str],
    detections: Detections,
    sequences: Mapping[str, NDArray[Any]],
    warp: NDArray[np.floating] | None,
) -> Figure:
    """One panel per sequence, then the time lines of detections and of the ground truth, if there is any, by class."""
    truth = video.annotations
    classes = sorted({*detections.classes.tolist(), *(names.index(row["label"]) for row in truth)})
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
            panel.axvspan(*map(float, row["segment"]), color=colours[names.index(row["label"])], alpha=0.15, lw=0)
        panel.set_ylabel(title)
    draw_time_lines(panels[-1], names, detections, truth, colours)
    shown = ", ".join(names[number] for number in classes) or "no action found"
    panels[0].set_title(f"{video.name}: {shown}{' (truth shaded)' * bool(truth)}".replace("$", r"\$"))
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(0, video.seconds)
    return figure


def draw_time_lines(panel: Axes, names: Sequence[str], detections: Detections, truth: list, colours: dict[int, str]) -> None:
    for place, (number, colour) in enumerate(colours.items()):
        mine = np.flatnonzero(detections.classes == number)[:MOST_SHOWN][::-1]
        best = detections.scores[mine].max(initial=1e-9)
        for index in mine:
            start, end = detections.segments[index]
            strength = max(0.05, detections.scores[index] / best)
            panel.barh(place, end - start, left=start, height=0.35, color=colour, alpha=strength**2, lw=0)
        for row in truth:
            if names.index(row["label"]) == number:
                start, end = map(float, row["segment"])
                panel.barh(place + 0.35, end - start, left=start, height=0.2, color="black", lw=0)
    shown = [f"{names[number]}{chr(10)}black: truth" if truth else names[number] for number in colours]
    panel.set_yticks(range(len(colours)), [name.replace("$", r"\$") for name in shown], fontsize=8)
    panel.set_ylim(max(1, len(colours)) - 0.4, -0.4)  # the first class on top


if __name__ == "__main__":
    main()
