"""Work beside the training: results in order, not too many at a time, and the very same run as without."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, command, one_thread
from test_resume import kept_bytes

from engine.workers import PER_WORKER, Beside
from utils import UserError


def slower_first(number):
    time.sleep(0.3 if number == 0 else 0)
    return number * number


def work_or_die(parent):
    if os.getpid() != parent:
        os._exit(1)
    return "done here"


def fail(failure):
    raise failure


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_their_beginning(workers):
    with Beside(slower_first, workers) as beside:
        found, most = [], 0
        for number in range(12):
            beside.begin(f"task {number}", number)
            found += beside.done()
            most = max(most, number + 1 - len(found))
        found += beside.done(wait_for_all=True)
    assert found == [(f"task {number}", number**2) for number in range(12)]
    assert most <= PER_WORKER * workers and (most > 0 or not workers)


def test_what_a_killed_worker_was_to_do_is_done_here(capfd):
    with Beside(work_or_die, 1) as beside:
        for number in range(3):
            beside.begin(number, os.getpid())
        assert list(beside.done(wait_for_all=True)) == [(number, "done here") for number in range(3)]
    assert "was killed" in capfd.readouterr().err


def test_what_goes_wrong_in_a_worker_is_told():
    for failure, message in ((UserError("the user's mistake"), "mistake"), (MemoryError("too much"), "MemoryError: too much")):
        with Beside(fail, 1) as beside, pytest.raises((UserError, RuntimeError), match=message):
            beside.begin(0, failure)
            list(beside.done(wait_for_all=True))


@pytest.mark.whole
def test_workers_find_the_project_from_anywhere(tiny, places, tmp_path):
    run = ["--seed", "0", "--lr", "[0.01]*2", "--eval_every", "1", "--eval_workers", "1"]
    line = command(str(ROOT / "main.py"), tiny, places, *run)
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=one_thread())
    assert done.returncode == 0 and "was killed" not in done.stderr, done.stderr


def session(leader):
    """Processes that are alive in the session of `leader`."""
    found = []
    for state in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = state.parent.name, state.read_text().rpartition(")")[2].split()
            found += [int(pid)] if int(rest[3]) == leader and rest[0] not in "ZX" else []
    return found


@pytest.mark.whole
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    """One in the middle of its work, and one that waits for some."""
    code = (
        "import sys, time; from engine.workers import Beside\n"
        "if __name__ == '__main__':\n"
        "    beside = Beside(exec, 2)\n"
        "    beside.begin(0, f'open({sys.argv[1]!r}, \"w\").close(); import time; time.sleep(600)')\n"
        "    beside.begin(1, 'pass')\n"
        "    print('begun', flush=True); time.sleep(600)\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "at work")]
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": one_thread()}
    with subprocess.Popen(line, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            wait_until(lambda: (tmp_path / "at work").exists() and len(session(process.pid)) >= 4, seconds=60)
            process.kill()
            wait_until(lambda: not session(process.pid), seconds=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.05)


@pytest.mark.whole
@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.5, 1.5])
def test_workers_that_are_just_starting_leave_ctrl_c_to_the_parent(seconds):
    code = (
        "import time, utils; from engine.ending import begin; from engine.workers import Beside\n"
        "def work():\n"
        "    with Beside(abs, 2) as beside:\n"
        "        beside.begin(0, 0); print('begun', flush=True); time.sleep(600)\n"
        "if __name__ == '__main__': begin(); utils.run_command(work)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": one_thread()}
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert (process.returncode, message) == (130, "interrupted\n")


@pytest.mark.whole
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_to_stop_is_saved_whatever_reaches_its_workers(tiny, places, number, code):
    """A cluster's SIGTERM, of which they die first, and a terminal's Ctrl-C, which they leave to the parent."""
    run = ["--seed", "0", "--lr", "[0.01]*100000", "--eval_every", "1", "--eval_workers", "1"]
    line = command("main.py", tiny, places, *run)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": one_thread()}
    with subprocess.Popen(line, start_new_session=True, **pipes) as process:
        next(text for text in process.stdout if text.startswith("iteration 3/"))
        os.killpg(process.pid, number)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == code and "stopped after iteration" in message and "Traceback" not in message
    assert number == signal.SIGTERM or "was killed" not in message


@pytest.mark.whole
def test_the_same_run_with_and_without_workers(cli, tmp_path):
    """Every file to the last bit, the best model's among them; so after a stop in the middle."""

    def kept(folder):
        """All but the model file that has the settings of its training, the number of workers among them."""
        return {name: content for name, content in kept_bytes(folder).items() if not name.endswith(".safetensors")}

    run = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", "1", "--class_th", "0.01"]
    cli("main.py", *run)
    alone = kept(tmp_path)
    cli("main.py", *run, "--eval_workers", "2")
    assert kept(tmp_path) == alone
    cli("main.py", *run, "--eval_workers", "1", "--num_iters", "3")
    cli("main.py", *run, "--eval_workers", "2", "--resume")
    assert kept(tmp_path) == alone
