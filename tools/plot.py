"""Plot one video: activations of both branches, foreground weights, detections and ground truth.

`python -m tools.plot --dataset demo --model_file FILE --video NAME --figure FILE.png`, and flags of main_eval.py.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import sys
from pathlib import Path

import torch

from dataset.make_demo import ensure_demo
from dataset.store import Files
from engine.checkpoint import load_network, settings_of
from engine.figure import draw
from localize import localize
from methods.base import build_method
from options import make_config, parse_args
from test import compute_activations, take_steps
from thumos_features import gather_input, load_data
from utils import UserError, atomic_write, run_command


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
    figure = draw(config, video, localize(method.curves(arrays)), sequences, arrays.get("warp"))
    with atomic_write(figure_file, "wb") as stream:
        figure.savefig(stream, dpi=110, format=figure_file.suffix.lstrip(".") or "png")
    print(figure_file)


if __name__ == "__main__":
    main()
