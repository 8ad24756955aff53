"""A worker pool for evaluation during training, with results in submission order."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any, Generic, TypeVar

import torch

from engine.terminal import warn
from utils import UserError

Task = TypeVar("Task")
Given = TypeVar("Given")
Result = TypeVar("Result")
PER_WORKER = 2  # pending tasks, which bounds memory

_work: Callable[[Any], Any]  # the function that a worker process runs


class Beside(Generic[Task, Given, Result]):
    """A process pool that returns results in submission order; without workers, `begin` computes the result."""

    def __init__(self, work: Callable[[Given], Result], workers: int):
        self.work, self.workers = work, workers
        self.under_way: deque[tuple[Task, Given, Future[tuple[Result, str]]]] = deque()
        self.pool = None
        if workers:
            self.pool = ProcessPoolExecutor(workers, _context(), initializer=_begin, initargs=(work,))

    def begin(self, task: Task, given: Given) -> None:
        """Submit `work(given)`; `done` returns its result with `task`."""
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
        """Yield finished tasks and results in submission order; waits while too many tasks are pending."""
        most = 0 if wait_for_all else PER_WORKER * self.workers
        while self.under_way and (len(self.under_way) > most or self.under_way[0][2].done()):
            task, given, future = self.under_way.popleft()
            try:
                result, failure = future.result()
            except BrokenProcessPool:  # killed: out of memory, or with all processes of a job
                warn("an evaluation process was killed; the main process evaluates instead")
                self.pool, failure = None, ""
                result = self.work(given)
            if failure:
                raise RuntimeError(f"in an evaluation process:\n{failure}")
            yield task, result

    def __enter__(self) -> "Beside[Task, Given, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How workers start: from a process that has imported the slowest packages; on Windows anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "numba"])
    _start_forkserver()
    return context


def _start_forkserver() -> None:
    """Start the process that starts workers. It and they inherit that SIGINT is blocked: the parent handles Ctrl-C."""
    resource_tracker.ensure_running()  # the forkserver needs it, and starting it unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # a Ctrl-C in between is handled now


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    if not hasattr(signal, "pthread_sigmask"):  # where no forkserver blocks it: the parent handles Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)


def _do(given: Any) -> tuple[Any, str]:
    """The result, and the traceback of an error: only a UserError can always be pickled to the other process."""
    try:
        return _work(given), ""
    except UserError:
        raise
    except BaseException:
        return None, traceback.format_exc()
