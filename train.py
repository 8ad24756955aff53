"""BaS-Net's loss, and the training loop that serves every method.

Shapes: B batch, T time, C action classes.
"""

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from checkpoint import TrainingState
from config import Config
from outputs import RunFiles, record_of
from test import Evaluation
from thumos_features import Batch, Store, Video, training_batch
from utils import Stopped, StopSignal, UserError, naming

CHECKPOINT_SHARE = 0.05  # of the time may go into checkpoints that nothing but a later resume needs


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
        target = label / label.sum(dim=1, keepdim=True)
        # torch's function raises on NaN, on a GPU for good; the added zero shows a NaN in the loss instead
        mean = F.binary_cross_entropy(score.nan_to_num(nan=0.5), target) + 0 * score.sum()
        return mean * score.shape[1] if self.reduction == "classsum" else mean


def make_optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=config.learning_rates[0], weight_decay=config.weight_decay, fused=True)


def train_step(loss: Callable[[Batch], dict[str, Tensor]], state: TrainingState, batch: Batch, lr: float) -> dict[str, float]:
    """One update; returns the loss terms from before it."""
    state.network.train()
    terms = loss(batch)
    values = {name: term.item() for name, term in terms.items()}
    if not torch.isfinite(terms["loss_total"]):
        listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise UserError(
            f"the loss of iteration {state.iteration + 1} is not finite ({listed}). The last checkpoint is untouched; "
            "a lower --lr usually helps."
        )
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad()
    terms["loss_total"].backward()
    state.optimizer.step()
    state.iteration += 1
    return values


def fit(
    loss: Callable[[Batch], dict[str, Tensor]],
    state: TrainingState,
    videos: list[Video],
    store: Store,
    evaluate: Callable[[Callable[[], None]], Evaluation],
    files: RunFiles,
    config: Config,
    device: torch.device,
) -> None:
    """Train from where `state` stands to the end, evaluating as it goes; all of it can be killed and resumed.

    A checkpoint holds what was true just before an evaluation, and is written before anything that the evaluation
    changes on disk. So a resumed run repeats that evaluation and arrives at the same files.
    """
    interval = config.eval_interval(len(videos))
    saved_at, save_cost = -float("inf"), 0.0

    def due() -> bool:
        return state.iteration > 0 and (state.iteration % interval == 0 or state.iteration == config.num_iters)

    def save() -> None:
        nonlocal saved_at, save_cost
        begun = time.monotonic()
        state.save(files.checkpoint, config)
        saved_at, save_cost = time.monotonic(), time.monotonic() - begun

    def stop_if_asked() -> None:
        if stop.received is not None:
            save()
            files.say_how_to_resume(f"stopped after iteration {state.iteration}")
            raise Stopped(stop.received)

    if not due():
        files.forget_the_end()
    with (
        StopSignal(lambda: files.say_how_to_resume("stopped at once")) as stop,
        SummaryWriter(config.log_path, purge_step=state.iteration + (not due())) as board,
        tqdm(total=config.num_iters, initial=state.iteration, disable=files.quiet or not sys.stderr.isatty()) as bar,
    ):
        log_scalars(board, state.losses if due() else {}, state.iteration)
        while True:
            if due():
                evaluation = evaluate(stop_if_asked)
                record = record_of(evaluation, state.iteration, state.losses)
                best, end = state.is_best(record), state.iteration == config.num_iters
                if best or end or time.monotonic() - saved_at > save_cost / CHECKPOINT_SHARE:
                    save()
                if best and state.iteration % interval:
                    files.remember_before_the_end()
                state.records.append(record)
                files.write_evaluation(evaluation, record, best, state)
                maps = {f"mAP@{name}": value for name, value in record["mAP"].items()}
                scalars = {"Test accuracy": record["test_acc"], **maps, "Average mAP": record["average_mAP"]}
                log_scalars(board, scalars, state.iteration)
            if state.iteration >= config.num_iters:
                break
            batch = training_batch(videos, store, config, state.seed, state.iteration)
            rate = config.learning_rates[state.iteration]
            state.losses = train_step(loss, state, batch.to(device), rate)
            log_scalars(board, state.losses, state.iteration)
            bar.update()
            stop_if_asked()
        files.write_last(evaluation, state)


def log_scalars(board: SummaryWriter, scalars: dict[str, float], iteration: int) -> None:
    with naming(board.log_dir):
        for name, value in scalars.items():
            board.add_scalar(name, value, iteration)
