"""Time of CoLA's train step against the plain version of tests/oracle_cola.py: python -m benchmarks.bench_cola

Random videos of THUMOS'14's lengths. Ratios are of one run: the compared works take turns, and the fastest turn of each counts.
"""

import argparse

import numpy as np
import torch

from benchmarks.bench_um import CPU, batch_of, length
from benchmarks.record import machine
from benchmarks.steps import Layer, bare_products, side_by_side, stepper
from engine.device import choose_device
from fast.snippets import Snippets
from methods.cola import CoLA, CoLAConfig
from options import make_config, parse_args
from tests.oracle_cola import PlainMethod


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_segments", type=int, default=750)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    choose_device("cpu")  # keeps freed memory, as a run does
    flags = [f"--{name}={getattr(args, name)}" for name in ("num_segments", "batch_size", "hidden")]
    config = make_config(parse_args(["--method=cola", "--precision=fp32", *flags]))
    assert isinstance(config, CoLAConfig)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine()}, batch {args.batch_size}, ", end="")
    print(f"{args.num_segments} snippets, hidden {args.hidden}\n")
    random = np.random.RandomState(0)
    bench_step("videos of THUMOS'14's lengths", config, [length(random) for _ in range(args.batch_size)], args.turns)
    bench_step("all snippets distinct", config, [args.num_segments] * args.batch_size, args.turns)


def bench_step(name: str, config: CoLAConfig, lengths: list[int], turns: int) -> None:
    """Print the seconds of a train step, ours and plain, and of its bare products."""
    batch = batch_of(config, lengths)
    dense = Snippets.of(batch.snippets.dense().transpose(1, 2).contiguous())
    count, shown = len(batch.snippets.table()), batch.snippets.index_bt.numel()
    layers = [Layer(count, config.len_feature, 3 * config.hidden, 1, False), Layer(shown, config.hidden, config.num_classes)]
    side_by_side(
        f"{name} ({100 * count / shown:.0f}% distinct)",
        stepper(CoLA(config), batch, CPU, ours=True),
        stepper(PlainMethod(config), batch._replace(snippets=dense), CPU, ours=False),
        bare_products(layers, CPU, torch.float32),
        CPU,
        turns,
    )


if __name__ == "__main__":
    main()
