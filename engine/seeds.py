"""Trains one run per seed, on this machine or on a cluster, and summarizes them.

`python main.py --seeds 0-9 FLAGS` trains; `python -m engine.seeds OUTPUT_PATH` summarizes the finished runs again.

Each seed is a process with the command that a user would type, so that its failure does not stop the others. The machines of
a cluster import this module too.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import contextlib
import functools
import os
import queue
import shlex
import subprocess
import sys
import threading
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from dataset.make_demo import ensure_demo
from engine.ending import END_WITH_STDIN
from engine.files import locked
from engine.summary import finished_run, is_finished, seeds_text, write_summary
from eval.report import averages_from
from options import flags_of, make_config, tell_settings
from utils import Stopped, StopSignal, UserError, command_to_go_on, cores, listing, run_command, say_now

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.5  # seconds between two looks at a seed and at the marker
TOUCH, PATIENCE = 5.0, 180.0  # seconds: the marker is touched so often; untouched for so long, its command has been killed


def train_seeds(args: Namespace) -> None:
    """Train the unfinished seeds, then summarize all finished ones."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("--seeds starts a process for each seed itself: run it without torchrun (and without WORLD_SIZE).")
    ensure_demo(args.dataset, args.data_path)  # once, before the seeds start
    config = make_config(args)  # reports a mistake in the flags once
    places = {seed: own_places(args, seed) for seed in args.seeds}
    folders = {seed: Path(places[seed]["output_path"]) for seed in args.seeds}
    output = Path(args.output_path).absolute()
    how_to_go_on = f"finished seeds are kept. To go on: {command_to_go_on()}"
    failed: dict[int, str] = {}

    def say(text: str) -> None:
        if not args.quiet:
            tqdm.write(text)
            sys.stdout.flush()

    tell_settings(args, say)
    with locked(args.output_path), kept(output / "seeds.running") as marker:
        finished = [s for s in args.seeds if args.resume and is_finished(replace(config, **places[s]))]
        if finished:
            say(f"{seeds_text(finished)}: finished before")
        todo = [Namespace(**(vars(args) | places[seed])) for seed in args.seeds if seed not in finished]
        remove_marker = functools.partial(marker.unlink, missing_ok=True)
        with (
            StopSignal(lambda: say_now(how_to_go_on), remove_marker) as stop,
            tqdm(total=len(places), initial=len(finished), unit="seed", disable=args.quiet or not sys.stderr.isatty()) as bar,
        ):
            for seed, code, last_words in run_seeds(todo, args, marker, say):
                run = finished_run(folders[seed]) if code == 0 else None
                if run:
                    last, best = (averages_from(record, config.PAPER_AVERAGE) for record in (run.last, run.best))
                    tious = next(iter(last))
                    say(f"seed {seed}: average mAP ({tious}) {100 * last[tious]:.2f} last, {100 * best[tious]:.2f} best")
                    bar.update()
                elif stop.received is None:
                    failed[seed] = last_words.removeprefix("error: ") or f"exit code {code}"
                    say(f"seed {seed}: failed: {failed[seed]}")
        if stop.received is not None:
            say_now(how_to_go_on)
            raise Stopped(stop.received)
        runs = [run for run in map(finished_run, folders.values()) if run and run.seed not in failed]
        if runs:
            print("\n" + write_summary(output, runs, len(places), args.wide), end="")
    if failed:
        reasons = {reason: seeds_text([seed for seed in failed if failed[seed] == reason]) for reason in failed.values()}
        raise UserError(
            f"{len(failed)} of {len(places)} seeds failed. {' '.join(f'{who}: {why}' for why, who in reasons.items())} "
            f"The output of each seed is in {output}/seed_N/run.log. After fixing the cause: {command_to_go_on()}"
        )


def own_places(args: Namespace, seed: int) -> dict[str, Any]:
    """The flags that differ between seeds."""
    folders = {name: str(Path(getattr(args, name)) / f"seed_{seed}") for name in ("model_path", "output_path", "log_path")}
    return {"seed": seed, **folders}


