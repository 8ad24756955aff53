"""Time of UM's train step and evaluation against the plain versions of tests/oracle_um.py: python -m benchmarks.bench_um

Random videos of THUMOS'14's lengths; --num_segments 50 --classes 100 is ActivityNet's shape. Ratios are of one run: the
compared works take turns, and seconds of a step are medians. Evaluation is localization and mAP, without the network.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas
import torch

from benchmarks.bench_scoring import once
from benchmarks.record import machine
from benchmarks.steps import Layer, bare_products, side_by_side, stepper
from config import Config
from engine.device import choose_device
from eval.eval_detection import detection_map
from fast.snippets import Snippets
from localize import Arrays, localize_all
from methods.base import Method
from methods.um import UM, UMConfig
from options import make_config, parse_args
from test import as_table
from tests import oracles
from tests.oracle_um import PlainUM, plain_detections
from thumos_features import Batch, random_indices

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_segments", type=int, default=750)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--videos", type=int, default=210, help="videos to evaluate")
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    choose_device("cpu")  # keeps freed memory, as a run does
    flags = [f"--{name}={getattr(args, name)}" for name in ("num_segments", "batch_size", "hidden")]
    config = make_config(parse_args(["--method=um", "--precision=fp32", *flags]))
    assert isinstance(config, UMConfig)
    config = replace(config, classes=tuple(f"{number:03d}" for number in range(args.classes)))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {machine()}, batch {args.batch_size}, ", end="")
    print(f"{args.num_segments} snippets, {args.classes} classes, hidden {args.hidden}\n")
    bench_evaluation(config, args.videos, args.turns)
    random = np.random.RandomState(0)
    lengths = [length(random) for _ in range(args.batch_size)]
    bench_step("videos of THUMOS'14's lengths", UM(config), PlainUM(config), lengths, args.turns)
    lengths = [args.num_segments] * args.batch_size
    bench_step("all snippets distinct", UM(config), PlainUM(config), lengths, args.turns)


def length(random: np.random.RandomState) -> int:
    return int(np.clip(random.lognormal(5.6, 0.75), 20, 3000))


def bench_step(name: str, ours: Method, plain: Method, lengths: list[int], turns: int) -> None:
    """Print the seconds of a train step, ours and plain, and of the bare products of a kernel-3 layer and a classifier."""
    config = ours.config
    batch = batch_of(config, lengths)
    dense = Snippets.of(batch.snippets.dense().transpose(1, 2).contiguous())
    count, shown = len(batch.snippets.table()), batch.snippets.index_bt.numel()
    layers = [Layer(count, config.len_feature, 3 * config.hidden, 1, False), Layer(shown, config.hidden, config.num_classes)]
    side_by_side(
        f"{name} ({100 * count / shown:.0f}% distinct)",
        stepper(ours, batch, CPU, ours=True),
        stepper(plain, batch._replace(snippets=dense), CPU, ours=False),
        bare_products(layers, CPU, torch.float32),
        CPU,
        turns,
    )


def batch_of(config: Config, lengths: list[int]) -> Batch:
    """A training batch of random features of videos of these lengths."""
    random = np.random.RandomState(1)
    parts, index, first = [], [], 0
    for num_seg in lengths:
        distinct, place = np.unique(random_indices(num_seg, config.num_segments, random), return_inverse=True)
        parts.append(torch.rand(len(distinct), config.len_feature))
        index.append(torch.from_numpy(place + first))
        first += len(distinct)
    label_bc = torch.eye(config.num_classes)[torch.arange(len(lengths)) % config.num_classes]
    return Batch(Snippets(tuple(parts), torch.stack(index)), label_bc)


def bench_evaluation(config: UMConfig, count: int, turns: int) -> None:
    """Print the seconds of localization and mAP in one thread, ours and plain."""
    random = np.random.RandomState(0)
    videos, truth = random_activations(random, config, count)
    tiou = np.array(config.tiou_thresholds)
    with torch.device("meta"):
        method = UM(config)

    def ours() -> tuple[float, int]:
        found = dict(zip(videos, localize_all(map(method.curves, videos.values()), threads=1), strict=True))
        table = as_table(found, config.classes)
        return detection_map(truth, table, tiou).average_mAP, len(table)

    def plain() -> tuple[float, int]:
        detections = [(name, *row) for name, arrays in videos.items() for row in plain_detections(config, arrays)]
        found = pandas.DataFrame(detections, columns=["video", "label", "score", "start", "end"])
        found["label"] = [config.classes[int(number)] for number in found["label"]]
        score = oracles.detection_map_by_rows(pandas.DataFrame(truth), found, tiou)
        return float(score.mean()), len(detections)

    seconds_plain, expected = once(plain)
    ours()
    times = [once(partial(ours)) for _ in range(turns)]
    value, detections = times[0][1]
    assert detections == expected[1] and abs(value - expected[0]) < 1e-9
    seconds = min(taken for taken, _ in times)
    print(f"evaluation of {count} videos, {detections} detections, one thread: {seconds:.3f} s; ", end="")
    print(f"plain {seconds_plain:.1f} s = {seconds_plain / seconds:.0f}x", flush=True)


def random_activations(random: np.random.RandomState, config: UMConfig, count: int) -> tuple[dict[str, Arrays], dict[str, Any]]:
    """Piecewise constant activations with noise; ground truths are where a class's activation and the magnitude are high."""
    videos: dict[str, Arrays] = {}
    truth: dict[str, list[Any]] = {"video": [], "label": [], "start": [], "end": []}
    for number in range(count):
        num_seg = length(random)
        times, classes = min(num_seg, config.num_segments), config.num_classes
        chosen = random.choice(classes, 1 + (number % 6 == 0), replace=False)
        place = np.arange(times) // 8
        cas = 0.8 * random.random((place[-1] + 1, classes))[place] + 0.2 * random.random((times, classes))
        magnitude = 80 * random.random(place[-1] + 1)[place] + 10 * random.random(times)
        score = 0.1 * random.random(classes)
        score[chosen] = 0.4
        arrays = {"cas": cas, "magnitude": magnitude, "score": score}
        videos[f"v{number}"] = {key: array.astype(np.float32) for key, array in arrays.items()} | {"num_seg": np.array(num_seg)}
        seconds = 0.64 * num_seg / times
        for label in chosen:
            high = (cas[::8, label] > 0.5) & (magnitude[::8] > 40)
            starts = np.flatnonzero(high if high.any() else ~high) * 8
            truth["video"] += [f"v{number}"] * len(starts)
            truth["label"] += [config.classes[label]] * len(starts)
            truth["start"] += [round(start * seconds, 1) for start in starts]
            truth["end"] += [round((start + 8) * seconds, 1) for start in starts]
    return videos, truth


if __name__ == "__main__":
    main()
