"""Time and memory of ASM-Loc's train step against the plain network's: python -m benchmarks.bench_asm_loc

Videos are random; their boxes cover a share of their times. The networks and the products take turns; seconds are medians.
Memory is the peak of a process of each network, and its part beyond torch, weights, Adam's moments and features.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.record import machine
from benchmarks.steps import Layer, bare_products, in_turns, measured
from engine.device import choose_device
from fast.adam import Adam
from fast.attention import HEADS, Places, find_places
from fast.snippets import Snippets
from methods.asm_loc.method import losses
from methods.asm_loc.network import ASMNet
from methods.asm_loc.settings import ASMLocConfig
from options import make_config, parse_args
from tests.oracle_asm_loc import PlainASMNet
from thumos_features import Indices

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--times", type=int, default=750)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--coverage", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--boxes", type=int, default=20, help="boxes per video")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {machine()}, batch {args.batch_size}, {args.times} times, width {args.hidden}\n")
    print(
        "| covered | seconds per step, plain | ours | speed-up | bare products | ours relative to them | "
        "MiB added by a step, plain | ours | share | peak, plain | ours |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for coverage in args.coverage:
        boxes = [random_boxes(args.times, args.boxes, coverage, seed) for seed in range(args.batch_size)]
        places, times = find_places(boxes, args.times), args.batch_size * args.times
        covered = len(places.time_m) / times
        layers = [
            Layer(times, args.hidden, args.hidden, 3, False),
            *(Layer(count, args.hidden, args.hidden, 4) for count in (len(places.time_m), len(places.first_of_box))),
        ]
        products = bare_products(layers, CPU, torch.float32)
        kinds = {"plain": PlainASMNet, "ours": ASMNet}
        steps = {name: make_step(kind, boxes, args.times, args.hidden) for name, kind in kinds.items()}
        taken = in_turns({**steps, **products, "attention": attention_products(places, args.hidden)}, CPU, args.turns)
        plain, ours = taken["plain"], taken["ours"]
        bare = min(taken[name] for name in products) + taken["attention"]
        (_, plain_peak, plain_added), (_, peak, added) = (
            measured(1, make_step, kind, boxes, args.times, args.hidden) for kind in kinds.values()
        )
        print(
            f"| {100 * covered:.0f} % | {plain:.2f} | {ours:.2f} | {plain / ours:.2f}x | {bare:.2f} | {ours / bare:.2f}x | "
            f"{plain_added:,.0f} | {added:,.0f} | "
            f"{added / plain_added:.2f} | {plain_peak:,.0f} | {peak:,.0f} |",
            flush=True,
        )


def random_boxes(times: int, count: int, coverage: float, seed: int) -> Indices:
    """(N, 2) random boxes of different lengths, some overlapping, that cover about `coverage` of the times."""
    random = np.random.default_rng(seed)
    mean = -np.log(1 - coverage) * times / count
    length = np.clip(np.round(mean * random.uniform(0.4, 1.6, count)), 1, times).astype(np.int64)
    first = random.integers(0, times - length + 1)
    return np.stack([first, first + length - 1], axis=1)


def attention_products(places: Places, width: int) -> Callable[[], object]:
    """The products of attention inside boxes and of its gradients, computed by torch.bmm."""
    pairs = []
    for attends_gss in places.runs:
        groups, size = attends_gss.shape[:2]
        x = torch.rand(groups * HEADS, size, width // HEADS)
        shares = torch.rand(groups * HEADS, size, size)
        pairs += [(x, x.transpose(1, 2))] * 2 + [(shares, x)] * 4

    def run() -> None:
        for left, right in pairs:
            torch.bmm(left, right)

    return run


def make_step(kind: type[ASMNet], boxes: list[Indices], times: int, width: int) -> Callable[[], object]:
    """A train step of one video per list of boxes."""
    choose_device("cpu")  # keeps freed memory, as a run does
    config = make_config(parse_args(["--method=asm_loc"]))
    assert isinstance(config, ASMLocConfig)
    network = kind(width, config.num_classes, width, True, (config.r_fg, config.r_bg), config.dropout)
    optimizer = Adam(network.parameters(), lr=1e-4, weight_decay=config.weight_decay)
    random = torch.Generator().manual_seed(0)
    features = torch.rand(len(boxes), times, width, generator=random)
    snippets = replace(Snippets.of(features), boxes=tuple(boxes))
    label_bc = torch.eye(config.num_classes)[:1].repeat(len(boxes), 1)
    label_btc = torch.full((len(boxes), times, config.num_classes + 1), 1 / (config.num_classes + 1))

    def step() -> None:
        loss = losses(network(snippets), label_bc, label_btc, config)["loss_total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
