"""Kills tiny runs of every method at random moments, resumes them, and compares all files with an undisturbed run.

`python tests/kill_at_any_time.py DATA FOLDER` prints, for each phase, how many kills hit it; test_resume.py runs it. A run of
one seed is a fork of this process, in which torch is imported once; a run of several seeds is a program of its own.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sklearn.metrics  # noqa: F401 imported by a run when first used: better once here than in every fork
import torch
import torch._dynamo
from conftest import ROOT, TINY, without_pictures
from kill_everywhere import plain

import main
from methods.base import METHODS
from options import parse_args

FLAGS = {
    "basnet": ["--lr=[0.01]*40", "--eval_every=4"],
    "um": ["--lr=[0.01]*40", "--eval_every=4"],
    "backtal": ["--lr=[0.01]*40", "--eval_every=4"],
    "asm_loc": ["--lr=[0.01]*12", "--eval_every=4", "--steps=2", "--step_iters=12"],
    "cola": ["--lr=[0.01]*40", "--eval_every=4"],
}
PLACES = ["model", "output", "packed"]  # what a run leaves that is to be the same
NOTES = ("config", "run.log")  # beginnings of the names of files that tell when a run was started, and again


class Case:
    """One command, in a folder of its own."""

    def __init__(self, folder: Path, data: str, method: str, seeds: int):
        self.folder, self.seeds = folder, seeds
        places = [f"--{kind}_path={kind}" for kind in ("model", "output", "log")] + ["--cache_path=packed"]
        seed = f"--seeds=0-{seeds - 1}" if seeds > 1 else "--seed=0"
        usual = ["--quiet", "--class_th=0.01"]
        self.flags = [f"--method={method}", f"--data_path={data}", *TINY, *FLAGS[method], *places, seed, *usual]

    def start(self, *flags: str) -> int:
        """Start it in a session of its own; returns the process's number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child:
            return child
        os.setsid()
        os.chdir(self.folder)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        line = [*self.flags, *flags]
        if self.seeds > 1:
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            os.execve(sys.executable, [sys.executable, str(ROOT / "main.py"), *line], env)
        torch.set_num_threads(1)
        try:
            with without_pictures():
                main.train(parse_args(line))
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
            os._exit(2)
        os._exit(0)

    def run(self, *flags: str) -> None:
        ended = os.waitstatus_to_exitcode(os.waitpid(self.start(*flags), 0)[1])
        assert ended == 0, (self.folder, ended, (self.folder / "stderr").read_text())

    def phase(self) -> str:
        """How far a killed run came."""
        if any(self.folder.glob("output/**/report*.md")):
            return "reporting"
        if any(self.folder.glob("model/**/*_last.ckpt")):
            return "training, after a checkpoint"
        if any(path.suffix != ".bin" for path in self.folder.glob("packed/*") if path.is_file()):
            return "training, before the first checkpoint"
        return "packing" if any(self.folder.glob("packed/*")) else "starting"

    def files(self) -> dict[str, object]:
        """Contents of all files; of a checkpoint what it holds, as equal objects may be pickled differently."""
        paths = [path for place in PLACES for path in (self.folder / place).rglob("*") if path.is_file()]
        kept = [path for path in paths if not path.name.startswith(NOTES) and "earlier_runs" not in path.parts]
        return {str(path.relative_to(self.folder)): content(path, self.folder) for path in kept}


def content(path: Path, folder: Path) -> object:
    if path.suffix != ".ckpt":
        return path.read_bytes().replace(bytes(folder), b"FOLDER")
    return plain({key: value for key, value in torch.load(path).items() if key != "run"})  # a random name


def processes_of(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(place.name))
    return found


def kill_once(case: Case, after: float) -> str:
    """Kill a run `after` seconds; returns the phase in which it was."""
    child = case.start()
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    deadline = time.monotonic() + 20
    while processes_of(child):
        assert time.monotonic() < deadline, f"processes left: {processes_of(child)}"
        time.sleep(0.05)
    return "ended before the kill" if ended == 0 else case.phase()


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def kill_series(folder: Path, data: str, method: str, seeds: int, kills: int) -> Counter[str]:
    """Kill runs of one command at `kills` moments; returns how many hit each phase."""
    straight = Case(folder / "straight", data, method, seeds)
    straight.run()
    shutil.rmtree(straight.folder)  # the first run compiles kernels; the second tells the time
    began = time.monotonic()
    straight.run()
    seconds, expected = time.monotonic() - began, straight.files()
    phases: Counter[str] = Counter()
    for number in range(kills):
        case = Case(folder / str(number), data, method, seeds)
        early = 0.2 if number % 3 == 0 else 1.0  # the packed copy is written in the first part of a run
        phases[kill_once(case, random.random() * seconds * early)] += 1
        case.run("--resume")
        differ = differences(expected, case.files())
        assert not differ, f"{case.folder}: differs in {differ}"
        shutil.rmtree(case.folder)
    return phases


def parse_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=44, help="kills of each method")
    parser.add_argument("--kills_of_seeds", type=int, default=20, help="kills of a run of two seeds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    return parser.parse_args()


def kill_at_any_time() -> None:
    args = parse_line()
    random.seed(args.seed)
    total: Counter[str] = Counter()
    series = [(method, 1, args.kills) for method in METHODS] + [("basnet", 2, args.kills_of_seeds)]
    for method, seeds, kills in series:
        phases = kill_series(args.folder.resolve() / f"{method}_{seeds}", args.data, method, seeds, kills)
        print(f"{method}, {seeds} seeds: {dict(phases)}", flush=True)
        total += phases
    total.pop("ended before the kill", None)
    print(f"{sum(total.values())} kills, all resumed to the same files: {dict(total)}")


if __name__ == "__main__":
    kill_at_any_time()
