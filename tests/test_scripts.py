"""run.sh, run_eval.sh and the check before them, with the environment that runs the tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, one_thread
from test_beside import wait_until

from options import parse_args

pytestmark = pytest.mark.whole


def bash(*line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = one_thread() | {"PATH": path} | environment
    return subprocess.run(["bash", *line], capture_output=True, text=True, cwd=ROOT, env=env, stdin=subprocess.DEVNULL)


def test_train_then_evaluate(tiny, tmp_path, places):
    flags = [f"--data_path={tiny}", *TINY, *places, "--seed", "0"]
    done = bash("run.sh", *flags, "--lr", "[0.01]*2")
    assert done.returncode == 0 and "best" in done.stdout, done.stderr
    done = bash("run_eval.sh", *flags, f"--model_file={tmp_path}/model/BaS_Net_model_seed_0.pkl")
    assert done.returncode == 0 and "protocol unnamed" in done.stdout, done.stderr


def test_official_places_and_visible_devices():
    for name, folders in (("run.sh", ""), ("run_eval.sh", "_eval")):
        args = parse_args([], folders)
        places = [args.model_path, args.output_path, args.log_path]
        assert places == [f"./{kind}/BaSNet{folders}" for kind in ("models", "outputs", "logs")]
        assert "CUDA_VISIBLE_DEVICES" not in (ROOT / name).read_text(), "whatever is set is honoured"
    assert "--model_file ./BaSNet_model_best.pkl" in (ROOT / "run_eval.sh").read_text()


@pytest.mark.parametrize(
    "script, wanted", [("run.sh", ["features/train", "features/test"]), ("run_eval.sh", ["features/test"])]
)
def test_missing_data_stop_at_once_with_what_where_and_the_demo(script, wanted, tmp_path):
    done = bash(script, f"--data_path={tmp_path}/none")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for part in (
        "gt.json",
        *wanted,
        f"{tmp_path}/none",
        "bash run.sh --dataset demo",
    ):
        assert part in done.stderr


def test_only_what_is_missing_is_named(tiny):
    (tiny / "split_test.txt").unlink()
    done = bash("run.sh", f"--data_path={tiny}", *TINY)
    assert done.returncode == 2 and "split_test.txt" in done.stderr and "gt.json" not in done.stderr


@pytest.mark.parametrize(
    "script, flags, told",
    [
        ("run.sh", ["--dataset=demo", "--lr=abc"], "--lr 'abc' is not a schedule"),
        ("run.sh", ["--dataset=demo-activitynet", "--cas_th=x"], "--cas_th 'x': expected"),
        ("run_eval.sh", ["--dataset=demo", "--model_file=/nowhere/x.pkl"], "/nowhere/x.pkl: no such file"),
    ],
)
def test_wrong_flags_are_refused_before_an_environment_is_made(script, flags, told, tmp_path):
    """With a Python that has no packages, for which an environment would be made."""
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    done = bash(script, *flags, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1
    assert "environment:" not in done.stderr and "demo data" not in done.stdout


def test_a_folder_of_checkpoints_and_a_run_to_resume_pass_the_check(tiny, tmp_path):
    check = [sys.executable, "-S", "-m", "dataset.present"]
    flags = ["--method=asm_loc", f"--data_path={tiny}", f"--model_file={tmp_path}"]
    assert subprocess.run([*check, "test", *flags], cwd=ROOT).returncode == 0
    flags = [f"--data_path={tiny}", "--resume", f"--model_file={tmp_path}/gone.pkl"]
    assert subprocess.run([*check, "train,test", *flags], cwd=ROOT).returncode == 0
    assert subprocess.run([*check, "test", "--model_file=none.pkl", f"--result={tiny}/gt.json"], cwd=ROOT).returncode == 0


def test_help_needs_no_data_and_no_environment():
    assert "--class_th" in bash("run.sh", "--help").stdout
    bare = [sys.executable, "-S"]  # without the packages that are installed
    assert subprocess.run([*bare, "-c", "import numpy"], capture_output=True).returncode == 1
    done = subprocess.run([*bare, "options.py", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "--class_th" in done.stdout, done.stderr
    line = [*bare, "-m", "dataset.present", "train,test", "--data_path=/nowhere"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "/nowhere: missing /nowhere/gt.json and" in done.stderr


def test_the_environment_check_compares_versions(tmp_path):
    check = 'source ./environment.sh; satisfies "$1" "$2"'
    for content, code in (("numpy==0.0.1\n", 1), ("no-such-package==1.0\n", 1), ("# nothing\n", 0)):
        (tmp_path / "wanted.txt").write_text(content)
        assert bash("-c", check, "_", sys.executable, str(tmp_path / "wanted.txt")).returncode == code
    assert bash("-c", check, "_", sys.executable, "requirements.txt").returncode == 0


PYTHON = """#!/bin/bash
# A Python that needs no network: it makes an environment and installs packages in a while, and tells when it begins and ends.
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"-m pip --version") exit 0 ;;
    *"-m pip install"*)
        [[ -e installed ]] && echo broken >>log
        touch installed
        echo begins >>log
        for _ in $(seq 100); do [[ -e go ]] && break; sleep 0.1; done
        echo ends >>log ;;
    *) [[ $0 == *.venv/* || $* != *wanted.txt* ]] || exit 1; exec PYTHON "$@" ;;
esac
"""


@pytest.fixture
def bare(tmp_path):
    """A copy of environment.sh in a folder without .venv; a function that starts a script which uses it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON.replace("exec PYTHON", f"exec {sys.executable}"))
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "environment.sh").write_text((ROOT / "environment.sh").read_text())
    (tmp_path / "wanted.txt").write_text("")
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin"}  # without the uv of a user
    line = ["bash", "-c", 'set -euo pipefail; source ./environment.sh; use_environment wanted.txt; echo "uses $python"']
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return lambda: subprocess.Popen(line, cwd=tmp_path, env=env, start_new_session=True, **pipes)


def test_of_two_first_scripts_one_makes_the_environment_and_the_other_waits(bare, tmp_path):
    first = bare()
    wait_until(lambda: (tmp_path / "log").exists(), seconds=20)
    second = bare()
    line = second.stderr.readline()
    assert line == "environment: waiting for .venv, which another script of this folder is installing\n"
    (tmp_path / "go").touch()
    for process in (first, second):
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, f"uses {tmp_path}/.venv/bin/python\n"), err
    assert err == "", "what it waited for is all that it tells"
    assert (tmp_path / "log").read_text() == "begins\nends\n", "installed once"


def test_a_killed_script_keeps_no_other_from_making_the_environment(bare, tmp_path):
    first = bare()
    wait_until(lambda: (tmp_path / "log").exists(), seconds=20)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (tmp_path / "go").touch()
    (tmp_path / "installed").unlink()
    second = bare()
    out, err = second.communicate(timeout=20)
    assert (second.returncode, out) == (0, f"uses {tmp_path}/.venv/bin/python\n") and "waiting" not in err, err


UV = """#!/bin/bash
# A uv that needs no network: it does what its name says, unless a file broken_uv is there.
echo "uv $*" >>log
[[ -e broken_uv ]] && exit 1
case "$*" in
    *venv*) mkdir -p .venv/bin && cp bin/python .venv/bin/python ;;
    *"pip install"*) touch installed ;;
esac
"""


@pytest.mark.parametrize("broken", [False, True])
def test_uv_makes_the_environment_if_it_is_there_and_can(bare, tmp_path, broken):
    (tmp_path / "bin" / "uv").write_text(UV)
    (tmp_path / "bin" / "uv").chmod(0o755)
    (tmp_path / "go").touch()
    if broken:
        (tmp_path / "broken_uv").touch()
    process = bare()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, f"uses {tmp_path}/.venv/bin/python\n"), err
    python = tmp_path / ".venv" / "bin" / "python"
    wanted = ["uv venv --quiet --seed --python " + str(tmp_path / "bin" / "python") + " .venv"]
    wanted += [f"uv pip install --quiet --python {python} -r wanted.txt"] + ["begins", "ends"] * broken
    assert (tmp_path / "log").read_text().splitlines() == wanted
    assert ("uv could not create .venv; trying venv" in err) == ("uv could not install wanted.txt; trying pip" in err) == broken
