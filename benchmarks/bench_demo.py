"""Profile of a run on the built-in demo: python -m benchmarks.bench_demo

One run is timed without the profiler; a second one is profiled, by each function's own time.
"""

import argparse
import contextlib
import cProfile
import io
import pstats
import tempfile
import time

import main as program
from options import parse_args

FUNCTIONS = 12


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    train_demo()  # a warm-up, which compiles kernels and makes the data
    begun = time.perf_counter()
    train_demo()
    print(f"run on the demo: {time.perf_counter() - begun:.1f} s without imports\n")
    profile = cProfile.Profile()
    profile.runcall(train_demo)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    whole = sum(own for _, _, own, _, _ in stats.values())
    print("| function | calls | own seconds | share |\n| --- | --- | --- | --- |")
    for (file, _, name), (_, calls, own, _, _) in sorted(stats.items(), key=lambda item: -item[1][2])[:FUNCTIONS]:
        place = "" if file == "~" else f"{file.rsplit('/', 1)[-1]}: "
        print(f"| {place}{name.strip('{}<>')} | {calls} | {own:.2f} | {100 * own / whole:.0f}% |")


def train_demo() -> None:
    with tempfile.TemporaryDirectory(prefix="bench_demo_") as folder, contextlib.redirect_stdout(io.StringIO()):
        places = [f"--{kind}_path={folder}/{kind}" for kind in ("model", "output", "log")]
        program.train(parse_args(["--dataset=demo", "--quiet", *places]))


if __name__ == "__main__":
    main()
