"""Work beside the training: results in order, not too many at a time, and the very same run as without."""

import os
import signal
import subprocess
import time

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
            most = max(most, len(beside.under_way))
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


@pytest.mark.whole
def test_a_job_that_is_to_stop_is_saved_though_its_workers_die_first(tiny, places):
    run = ["--seed", "0", "--lr", "[0.01]*100000", "--eval_every", "1", "--eval_workers", "1"]
    line = command("main.py", tiny, places, *run)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": one_thread()}
    with subprocess.Popen(line, start_new_session=True, **pipes) as process:
        next(text for text in process.stdout if text.startswith("iteration 3/"))
        os.killpg(process.pid, signal.SIGTERM)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "stopped after iteration" in message and "Traceback" not in message


@pytest.mark.whole
def test_the_same_run_with_and_without_workers(cli, tmp_path):
    """Every file to the last bit, the best model's among them; so after a stop in the middle."""
    run = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", "1", "--class_th", "0.01"]
    cli("main.py", *run)
    alone = kept_bytes(tmp_path)
    cli("main.py", *run, "--eval_workers", "2")
    assert kept_bytes(tmp_path) == alone
    cli("main.py", *run, "--eval_workers", "1", "--num_iters", "3")
    cli("main.py", *run, "--eval_workers", "2", "--resume")
    assert kept_bytes(tmp_path) == alone