# ---------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Job:
    """One seed to run, in plain values, which can be sent to another machine."""

    seed: int
    flags: tuple[str, ...]
    folder: str  # working directory
    log: str
    marker: str  # file of the command that starts the seeds; without it, and without that command, they save and stop
    mark: str  # its content, by which it is told from the marker of a later command
    threads: str


class Marker:
    """A seed's view of the marker, from any machine. No clocks are compared, and a pause of all processes does not count."""

    def __init__(self, job: Job):
        self.path, self.mark = Path(job.marker), job.mark
        self.touched, self.looks = 0, 0

    def stands(self) -> bool:
        """Whether the command that started the seed still runs and wants it; to be asked every POLL seconds."""
        try:
            touched, same = self.path.stat().st_mtime_ns, self.path.read_text(encoding="utf-8") == self.mark
        except FileNotFoundError:
            return False
        except OSError:  # the file system does not answer for a while
            touched, same = self.touched, True
        self.looks = self.looks + 1 if touched == self.touched else 0
        self.touched = touched
        return same and self.looks < PATIENCE / POLL


Ended = tuple[int, int | None, str]  # seed, exit code (None: not started), last line of output


def run_seed(job: Job) -> Ended:
    """Run one seed on the machine that calls this."""
    try:
        code, last_words = _run_seed(job)
    except OSError as error:  # the folder is missing on this machine, or not writable
        return job.seed, None, str(error)
    return job.seed, code, last_words


def _run_seed(job: Job) -> tuple[int | None, str]:
    log, marker = Path(job.log), Marker(job)
    if not marker.stands():
        return None, "not begun"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a+", encoding="utf-8", errors="replace") as stream:
        stream.write(f"$ {shlex.join(['python', 'main.py', *job.flags])}\n")
        stream.flush()
        begin = stream.tell()
        with subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *job.flags],
            stdin=subprocess.PIPE,  # only this process holds its other end, so it closes when this process ends in any way
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=job.folder,
            env=os.environ | {"OMP_NUM_THREADS": job.threads, END_WITH_STDIN: "1"},
        ) as process:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(POLL)
                    break
                if not marker.stands():
                    process.terminate()
        stream.seek(begin)
        lines = stream.read().split("\n")
    return code, next((line for line in reversed(lines) if line), "")


