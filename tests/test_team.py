"""Several processes compute what one process computes; if one ends, all end with a message."""

import contextlib
import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, command, one_thread
from matching import assert_match, rows_of_file
from test_resume import records

from dataset.store import Files
from engine.checkpoint import load_network
from engine.team import Team
from methods.base import build_method
from options import make_config, parse_args
from test import compute_activations
from thumos_features import load_data

pytestmark = pytest.mark.whole

RUN = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", "2", "--batch_size", "2", "--class_th", "0.01"]


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


@pytest.fixture
def kept(tiny, tmp_path):
    """Read what a run with these flags left: records, the last network's method and activations, detections in its file."""

    def read(*run):
        config = make_config(parse_args([f"--data_path={tiny}", "--cache_path=none", *TINY, *run]))
        method = build_method(config)
        (checkpoint,) = (tmp_path / "model").glob("*_last.ckpt")
        load_network(method.network, checkpoint, config)
        activations = compute_activations(method, load_data(config).test, Files(1), torch.device("cpu"))
        content = json.loads((tmp_path / "output" / "detections_last_seed_0.json").read_text())
        return records(tmp_path), method, activations, rows_of_file(content, config.classes)

    return read


def agree(some, others):
    """Records of both, and detections of one with those that follow from the network of the other."""
    for a, b in zip(some[0], others[0], strict=True):
        losses = [name for name in a if name.startswith("loss_")]
        assert "loss_total" in losses
        np.testing.assert_allclose([a[name] for name in losses], [b[name] for name in losses], rtol=1e-5, atol=1e-7)
        # a detection at a threshold may change an average precision, of four videos by a hundredth
        assert a["average_mAP"] == pytest.approx(b["average_mAP"], abs=0.02) and a["test_acc"] == b["test_acc"]
    _, method, activations, _ = others
    expected = [some[3][name] for name in activations]
    assert sum(map(len, expected)) > 50
    assert_match(method.curves, activations.values(), expected, tolerance=1e-5)


@pytest.mark.parametrize("method", ["basnet", "cola"])
def test_two_processes_compute_what_one_does(torchrun, cli, kept, method):
    """Dropout included. Batches are of two videos and, at the end of a pass of five, of one: a process without a video."""
    run = [*RUN, "--method", method]
    cli("main.py", *run)
    alone = kept(*run)
    assert "2 processes" in torchrun(*run)
    agree(kept(*run), alone)
    torchrun(*run, "--num_iters", "3")
    cli("main.py", *run, "--resume", "--num_iters", "4")  # with another number of processes
    torchrun(*run, "--resume")
    agree(kept(*run), alone)


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


TEAM = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WORLD_SIZE", "", "is ''; expected an integer of at least 1"),
        ("WORLD_SIZE", "two", "is 'two'; expected an integer of at least 1"),
        ("WORLD_SIZE", "0", "is '0'; expected an integer of at least 1"),
        ("WORLD_SIZE", None, "RANK in the environment is '1'; expected an integer from 0 to 0, as WORLD_SIZE is 1"),
        ("RANK", None, "is not set; expected an integer from 0 to 1, as WORLD_SIZE is 2"),
        ("RANK", "", "is ''; expected an integer from 0 to 1"),
        ("RANK", "1.0", "is '1.0'; expected an integer from 0 to 1"),
        ("RANK", "2", "is '2'; expected an integer from 0 to 1"),
        ("RANK", "-1", "is '-1'; expected an integer from 0 to 1"),
        ("LOCAL_RANK", "", "is ''; expected an integer from 0 to 1"),
        ("LOCAL_RANK", "x", "is 'x'; expected an integer from 0 to 1"),
        ("LOCAL_RANK", "2", "is '2'; expected an integer from 0 to 1"),
        ("MASTER_PORT", None, "is not set; expected an integer from 1 to 65535"),
        ("MASTER_PORT", "", "is ''; expected an integer from 1 to 65535"),
        ("MASTER_PORT", "http", "is 'http'; expected an integer from 1 to 65535"),
        ("MASTER_PORT", "65536", "is '65536'; expected an integer from 1 to 65535"),
        ("MASTER_ADDR", None, "is not set; expected the address"),
        ("MASTER_ADDR", "", "is ''; expected the address"),
    ],
)
def test_a_team_that_is_described_wrongly(cli, monkeypatch, name, value, told):
    for other, usual in (TEAM | {name: value}).items():
        monkeypatch.setenv(other, usual) if usual is not None else monkeypatch.delenv(other, raising=False)
    message = cli("main.py", expect=2).stderr
    assert message.startswith(f"error: {told if told.startswith('RANK') else f'{name} in the environment {told}'}")
    assert "torchrun" in message and len(message.splitlines()) == 1


def test_a_process_alone_on_its_machine_needs_no_local_rank(monkeypatch):
    for name, value in TEAM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK")
    assert (Team().rank, Team().size, Team().local_rank) == (1, 2, 0)


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
