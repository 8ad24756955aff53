"""Logs losses, evaluates on schedule, keeps the best model, writes checkpoints.

A checkpoint holds the state just before an evaluation that may be due, and the best model so far, whose own files are
written just after it. So a run that is killed at any time resumes to the same files: it rewrites those of the best model and
repeats the evaluations since the checkpoint.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from config import Config
from engine.checkpoint import Best, TrainingState
from engine.files import RunFiles, record_of
from engine.report import explosion
from engine.workers import Beside
from test import Activations, Evaluation, Judge
from utils import UserError, naming, say_now

CHECKPOINT_SHARE = 0.05  # largest share of the time spent on checkpoints
LOSSES_AT_ONCE = 20  # iterations whose losses are fetched from a GPU together, since each fetch synchronizes


def due(iteration: int, interval: int, num_iters: int) -> bool:
    """True if an evaluation follows this iteration."""
    return iteration > 0 and (iteration % interval == 0 or iteration == num_iters)


@dataclass(frozen=True)
class Moment:
    """The state at which an evaluation was started."""

    iteration: int
    step: int  # of a method that trains in several
    losses: dict[str, float]
    weights: dict[str, Tensor]


class NoRecorder:
    """The recorder of ranks other than 0: it records nothing."""

    quiet = True

    def __enter__(self) -> "NoRecorder":
        return self

    def __exit__(self, *error: Any) -> None: ...
    def stepped(self, terms: dict[str, Tensor]) -> None: ...
    def evaluate(self, activations: Activations) -> None: ...
    def save(self) -> None: ...
    def finish(self) -> None: ...
    def say_how_to_resume(self, what: str) -> None: ...


class Recorder:
    def __init__(self, state: TrainingState, files: RunFiles, config: Config, judge: Judge, workers: int, num_videos: int):
        self.state, self.files, self.config = state, files, config
        self.interval, self.per_pass = config.eval_interval(num_videos), config.batches_per_pass(num_videos)
        self.pending: list[tuple[int, dict[str, Tensor]]] = []  # iterations, and losses still on the device
        self.saved_at, self.save_cost = -float("inf"), 0.0
        self.written: Best | None = None  # the best model whose files are written
        self.beside: Beside[Moment, Activations, Evaluation] = Beside(judge, workers)

    def __enter__(self) -> "Recorder":
        state = self.state
        if not due(state.iteration, self.interval, self.config.num_iters):
            self.files.forget_the_end()
        self._write_best()
        with ExitStack() as stack:
            self.board = stack.enter_context(SummaryWriter(self.config.log_path, purge_step=state.iteration))
            stack.enter_context(self.beside)
            self.stack = stack.pop_all()
        self.log(state.losses, state.iteration)  # SummaryWriter discards events from this iteration on
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    @property
    def quiet(self) -> bool:
        return self.files.quiet

    def say_how_to_resume(self, what: str) -> None:
        self.files.say_how_to_resume(what)

    def stepped(self, terms: dict[str, Tensor]) -> None:
        """Record the losses of a training step."""
        self.pending.append((self.state.iteration, terms))
        if len(self.pending) == LOSSES_AT_ONCE or terms["loss_total"].device.type == "cpu":
            self.fetch_losses()
        self.hear()

    def fetch_losses(self) -> None:
        if not self.pending:
            return
        fetched = torch.stack([torch.stack(list(terms.values())) for _, terms in self.pending]).tolist()
        for (iteration, terms), values in zip(self.pending, fetched, strict=True):
            losses = dict(zip(terms, values, strict=True))
            if not abs(losses["loss_total"]) < float("inf"):
                listed = ", ".join(f"{name} {value:g}" for name, value in losses.items())
                raise UserError(
                    f"the loss of iteration {iteration} is not finite ({listed}). The last checkpoint is untouched; "
                    f"a lower --lr usually helps{' and --precision fp32 may' * (self.config.precision == 'fp16')}."
                )
            self.log(losses, iteration)
            self.state.losses = losses
        self.pending.clear()

    def evaluate(self, activations: Activations) -> None:
        """Queue localization and scoring in the worker pool; later calls take the results in order."""
        self.fetch_losses()
        if time.monotonic() - self.saved_at > self.save_cost / CHECKPOINT_SHARE:
            self.save()
        weights = {key: value.detach().clone() for key, value in self.state.network.state_dict().items()}
        self.beside.begin(Moment(self.state.iteration, self.state.step, self.state.losses, weights), activations)
        if self.state.iteration < self.config.num_iters:
            self.hear()

    def hear(self, wait_for_all: bool = False) -> Evaluation | None:
        """Record finished evaluations; returns the last of them."""
        evaluation = None
        for moment, evaluation in self.beside.done(wait_for_all):
            record = record_of(evaluation, moment.iteration, moment.losses, self.config)
            record |= {"step": moment.step} if moment.step else {}
            record["best"] = best = self.state.is_best(record, self.config)
            seen_before = explosion(self.state.records, self.config)
            self.state.records.append(record)
            if not seen_before and (warning := explosion(self.state.records, self.config)):
                say_now(warning.rstrip())
            if best:
                self.state.best_model = Best(record, moment.weights, evaluation.found)
            self.files.write_evaluation(record, best)
            maps = {f"mAP@{name}": value for name, value in record["mAP"].items()}
            scalars = {"Test accuracy": record["test_acc"], **maps, "Average mAP": self.config.record_average(record)}
            self.log(scalars, moment.iteration)
        return evaluation

    def save(self) -> None:
        """Write the checkpoint, then the files of the best model."""
        begun = time.monotonic()
        self.fetch_losses()
        self.hear(wait_for_all=True)
        self.state.save(self.files.checkpoint, self.config)
        self._write_best()
        self.saved_at, self.save_cost = time.monotonic(), time.monotonic() - begun

    def _write_best(self) -> None:
        best = self.state.best_model
        if best and best is not self.written:
            self.files.write_best(best, epoch=best.record["iteration"] // self.per_pass)
            self.written = best

    def finish(self) -> None:
        """Record the final evaluation, which is not in the checkpoint, and write the run's last files."""
        evaluation = self.hear(wait_for_all=True)
        assert evaluation is not None
        if self.state.best_model is not self.written and self.state.iteration % self.interval:
            self.files.remember_before_the_end()
        self._write_best()
        self.files.write_last(evaluation, self.state)
        self.show(evaluation)

    def show(self, evaluation: Evaluation) -> None:
        """Add the figures of the last evaluation to TensorBoard."""
        from engine.pictures import pictures  # matplotlib takes half a second

        with naming(self.board.log_dir):
            for name, figure in pictures(evaluation, self.config).items():
                self.board.add_figure(name, figure, self.state.iteration)

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        with naming(self.board.log_dir):
            for name, value in scalars.items():
                self.board.add_scalar(name, value, iteration)
