"""Writes are whole or absent, and mistakes end as the shell expects."""

import errno
import os

import pytest

from utils import Stopped, UserError, atomic_write, listing, remove_halves, run_command


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
def test_exit_codes(raised, code, capsys):
    def command():
        raise raised

    with pytest.raises(SystemExit) as stop:
        run_command(command)
    assert stop.value.code == code
    assert code == 143 or capsys.readouterr().err


def test_errors_of_the_program_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: print(1 / 0))


def test_listing_stays_short():
    assert listing(["a", "b"]) == "a, b" and listing(list("abcdefg")) == "a, b, c, d, e and 2 more"
