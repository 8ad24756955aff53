"""Time and memory of a large data set and of a large detections file: python -m benchmarks.bench_load [--videos 15000]

Random videos with 200 classes in a temporary folder: two iterations and one evaluation of `main.py`, then `main_eval.py
--result` on a file of a million detections. A line that a program prints ends a phase. A second run shows both without the
time in which kernels are compiled.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CLASSES, WIDTH = 200, 16  # features of one stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=15_000, help="a third of them for tests")
    parser.add_argument("--detections", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=0, help="processes that evaluate during training")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_load_") as name:
        folder = Path(name)
        if args.videos:
            make_data(folder / "data", args.videos)
            phases = run(training(folder, args.workers))
            record = json.loads((folder / "output" / "log.jsonl").read_text())
            print_phases(f"main.py, {args.videos:,} videos, {record['num_detections']:,} detections", *phases)
        if args.detections:
            make_detections(folder, args.detections)
            print_phases(f"main_eval.py --result, {args.detections:,} detections", *run(scoring(folder)))


# -------------------------------------------------------------------------------------------------------- data


def make_data(folder: Path, videos: int) -> None:
    """Write features of 30 to 120 snippets a video, annotations and a dataset.json."""
    r = np.random.default_rng(0)
    noise = r.random((4000, WIDTH), dtype=np.float32)
    database = {}
    for number in range(videos):
        subset = "train" if number % 3 else "test"
        annotation = {"segment": [1.0, 9.0], "label": f"class {number // 3 % CLASSES}"}
        database[f"video_{number}"] = {"subset": subset, "annotations": [annotation]}
        length = r.integers(30, 121)
        for stream in ("rgb", "flow"):
            path = folder / "features" / subset / stream / f"video_{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            first = r.integers(len(noise) - length)
            np.save(path, noise[first : first + length])
    (folder / "gt.json").write_text(json.dumps({"database": database}))
    (folder / "dataset.json").write_text(json.dumps({"name": "load", "stream_width": WIDTH}))


def make_detections(folder: Path, count: int, videos: int = 5000) -> None:
    """Write a ground truth and a file of detections, the same number in every video."""
    r = np.random.default_rng(0)
    database, each = {}, count // videos
    with open(folder / "detections.json", "w") as stream:
        stream.write('{"version": "VERSION 1.3", "results": {')
        for number in range(videos):
            label = f"class {number % CLASSES}"
            database[f"video_{number}"] = {"subset": "test", "annotations": [{"segment": [10.0, 30.0], "label": label}]}
            columns = zip(r.random(each).tolist(), np.sort(60 * r.random((each, 2))).tolist(), strict=True)
            rows = [{"label": label, "score": score, "segment": segment} for score, segment in columns]
            stream.write(f'{", " * (number > 0)}"video_{number}": {json.dumps(rows)}')
        stream.write('}, "external_data": {}}\n')
    (folder / "gt.json").write_text(json.dumps({"database": database}))


# ---------------------------------------------------------------------------------------------------- programs


def training(folder: Path, workers: int = 0) -> list[str]:
    """The command line of two iterations and one evaluation, at the length T of THUMOS'14; nearly all proposals are detections.

    So each test video has some 600 detections, although the network has learnt nothing.
    """
    data = folder / "data"
    flags = [f"--data_path={data}", f"--dataset={data / 'dataset.json'}", "--cache_path=none", "--seed=0", "--device=cpu"]
    flags += [f"--{kind}_path={folder / kind}" for kind in ("model", "output", "log")]
    flags += ["--num_segments=750", "--hidden=16", "--nms_th=1", "--cas_th=0:1:0.02", "--lr=[0.0001]*2"]
    return ["main.py", *flags, f"--eval_workers={workers}"]


def scoring(folder: Path) -> list[str]:
    description = folder / "dataset.json"
    description.write_text(json.dumps({"name": "load"}))
    return ["main_eval.py", f"--result={folder / 'detections.json'}", f"--dataset={description}"]


@dataclass(frozen=True)
class Phase:
    """What a program had used when it printed a line."""

    seconds: float
    cpu: float  # seconds of processor time, all threads
    mib: float  # largest resident memory so far
    line: str


def run(line: list[str]) -> tuple[list[Phase], Phase]:
    """Run a program of the project; returns its phases, and what it used in total."""
    begun, phases, last = time.monotonic(), [], ""
    with subprocess.Popen([sys.executable, *line], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for last in process.stdout:
            phases.append(Phase(time.monotonic() - begun, *used_by(process.pid), last.strip()))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(line)} exited with code {process.returncode}: {last}")
    return phases, Phase(time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**10, "in total")


def used_by(process: int) -> tuple[float, float]:
    """Processor seconds and the largest resident memory in MiB of a running process so far; nan where /proc is missing."""
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return float("nan"), float("nan")
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), int(peak[1]) / 2**10 if peak else float("nan")


def print_phases(name: str, phases: list[Phase], total: Phase) -> None:
    print(f"\n{name}\n| seconds | CPU seconds | peak MiB | line printed |\n| --- | --- | --- | --- |")
    shown = [0.0, *(phase.seconds for phase in phases)]
    ends = [phase for phase, before in zip(phases, shown, strict=False) if phase.line and phase.seconds - before > 0.1]
    for phase in [*ends, total]:
        print(f"| {phase.seconds:.1f} | {phase.cpu:.1f} | {phase.mib:,.0f} | {phase.line[:100].replace('|', ' ')} |")


if __name__ == "__main__":
    main()
