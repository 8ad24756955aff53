"""Kills a tiny training run at every single write, resumes it, and compares all files with an undisturbed run.

`python tests/kill_everywhere.py DATA FOLDER` prints one line for each kill, and at the end of each series the files that were
being written at one; test_resume.py runs it. One process that forks, so that torch is imported once.
"""

import itertools
import os
import signal
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sklearn.metrics  # noqa: F401 these two are imported when first used: better once here than in every child
import torch
import torch._dynamo
from conftest import TINY, without_pictures

import main
from engine import checkpoint, recorder
from engine import files as outputs
from options import parse_args
from utils import UserError

FLAGS = [
    "--seed=0",
    "--lr=[0.01]*4",
    "--eval_every=2",
    "--quiet",
    "--cache_path=none",
    "--model_path=model",
    "--output_path=output",
    "--log_path=log",
]


OTHER = "--dropout=0.1"  # marks a run of other settings


def run(folder: Path, data: str, *flags: str, kill_at: int = -1) -> int:
    """Train in a forked child inside `folder`; returns how it ended, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    os.dup2(os.open("stdout", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 1)
    arm(kill_at)
    outputs.provenance = lambda config: {"command": "main.py"}  # it may name a change that is made to the code meanwhile
    recorder.CHECKPOINT_SHARE = float("inf")  # else the time that a save takes decides how many there are
    checkpoint.uuid.uuid4 = lambda: uuid.UUID(int=OTHER in flags)  # else every run's files name it differently
    try:
        with without_pictures():
            main.train(parse_args([f"--data_path={data}", *TINY, *FLAGS, *flags]))
    except UserError:
        os._exit(2)
    os._exit(0)


def arm(kill_at: int) -> None:
    """Die at the `kill_at`-th step of writing: with a file half written, before it is renamed, or just after."""
    steps = itertools.count()
    real_fsync, real_replace, real_rename = os.fsync, os.replace, os.rename

    def step() -> bool:
        return next(steps) == kill_at

    def die(file: str | Path) -> None:
        Path("killed_at").write_text(Path(file).name)
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        if step():
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def stepwise(real: Callable[[str, str], None], source: str, target: str) -> None:
        if step():
            die(target)
        real(source, target)
        if step():
            die(target)

    def append(path: Path, text: str) -> None:
        with open(path, "a", encoding="utf-8") as stream:
            if step():
                stream.write(text[: len(text) // 2])
                stream.flush()
                die(path)
            stream.write(text + "\n")

    os.fsync, outputs.append_line = fsync, append
    os.replace, os.rename = partial(stepwise, real_replace), partial(stepwise, real_rename)


def files(folder: Path) -> dict[str, object]:
    """Contents of all files of a run; of the checkpoint what it holds, as equal objects may be pickled differently."""
    kept = [path for kind in ("model", "output") for path in (folder / kind).glob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): plain(torch.load(path)) if path.suffix == ".ckpt" else path.read_bytes() for path in kept
    }


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def set_aside(folder: Path) -> set[tuple[str, bytes]]:
    """Names and contents of all files that were moved for a new run."""
    return {(path.name, path.read_bytes()) for path in folder.glob("*/earlier_runs/*/*")}


def kill_everywhere(data: str, folder: Path) -> None:
    """Kill the first run in a folder, and one that follows a run of other settings there."""
    for first in ([], [OTHER]):
        for name in itertools.chain(["undisturbed"], map(str, itertools.count())):
            place = folder / f"{name}{'_second' if first else ''}"
            if name == "undisturbed":
                killed_at: set[str] = set()
            if first:
                assert run(place, data, *first) == 0
            earlier = {(path.name, path.read_bytes()) for path in place.glob("*/*") if path.is_file()}
            ended = run(place, data, kill_at=-1 if name == "undisturbed" else int(name))
            if name == "undisturbed":
                expected = files(place)
                continue
            if ended == 0:
                print(f"steps of writing: {' '.join(sorted(killed_at))}")
                break
            assert ended == -signal.SIGKILL, ended
            killed_at.add((place / "killed_at").read_text())
            resumed = run(place, data, "--resume")
            if first and resumed == 2:  # killed before anything was moved: the earlier run is still the one to be resumed
                resumed = run(place, data)
            assert resumed == 0
            found = files(place)
            differ = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            lost = [name for name, _ in earlier - set_aside(place)]
            print(f"killed at step {name}: {f'differs in {differ}, lost {lost}' if differ or lost else 'same files'}")


if __name__ == "__main__":
    kill_everywhere(sys.argv[1], Path(sys.argv[2]))
