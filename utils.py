"""Small helpers with no better home: the user's mistakes, atomic files, signals."""

import contextlib
import errno
import io
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

# What the machine or the user's flags are to blame for, not the program: full disks, missing rights, files in a folder's place.
OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}
OUTSIDE |= {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


class UserError(Exception):
    """A mistake that the user can mend. The message names what was found, what was expected and what to do."""


class Stopped(Exception):
    """SIGINT or SIGTERM arrived and everything worth keeping has been written."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def run_command(command: Callable[[], None], debug: bool = False) -> None:
    """Run an entry point; turn the user's mistakes into one message on stderr and the exit codes of the shell."""
    threading.excepthook = _thread_failed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a video's name may hold what no terminal can show
    try:
        command()
    except Stopped as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
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
            f"error: {error.filename or 'a file'}: {error.strerror}. What was written before is whole; mend this or choose "
            "another place, and run again (a training run goes on with --resume).",
            file=sys.stderr,
        )
        sys.exit(2)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer thread hands its OSError on to the main thread, which tells the user."""
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in OUTSIDE):
        threading.__excepthook__(failure)


def say_now(text: str) -> None:
    """To stderr past Python's buffers, which a signal handler must not enter while the program is in them."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


def command_to_go_on() -> str:
    return f"python {shlex.join([word for word in sys.argv if word != '--resume'] + ['--resume'])}"


class StopSignal:
    """Remembers SIGINT and SIGTERM so that the loop can stop where it is safe; a further Ctrl-C ends the process at once.

    At once means without any clean-up, which could wait or fail: files are whole at every moment, and `last_words` are said.
    `when_asked` is called at the first signal, if something besides the loop has to know.
    """

    def __init__(self, last_words: Callable[[], None], when_asked: Callable[[], object] = lambda: None) -> None:
        self.received: int | None = None
        self.last_words, self.when_asked = last_words, when_asked

    def _remember(self, number: int, _frame: object) -> None:
        if self.received is not None and number == signal.SIGINT:
            self.last_words()
            os._exit(128 + number)
        if self.received is None:
            self.received = number  # before anything is said: the next signal may come at any moment
            say_now("\nstopping after this step; Ctrl-C again stops at once")
            self.when_asked()

    def __enter__(self) -> "StopSignal":
        self._previous = {s: signal.signal(s, self._remember) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():  # once asked to stop, the process ends, and nothing must trip it
            signal.signal(number, handler if self.received is None else signal.SIG_IGN)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Write beside `path` and rename: a reader, or a kill at any moment, sees the old file or the new one, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    with naming(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with naming(path), open(handle, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def remove_halves(path: Path) -> None:
    """Remove what a killed `atomic_write` of this very file left half-written."""
    for half in path.parent.glob(f".{path.name}.*.part"):
        half.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    with naming(path), open(path, "a", encoding="utf-8") as stream:
        stream.write(text + "\n")


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError from inside the name of what was written: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=indent)
        stream.write("\n")


def read_json(path: str | Path, what: str, remedy: str) -> Any:
    """Read a JSON file that the user supplied (a byte-order mark is fine)."""
    try:
        return json.loads(read_text(path, what, remedy))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); expected {what}. {remedy}") from None


def read_text(path: str | Path, what: str, remedy: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; expected {what}. {remedy}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; expected {what}. {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); expected {what}. {remedy}") from None


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listing(names: list[str], most: int = 5) -> str:
    """`a, b, c and 7 more`: names for a message that stays one screen long."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
