"""How a process ends before its work is done: by Ctrl-C, or because the process that started it has ended.

Every command calls `begin()` before it imports anything else: imports take seconds, and Ctrl-C has to be answered meanwhile.
Therefore this file imports only what the interpreter has loaded anyway, or loads in a few milliseconds.
"""

import _thread
import contextlib
import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import NoReturn

END_WITH_STDIN = "BASNET_END_WITH_STDIN"  # environment: this process ends when its standard input does
GRACE = 10  # seconds from there in which it may save

_unwinds = False  # a command is running, and KeyboardInterrupt lets it remove its temporary files


def begin() -> None:
    """Answer Ctrl-C from now on; if asked to, watch the process that started this one."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # nohup, and `&` in a script, have it ignored
        signal.signal(signal.SIGINT, _on_interrupt)
    sys.excepthook, sys.unraisablehook = _uncaught, _unraisable
    if os.environ.pop(END_WITH_STDIN, None):
        _thread.start_new_thread(_end_with_stdin, ())


def let_unwind(unwinds: bool) -> None:
    """Choose whether the next Ctrl-C raises KeyboardInterrupt or ends the process at once."""
    global _unwinds
    _unwinds = unwinds


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    global _unwinds
    if not _unwinds or _imports(frame):  # some packages catch what is raised while they are imported, and go on
        end_at_once()
    _unwinds = False  # a second Ctrl-C does not wait for the clean-up after the first
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _uncaught(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        end_at_once()
    if isinstance(value, ModuleNotFoundError) and value.name:  # while the program imports what it needs
        sys.stderr.write(
            f"error: the package {value.name.partition('.')[0]} is not installed for {sys.executable}. `bash run.sh` installs "
            "all packages in .venv; `source .venv/bin/activate` makes it the Python of this shell.\n"
        )
        os._exit(2)
    sys.__excepthook__(kind, value, traceback)


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """A KeyboardInterrupt in a finalizer or a callback, which Python would print before it goes on."""
    if unraisable.exc_type is KeyboardInterrupt:
        end_at_once()
    sys.__unraisablehook__(unraisable)


def end_at_once(*_: object) -> NoReturn:
    """End without any clean-up, which could block or fail; files are complete at any time."""
    say_interrupted()
    os._exit(128 + signal.SIGINT)


def say_interrupted() -> None:
    """One line, unbuffered, on a line of its own after the ^C of a terminal."""
    with contextlib.suppress(OSError):
        os.write(2, b"\ninterrupted\n" if os.isatty(2) else b"interrupted\n")


def _end_with_stdin() -> None:
    """Wait until no process holds the other end of the pipe that is standard input; then stop like on SIGTERM."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)
