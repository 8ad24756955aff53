"""Work that goes on in other processes beside the training, its results in the order in which it was begun."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

import torch

from utils import UserError

Task = TypeVar("Task")
Given = TypeVar("Given")
Result = TypeVar("Result")
PER_WORKER = 2  # tasks under way at a time, which bounds memory

_work: Callable[[Any], Any]  # in a worker process, what it does


class Beside(Generic[Task, Given, Result]):
    """`work` on what it is given, in `workers` processes, or at once where there are none."""

    def __init__(self, work: Callable[[Given], Result], workers: int):
        self.work, self.workers = work, workers
        self.under_way: deque[tuple[Task, Future[Result]]] = deque()
        self.pool = None
        if workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["methods.basnet", "test"])  # torch is imported once, not by every worker
            self.pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,))

    def begin(self, task: Task, given: Given) -> None:
        if self.pool:
            self.under_way.append((task, self.pool.submit(_do, given)))
        else:
            done: Future[Result] = Future()
            done.set_result(self.work(given))
            self.under_way.append((task, done))

    def done(self, wait_for_all: bool = False) -> Iterator[tuple[Task, Result]]:
        """What is finished, first begun first; waits while too much is under way."""
        most = 0 if wait_for_all else PER_WORKER * self.workers
        while self.under_way and (len(self.under_way) > most or self.under_way[0][1].done()):
            task, future = self.under_way.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                raise UserError(
                    "a process that evaluates beside the training died, most likely for want of memory. The last checkpoint is "
                    "whole: go on with --resume, and fewer --eval_workers (0: none)."
                ) from None
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


def _do(given: Any) -> Any:
    return _work(given)
