"""Plot one video: activations of both branches, foreground weights, detections and ground truth.

`python -m tools.plot --dataset demo --model_file FILE --video NAME --figure FILE.png`, and flags of main_eval.py.
`python -m tools.figure strip` draws the same figure from a run's folder, and other runs beside it.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from config import Config
from dataset.make_demo import ensure_demo
from dataset.store import Files
from engine.charts import save
from engine.checkpoint import load_network, settings_of
from engine.figure import draw, times
from localize import Arrays, localize
from methods.base import Method, build_method
from options import make_config, parse_args
from test import compute_activations, sequences_of, take_steps
from thumos_features import Video, load_data
from utils import UserError, run_command

Curves = dict[str, tuple[NDArray[np.float64], NDArray[np.floating]]]  # times and values by title


def main() -> None:
    run_command(lambda: draw_video(parse_args(settings_of=settings_of, extend=add_flags)), "--debug" in sys.argv)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.usage = "python -m tools.plot --model_file FILE [--video NAME] [--figure FILE.png] [FLAGS]"
    own = parser.add_argument_group("tools.plot")
    own.add_argument("--video", help="name of a test video (default: the first)")
    own.add_argument("--figure", type=Path, default=Path("video.png"), help="file to write, .png, .pdf or .svg")


def draw_video(args: argparse.Namespace) -> None:
    ensure_demo(args.dataset, args.data_path)
    config = make_config(args, training=False)
    method, video = load_video(config, args.video)
    arrays, sequences = activations_of(method, video)
    for path in save(draw(config, video, localize(method.curves(arrays)), sequences, arrays.get("warp")), args.figure):
        print(path)


def sequences_of_video(config: Config, name: str) -> tuple[float, Curves]:
    """Seconds of a test video, and the sequences that the network of `config.model_file` computes of it."""
    method, video = load_video(config, name)
    arrays, sequences = activations_of(method, video)
    return video.seconds, {
        title: (times(video, len(values), arrays.get("warp")), values) for title, values in sequences.items()
    }


def load_video(config: Config, name: str | None) -> tuple[Method, Video]:
    """The method with the weights of its checkpoint, and a test video."""
    videos = {video.name: video for video in load_data(config, ["test"]).test}
    if config.model_file is None or (name or next(iter(videos))) not in videos:
        raise UserError(f"--video {name}, --model_file {config.model_file}: expected a test video's name and a checkpoint.")
    video = videos[name or next(iter(videos))]
    method = build_method(config)
    load_network(method.network, config.model_file, config)
    method.network.eval()
    take_steps(method, [video], Files(1), torch.device("cpu"))
    return method, video


def activations_of(method: Method, video: Video) -> tuple[Arrays, Arrays]:
    """The activations of a video, and the sequences to draw."""
    arrays = compute_activations(method, [video], Files(1), torch.device("cpu"))[video.name]
    return arrays, sequences_of(method, video, Files(1), torch.device("cpu"))[0]


if __name__ == "__main__":
    main()
