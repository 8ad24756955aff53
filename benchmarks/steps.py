"""Shared by the benchmarks of train steps: a step to time, bare matrix products, and timing in turns."""

import ctypes
import gc
import mmap
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataset.draws import Draws
from engine.checkpoint import TrainingState
from engine.team import Team
from fast import products
from fast.adam import Adam
from methods.base import Method
from thumos_features import Batch
from train import Loss, train_step


class Layer(NamedTuple):
    """Products of a layer: (rows, inputs) by (inputs, outputs), `times` in the forward pass and for each gradient."""

    rows: int
    inputs: int
    outputs: int
    times: int = 1
    gradient_of_input: bool = True


def stepper(method: Method, batch: Batch, device: torch.device, ours: bool) -> Callable[[], object]:
    """A function that runs a train step, with our Adam or torch's."""
    network: nn.Module = method.network.to(device)
    optimizer = (Adam if ours else torch.optim.Adam)(network.parameters(), lr=1e-4, weight_decay=5e-4)
    if not ours:
        for weight in network.parameters():
            weight.data = weight.data.contiguous()  # the memory order of torch's convolutions
    scaler = torch.amp.GradScaler(device.type, enabled=method.config.precision == "fp16")
    state = TrainingState(network, optimizer, scaler, 0, "", Draws(method.config, 0))
    return lambda: train_step(Loss(method), state, batch, 1e-4, Team())


def bare_products(layers: Iterable[Layer], device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Functions that run only the products of `layers`, by each library of this machine."""

    def empty(*shape: int) -> Tensor:
        return torch.rand(shape, device=device).to(dtype)

    pairs = []
    for rows, inputs, outputs, times, gradient_of_input in layers:
        x, weight, y = empty(rows, inputs), empty(outputs, inputs), empty(rows, outputs)
        pairs += [(x, weight.t()), (y.t(), x), *[(y, weight)] * gradient_of_input] * times

    def run(name: str) -> None:
        with products.only(name):
            for left, right in pairs:
                products.product(left, right)

    names = [name for name in ("mm", "onednn") if name == "mm" or (device.type == "cpu" and products.has_onednn())]
    return {f"bare products by {products.NAMES[name]}": partial(run, name) for name in names}


def in_turns(works: Mapping[str, Callable[[], object]], device: torch.device, turns: int) -> dict[str, float]:
    """Median seconds of each work. Each work runs twice per turn, and the second run is timed.

    The first run restores the caches and the free memory that a work leaves behind, as the step before does in training. A
    minimum would compare moments at which the processor's speed differs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            timed(work, device)
            taken, _ = timed(work, device)
            seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def side_by_side(
    name: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    bare: Mapping[str, Callable[[], object]],
    device: torch.device,
    turns: int,
) -> float:
    """Print the seconds of our step, of the plain one and of the bare products of ours; returns ours."""
    taken = in_turns({"plain": plain, "ours": ours, **bare}, device, turns)
    step, plain_step = taken.pop("ours"), taken.pop("plain")
    library, fastest = min(taken.items(), key=lambda item: item[1])
    others = "".join(f"; {other} {seconds:.3f} s" for other, seconds in taken.items() if other != library)
    print(
        f"train step, {name}: {step:.3f} s; plain {plain_step:.3f} s = {plain_step / step:.2f}x; {library} {fastest:.3f} s, of "
        f"which ours takes {step / fastest:.2f}x{others}",
        flush=True,
    )
    return step


def measured(turns: int, make: Callable[..., Callable[[], object]], *args: Any) -> tuple[float, float, float]:
    """Run a step in a fresh process: its seconds, the peak MiB of the process, and the MiB that the step adds.

    The memory before it holds torch, weights, Adam's moments and features.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_measure, args=(turns, make, args, theirs))
    process.start()
    result: tuple[float, float, float] = ours.recv()
    process.join()
    return result


def _measure(turns: int, make: Callable[..., Callable[[], object]], args: tuple[Any, ...], answer: Connection) -> None:
    step = make(*args)
    best, standing = float("inf"), 0.0
    for turn in range(turns + 1):  # the first turn makes the optimizer's state
        if turn == 1:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            standing = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**20
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        seconds, _ = timed(step, torch.device("cpu"))
        best = min(best, seconds) if turn else best
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    answer.send((best, peak, peak - standing))


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, result
