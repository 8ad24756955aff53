"""Processes that train together compute what one computes, and the end of one ends all with a message."""

import contextlib
import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, command, one_thread

from team import Team

RUN = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", "2", "--batch_size", "2", "--class_th", "0.01"]
LOSSES = ("loss_base", "loss_supp", "loss_norm", "loss_total")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def torchrun(tiny, places):
    """Run main.py in two processes, as torchrun starts them."""

    def run(*flags):
        start = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
        line = [sys.executable, *start, *command("main.py", tiny, places, *flags)[1:]]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=one_thread())
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def kept(tmp_path):
    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    found = json.loads((tmp_path / "output" / "detections_last_seed_0.json").read_text())["results"]
    rows = [(video, row["label"], *row["segment"], row["score"]) for video in found for row in found[video]]
    return records, rows


def agree(some, others):
    for a, b in zip(*(records for records, _ in (some, others)), strict=True):
        np.testing.assert_allclose([a[name] for name in LOSSES], [b[name] for name in LOSSES], rtol=1e-5, atol=1e-7)
        assert a["average_mAP"] == b["average_mAP"] and a["test_acc"] == b["test_acc"]
    assert len(some[1]) > 50 and [row[:4] for row in some[1]] == [row[:4] for row in others[1]]
    np.testing.assert_allclose([row[4] for row in some[1]], [row[4] for row in others[1]], atol=1e-5)


def test_two_processes_compute_what_one_does(torchrun, cli, tmp_path):
    """Dropout included. Batches are of two videos and, at the end of a pass of five, of one: a process without a video."""
    cli("main.py", *RUN)
    alone = kept(tmp_path)
    assert "2 processes" in torchrun(*RUN)
    agree(kept(tmp_path), alone)
    torchrun(*RUN, "--num_iters", "3")
    cli("main.py", *RUN, "--resume", "--num_iters", "4")  # with another number of processes
    torchrun(*RUN, "--resume")
    agree(kept(tmp_path), alone)


@contextlib.contextmanager
def two_processes(tiny, places):
    """A long run in two processes, when it has evaluated twice; killed at the end if it still goes on."""
    team = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    line = command("main.py", tiny, places, "--seed", "0", "--lr", "[0.001]*100000", "--eval_every", "2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    first, second = (subprocess.Popen(line, env=one_thread() | team | {"RANK": str(rank)}, **pipes) for rank in range(2))
    try:
        next(text for text in first.stdout if text.startswith("iteration 4/"))
        yield first, second
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_the_death_of_a_process_ends_the_others_with_a_message(tiny, places):
    with two_processes(tiny, places) as (first, second):
        second.send_signal(signal.SIGKILL)
        message = first.communicate(timeout=60)[1]
    assert first.returncode == 2 and "lost another one" in message and "--resume" in message and "Traceback" not in message


def test_a_signal_to_one_process_stops_both(tiny, places, tmp_path):
    with two_processes(tiny, places) as (first, second):
        second.send_signal(signal.SIGINT)
        message = first.communicate(timeout=60)[1]
        second.communicate(timeout=60)
    stopped = int(message.split("stopped after iteration ")[1].split(";")[0])
    assert first.returncode == 143 and second.returncode == 130
    assert torch.load(tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt")["iteration"] == stopped


def test_a_team_that_nobody_started(cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "RANK, MASTER_ADDR, MASTER_PORT is not" in cli("main.py", expect=2).stderr


@pytest.mark.parametrize("size", [1, 2, 3, 16])
@pytest.mark.parametrize("count", [0, 1, 5, 16, 17])
def test_shares_are_the_whole(monkeypatch, size, count):
    for name, value in {"WORLD_SIZE": str(size), "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    shared, dealt = [], []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        things = range(count)
        shared += things[Team().share(count)]
        dealt += things[Team().every()]
    assert shared == list(range(count)) == sorted(dealt)
