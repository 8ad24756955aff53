"""The optimizer and the training loop that serve every method; BaS-Net's loss is imported from here, as in its own code.

Shapes: B batch, T time, C action classes.
"""

import importlib
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from tqdm import tqdm

from config import Config
from engine.checkpoint import TrainingState
from engine.recorder import Recorder, due
from engine.team import Team
from fast.adam import Adam
from fast.dropout import part_of_batch
from methods.base import Method, Stepwise
from methods.losses import BaS_Net_loss as BaS_Net_loss
from test import Activations, compute_activations
from thumos_features import Batch, Data, Store, Video, training_batch
from utils import Stopped, StopSignal


def make_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    rate, decay = config.learning_rates[0], config.weight_decay
    return Adam(network.parameters(), lr=rate, weight_decay=decay)


class Loss(nn.Module):
    """A method's loss as a module, the form in which torch shares work among processes."""

    def __init__(self, method: Method):
        super().__init__()
        self.network, self.terms = method.network, method.loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.terms(batch)


def train_step(loss: nn.Module, state: TrainingState, batch: Batch, lr: float, team: Team) -> dict[str, Tensor]:
    """One update; returns the loss terms of the whole batch from before it, still on the device."""
    loss.train()
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad()
    with state.draws.dropout(state.iteration), part_of_batch(batch.first, len(batch.whole)):
        terms = loss(batch)
        state.scaler.scale(terms["loss_total"] * (batch.share * team.size)).backward()  # gradients become the team's means
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.iteration += 1
    values = team.total(torch.stack([term.detach() for term in terms.values()]) * batch.share)
    return dict(zip(terms, values, strict=True))


def fit(
    method: Method,
    state: TrainingState,
    data: Data,
    store: Store,
    recorder: Recorder | None,
    config: Config,
    device: torch.device,
    team: Team,
) -> None:
    """Train from where `state` stands to the end, evaluating as it goes; number 0 of the team has the recorder."""
    interval = config.eval_interval(len(data.train))
    stepwise = method if isinstance(method, Stepwise) else None
    loss = team.training_together(Loss(method), in_parts=stepwise is not None)

    def begin_step(step: int) -> None:
        """Every process works on what number 0 has made of what all of them found."""
        assert stepwise
        # apart, as an evaluation of the test videos alone computes them
        found = found_by_all(data.test) | found_by_all(data.train)
        known = stepwise.refine(found, data.train) if found else {}
        state.known, state.step = team.agreed(known), step
        stepwise.begin_step(step, state.known)

    def found_by_all(videos: list[Video], between: Callable[[], None] = lambda: None) -> Activations:
        """Activations of `videos`, in that order, for number 0; nothing for the others."""
        team.share_buffers(method.network)  # each has seen its share of the batches
        own = compute_activations(method, videos, store, device, between, team.every())
        found = {name: arrays for part in team.gathered(own) for name, arrays in part.items()}
        return {video.name: found[video.name] for video in videos if found}

    if stepwise:
        stepwise.begin_step(state.step, state.known)

    def say_how_to_resume(what: str) -> None:
        if recorder:
            recorder.files.say_how_to_resume(what)

    def stop_if_asked() -> None:
        if team.any(stop.received is not None):
            if recorder:
                recorder.save()
            say_how_to_resume(f"stopped after iteration {state.iteration}")
            raise Stopped(stop.received or signal.SIGTERM)

    quiet = recorder is None or recorder.files.quiet or not sys.stderr.isatty()
    with (
        StopSignal(lambda: say_how_to_resume("stopped at once")) as stop,
        recorder or nullcontext(),
        tqdm(total=config.num_iters, initial=state.iteration, disable=quiet) as bar,
    ):
        while True:
            at_end = state.iteration == config.num_iters
            if at_end and recorder:
                recorder.save()
            if due(state.iteration, interval, config.num_iters):
                between = stop_if_asked if team.size == 1 else lambda: None
                found = found_by_all(data.test, between)
                if recorder:
                    recorder.evaluate(found)
            if at_end:
                break
            if stepwise and state.step != stepwise.step_of(state.iteration):
                begin_step(stepwise.step_of(state.iteration))
            batch = training_batch(data.train, store, state.draws, method.shown, state.iteration, team.share)
            rate = config.learning_rates[state.iteration]
            terms = train_step(loss, state, batch.to(device), rate, team)
            if recorder:
                recorder.stepped(terms)
            bar.update()
            stop_if_asked()
        if recorder:
            recorder.finish()


if __name__ == "__main__":  # `python train.py` is the command of UM's second implementation, in tools/leftthomas.py
    importlib.import_module("tools.leftthomas").run_train()
