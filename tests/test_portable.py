"""Other systems and versions: what is imported everywhere, and the versions that are declared."""

import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT, one_thread
from packaging.requirements import Requirement

from engine import workers
from engine.device import multiplies

EVERYTHING = """
import builtins, importlib, multiprocessing, os, pathlib, signal, sys
import distributed, filelock, joblib, matplotlib.figure, numba, pandas, sklearn.metrics, torch, torch.utils.tensorboard, tqdm
import torch._dynamo, torch.distributed, torch.nn.parallel

root = pathlib.Path.cwd()
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "crypt", "spwd", "readline"}
real = builtins.__import__

def without(name, globals=None, *rest):
    file = (globals or {}).get("__file__") or ""
    if name.partition(".")[0] in POSIX and file.startswith(str(root)) and ".venv" not in file:
        raise ImportError(f"{file} imports {name}")
    return real(name, globals, *rest)

builtins.__import__ = without
for module, names in {
    os: "fork forkpty getuid geteuid getpgid killpg setsid sched_getaffinity waitid uname mkfifo statvfs posix_fallocate",
    signal: "SIGKILL SIGHUP SIGUSR1 SIGALRM SIGPIPE SIGXFSZ pthread_sigmask alarm setitimer sigwait",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
sys.path.insert(0, str(root))
folders = ["dataset", "engine", "eval", "fast", "methods", "tools", "benchmarks"]
files = [*root.glob("*.py"), *(path for folder in folders for path in (root / folder).rglob("*.py"))]
for path in sorted(files):
    importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
from engine.device import multiplies
assert multiplies(torch.float32)
print(len(files), "modules")
"""


@pytest.mark.whole
def test_everything_is_imported_without_what_windows_lacks():
    """No module needs a POSIX module, or functions of `os` and `signal` that Windows lacks, to be imported."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EVERYTHING], cwd=ROOT, env=one_thread(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-2]) > 80


def test_workers_without_a_forkserver(monkeypatch):
    """Windows has no such start method."""
    monkeypatch.setattr(workers.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with workers.Beside(abs, 1) as beside:
        for number in (-3, 4):
            beside.begin(number, number)
        assert list(beside.done(wait_for_all=True)) == [(-3, 3), (4, 4)]


def test_the_probe_of_a_processor_without_fork(monkeypatch):
    import torch

    monkeypatch.delattr("os.fork")
    answers = []
    monkeypatch.setattr(
        "subprocess.run", lambda line, **_: answers.append(line) or subprocess.CompletedProcess(line, len(answers) - 1)
    )
    assert multiplies(torch.bfloat16) and not multiplies(torch.bfloat16)
    assert "dtype=torch.bfloat16" in answers[0][-1]


def test_declared_ranges_hold_the_pinned_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    pins = dict(line.split("==") for line in lines if line)
    assert pins.keys() == ranges.keys()
    assert [name for name, version in pins.items() if version not in ranges[name]] == []
    assert "{}.{}".format(*sys.version_info) in Requirement(f"python{project['requires-python']}").specifier
