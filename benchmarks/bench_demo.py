"""What the run of the built-in demo spends its time on: python -m benchmarks.bench_demo

One run without a profile for its time, one with for the shares of functions, each by what it does itself.
"""

import contextlib
import cProfile
import io
import pstats
import tempfile
import time

import main as program
from options import parse_args

SHOWN = 12


def main() -> None:
    train()  # compiles kernels and makes the data, once for a machine
    begun = time.perf_counter()
    train()
    print(f"the demo's run: {time.perf_counter() - begun:.1f} s, imports not counted\n")
    profile = cProfile.Profile()
    profile.runcall(train)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    whole = sum(own for _, _, own, _, _ in stats.values())
    print("| function | calls | seconds of its own | share |\n| --- | --- | --- | --- |")
    for (file, _, name), (_, calls, own, _, _) in sorted(stats.items(), key=lambda item: -item[1][2])[:SHOWN]:
        place = "" if file == "~" else f"{file.rsplit('/', 1)[-1]}: "
        print(f"| {place}{name.strip('{}<>')} | {calls} | {own:.2f} | {100 * own / whole:.0f}% |")


def train() -> None:
    with tempfile.TemporaryDirectory(prefix="bench_demo_") as folder, contextlib.redirect_stdout(io.StringIO()):
        places = [f"--{kind}_path={folder}/{kind}" for kind in ("model", "output", "log")]
        program.train(parse_args(["--dataset=demo", "--quiet", *places]))


if __name__ == "__main__":
    main()
