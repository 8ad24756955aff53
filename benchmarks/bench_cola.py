"""Time of CoLA's train step against the plain version of tests/oracle_cola.py: python -m benchmarks.bench_cola

Random videos of THUMOS'14's lengths. Ratios are of one run: the compared works take turns; seconds are medians.
"""

import argparse

import numpy as np
import torch

from benchmarks.bench_um import bench_step, length
from benchmarks.record import machine
from engine.device import choose_device
from methods.cola import CoLA, CoLAConfig
from options import make_config, parse_args
from tests.oracle_cola import PlainMethod


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_segments", type=int, default=750)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    choose_device("cpu")  # keeps freed memory, as a run does
    flags = [f"--{name}={getattr(args, name)}" for name in ("num_segments", "batch_size", "hidden")]
    config = make_config(parse_args(["--method=cola", "--precision=fp32", *flags]))
    assert isinstance(config, CoLAConfig)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine()}, batch {args.batch_size}, ", end="")
    print(f"{args.num_segments} snippets, hidden {args.hidden}\n")
    random = np.random.RandomState(0)
    lengths = [length(random) for _ in range(args.batch_size)]
    bench_step("videos of THUMOS'14's lengths", CoLA(config), PlainMethod(config), lengths, args.turns)
    lengths = [args.num_segments] * args.batch_size
    bench_step("all snippets distinct", CoLA(config), PlainMethod(config), lengths, args.turns)


if __name__ == "__main__":
    main()
