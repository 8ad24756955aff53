"""Files are written completely or not at all, and exit codes follow the shell's conventions."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from utils import Stopped, UserError, atomic_write, command_to_go_on, listing, naming, remove_halves, run_command


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as stream:
        stream.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with atomic_write(path) as stream:
        stream.write("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_only_our_own_halves_are_removed(tmp_path):
    for name in (".log.abc.part", ".other.abc.part", "log", "log.part"):
        (tmp_path / name).write_text("")
    remove_halves(tmp_path / "log")
    assert sorted(os.listdir(tmp_path)) == [".other.abc.part", "log", "log.part"]


@pytest.mark.parametrize(
    "raised, code",
    [(UserError("x"), 2), (Stopped(15), 143), (KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left"), 2)],
)
def test_exit_codes(raised, code, capfd):
    def command():
        raise raised

    with pytest.raises(SystemExit) as stop:
        run_command(command)
    assert stop.value.code == code
    assert code == 143 or capfd.readouterr().err


def test_errors_of_the_program_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 / 0))


@pytest.mark.whole
def test_the_first_signal_waits_and_a_second_ctrl_c_does_not():
    code = (
        "import time, utils\n"
        "with utils.StopSignal(lambda: utils.say_now('last words')) as stop:\n"
        "    print('begun', flush=True)\n"
        "    while stop.received is None: time.sleep(0.01)\n"
        "    print(f'heard {stop.received}', flush=True)\n"
        "    time.sleep(600)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    for first, second in ((signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)):
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
            try:
                assert process.stdout.readline() == "begun\n"
                process.send_signal(first)
                assert process.stdout.readline() == f"heard {first}\n"
                process.send_signal(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.5)
                process.send_signal(second)
                said = process.communicate(timeout=5)[1]
            finally:
                process.kill()
        assert process.returncode == 130 and said.count("stopping after this step") == 1 and said.endswith("last words\n")


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "file"
    for write in (lambda: naming(path), lambda: atomic_write(path)):
        with pytest.raises(OSError, match="No space left") as full, write():
            raise OSError(errno.ENOSPC, "No space left")
        assert full.value.filename == str(path) and os.listdir(tmp_path) == []


def test_listing_stays_short():
    assert listing(["a", "b"]) == "a, b" and listing(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_the_command_to_go_on_names_a_python_that_has_the_packages(monkeypatch, tmp_path):
    inside = tmp_path / ".venv" / "bin" / "python"
    inside.parent.mkdir(parents=True)
    inside.write_text("#!/bin/sh\n")
    inside.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["./main.py", "--lr", "[0.1]*3", "--resume"])
    monkeypatch.setattr(sys, "executable", str(inside))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_to_go_on() == ".venv/bin/python ./main.py --lr '[0.1]*3' --resume"
    monkeypatch.setenv("PATH", str(inside.parent))
    assert command_to_go_on() == "python ./main.py --lr '[0.1]*3' --resume"
