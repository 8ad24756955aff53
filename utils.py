"""Small helpers: user errors, files, signals."""

import contextlib
import ctypes
import errno
import io
import json
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.ending import end_at_once, let_unwind, say_interrupted
from eval import reading
from eval.files import atomic_write, naming

# Errors of the machine or of the user's flags, not of the program: full disk, no permission, a file where a folder must be.
OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}
OUTSIDE |= {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


class UserError(Exception):
    """A mistake that the user can correct. The message says what was found, what was expected and what to do."""


class Stopped(Exception):
    """SIGINT or SIGTERM arrived, and the checkpoint has been written."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def run_command(command: Callable[[], None], debug: bool = False) -> None:
    """Run an entry point; a UserError becomes one message on stderr and exit code 2, a signal the shell's exit code."""
    threading.excepthook = _thread_failed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may not encode a video's name
    try:
        let_unwind(True)
        command()
    except Stopped as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        say_interrupted()
        sys.exit(130)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if debug or error.errno not in OUTSIDE:
            raise
        print(
            f"error: {error.filename or 'a file'}: {error.strerror}. Files written before are complete. Correct this or "
            "choose another path, then run again (a training run continues with --resume).",
            file=sys.stderr,
        )
        sys.exit(2)
    finally:
        let_unwind(False)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback for an OSError in TensorBoard's writer thread: the main thread gets and reports it too."""
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in OUTSIDE):
        threading.__excepthook__(failure)


def say_now(text: str) -> None:
    """Write to stderr unbuffered: a signal handler must not use Python's buffers while the program does."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))  # the name of a file may not be text


def command_to_go_on() -> str:
    """This command with --resume, for the shell; the scripts run a Python that the user may not have activated."""
    python = sys.executable.removeprefix(f"{os.getcwd()}{os.sep}")
    if shutil.which("python") == sys.executable:
        python = "python"
    return shlex.join([python, *(word for word in sys.argv if word != "--resume"), "--resume"])


class StopSignal:
    """Records SIGINT and SIGTERM so that the loop can stop at a safe point; a second Ctrl-C ends the process at once.

    The second Ctrl-C calls `last_words` and skips all clean-up, which could block or fail; files are complete at any time.
    The first signal calls `when_asked`.
    """

    def __init__(self, last_words: Callable[[], None], when_asked: Callable[[], object] = lambda: None) -> None:
        self.received: int | None = None
        self.last_words, self.when_asked = last_words, when_asked

    def _remember(self, number: int, _frame: object) -> None:
        if self.received is not None and number == signal.SIGINT:
            self.last_words()
            os._exit(128 + number)
        if self.received is None:
            self.received = number  # first, since the next signal may come at any time
            say_now("\nstopping after this step; Ctrl-C again stops at once")
            self.when_asked()

    def __enter__(self) -> "StopSignal":
        self._previous = {s: signal.signal(s, self._remember) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        if self.received is None:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        else:  # the process is ending: a SIGTERM does not disturb it, and Ctrl-C does not wait for it
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, end_at_once)


def remove_halves(path: Path) -> None:
    """Remove temporary files that a killed `atomic_write` of this file left behind."""
    for half in path.parent.glob(f".{path.name}.*.part"):
        half.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    with naming(path), open(path, "a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=indent)
        stream.write("\n")


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Turn an InputError of eval/ into a UserError."""
    try:
        yield
    except reading.InputError as error:
        raise UserError(str(error)) from None


def read_json(path: str | Path, what: str, remedy: str) -> Any:
    """Read a JSON file that the user supplied; a byte-order mark is accepted, a repeated key is not."""
    with as_user_error():
        return reading.read_json(path, what, remedy)


def read_text(path: str | Path, what: str, remedy: str) -> str:
    with as_user_error():
        return reading.read_text(path, what, remedy)


def check_file(path: str | Path, what: str, remedy: str) -> None:
    """Raise a UserError unless `path` is a regular file: reading a pipe or a device may never end."""
    with as_user_error():
        reading.check_file(path, what, remedy)


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def release_memory() -> None:
    """Return the pages of freed memory to the system, with glibc, which engine.device tells to keep them for the next step."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other libraries lack it; Windows has no CDLL(None)
        ctypes.CDLL(None).malloc_trim(0)


def listing(names: list[str], most: int = 5) -> str:
    """`a, b, c and 7 more`: at most `most` names for a message, each of at most a hundred characters."""
    shown = ", ".join(reading.clipped(name, 100) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
