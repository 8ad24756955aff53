"""One process holds a lock, the others are told which, and it ends with that process."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from engine import locks
from engine.files import locked
from engine.locks import lock
from utils import UserError


class Taken(Exception):
    pass


def refuse(holder):
    raise Taken(holder)


def test_a_lock_says_who_holds_it_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--lr", "[1e-4]*3 x"])
    path = tmp_path / "new folder" / ".lock"
    with lock(path, refuse):
        content = json.loads(path.read_text())
        assert content["pid"] == os.getpid() and content["host"] and content["since"]
        with pytest.raises(Taken) as told, lock(path, refuse):
            pass
        for part in (str(os.getpid()), content["host"], content["since"], "python main.py --lr '[1e-4]*3 x'"):
            assert part in str(told.value)
    assert list(path.parent.iterdir()) == []


def test_a_folder_in_use_is_named_with_its_holder_and_the_remedy(tmp_path):
    with locked(str(tmp_path)), pytest.raises(UserError) as told, locked(str(tmp_path)):
        pass
    for part in (f"{tmp_path}: another run is writing to it: process {os.getpid()} on ", "--output_path"):
        assert part in str(told.value)


def test_who_may_wait_has_the_lock_when_it_is_free(tmp_path):
    path, order, waits = tmp_path / ".lock", [], threading.Event()

    def wait_for_it():
        with lock(path, lambda holder: waits.set()):
            order.append("second")

    with lock(path, refuse):
        second = threading.Thread(target=wait_for_it)
        second.start()
        assert waits.wait(10)
        order.append("first")
    second.join(10)
    assert order == ["first", "second"] and not path.exists()


def test_a_holder_that_says_nothing_readable_is_told_too(tmp_path):
    path = tmp_path / ".lock"
    for content in ("", " {", " []", ' {"pid": 1}'):
        with lock(path, refuse):
            path.write_text(content)
            with pytest.raises(Taken, match="has not said which"), lock(path, refuse):
                pass


def test_a_lock_on_a_file_that_its_holder_removes_is_none(tmp_path, monkeypatch):
    """Between the opening of the file and its lock."""
    path, real, calls = tmp_path / ".lock", locks.lock_descriptor, []

    def removed_meanwhile(handle, blocking):
        calls.append(handle)
        if len(calls) == 1:
            path.unlink()
        return real(handle, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", removed_meanwhile)
    with lock(path, refuse), pytest.raises(Taken), lock(path, refuse):
        pass


def test_a_file_system_without_locks_keeps_nobody_from_work(tmp_path, monkeypatch):
    def unsupported(handle, blocking):
        raise OSError("no locks available")

    monkeypatch.setattr(locks, "lock_descriptor", unsupported)
    with lock(tmp_path / ".lock", refuse), lock(tmp_path / ".lock", refuse):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.whole
def test_a_killed_holder_holds_nothing(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from engine.locks import lock\n"
        "with lock(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(600)\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Taken, match=f"process {process.pid} on "), lock(tmp_path / ".lock", refuse):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with lock(tmp_path / ".lock", refuse):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
