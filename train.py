"""The optimizer and the training loop of all methods. BaS_Net_loss can be imported from here, as in the official code.

Shapes: B batch, T time, C action classes.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import importlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from config import Config
from engine.checkpoint import TrainingState
from engine.recorder import NoRecorder, Recorder, View, due
from engine.team import Team
from engine.terminal import Progress
from fast.adam import Adam
from fast.dropout import part_of_batch
from methods.base import Method, Stepwise
from methods.losses import BaS_Net_loss as BaS_Net_loss
from test import Activations, compute_activations, sequences_of
from thumos_features import Batch, Data, Store, Video, training_batch
from utils import Stopped, StopSignal


def make_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    rate, decay = config.learning_rates[0], config.weight_decay
    return Adam(network.parameters(), lr=rate, weight_decay=decay)


class Loss(nn.Module):
    """A method's loss as a module, as DistributedDataParallel requires."""

    def __init__(self, method: Method):
        super().__init__()
        self.network, self.terms = method.network, method.loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.terms(batch)


def train_step(loss: nn.Module, state: TrainingState, batch: Batch, lr: float, team: Team) -> dict[str, Tensor]:
    """Update the weights once. Returns the loss terms of the whole batch before the update, on the device."""
    loss.train()
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad()
    with state.draws.dropout(state.iteration), part_of_batch(batch.first, len(batch.whole)):
        terms = loss(batch)
        state.scaler.scale(terms["loss_total"] * (batch.share * team.size)).backward()  # the team averages gradients
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.iteration += 1
    values = team.total(torch.stack([term.detach() for term in terms.values()]) * batch.share)
    return dict(zip(terms, values, strict=True))


@dataclass(frozen=True)
class Training:
    """The training loop and its parts. All processes of a team run it; only rank 0 has a Recorder."""

    method: Method
    state: TrainingState
    data: Data
    store: Store
    recorder: Recorder | NoRecorder
    device: torch.device
    team: Team

    def fit(self) -> None:
        """Train from the iteration of `state` to the last one, and evaluate on schedule."""
        config, state, recorder = self.method.config, self.state, self.recorder
        interval = config.eval_interval(len(self.data.train))
        stepwise = self.method if isinstance(self.method, Stepwise) else None
        loss = self.team.training_together(Loss(self.method), in_parts=stepwise is not None)
        if stepwise:
            stepwise.begin_step(state.step, state.known)
        with (
            StopSignal(lambda: recorder.say_how_to_resume("stopped at once", at_once=True)) as stop,
            recorder,
            Progress(state.iteration, config.num_iters, interval, hidden=recorder.quiet) as progress,
        ):
            while True:
                at_end = state.iteration == config.num_iters
                if at_end:
                    recorder.save()
                if due(state.iteration, interval, config.num_iters):
                    between = partial(self.stop_if_asked, stop) if self.team.size == 1 else lambda: None
                    activations = self.activations(self.data.test, between)
                    recorder.evaluate(activations, self.views(activations))
                    progress.evaluated()
                if at_end:
                    break
                if stepwise and state.step != stepwise.step_of(state.iteration):
                    self.begin_step(stepwise, stepwise.step_of(state.iteration))
                sampler, share = self.method.sample, self.team.share
                batch = training_batch(self.data.train, self.store, state.draws, sampler, state.iteration, share)
                rate = config.learning_rates[state.iteration]
                terms = train_step(loss, state, batch.to(self.device), rate, self.team)
                progress.show(state.losses.get("loss_total"), rate, recorder.best)
                recorder.stepped(terms, progress.stepped())
                self.stop_if_asked(stop)
            progress.close()
            recorder.finish()

    def activations(self, videos: list[Video], between: Callable[[], None] = lambda: None) -> Activations:
        """Activations of `videos`, in that order, on rank 0, else {}. `between` is called after each batch."""
        self.team.share_buffers(self.method.network)  # each process has seen only its share of the batches
        own = compute_activations(self.method, videos, self.store, self.device, between, self.team.every())
        found = {name: arrays for part in self.team.gathered(own) for name, arrays in part.items()}
        return {video.name: found[video.name] for video in videos if found}

    def views(self, activations: Activations) -> list[View]:
        """Two test videos to draw, if the recorder draws."""
        if not self.recorder.draws:
            return []
        test, views = self.data.test, []
        with torch.compiler.set_stance("force_eager"):  # a batch of one video would be compiled anew
            for video in {video.name: video for video in (test[0], test[len(test) // 2])}.values():
                views.append(View(video, *sequences_of(self.method, video, self.store, self.device)))
        return views

    def begin_step(self, stepwise: Stepwise, step: int) -> None:
        """Begin a step of a stepwise method, in all processes with the output of rank 0's `refine`."""
        # test videos apart from training videos, as in an evaluation
        found = self.activations(self.data.test) | self.activations(self.data.train)
        known = stepwise.refine(found, self.data.train) if found else {}
        self.state.known, self.state.step = self.team.agreed(known), step
        stepwise.begin_step(step, self.state.known)

    def stop_if_asked(self, stop: StopSignal) -> None:
        """Save and stop all processes if any of them has received a signal."""
        if self.team.any(stop.received is not None):
            self.recorder.save()
            self.recorder.say_how_to_resume(f"stopped after iteration {self.state.iteration}")
            raise Stopped(stop.received or signal.SIGTERM)


if __name__ == "__main__":  # leftthomas/UM's command `python train.py` (tools/leftthomas.py)
    importlib.import_module("tools.leftthomas").run_train()
