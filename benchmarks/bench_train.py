"""Time of training and evaluation against the plain network and bare matrix products: python -m benchmarks.bench_train

Random videos of THUMOS'14's lengths in a temporary folder; lines marked "all snippets distinct" have videos of T snippets.
Ratios are of one run: the compared works take turns; seconds are medians.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_data import make_data
from benchmarks.record import machine, peak_memory
from benchmarks.steps import Layer, bare_products, measured, side_by_side, stepper, timed
from config import Config
from dataset.draws import Draws
from dataset.store import open_store
from engine.device import DTYPES, choose_device, choose_precision
from engine.workers import Beside
from fast import products
from fast.snippets import Snippets
from methods.base import build_method
from options import make_config, parse_args
from test import Activations, Evaluation, Judge, compute_activations
from tests.oracles import PlainBaSNet
from thumos_features import Batch, load_data, training_batch
from utils import cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--videos", type=int, default=410, help="half for training, half for evaluation")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=None, help="processes that evaluate during training")
    parser.add_argument("--scaling", action="store_true", help="also time steps by batch size, times and classes")
    args = parser.parse_args()
    if args.videos // 2 < args.batch_size:
        parser.error(f"--videos {args.videos}: half of them are fewer than --batch_size {args.batch_size}")
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    print(f"torch {torch.__version__}, {machine()}, {device}, {precision}, batch {args.batch_size}, ", end="")
    print(f"{torch.get_num_threads()} threads, products by {products.NAMES[products.choose(device, DTYPES[precision])]}\n")
    with tempfile.TemporaryDirectory(prefix="bench_train_") as folder:
        make_data(Path(folder), args.videos)
        flags = [f"--data_path={folder}", "--cache_path=none", f"--batch_size={args.batch_size}", f"--precision={precision}"]
        bench(make_config(parse_args(flags)), device, args)


def bench(config: Config, device: torch.device, args: argparse.Namespace) -> None:
    data = load_data(config)
    store = open_store([*data.train, *data.test], config, device, lambda _: None)
    batch = training_batch(data.train, store, Draws(config, 0), build_method(config).sample, 0).to(device)
    step = bench_step("videos of THUMOS'14's lengths", config, batch, device, args.turns)
    times = Snippets.of(torch.rand(config.batch_size, config.num_segments, config.len_feature, device=device))
    bench_step("all snippets distinct", config, batch._replace(snippets=times), device, args.turns)
    if device.type == "cpu":
        bench_memory(config, batch)

    print()
    method = build_method(config)
    method.network.to(device)
    labels = {video.name: video.label_c for video in data.test}
    compute_activations(method, data.test[:8], store, device)
    for count in sorted({len(data.test) // 4, len(data.test) // 2, len(data.test)}):
        videos = data.test[:count]
        forward, activations = timed(partial(compute_activations, method, videos, store, device), device)
        print(f"forward pass of {count} test videos: {forward:.2f} s")
    Judge(config, labels, data.truth)(activations)
    judged, _ = timed(lambda: Judge(config, labels, data.truth)(activations), device)
    print(f"evaluation of {len(data.test)} videos: forward {forward:.2f} s, in total {forward + judged:.2f} s", end=" ")
    print(f"= {(forward + judged) / forward:.2f}x")
    workers = args.workers if args.workers is not None else max(1, cores() - 2)
    beside: Beside[int, Activations, Evaluation] = Beside(Judge(config, labels, data.truth, 1), workers)
    with beside:
        for count in (workers, 4 * workers):  # the first round includes the start of the processes
            begun = time.perf_counter()
            for number in range(count):
                beside.begin(number, activations)
                list(beside.done())
            list(beside.done(wait_for_all=True))
    each = (time.perf_counter() - begun) / count
    print(f"during training, in {workers} processes: {each:.3f} s per evaluation on idle cores")
    beside_it = max(forward + step, each)
    print(
        f"projected run of {config.num_iters} iterations with an evaluation of {len(data.test)} videos after each: "
        f"{config.num_iters * (step + forward + judged):,.0f} s; with {workers} evaluation processes on idle cores "
        f"{config.num_iters * beside_it:,.0f} s"
    )
    memory = peak_memory()
    print(f"peak memory {memory:.1f} GiB", end="")
    print(f", on the GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else "")
    if args.scaling:
        bench_scaling(config, device)


def bench_step(name: str, config: Config, batch: Batch, device: torch.device, turns: int) -> float:
    """Print the seconds of our step, of the plain one and of our matrix products; returns ours."""
    count, shown = len(batch.snippets.table()), batch.snippets.index_bt.numel()
    layers = [
        Layer(count, config.len_feature, 3 * config.hidden, gradient_of_input=False),  # shared by the branches
        Layer(count, config.len_feature, config.hidden // 4, gradient_of_input=False),  # filter
        Layer(shown, config.hidden, config.hidden, 2 * 3),
        Layer(shown, config.hidden, config.num_classes + 1, 2),
    ]
    return side_by_side(
        f"{name} ({100 * count / shown:.0f}% distinct)",
        make_step(config, batch, device, ours=True),
        make_step(config, plain_batch(batch), device, ours=False),
        bare_products(layers, device, DTYPES[config.precision]),
        device,
        turns,
    )


def make_step(config: Config, batch: Batch, device: torch.device, ours: bool) -> Callable[[], object]:
    """A train step of our network, or of the plain one on a `plain_batch`."""
    choose_device(str(device))  # sets up torch, if this is a fresh process
    method = build_method(config)
    if not ours:
        method.network.__class__ = PlainBaSNet
    return stepper(method, batch, device, ours)


def plain_batch(batch: Batch) -> Batch:
    """The batch with a dense tensor (B, T, F), the input of the plain network."""
    dense: Any = batch.snippets.dense().transpose(1, 2).contiguous()
    return batch._replace(snippets=dense)


def bench_memory(config: Config, batch: Batch) -> None:
    """Print the memory that a step adds to its process on a CPU, ours and plain."""
    for name, given, ours in (("ours", batch, True), ("plain", plain_batch(batch), False)):
        given = given._replace(videos=(), whole=())
        _, peak, added = measured(1, make_step, config, given, torch.device("cpu"), ours)
        print(f"memory, {name}: a step adds {added:,.0f} MiB; the peak of the process is {peak:,.0f} MiB")


def bench_scaling(config: Config, device: torch.device) -> None:
    small = replace(config, batch_size=4)
    print("\n| batch | times | classes | seconds per step | microseconds per video and time |\n| --- | --- | --- | --- | --- |")
    sizes = ((4, 750, 20), (8, 750, 20), (16, 750, 20), (4, 100, 20), (4, 375, 20), (4, 750, 200))
    for batch_size, times, classes in sizes:
        names = tuple(map(str, range(classes)))
        changed = replace(small, batch_size=batch_size, num_segments=times, classes=names)
        features = torch.rand(batch_size, times, config.len_feature, device=device)
        batch = Batch(Snippets.of(features), torch.eye(classes, device=device)[:batch_size])
        work = make_step(changed, batch, device, ours=True)
        seconds = min(timed(work, device)[0] for _ in range(3))
        print(
            f"| {batch_size} | {times} | {classes} | {seconds:.3f} | {1e6 * seconds / (batch_size * times):.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
