"""Run a command and save its output as a record: python -m benchmarks.record NAME COMMAND ...

`records/NAME.txt` starts with the command, the commit, the machine and the versions of packages.
"""

import datetime
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from engine.provenance import git_state
from fast.products import processor
from utils import atomic_write, cores

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy", "numba", "scikit-learn", "pandas")


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(f"usage: {__doc__}")
    name, command = sys.argv[1], sys.argv[2:]
    begun = time.monotonic()
    revision, changed = git_state(ROOT)
    if changed is None:
        sys.exit(f"the revision of the code is {revision}: nothing is recorded")
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} exited with code {process.returncode}: nothing is recorded")
    head = {
        "command": shlex.join(command),
        "commit": revision + ", changed since" * changed,
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES),
        "took": f"{time.monotonic() - begun:.0f} s",
    }
    path = ROOT / "records" / f"{name}.txt"
    with atomic_write(path) as stream:
        stream.write("".join(f"{key}: {value}\n" for key, value in head.items()) + "\n" + "".join(lines))
    print(f"recorded in {path.relative_to(ROOT)}")


def machine() -> str:
    """A description of cores, processor and GPU."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{cores()} cores of {processor()}{gpu}"


def peak_memory() -> float:
    """The largest memory of this process so far in GiB; NaN where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
