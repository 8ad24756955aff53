"""Time of BackTAL's train step against its plain form, tests/oracle_backtal.py: python -m benchmarks.bench_backtal

The plain form computes as the official code does: unfolded and tiled to three times the channels, branch by branch. Both
update on the same random batch, in turns; seconds are medians. `--videos 2` is enough on a CPU.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.record import machine
from benchmarks.steps import Layer, bare_products, side_by_side, stepper, timed
from config import Config
from engine.device import DTYPES, choose_device, choose_precision
from fast.gated import terms
from fast.snippets import Snippets
from methods.backtal import BackTALConfig
from methods.base import build_method
from options import make_config, parse_args
from tests.oracle_backtal import PlainBackTAL
from thumos_features import Batch, Video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--dataset", default="thumos14", choices=["thumos14", "activitynet1.2", "hacs"])
    parser.add_argument("--videos", type=int, help="batch size (default: as published)")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    flags = ["--method=backtal", f"--dataset={args.dataset}", f"--precision={precision}"]
    settings = vars(parse_args(flags))
    own = ["lr", "batch_size", "num_segments", "topk", "sep_topk", "sep_weight", "class_th"]
    flags = [f"--{name}={settings[name]}" for name in own]
    config = make_config(parse_args(["--method=backtal", "--clicks=simulated", f"--precision={precision}", *flags]))
    assert isinstance(config, BackTALConfig)
    count = args.videos or config.batch_size
    print(f"torch {torch.__version__}, {machine()}, {device}, {precision}, {args.dataset}'s settings, batch {count}")
    ours, theirs = make_steps(config, count, device)
    shown, width, hidden, few = count * config.num_segments, config.len_feature, config.hidden, max(1, config.hidden // 4)
    gated = terms(width, config.affinity_layout)
    layers = [
        Layer(shown, width, few, 1 + 3, False),  # filter and embedding
        *(Layer(shown, channels.stop - channels.start, hidden, 1, False) for _, _, channels in gated),  # shared by the branches
        Layer(2 * shown, hidden, hidden, 3),
        Layer(2 * shown, hidden, config.num_classes + 1),
    ]
    bare = bare_products(layers, device, DTYPES[precision])
    side_by_side(f"batch {count}", ours, theirs, bare, device, args.turns)
    for name, work in (("ours", ours), ("plain", theirs)) if device.type == "cuda" else ():
        torch.cuda.reset_peak_memory_stats(device)
        timed(work, device)
        print(f"peak memory, {name}: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


def make_steps(config: Config, count: int, device: torch.device) -> tuple[Callable[[], object], Callable[[], object]]:
    """Train steps of `count` videos with clicks, by our network and by the plain one."""
    x = torch.rand(count, config.num_segments, config.len_feature, device=device)
    label = torch.eye(config.num_classes, device=device)[torch.arange(count) % config.num_classes]
    clicks = tuple((number + 0.5) / 11 for number in range(11))  # as many as annotators make per video of THUMOS'14
    video = Video("made up", 1, np.zeros(1, np.float32), [], 25.0, 16, None, False, 1, (), lambda: x[0].numpy(), clicks=clicks)
    batch = Batch(Snippets.of(x), label, [video] * count)
    plain = build_method(config)
    plain.network.__class__ = PlainBackTAL
    return stepper(build_method(config), batch, device, ours=True), stepper(plain, batch, device, ours=False)


if __name__ == "__main__":
    main()
