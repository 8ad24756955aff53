"""Logs losses, evaluates on schedule, keeps the best model, writes checkpoints.

A checkpoint holds the state just before an evaluation that may be due, and the best model so far, whose own files are
written just after it. So a run that is killed at any time resumes to the same files: it rewrites those of the best model and
repeats the evaluations since the checkpoint.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from config import Config
from engine.checkpoint import Best, TrainingState
from engine.figure import draw
from engine.files import RunFiles, record_of
from engine.loggers import Maker, evaluation_values, final_values, official_evaluation, step_values
from engine.pictures import pictures
from engine.report import explosion
from engine.terminal import warn
from engine.workers import Beside
from eval.report import averages_from
from localize import Arrays
from test import Activations, Evaluation, Judge
from thumos_features import Video
from utils import UserError, say_now

CHECKPOINT_SHARE = 0.05  # largest share of the time spent on checkpoints
FIGURES_SHARE = 0.05  # largest share of the time spent on pictures
LOSSES_AT_ONCE = 20  # iterations whose losses are fetched from a GPU together, since each fetch synchronizes


def due(iteration: int, interval: int, num_iters: int) -> bool:
    """True if an evaluation follows this iteration."""
    return iteration > 0 and (iteration % interval == 0 or iteration == num_iters)


@dataclass(frozen=True)
class View:
    """What is drawn of a test video besides its detections."""

    video: Video
    sequences: Arrays
    warp: Any  # of its activations, if they have one


@dataclass(frozen=True)
class Moment:
    """The state at which an evaluation was started."""

    iteration: int
    step: int  # of a method that trains in several
    losses: dict[str, float]
    weights: dict[str, Tensor]
    views: Sequence[View]


class NoRecorder:
    """The recorder of ranks other than 0: it records nothing."""

    quiet, draws, best = True, False, None

    def __enter__(self) -> "NoRecorder":
        return self

    def __exit__(self, *error: Any) -> None: ...
    def stepped(self, terms: dict[str, Tensor], seconds: float) -> None: ...
    def evaluate(self, activations: Activations, views: Sequence[View]) -> None: ...
    def save(self) -> None: ...
    def finish(self) -> None: ...
    def say_how_to_resume(self, what: str, at_once: bool = False) -> None: ...


class Recorder:
    def __init__(
        self, state: TrainingState, files: RunFiles, judge: Judge, workers: int, num_videos: int, makers: Sequence[Maker] = ()
    ):
        self.state, self.files, self.makers, config = state, files, makers, files.config
        self.config: Config = config
        self.interval, self.per_pass = config.eval_interval(num_videos), config.batches_per_pass(num_videos)
        self.pending: list[tuple[int, dict[str, Tensor], float]] = []  # iterations, losses still on the device, seconds
        self.saved_at, self.save_cost = -float("inf"), 0.0
        self.drawn_at, self.draw_cost = -float("inf"), 0.0
        self.to_draw: tuple[Moment, Evaluation] | None = None  # the best model, unless it is drawn
        self.written: Best | None = None  # the best model whose files are written
        self.beside: Beside[Moment, Activations, Evaluation] = Beside(judge, workers)

    def __enter__(self) -> "Recorder":
        state = self.state
        if not due(state.iteration, self.interval, self.config.num_iters):
            self.files.forget_the_end()
        self._write_best()
        with ExitStack() as stack:
            self.loggers = [stack.enter_context(closing(make(self.files, state))) for make in self.makers]
            stack.enter_context(self.beside)
            self.stack = stack.pop_all()
        for logger in self.loggers:
            logger.settings(self.files.settings)
        if state.losses:
            self.log_step(state.losses, state.iteration, None)  # TensorBoard discards events from this iteration on
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.__exit__(*error)

    @property
    def quiet(self) -> bool:
        return self.files.quiet

    @property
    def draws(self) -> bool:
        """True if evaluations need views."""
        return bool(self.makers)

    @property
    def best(self) -> float | None:
        """The paper's average mAP of the best model so far."""
        best = self.state.best_model
        return next(iter(averages_from(best.record, self.config.PAPER_AVERAGE).values())) if best else None

    def say_how_to_resume(self, what: str, at_once: bool = False) -> None:
        """`at_once` in a signal handler, which must not use Python's buffers."""
        (say_now if at_once else warn)(self.files.how_to_resume(what))

    def stepped(self, terms: dict[str, Tensor], seconds: float) -> None:
        """Record the losses of a training step."""
        self.pending.append((self.state.iteration, terms, seconds))
        if len(self.pending) == LOSSES_AT_ONCE or terms["loss_total"].device.type == "cpu":
            self.fetch_losses()
        self.hear()

    def fetch_losses(self) -> None:
        if not self.pending:
            return
        fetched = torch.stack([torch.stack(list(terms.values())) for _, terms, _ in self.pending]).tolist()
        for (iteration, terms, seconds), values in zip(self.pending, fetched, strict=True):
            losses = dict(zip(terms, values, strict=True))
            if not abs(losses["loss_total"]) < float("inf"):
                listed = ", ".join(f"{name} {value:g}" for name, value in losses.items())
                raise UserError(
                    f"the loss of iteration {iteration} is not finite ({listed}). The last checkpoint is untouched; "
                    f"a lower --lr usually helps{' and --precision fp32 may' * (self.config.precision == 'fp16')}."
                )
            self.log_step(losses, iteration, seconds)
            self.state.losses = losses
        self.pending.clear()

    def evaluate(self, activations: Activations, views: Sequence[View]) -> None:
        """Queue localization and scoring in the worker pool; later calls take the results in order."""
        self.fetch_losses()
        if time.monotonic() - self.saved_at > self.save_cost / CHECKPOINT_SHARE:
            self.save()
        weights = {key: value.detach().clone() for key, value in self.state.network.state_dict().items()}
        self.beside.begin(Moment(self.state.iteration, self.state.step, self.state.losses, weights, views), activations)
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
                warn(warning.rstrip())
            if best:
                self.state.best_model = Best(record, moment.weights, evaluation.found)
                self.to_draw = moment, evaluation
            self.files.write_evaluation(record, best)
            for logger in self.loggers:
                values, official = evaluation_values(record, self.config), official_evaluation(record, self.config)
                logger.scalars(values, moment.iteration, official)
            if time.monotonic() - self.drawn_at > self.draw_cost / FIGURES_SHARE:
                self._draw_best()
        return evaluation

    def _draw_best(self) -> None:
        if not self.to_draw or not self.loggers:
            return
        begun, (moment, evaluation) = time.monotonic(), self.to_draw
        self.to_draw = None
        for number, view in enumerate(moment.views, 1):
            figure = draw(self.config, view.video, evaluation.found[view.video.name], view.sequences, view.warp)
            for logger in self.loggers:
                logger.figure(f"best/test video {number}", figure, moment.iteration)
        self.drawn_at, self.draw_cost = time.monotonic(), time.monotonic() - begun

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
        self._draw_best()
        assert self.state.best_model is not None
        for logger in self.loggers:
            logger.results(self.files.settings, final_values(self.state.best_model.record, self.state.records[-1], self.config))
        self.files.write_last(evaluation, self.state)
        self._draw_errors(evaluation)

    def _draw_errors(self, evaluation: Evaluation) -> None:
        for name, figure in pictures(evaluation, self.config).items() if self.loggers else ():
            for logger in self.loggers:
                logger.figure(f"last/{name}", figure, self.state.iteration)

    def log_step(self, losses: dict[str, float], iteration: int, seconds: float | None) -> None:
        rates = self.config.learning_rates
        for logger in self.loggers:
            logger.scalars(step_values(losses, rates[max(0, iteration - 1)], seconds), iteration, losses)
