"""A worker pool for evaluation beside the training, with results in submission order."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

import torch

from utils import UserError, say_now

Task = TypeVar("Task")
Given = TypeVar("Given")
Result = TypeVar("Result")
PER_WORKER = 2  # tasks under way at a time, which bounds memory

_work: Callable[[Any], Any]  # in a worker process, what it does


class Beside(Generic[Task, Given, Result]):
    """A process pool that returns results in submission order; without workers, it computes at once."""

    def __init__(self, work: Callable[[Given], Result], workers: int):
        self.work, self.workers = work, workers
        self.under_way: deque[tuple[Task, Given, Future[tuple[Result, str]]]] = deque()
        self.pool = None
        if workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["torch", "numba"])  # what takes longest to import is imported once
            self.pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,))

    def begin(self, task: Task, given: Given) -> None:
        future: Future[tuple[Result, str]] = Future()
        try:
            if self.pool:
                future = self.pool.submit(_do, given)
            else:
                future.set_result((self.work(given), ""))
        except BrokenProcessPool as error:
            future.set_exception(error)
        self.under_way.append((task, given, future))

    def done(self, wait_for_all: bool = False) -> Iterator[tuple[Task, Result]]:
        """What is finished, first begun first; waits while too much is under way."""
        most = 0 if wait_for_all else PER_WORKER * self.workers
        while self.under_way and (len(self.under_way) > most or self.under_way[0][2].done()):
            task, given, future = self.under_way.popleft()
            try:
                result, failure = future.result()
            except BrokenProcessPool:  # killed, for want of memory or with all processes of a job that is to stop
                say_now("a process beside the training was killed; what it was to do is done here")
                self.pool, failure = None, ""
                result = self.work(given)
            if failure:
                raise RuntimeError(f"in a process beside the training:\n{failure}")
            yield task, result

    def __enter__(self) -> "Beside[Task, Given, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)


def _do(given: Any) -> tuple[Any, str]:
    """A result, or what went wrong; only the user's mistakes are exceptions that are sure to reach the other process."""
    try:
        return _work(given), ""
    except UserError:
        raise
    except BaseException:
        return None, traceback.format_exc()
