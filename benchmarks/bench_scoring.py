"""Time of localization and scoring against the plain versions in tests/oracles.py: python -m benchmarks.bench_scoring

Random data of the size of THUMOS'14 and ActivityNet; ratios are of one run. The plain versions take some minutes.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas

from eval.eval_detection import TIOU_THUMOS, detection_map
from eval.proposals import average_recall
from eval.table import read_ground_truth, read_predictions
from localize import Arrays, localize, localize_all
from methods.base import build_method
from options import make_config, parse_args
from tests import oracles


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"{os.cpu_count()} cores; figures are medians of 3 to 7 runs after a warm-up; the plain versions run once")
    bench_evaluator()
    bench_growth()
    bench_localization()


def random_detections(num_detections: int, num_videos: int, num_classes: int, per_video: int, seed: int = 0) -> tuple[Any, Any]:
    """Ground truth, in tenths of a second, and detections as columns; most detections are near a ground truth."""
    r = np.random.default_rng(seed)
    video = np.repeat(np.arange(num_videos), per_video)
    label = (video + (r.random(len(video)) < 0.1)) % num_classes
    start = r.random(len(video)) * 200
    truth = {
        "video": video,
        "label": label,
        "start": start.round(1),
        "end": (start + r.exponential(5, len(video)) + 0.3).round(1),
    }
    near = r.integers(0, len(video), num_detections)
    length = truth["end"][near] - truth["start"][near]
    first = truth["start"][near] + 0.5 * length * r.standard_normal(num_detections)
    found = {
        "video": video[near],
        "label": np.where(r.random(num_detections) < 0.8, label[near], r.integers(0, num_classes, num_detections)),
        "start": first,
        "end": first + length * r.uniform(0.5, 1.5, num_detections),
        "score": r.random(num_detections),
    }
    return truth, found


def results_of(found: dict[str, Any]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for video, label, start, end, score in zip(*(column.tolist() for column in found.values()), strict=True):
        results.setdefault(str(video), []).append({"label": str(label), "score": score, "segment": [start, end]})
    return {"results": results}


def bench_evaluator() -> None:
    truth, found = random_detections(32_000, 210, 20, 16)
    truth, found = (
        {name: column.astype(str) if name in ("video", "label") else column for name, column in table.items()}
        for table in (truth, found)
    )
    plain, expected = once(lambda: oracles.detection_map_by_rows(pandas.DataFrame(truth), pandas.DataFrame(found), TIOU_THUMOS))
    assert np.abs(detection_map(truth, found).ap - expected).max() < 1e-9

    def report(name: str, given: dict[str, Any]) -> None:
        fast = median(lambda: detection_map(truth, given))
        size = "mAP, 32k detections, 210 videos, 20 classes, 9 tIoUs"
        print(f"{size}, from {name}: {fast * 1e3:.1f} ms; plain {plain:.1f} s = {plain / fast:.0f}x")

    report("columns", found)
    report("parsed JSON", json.loads(json.dumps(results_of(found))))
    tables = read_ground_truth(truth), read_predictions(found)
    print(f"average recall at 1..100 proposals, same detections: {median(lambda: average_recall(*tables)) * 1e3:.1f} ms")


def bench_growth() -> None:
    tiou = np.linspace(0.5, 0.95, 10)
    for count in (50_000, 200_000, 473_000, 1_000_000, 2_000_000):
        tables = random_detections(count, 4900, 200, 2)
        seconds = median(partial(detection_map, *tables, tiou), 3)
        print(
            f"mAP, {count:>9,} detections, 4,900 videos, 200 classes, 10 tIoUs: {seconds:.2f} s, "
            f"{seconds / count * 1e6:.2f} s per million"
        )


def random_activations() -> list[Arrays]:
    """BaS-Net's activations of as many videos as THUMOS'14 tests, with one or two predicted classes each."""
    r = np.random.default_rng(0)
    videos: list[Arrays] = []
    for number in range(210):
        times = np.arange(750)[:, None]
        cas = np.sin(times / r.uniform(5, 40, (1, 21)) + r.uniform(0, 6, (1, 21))) * 3 + 0.3 * r.standard_normal((750, 21))
        score = (r.random(21) * 0.1).astype(np.float32)
        score[r.choice(20, 1 + (number % 6 == 0), replace=False)] = 0.5
        videos.append({"cas": cas.astype(np.float32), "score": score, "num_seg": np.array(r.integers(100, 1500))})
    return videos


def bench_localization() -> None:
    method = build_method(make_config(parse_args(["--hidden", "8", "--len_feature", "2"])))
    videos = random_activations()

    def run(part: list[Any]) -> int:
        return sum(len(localize(method.curves(video)).scores) for video in part)

    plain, expected = once(lambda: sum(len(oracles.localize(method.curves(video))) for video in videos))
    assert run(videos) == expected
    fast = median(lambda: run(videos))
    print(
        f"localization of 210 videos, {expected} detections, one core: {fast:.3f} s; plain {plain:.1f} s = {plain / fast:.0f}x"
    )
    cores, many, alone = sorted(os.sched_getaffinity(0)), videos * 8, 0.0
    for count in sorted({1, *(2**i for i in range(1, 10) if 2**i < len(cores)), len(cores)}):
        os.sched_setaffinity(0, cores[:count])
        seconds = median(lambda: localize_all(method.curves(video) for video in many))
        alone = alone or seconds
        print(f"localization of 1,680 videos on {count} cores: {seconds:.2f} s = {alone / seconds:.2f}x one core")
    os.sched_setaffinity(0, cores)


def once(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def median(work: Callable[[], Any], runs: int = 7) -> float:
    work()
    return float(np.median([once(work)[0] for _ in range(runs)]))


if __name__ == "__main__":
    main()
