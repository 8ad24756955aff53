"""Locks among processes: a file that one process holds, and that says which one.

The operating system keeps the lock, so it ends with the process, however that ends.
"""

import contextlib
import datetime
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import lock_descriptor


@contextlib.contextmanager
def lock(path: Path, when_taken: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock file `path`, which is removed at the end.

    If another process holds it, call `when_taken` with a description of that process; unless that raises, wait for the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _take(path)
    if handle is None:
        when_taken(_holder(path))
    while handle is None:
        time.sleep(0.1)
        handle = _take(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is gone with its folder, or this system removes no open files
            if _is_at(path, handle):
                path.unlink()  # before the lock ends, or it could be the next one's
        os.close(handle)


def _take(path: Path) -> int | None:
    """The locked file, or None if another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = lock_descriptor(handle, blocking=False)
        except OSError:
            taken = True  # a file system without locks: a second process is not detected
        if not taken:
            os.close(handle)
            return None
        if _is_at(path, handle):
            break
        os.close(handle)  # its holder removed it in between
    who = {"pid": os.getpid(), "host": platform.node(), "since": _now(), "command": f"python {shlex.join(sys.argv)}"}
    os.ftruncate(handle, 0)
    os.write(handle, f" {json.dumps(who)}\n".encode())
    return handle


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        with open(path, "rb", buffering=0) as stream:
            stream.seek(1)  # where a lock keeps others from reading, it is the first byte that it locks
            return "process {pid} on {host} since {since}, {command}".format(**json.loads(stream.read()))
    except (OSError, ValueError, LookupError, TypeError):  # it is just beginning or ending
        return "a process that has not said which"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
