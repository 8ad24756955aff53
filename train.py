"""BaS-Net's loss, and the optimizer and training loop that serve every method.

Shapes: B batch, T time, C action classes.
"""

import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from checkpoint import TrainingState
from config import Config
from fast.dropout import part_of_batch
from methods import Method, Stepwise
from recorder import Recorder, due
from team import Team
from test import Activations, compute_activations
from thumos_features import Batch, Data, Store, Video, training_batch
from utils import Stopped, StopSignal


class BaS_Net_loss(nn.Module):
    """Both branches' video classification and the filter's L1 norm (docs/basnet.md, section 3)."""

    def __init__(self, alpha: float, reduction: str = "mean"):
        super().__init__()
        self.alpha, self.reduction = alpha, reduction

    def forward(
        self, score_base: Tensor | None, score_supp: Tensor | None, fore_weights: Tensor | None, label: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        zero = label.new_zeros(())
        has_background = score_base is None or score_base.shape[1] > label.shape[1]
        loss_base = zero if score_base is None else self._classification(score_base, label, 1.0 if has_background else None)
        loss_supp = zero if score_supp is None else self._classification(score_supp, label, 0.0)
        loss_norm = zero if fore_weights is None else fore_weights.abs().sum(dim=1).mean()
        total = loss_base + loss_supp + self.alpha * loss_norm
        return total, {"loss_base": loss_base, "loss_supp": loss_supp, "loss_norm": loss_norm, "loss_total": total}

    def _classification(self, score: Tensor, label: Tensor, background: float | None) -> Tensor:
        """Binary cross-entropy with the label normalised to sum 1, background class included where there is one."""
        if background is not None:
            label = torch.cat([label, label.new_full((len(label), 1), background)], dim=1)
        return cross_entropy(score, label / label.sum(dim=1, keepdim=True), self.reduction)


def cross_entropy(score: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Binary cross-entropy over videos and classes, or times the number of classes: `classsum`."""
    # torch's function raises on NaN, on a GPU for good; the added zero shows a NaN in the loss instead
    mean = F.binary_cross_entropy(score.nan_to_num(nan=0.5), target) + 0 * score.sum()
    return mean * score.shape[1] if reduction == "classsum" else mean


def make_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    rate, decay = config.learning_rates[0], config.weight_decay
    return Adam(network.parameters(), lr=rate, weight_decay=decay)


class Adam(torch.optim.Adam):
    """Fused, on tensors as they lie in memory.

    Of a gradient whose axes lie in another order, torch's kernel for CPUs makes a copy, which takes several times as long as
    the update and is not used.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def step(self, closure: Any = None) -> Any:
        assert closure is None  # it would see flat weights
        all_of_them = [parameter for group in self.param_groups for parameter in group["params"]]
        seen = [(p, p.shape, p.stride()) for p in all_of_them if p.grad is not None and p.device.type == "cpu"]
        try:
            for parameter, *_ in seen:
                self._view(parameter, (parameter.numel(),), (1,))
            return super().step()
        finally:
            for parameter, shape, stride in seen:
                self._view(parameter, shape, stride)
                torch.autograd.graph.increment_version(parameter)  # which changes of `data` do not

    def _view(self, parameter: nn.Parameter, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        """See the memory of a parameter, its gradient and its moments in another shape."""

        def view(values: Tensor) -> Tensor:
            if values.stride() != parameter.stride():
                values = torch.empty_like(parameter).copy_(values)
            return values.as_strided(shape, stride)

        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        state.update({key: view(state[key]) for key in ("exp_avg", "exp_avg_sq") if key in state})
        parameter.grad = None  # or the parameter could not have another shape
        parameter.data, parameter.grad = view(parameter.data), view(gradient)


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
            if stepwise and state.step != config.step_of(state.iteration):
                begin_step(config.step_of(state.iteration))
            batch = training_batch(data.train, store, state.draws, method.shown, state.iteration, team.share)
            rate = config.learning_rates[state.iteration]
            terms = train_step(loss, state, batch.to(device), rate, team)
            if recorder:
                recorder.stepped(terms)
            bar.update()
            stop_if_asked()
        if recorder:
            recorder.finish()


if __name__ == "__main__":  # the command of UM's second implementation
    from leftthomas import run_train

    run_train()
