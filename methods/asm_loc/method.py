"""ASM-Loc: one network per step; each step learns from the previous step's detections (docs/asm_loc.md).

Shapes: B batch, T time, L snippets of a video, C action classes, class C the background, K classes to localize.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.checkpoint import as_tensors, from_tensors, load_file, network_weights
from engine.device import DTYPES
from engine.schema import Misfit, Rule, found_rule, listed, name
from fast.snippets import Snippets
from localize import Arrays, Curves, Detections, Sweep, columns_of, localize_all
from methods.asm_loc.network import ASMNet, ASMOutput
from methods.asm_loc.segments import Plan, at_random, uniform
from methods.asm_loc.settings import ASMLocConfig
from thumos_features import Batch, Mixture, Sample, Video


class Chain(nn.Module):
    """The networks of all steps. That of the current `step` computes the output."""

    step: Tensor

    def __init__(self, config: ASMLocConfig):
        super().__init__()
        self.networks = nn.ModuleList(
            ASMNet(
                config.len_feature,
                config.num_classes,
                config.hidden,
                step > 0,
                (config.r_fg, config.r_bg),
                config.dropout,
                config.dropout_on == "everything",
                DTYPES[config.precision],
            )
            for step in range(config.steps + 1)
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # kept with the weights
        self.at = 0  # `step` as an int, which needs no GPU synchronization

    def go_to(self, step: int) -> None:
        self.at = step
        self.step.fill_(step)

    def forward(self, x: Tensor | Snippets, localized_only: bool = False) -> ASMOutput:
        output: ASMOutput = self.networks[self.at](x, localized_only)
        return output

    def weights_in(self, folder: Path) -> dict[str, Any]:
        """The state dict from an official folder: the last weights of each step, except the best weights of the last step."""
        last = len(self.networks) - 1
        names = [f"model_step{step}_last_epoch.pth" for step in range(last)] + [f"model_step{last}_best_epoch.pth"]
        parts = [network_weights(load_file(folder / name)) for name in names]
        joined = {f"networks.{step}.{key}": value for step, part in enumerate(parts) for key, value in part.items()}
        return joined | {"step": torch.tensor(last)}


class ASM_Loc:
    settings = ASMLocConfig
    narrow = True

    def __init__(self, config: ASMLocConfig):
        self.config = config
        self.network = Chain(config)
        self.found: dict[str, Detections] = {}  # of the previous step, by video
        self.trained_on: set[str] = set()
        self.plans: dict[str, Plan] = {}

    # ------------------------------------------------------------------------------------------------------- steps

    @property
    def last_step(self) -> int:
        """Step of the network's weights."""
        return int(self.network.step)

    def step_of(self, iteration: int) -> int:
        return self.config.step_of(iteration)

    def refine(self, activations: Mapping[str, Arrays], trained_on: list[Video]) -> dict[str, Any]:
        """This step's detections in every video, as tensors, for the next step."""
        found = localize_all(map(self.pseudo_curves, activations.values()))
        return as_tensors(dict(zip(activations, found, strict=True))) | {"trained_on": [video.name for video in trained_on]}

    def known_rule(self, videos: Sequence[str]) -> Rule:
        """What `refine` returns for these videos."""
        found = found_rule(videos, self.config.num_classes, trained_on=listed(name))

        def rule(known: Any) -> None:
            found(known)
            if not set(known["trained_on"]) <= set(videos):
                raise Misfit("of other videos", f"names among the {len(videos)} videos of this run")

        return rule

    def begin_step(self, step: int, known: Mapping[str, Any]) -> None:
        self.network.go_to(step)
        self.plans, self.found, self.trained_on = {}, {}, set()
        if step:
            self.found, self.trained_on = from_tensors(known), set(known["trained_on"])

    def plan(self, video: Video) -> Plan:
        if video.name not in self.plans:
            self.plans[video.name] = Plan(self.found[video.name], video, video.name in self.trained_on, self.config)
        return self.plans[video.name]

    # ---------------------------------------------------------------------------------------------------- training

    def sample(self, video: Video, random: np.random.RandomState | None) -> Sample:
        if self.network.at:
            return self.plan(video).sample(random)
        if random is None:
            return uniform(video.num_seg, self.config.num_segments)
        index, shares = at_random(video.num_seg, self.config.num_segments, random)
        return Mixture(index, shares.astype(np.float32))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        output = self.network(batch.snippets)
        label_btc = None
        if self.network.at:
            times = output.logits.shape[1]
            label_btc = torch.from_numpy(np.stack([self.plan(video).labels(times) for video in batch.videos])).to(output.logits)
        return losses(output, batch.label_bc, label_btc, self.config)

    # ---------------------------------------------------------------------------------------------- localization

    @torch.no_grad()
    def activations(self, snippets: Snippets) -> Arrays:
        output = self.network(snippets, localized_only=True)
        attention_bt1 = output.attention[:, :, :1]
        found = {
            "cas": (output.logits * attention_bt1).softmax(dim=2),
            "attention": attention_bt1.squeeze(2),
            "score": output.score_fg,
        }
        return {name: values.cpu().numpy() for name, values in found.items()}

    def activation_shapes(self) -> dict[str, tuple[int | None, ...]]:
        channels = self.config.num_classes + 1
        return {"cas": (None, channels), "attention": (None,), "score": (channels,)}

    @torch.no_grad()
    def sequences(self, snippets: Snippets) -> Arrays:
        output = self.network(snippets)
        attention_bt1 = output.attention[:, :, :1]
        named = {
            "activation": output.logits.softmax(dim=2),
            "times attention": (output.logits * attention_bt1).softmax(dim=2),
            "attention": attention_bt1.squeeze(2),
        }
        return {name: value.cpu().numpy() for name, value in named.items()}

    def predicted(self, score_c: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Classes above the threshold, or the best one if none is."""
        score_c = score_c[: self.config.num_classes]
        above = score_c > np.float32(self.config.class_th)
        return above if above.any() else np.arange(len(score_c)) == score_c.argmax()

    def curves(self, arrays: Arrays) -> Curves:
        config = self.config
        term = config.class_weight * arrays["score"].astype(np.float64)
        by_activation = self._sweep(config.cas_thresholds, "activation", 0 * term, arrays)
        by_attention = self._sweep(config.att_thresholds, "common", term, arrays)
        duration = float(arrays["duration"]) if "duration" in arrays and "Q28" in config.repaired else None
        return self._curves(arrays, [by_activation, by_attention], duration)

    def pseudo_curves(self, arrays: Arrays) -> Curves:
        """Curves of the detections for the next step; seconds follow from the number of snippets, not from the duration."""
        support = "common" if self.config.pseudo_by == "attention" else "activation"
        sweep = self._sweep(self.config.pseudo_thresholds, support, np.zeros_like(arrays["score"], np.float64), arrays)
        return self._curves(arrays, [sweep], None)

    def _sweep(self, thresholds: list[float], support: Any, term_c: NDArray[np.float64], arrays: Arrays) -> Sweep:
        share = self.config.attention_share
        return Sweep(thresholds, term_c[self._classes(arrays)], support, 1 - share, share)

    def _classes(self, arrays: Arrays) -> NDArray[np.integer]:
        return np.flatnonzero(self.predicted(arrays["score"]))

    def _curves(self, arrays: Arrays, sweeps: list[Sweep], duration: float | None) -> Curves:
        config, num_seg = self.config, int(arrays["num_seg"])
        classes, points = self._classes(arrays), config.scale * len(arrays["cas"])
        return Curves(
            classes=classes,
            activation=columns_of(arrays, classes),
            common=arrays["attention"],
            sweeps=sweeps,
            points=points,
            seconds_per_point=config.seconds_per_point(num_seg, points, duration),
            outer_width=config.outer,
            shortest_run=2,
            nms_threshold=config.nms_th,
            nms_pad=0.0 if "Q8" in config.repaired else 1.0,
            warp=arrays.get("warp"),
            warped_seconds=config.seconds(num_seg, duration),
        )


def losses(output: ASMOutput, label_bc: Tensor, label_btc: Tensor | None, config: ASMLocConfig) -> dict[str, Tensor]:
    """Named terms: classification of the video by both branches and, with `label_btc`, of each time (docs, section 4)."""
    zero = label_bc.new_zeros(len(label_bc), 1)
    actions = torch.cat([label_bc / label_bc.sum(dim=1, keepdim=True), zero], dim=1)
    background = torch.cat([torch.zeros_like(label_bc), zero + 1], dim=1)
    assert output.score_bg is not None
    loss_fg = entropy(output.score_fg, actions).mean()
    loss_bg, loss_ab = entropy(output.score_bg, background).mean(), entropy(output.score_bg, actions).mean()
    loss_pi = loss_fg.new_zeros(())
    if label_btc is not None and output.uncertainty is not None:
        doubt_bt = output.uncertainty
        loss_pi = ((-doubt_bt).exp() * entropy(output.logits.softmax(dim=2), label_btc)).mean() + config.beta * doubt_bt.mean()
    total = config.lambda_fg * loss_fg + config.lambda_bg * loss_bg + config.lambda_ab * loss_ab + loss_pi
    return {"loss_fg": loss_fg, "loss_bg": loss_bg, "loss_ab": loss_ab, "loss_pi": loss_pi, "loss_total": total}


def entropy(probability: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the last dimension."""
    return -(target * probability.clamp(min=1e-7).log()).sum(dim=-1)
