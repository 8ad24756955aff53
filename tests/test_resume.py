"""A run that is killed or interrupted and resumed ends with the very bytes of one that was not."""

import json
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, command, one_thread

RUN = ["--seed", "0", "--lr", "[0.01]*6", "--eval_every", "2"]


def kept_bytes(tmp_path):
    paths = [path for kind in ("model", "output") for path in (tmp_path / kind).iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in paths if path.name != "config.json" and path.suffix != ".ckpt"}


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]


def test_killed_during_any_write(tiny, tmp_path):
    driver = [sys.executable, str(ROOT / "tests" / "kill_everywhere.py"), str(tiny), str(tmp_path)]
    done = subprocess.run(driver, capture_output=True, text=True, env=one_thread(), check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line for line in lines[:-1] if not line.endswith("same files")] == []
    assert len(lines) > 30 and lines[-1] == f"a run makes {len(lines) - 1} steps of writing"


def test_a_run_can_be_made_longer(cli, tmp_path):
    cli("main.py", *RUN)
    straight = kept_bytes(tmp_path)
    cli("main.py", *RUN, "--num_iters", "4")
    assert records(tmp_path)[-1]["iteration"] == 4
    cli("main.py", *RUN, "--resume")
    assert kept_bytes(tmp_path) == straight
    cli("main.py", *RUN, "--resume")  # nothing left to do: the same report again
    assert kept_bytes(tmp_path) == straight


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
    stopped = int(message.split("stopped after iteration ")[1].split(",")[0])
    assert 30 <= stopped < 400

    again = command("main.py", tiny, places, *run, "--resume")
    done = subprocess.run(again, capture_output=True, text=True, cwd=ROOT, env=one_thread(), check=True)
    assert f"resuming after iteration {stopped}" in done.stdout
    resumed = kept_bytes(tmp_path)
    subprocess.run(command("main.py", tiny, places, *run), capture_output=True, cwd=ROOT, env=one_thread(), check=True)
    assert kept_bytes(tmp_path) == resumed


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
            assert path.suffix == ".ckpt" or path.name == "config.json" or path.read_bytes() == first[path.name]
    assert len(list((tmp_path / "log" / "earlier_runs" / "1").glob("events*"))) == 1
    assert kept_bytes(tmp_path) != first
