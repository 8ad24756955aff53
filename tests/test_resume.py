"""A run that is killed or interrupted and resumed ends with the very bytes of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, command, one_thread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from dataset.draws import Draws
from engine.checkpoint import TrainingState
from engine.files import RunFiles
from methods.base import build_method
from options import make_config, parse_args
from thumos_features import fingerprint, load_data

RUN = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", "2"]


def kept_bytes(tmp_path):
    paths = [path for kind in ("model", "output") for path in (tmp_path / kind).iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in paths if not path.name.startswith("config") and path.suffix != ".ckpt"}


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]


@pytest.mark.whole
def test_killed_during_any_write(tiny, tmp_path):
    """Of each file that a run leaves, and of none is it forgotten."""
    driver = [sys.executable, str(ROOT / "tests" / "kill_everywhere.py"), str(tiny), str(tmp_path)]
    done = subprocess.run(driver, capture_output=True, text=True, env=one_thread(), check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line for line in lines if not line.endswith("same files") and "steps of writing" not in line] == []
    first, second = ({*line.split()[3:]} for line in lines if line.startswith("steps of writing: "))
    left = {path.name for kind in ("model", "output") for path in (tmp_path / "undisturbed" / kind).iterdir()}
    assert left and not left - first and not left - second
    assert any(name.startswith("events") for name in second - first), "moved with the files of the earlier run"


@pytest.mark.slow
def test_killed_at_any_time(tiny, tmp_path):
    """Every method, packing and several seeds included: at least 200 kills; no process is left."""
    driver = [sys.executable, str(ROOT / "tests" / "kill_at_any_time.py"), str(tiny), str(tmp_path)]
    done = subprocess.run(driver, capture_output=True, text=True, env=one_thread(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert int(last.split()[0]) >= 200 and "packing" in last and "training, after a checkpoint" in last, last


@pytest.mark.parametrize("interval", ["2", "3"])  # with 3, the shorter run ends between two evaluations
def test_a_run_can_be_made_longer(cli, tmp_path, interval):
    run = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", interval]
    cli("main.py", *run)
    straight = kept_bytes(tmp_path)
    cli("main.py", *run, "--num_iters", "4")
    assert records(tmp_path)[-1]["iteration"] == 4
    cli("main.py", *run, "--resume")
    assert kept_bytes(tmp_path) == straight
    steps = EventAccumulator(str(tmp_path / "log")).Reload().Scalars("Average mAP")
    assert [event.step for event in steps] == [record["iteration"] for record in records(tmp_path)]
    cli("main.py", *run, "--resume")  # nothing left to do: the same report again
    assert kept_bytes(tmp_path) == straight


def test_the_best_of_a_longer_run_is_not_one_that_only_the_end_evaluated(tmp_path):
    files = RunFiles(make_config(parse_args([f"--{kind}_path={tmp_path / kind}" for kind in ("model", "output")])), quiet=True)
    for path in (files.best_model, files.best_record, files.best_detections):
        path.parent.mkdir(exist_ok=True)
        path.write_text("on the interval")
    files.remember_before_the_end()
    for path in (files.best_model, files.best_record, files.best_detections):
        path.write_text("at the end")
    files.remember_before_the_end()  # the end is evaluated again after a kill
    files.forget_the_end()
    assert set(kept_bytes(tmp_path).values()) == {b"on the interval"}
    files.forget_the_end()
    assert set(kept_bytes(tmp_path).values()) == {b"on the interval"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.whole
def test_signals_save_and_say_how_to_go_on(tiny, places, tmp_path, number, code):
    run = ["--seed", "0", "--lr", "[0.01]*400", "--eval_every", "10"]
    with subprocess.Popen(
        command("main.py", tiny, places, *run),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=one_thread(),
    ) as process:
        for line in process.stdout:
            if line.startswith("iteration 30/"):
                process.send_signal(number)
                break
        process.stdout.read()
        message = process.stderr.read()
    assert process.returncode == code
    assert "stopped after iteration" in message and "--resume" in message and "Traceback" not in message
    stopped = int(message.split("stopped after iteration ")[1].split(";")[0])
    assert 30 <= stopped < 400

    again = command("main.py", tiny, places, *run, "--resume")
    done = subprocess.run(again, capture_output=True, text=True, cwd=ROOT, env=one_thread(), check=True)
    assert f"resuming after iteration {stopped}" in done.stdout
    resumed = kept_bytes(tmp_path)
    subprocess.run(command("main.py", tiny, places, *run), capture_output=True, cwd=ROOT, env=one_thread(), check=True)
    assert kept_bytes(tmp_path) == resumed


@pytest.mark.whole
def test_a_second_ctrl_c_does_not_wait_for_the_step(tiny, places, tmp_path):
    """In a step that never ends, a first signal is heard and waits for it, a SIGTERM after it too, and a Ctrl-C does not."""
    code = (
        "import sys, time, main, train\n"
        "real = train.train_step\n"
        "def endless(loss, state, *rest):\n"
        "    if state.iteration == 3: print('in the step', flush=True); time.sleep(600)\n"
        "    return real(loss, state, *rest)\n"
        "train.train_step = endless\n"
        "sys.argv = sys.argv[1:]\n"
        "main.main()\n"
    )
    line = [sys.executable, "-c", code, *command("main.py", tiny, places, *RUN)[1:]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=ROOT, env=one_thread(), **pipes) as process:
        try:
            next(text for text in process.stdout if text.startswith("in the step"))
            process.send_signal(signal.SIGINT)
            next(text for text in process.stderr if "stopping after this step" in text)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            process.send_signal(signal.SIGINT)
            message = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in message
    assert "stopped at once; saved in" in message and "--resume" in message and "stopped after" not in message
    saved = torch.load(tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt")
    assert saved["iteration"] == 2, "the one that the evaluation left"


def test_a_signal_stops_after_the_step_in_which_it_comes(cli, tmp_path, monkeypatch):
    """And not with the next evaluation, which is far."""
    real = train.train_step

    def signalled(loss, state, *rest):
        if state.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(loss, state, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(train, "train_step", signalled)
        cli("main.py", "--seed", "0", "--lr", "[0.01]*40", "--eval_every", "30", expect=143)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert torch.load(tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt")["iteration"] == 4


@pytest.mark.whole
def test_a_signal_during_an_evaluation_saves_the_state_before_it(cli, tiny, places, tmp_path):
    """The evaluation is given up, and made again when the run is resumed."""
    code = (
        "import os, signal, sys, main, test\n"
        "real, calls = test.test_batches, []\n"
        "def evaluated(*args):\n"
        "    calls.append(args)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return real(*args)\n"
        "test.test_batches = evaluated\n"
        "sys.argv = sys.argv[1:]\n"
        "main.main()\n"
    )
    line = [sys.executable, "-c", code, *command("main.py", tiny, places, *RUN)[1:]]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=one_thread())
    assert done.returncode == 143 and "stopped after iteration 4;" in done.stderr
    assert [record["iteration"] for record in records(tmp_path)] == [2]
    cli("main.py", *RUN, "--resume")
    resumed = kept_bytes(tmp_path)
    cli("main.py", *RUN)
    assert kept_bytes(tmp_path) == resumed


def test_a_stopped_run_can_be_ended_where_it_stands(cli, tmp_path):
    cli("main.py", *RUN, "--num_iters", "5")
    cli("main.py", *RUN, "--num_iters", "5", "--resume")
    assert [record["iteration"] for record in records(tmp_path)] == [2, 4, 5]
    assert (
        "5 iterations done there, --num_iters 3 here" in cli("main.py", *RUN, "--num_iters", "3", "--resume", expect=2).stderr
    )


def test_resume_on_other_data_is_refused(cli, tiny):
    cli("main.py", *RUN)
    (tiny / "split_train.txt").write_text("video_train_0\nvideo_train_1\n")
    assert "other videos" in cli("main.py", *RUN, "--resume", expect=2).stderr


@pytest.mark.parametrize("flags", [[], ["--cache=off"], ["--cache_dtype=float16"]])
def test_resume_on_other_features_is_refused_wherever_they_are(cli, tiny, flags):
    """Of the same length, under the same names. With --cache off, the first batch notices."""
    cli("main.py", *RUN, "--num_iters=4", *flags)
    files = {path: np.load(path) for path in (tiny / "features").rglob("*.npy")}
    for path, features in files.items():
        np.save(path, 3 * features[::-1])
    for cache in ([], ["--cache=off"]):
        told = cli("main.py", *RUN, "--resume", *flags, *cache, expect=2).stderr
        assert "the features of video_" in told and "are not those with which this run began" in told
    for path, features in files.items():
        np.save(path, features)
    assert "iteration 6/6" in cli("main.py", *RUN, "--resume", *flags, "--cache=ram").stdout


def test_resume_moves_what_another_run_has_written_meanwhile(cli, tmp_path):
    cli("main.py", *RUN)
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    cli("main.py", *RUN, "--dropout", "0.1", f"--model_path={tmp_path}/third")
    other = kept_bytes(tmp_path)
    cli("main.py", *RUN, "--resume", f"--model_path={tmp_path}/elsewhere")
    moved = tmp_path / "output" / "earlier_runs" / "2"
    for name in ("log.jsonl", "best_record_seed_0.txt", "detections_last_seed_0.json", "report_seed_0.md"):
        assert (moved / name).read_bytes() == other[name]
    steps = EventAccumulator(str(tmp_path / "log")).Reload().Scalars("Average mAP")
    assert [event.step for event in steps] == [6], "one evaluation repeated, none of the other run's"


def test_resume_without_a_checkpoint_starts(cli):
    assert "iteration 6/6" in cli("main.py", *RUN, "--resume").stdout


def test_resume_with_other_settings_is_refused(cli):
    cli("main.py", *RUN)
    message = cli("main.py", *RUN, "--resume", "--alpha", "0.5", expect=2).stderr
    assert "alpha 0.0001 there, 0.5 here" in message
    message = cli("main.py", *RUN[:2], "--lr", "[0.02]*6", "--eval_every", "2", "--resume", expect=2).stderr
    assert "learning rates" in message


def test_a_second_run_keeps_the_files_of_the_first(cli, tmp_path):
    cli("main.py", *RUN)
    first = kept_bytes(tmp_path)
    message = cli("main.py", *RUN, "--dropout", "0.1").stdout
    assert "earlier_runs" in message
    for kind in ("model", "output"):
        for path in (tmp_path / kind / "earlier_runs" / "1").iterdir():
            assert path.suffix == ".ckpt" or path.name.startswith("config") or path.read_bytes() == first[path.name]
    assert len(list((tmp_path / "log" / "earlier_runs" / "1").glob("events*"))) == 1
    assert kept_bytes(tmp_path) != first


def test_weights_alone_are_nothing_to_resume(cli, tmp_path):
    cli("main.py", *RUN)
    path = tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt"
    path.write_bytes((tmp_path / "model" / "BaS_Net_model_seed_0.pkl").read_bytes())
    assert "holds weights only; --resume needs" in cli("main.py", *RUN, "--resume", expect=2).stderr


def test_a_checkpoint_of_an_earlier_version_is_refused(cli, tmp_path):
    cli("main.py", *RUN)
    path = tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt"
    content = torch.load(path)
    content["format"] -= 1
    torch.save(content, path)
    assert "earlier version" in cli("main.py", *RUN, "--resume", expect=2).stderr


def test_a_resumed_run_draws_with_the_seed_that_it_had_drawn(cli, tmp_path, monkeypatch):
    """--seed -1 draws another seed at every start."""
    seeds = iter([3, 4, 3])
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(seeds))
    run = ["--seed", "-1", *RUN[2:]]
    cli("main.py", *run, "--num_iters", "4")
    cli("main.py", *run, "--resume")
    resumed = kept_bytes(tmp_path)
    cli("main.py", *run)
    assert kept_bytes(tmp_path) == resumed


def test_a_run_resumes_in_another_precision(cli, tmp_path):
    """fp16 has the state of a loss scaler, and fp32 has none."""
    cli("main.py", *RUN, "--num_iters", "2")
    path = tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt"
    enabled = torch.amp.GradScaler("cpu", enabled=True)
    content = torch.load(path)
    config = make_config(parse_args([f"--data_path={tmp_path / 'data'}", *TINY, *RUN]))
    data, method = load_data(config), build_method(config)
    marks = fingerprint([*data.train, *data.test], data.truth)
    state = TrainingState(method.network, train.make_optimizer(method.network, config), enabled, 0, marks, Draws(config, 0))
    state.restore(path, content, method, data.train, data.test)
    assert state.iteration == 2 and enabled.get_scale() == 2.0**16
