"""Time of train steps of small networks, whose products hardly matter, beside the plain ones: python -m benchmarks.bench_small

Ratios are of one run: the two networks take turns; times are medians. Every snippet is another.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks import bench_asm_loc, bench_backtal, bench_train, bench_um
from benchmarks.record import machine
from benchmarks.steps import in_turns, stepper
from config import Config
from engine.device import choose_device
from methods.asm_loc.network import ASMNet
from methods.base import build_method
from options import make_config, parse_args
from tests.oracle_asm_loc import PlainASMNet
from tests.oracle_cola import PlainMethod
from tests.oracle_um import PlainUM

BATCH, CPU = 16, torch.device("cpu")
SIZES = ((8, 12, 16), (64, 64, 100), (128, 64, 128), (256, 256, 750))  # channels, features, times
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="approximate duration of each comparison")
    args = parser.parse_args()
    choose_device("cpu")  # keeps freed memory, as a run does
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine()}, batch {BATCH}\n")
    print("| method | channels | features | times | milliseconds per step | plain | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for hidden, width, times in SIZES:
        for name, ours, plain in steps(hidden, width, times):
            works = {"ours": ours, "plain": plain}
            turn = sum(in_turns(works, CPU, 3).values())
            taken = in_turns(works, CPU, max(3, int(args.seconds / (2 * turn))))
            cells = (f"{1e3 * taken[work]:.2f}" for work in works)
            print(
                f"| {name} | {hidden} | {width} | {times} | {' | '.join(cells)} | {taken['plain'] / taken['ours']:.2f}x |",
                flush=True,
            )


def steps(hidden: int, width: int, times: int) -> Iterator[tuple[str, Step, Step]]:
    """Name, our step and the plain one of each method."""

    def config(*flags: str) -> Config:
        sizes = [f"--num_segments={times}", f"--batch_size={BATCH}", f"--hidden={hidden}"]
        return replace(make_config(parse_args([*flags, "--precision=fp32", *sizes])), len_feature=width)

    basnet = config("--method=basnet")
    batch = bench_um.batch_of(basnet, [times] * BATCH)
    yield (
        "BaS-Net",
        bench_train.make_step(basnet, batch, CPU, ours=True),
        bench_train.make_step(basnet, bench_train.plain_batch(batch), CPU, ours=False),
    )
    for name, plain in (("UM", PlainUM), ("CoLA", PlainMethod)):
        own: Any = config(f"--method={name.lower()}")
        yield name, stepper(build_method(own), batch, CPU, ours=True), stepper(plain(own), batch, CPU, ours=False)
    yield "BackTAL", *bench_backtal.make_steps(config("--method=backtal", "--clicks=simulated"), BATCH, CPU)
    boxes = [bench_asm_loc.random_boxes(times, 3, 0.3, seed) for seed in range(BATCH)]
    asm_ours, asm_plain = (bench_asm_loc.make_step(kind, boxes, times, hidden) for kind in (ASMNet, PlainASMNet))
    yield "ASM-Loc", asm_ours, asm_plain


if __name__ == "__main__":
    main()