def run_seeds(runs: list[Namespace], args: Namespace, marker: Path, say: Callable[[str], None]) -> Iterator[Ended]:
    """Run each of `runs`; yields their results in the order in which they end."""
    if not runs:
        return
    names = seeds_text([run.seed for run in runs])
    if args.backend != "local":
        say(f"{names}: on {args.backend}")
        jobs = [make_job(run, marker, threads=2) for run in runs]
        with dask_cluster(args.jobs) as settings, parallel_config(**settings):
            pool = Parallel(return_as="generator_unordered", pre_dispatch=args.jobs or "all", batch_size=1)
            yield from pool(delayed(run_seed)(job) for job in jobs)
        return

    devices = visible_devices(args.device)
    usual = len(devices) if devices[0].startswith("cuda") else max(1, cores() // 2)
    number = min(len(runs), args.jobs or usual)
    threads, on_a_device = max(1, cores() // number), -(-number // len(devices))
    for run in runs:
        run.cache_budget /= on_a_device  # one budget for all seeds on a device
        if run.eval_workers is None and devices[0].startswith("cuda"):
            run.eval_workers = max(1, min(8, threads - 1))  # within its share of the cores
        run.device = "auto"  # run_on_free_device replaces it
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for slot in range(number):
        free.put(devices[slot % len(devices)])

    def run_on_free_device(job: Job) -> Ended:
        device = free.get()
        try:
            return run_seed(replace(job, flags=(*job.flags, f"--device={device}")))
        finally:
            free.put(device)

    say(f"{names}: {number} at a time on {', '.join(devices[:number])}")
    # threads suffice, because they only wait for the processes of their seeds
    pool = Parallel(number, backend="threading", return_as="generator_unordered")
    yield from pool(delayed(run_on_free_device)(make_job(run, marker, threads)) for run in runs)


def make_job(run: Namespace, marker: Path, threads: int) -> Job:
    flags = flags_of(Namespace(**(vars(run) | {"seeds": None, "backend": "local", "jobs": None})))
    log = Path(run.output_path).absolute() / "run.log"
    threads_text = os.environ.get("OMP_NUM_THREADS", str(threads))
    return Job(run.seed, tuple(flags), os.getcwd(), str(log), str(marker), content_of(marker), threads_text)


def content_of(marker: Path) -> str:
    try:
        return marker.read_text(encoding="utf-8")
    except FileNotFoundError:  # removed by a signal that has just come
        return ""


def visible_devices(name: str) -> list[str]:
    """The devices that `--device` allows."""
    import torch

    gpus = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return [f"cuda:{number}" for number in range(gpus)] or ["cpu" if name == "auto" else name]


@contextlib.contextmanager
def kept(marker: Path) -> Iterator[Path]:
    """Keep the marker while the command runs: it is touched as long as the command lives, and removed at the end."""
    what = "While this file is there and changes its time, the seeds of this folder run; without it they save and stop."
    marker.write_text(f"{what}\n{uuid.uuid4().hex}\n", encoding="utf-8")
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(TOUCH):
            with contextlib.suppress(OSError):  # it is removed, or the file system does not answer for a while
                os.utime(marker)

    threading.Thread(target=touch, daemon=True).start()
    try:
        yield marker
    finally:
        ended.set()
        marker.unlink(missing_ok=True)


@contextlib.contextmanager
def dask_cluster(jobs: int | None) -> Iterator[dict[str, Any]]:
    """Settings of joblib for the cluster at DASK_SCHEDULER_ADDRESS, or for one started here."""
    try:
        import dask
        import distributed
        from joblib._dask import DaskDistributedBackend
    except ImportError:
        raise UserError("--backend dask needs a package that is not installed: pip install distributed") from None

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))  # joblib ignores a cluster with one thread

    address = dask.config.get("scheduler-address", None)
    # in this process: a terminal sends Ctrl-C to all processes of a command, which would end Dask's and lose their tasks
    here = {"processes": False, "threads_per_worker": jobs or max(1, cores() // 2), "dashboard_address": None}
    try:
        client = distributed.Client(address) if address else distributed.Client(**here)
    except OSError as error:
        raise UserError(f"no Dask scheduler answers at {address} (DASK_SCHEDULER_ADDRESS): {error}") from None
    with client:
        there = client.run(os.path.exists, __file__) | {address: client.run_on_scheduler(os.path.exists, __file__)}
        blind = [str(name) for name, sees in there.items() if not sees]
        if blind:
            raise UserError(
                f"{__file__}: does not exist on {listing(blind)}; the project must be at the same path on all machines."
            )

        def see_project(root: str = str(ROOT)) -> None:  # sent as it stands here: the project cannot be imported there yet
            sys.path.insert(0, root)  # first, since Python has a package `test` too

        client.run_on_scheduler(see_project)  # both import what they are sent
        client.register_worker_callbacks(see_project)
        yield {"backend": Backend(client=client, wait_for_workers_timeout=60), "n_jobs": -1}


def summarize(output: Path, wide: bool = False) -> None:
    folders = [path for path in output.glob("seed_*") if path.is_dir()]
    runs = sorted((run for run in map(finished_run, folders) if run), key=lambda run: run.seed)
    if not runs:
        raise UserError(
            f"{output}: holds no folder seed_N of a finished run; expected the --output_path of a run with --seeds."
        )
    print(write_summary(output, runs, len(folders), wide), end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m engine.seeds", description="Summarize finished seeds without training.")
    parser.add_argument("output_path", type=Path, help="--output_path of the run with --seeds")
    parser.add_argument("--wide", action="store_true", help="print all of seeds.md")
    arguments = parser.parse_args()
    run_command(lambda: summarize(arguments.output_path, arguments.wide))
