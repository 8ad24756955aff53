"""Settings that tools.lab localizes and scores a minute, at the size of THUMOS'14: python -m benchmarks.bench_lab"""

import argparse

import numpy as np

from benchmarks.bench_scoring import once, random_activations
from engine.search import Part, Search, Setting
from eval.table import columns
from options import make_config, parse_args
from test import detect, score_tables, without_memory
from utils import cores


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    config = make_config(parse_args(["--hidden", "8", "--len_feature", "2"]))
    videos = {f"video_{number}": arrays for number, arrays in enumerate(random_activations())}
    method = without_memory(config)
    r = np.random.default_rng(0)
    start = r.random(16 * len(videos)) * 200
    truth = {"video": np.repeat(list(videos), 16), "label": r.choice(config.classes, len(start)), "start": start}
    part = Part(columns(truth | {"end": start + r.exponential(5, len(start))}, "random instances", False), frozenset(videos))
    search = Search(config, videos, {"test": part})
    found = sum(len(detections.scores) for detections in detect(method, videos).values())
    print(f"{len(videos)} videos, {found} detections, {len(config.tiou_thresholds)} tIoUs, {cores()} cores")

    score_tables(part.truth, next(search.detections([{"nms_th": 0.7}])), config.tiou_thresholds)
    plain: list[Setting] = [{"outer": float(outer)} for outer in np.linspace(0.1, 1, 60)]
    shared: list[Setting] = [{"outer": o, "nms_th": n / 20} for o in np.linspace(0.1, 1, 12).tolist() for n in range(6, 19)]
    list(search.run(shared[:3], 1))
    for name, settings in (("60 widths of the surroundings", plain), ("12 of these times 13 NMS thresholds", shared)):
        for jobs in sorted({1, cores()}):
            seconds = min(once(lambda s=settings, j=jobs: list(search.run(s, j)))[0] for _ in range(3))  # type: ignore[misc]
            print(f"{name}, {jobs} threads: {60 * len(settings) / seconds:,.0f} settings a minute")


if __name__ == "__main__":
    main()
