"""Work beside the training: results in order, not too many at a time, and the very same run as without."""

import os
import time

import pytest
from test_resume import kept_bytes

from beside import PER_WORKER, Beside
from utils import UserError


def slower_first(number):
    time.sleep(0.3 if number == 0 else 0)
    return number * number


def die(_):
    os._exit(1)


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


def test_a_worker_that_dies_is_a_message():
    with Beside(die, 1) as beside, pytest.raises(UserError, match=r"died.*--resume"):
        beside.begin(0, 0)
        list(beside.done(wait_for_all=True))


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
