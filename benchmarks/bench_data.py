"""Speed of making batches against a loader that reads files per item: python -m benchmarks.bench_data [--videos 410]

Random videos of THUMOS'14's size (1.3 GB) in a temporary folder; nothing is trained. Ratios are of one run. Both read files
from the system's cache, so disk speed does not matter.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import peak_memory
from config import Config
from dataset.check import check
from dataset.draws import Draws
from dataset.facts import THUMOS14_CLASSES
from dataset.store import open_store
from methods.base import build_method
from options import make_config, parse_args
from tests import oracles
from thumos_features import load_data, training_batch

ITERATIONS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=410)
    with tempfile.TemporaryDirectory(prefix="bench_data_") as folder:
        make_data(Path(folder), parser.parse_args().videos)
        bench(folder)


def make_data(folder: Path, count: int) -> None:
    """Write a data set with THUMOS'14's distribution of lengths: about 200 seconds, a few of half an hour."""
    r = np.random.default_rng(0)
    noise = r.random((4000, 1024), dtype=np.float32)
    database = {}
    for number in range(count):
        subset = "train" if number % 2 else "test"
        length = int(np.clip(r.lognormal(5.6, 0.75), 20, 3000))
        annotation = {"segment": ["1.0", "5.0"], "label": THUMOS14_CLASSES[number // 2 % 20]}
        database[f"v{number}"] = {"subset": subset, "annotations": [annotation]}
        for stream in ("rgb", "flow"):
            path = folder / "features" / subset / stream / f"v{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            first = r.integers(4000 - length)
            np.save(path, noise[first : first + length])
    (folder / "gt.json").write_text(json.dumps({"database": database}))


def bench(folder: str) -> None:
    config = make_config(parse_args([f"--data_path={folder}", "--cache=ram"]))
    data = load_data(config)
    print(data.summary.replace(folder, "FOLDER"))
    bench_check(config)
    videos = data.train
    plain = per_second(lambda i: oracles.per_item_batch(videos, config, i), 3)
    print(f"plain per-item loader: {plain:.2f} iterations of {config.batch_size} videos per second")
    filled = per_second(
        lambda _: np.zeros((config.batch_size * config.num_segments, config.len_feature), np.float32).fill(1), 20
    )
    print(f"only filling the memory of a batch, one thread: {filled:.1f} per second = {filled / plain:.0f}x")
    for name, flags in (
        ("first start: read, check and pack", ["--cache=ram"]),
        ("second start: from the packed copy", ["--cache=ram"]),
        ("half precision", ["--cache=ram", "--cache_dtype=float16"]),
        ("features in files", ["--cache=off"]),
        *([("on the GPU", ["--cache=device", "--device=cuda"])] if torch.cuda.is_available() else []),
    ):
        measure(name, make_config(parse_args([f"--data_path={folder}", *flags])), plain)


def bench_check(config: Config) -> None:
    """Time of the complete check against reading the same files."""
    files = sorted(Path(config.data_path).rglob("features/**/*.npy"))
    size = sum(file.stat().st_size for file in files) / 2**20
    begun = time.perf_counter()
    for file in files:
        file.read_bytes()
    read = time.perf_counter() - begun
    check(config, quick=False)
    checked = time.perf_counter() - begun - read
    print(f"dataset.check of {len(files)} files: {checked:.1f} s, {size / checked:.0f} MiB/s; only reading them {read:.1f} s")


def measure(name: str, config: Config, plain: float) -> None:
    device = torch.device("cuda" if config.cache == "device" else "cpu")
    begun = time.perf_counter()
    data = load_data(config)
    store = open_store([*data.train, *data.test], config, device, lambda _: None)
    with torch.device("meta"):
        show = build_method(config).sample
    ready = time.perf_counter() - begun
    draws = Draws(config, 0)
    os.sync()  # wait until the packed copy is on disk

    def batch(iteration: int) -> Any:
        made = training_batch(data.train, store, draws, show, iteration)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return made

    rate = per_second(batch, ITERATIONS if config.cache != "off" else 5)
    memory = peak_memory()
    print(
        f"{name}: ready in {ready:.2f} s, {rate:.1f} iterations per second = {rate / plain:.0f}x; peak memory {memory:.1f} GiB"
    )


def per_second(work: Callable[[int], Any], iterations: int) -> float:
    work(0)
    begun = time.perf_counter()
    for iteration in range(iterations):
        work(iteration)
    return iterations / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
