"""What BackTAL's train step costs beside its plain form, tests/oracle_backtal.py: python -m benchmarks.bench_backtal

The plain form is the official layout of the computation: unfolded and tiled to three times the channels, branch by branch. Both
do one update on the same made-up batch, in turns, and the quickest turn of each counts. `--videos 2` is enough on a CPU.
"""

import argparse

import numpy as np
import torch

from benchmarks.bench_train import stepper, timed
from benchmarks.record import machine
from config import make_config
from device import choose_device, choose_precision
from methods import build_method
from options import parse_args
from rows import Rows
from tests.oracle_backtal import PlainBackTAL
from thumos_features import Batch, Video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--dataset", default="thumos14", choices=["thumos14", "activitynet1.2", "hacs"])
    parser.add_argument("--videos", type=int, help="in the batch (default: as published)")
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    flags = ["--method=backtal", f"--dataset={args.dataset}", f"--precision={precision}"]
    settings = vars(parse_args(flags))
    own = ["lr", "batch_size", "num_segments", "topk", "sep_topk", "sep_weight", "class_th"]
    flags = [f"--{name}={settings[name]}" for name in own]
    config = make_config(parse_args(["--method=backtal", "--clicks=simulated", f"--precision={precision}", *flags]))
    count = args.videos or config.batch_size
    print(f"torch {torch.__version__}, {machine()}, {device}, {precision}, {args.dataset}'s settings, batch {count}")
    x = torch.rand(count, config.num_segments, config.len_feature, device=device)
    label = torch.eye(config.num_classes, device=device)[torch.arange(count) % config.num_classes]
    clicks = tuple((number + 0.5) / 11 for number in range(11))  # as many as people make in THUMOS'14's videos
    video = Video("made up", 1, np.zeros(1, np.float32), [], 25.0, 16, None, False, 1, (), lambda: x[0].numpy(), clicks=clicks)
    batch = Batch(Rows.shown(x), label, [video] * count)
    works = {}
    for name in ("plain", "ours"):
        method = build_method(config)
        if name == "plain":
            method.network.__class__ = PlainBackTAL
            for weight in method.network.parameters():
                weight.data = weight.data.contiguous()  # as its convolutions want it
        works[name] = stepper(method, batch, device, fused=True)
    best = dict.fromkeys(works, float("inf"))
    peak = dict.fromkeys(works, 0.0)
    for turn in range(args.turns + 1):
        for name, work in works.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds, _ = timed(work, device)
            best[name] = min(best[name], seconds) if turn else best[name]
            if device.type == "cuda":
                peak[name] = torch.cuda.max_memory_allocated(device) / 2**30
    print(f"train step: {best['ours']:.3f} s; plain {best['plain']:.3f} s = {best['plain'] / best['ours']:.2f}x")
    if device.type == "cuda":
        print(f"peak memory: {peak['ours']:.1f} GiB; plain {peak['plain']:.1f} GiB")


if __name__ == "__main__":
    main()
