"""UM: settings, network, loss, activations, curves (docs/um.md).

Shapes: B batch, T time, F features, H hidden channels, C action classes, S the two selections,
action and background.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from config import ANY, Config, Quirk, Settings, flag, ours, parse_thresholds, published, record_over_seven
from engine.device import DTYPES
from engine.flags import not_negative_number, positive_integer
from fast.conv import Conv1d
from fast.dropout import Dropout
from fast.snippets import Snippets
from localize import Arrays, Curves, Sweep, columns_of, min_max
from methods.losses import cross_entropy, uniform_cross_entropy
from thumos_features import Batch, Indices, Video, whole_or_random_indices
from utils import UserError

ACTIVITYNET: Settings = {"variant": "leftthomas-fixed", "num_segments": 50, "timing": "rows"}


@dataclass(frozen=True, kw_only=True)
class UMConfig(Config):
    """UM's settings; defaults are the published values for THUMOS'14."""

    variant: str = flag(
        "official",
        "implementation to follow: the authors' (official; default except on ActivityNet), leftthomas/UM with its loss "
        "repaired (leftthomas-fixed; default on ActivityNet), or leftthomas/UM as it is (leftthomas-exact); docs/um.md",
        choices=["official", "leftthomas-fixed", "leftthomas-exact"],
    )
    alpha: float = flag(0.0005, "weight of the uncertainty loss", not_negative_number)
    beta: float = flag(1.0, "weight of the background entropy loss", not_negative_number)
    margin: float = flag(100.0, "magnitude up to which the loss increases the features of actions", not_negative_number)
    r_act: int = flag(9, "one in R_ACT snippets is selected as action", positive_integer)
    r_bkg: int = flag(4, "one in R_BKG snippets is selected as background", positive_integer)
    mag_th: str = flag("0.4:0.625:0.025", "thresholds of the scaled feature magnitude, start:stop:step")
    bce_reduction: str = flag(
        "mean",
        "classification losses: mean over classes, or sum, without which many classes may not be learned (docs/um.md)",
        choices=["mean", "classsum"],
    )
    um_loss: str | None = flag(
        None, "implementation of the uncertainty loss (None: that of --variant)", choices=["official", "leftthomas"]
    )

    QUIRKS: ClassVar = {
        "O2": Quirk("non-maximum suppression adds one second to lengths and intersections"),
        "L1": Quirk("the uncertainty loss averages over channels and takes its norm over snippets"),
        "L2": Quirk("background snippets are picked among those that the mask has dropped"),
        "L8": Quirk("overlaps are rounded to single precision in scoring"),
    }
    OF_VARIANT: ClassVar = {  # quirks of each implementation
        "official": {"O2"},
        "leftthomas-fixed": set[str](),
        "leftthomas-exact": {"L1", "L2", "L8"},
    }
    RECIPES: ClassVar = {
        ANY: published(class_th=0.2, lr="[0.0001]*10000", eval_every="100", nms_th=0.6),
        "thumos14": published(choose_by="0.1:0.7"),
        "activitynet1.2": published(ACTIVITYNET),
        "activitynet1.3": published(ACTIVITYNET),
        "demo": ours(
            choose_by="0.1:0.7",
            seed=0,
            num_segments=128,
            hidden=128,
            lr="[0.002]*480",
            eval_every="epoch",
            margin=1.0,
            alpha=5e-3,
            r_act=3,
            r_bkg=2,
        ),
        "demo-activitynet": ours(
            ACTIVITYNET,
            seed=0,
            hidden=128,
            lr="[0.0015]*400",
            batch_size=32,
            eval_every="epoch",
            margin=3.0,
            r_act=3,
            r_bkg=2,
            bce_reduction="classsum",
        ),
    }
    SHOULD_AGREE: ClassVar = (*Config.SHOULD_AGREE, "variant")
    RECORD_AVERAGE: ClassVar = "0.1:0.7"

    @property
    def described(self) -> str:
        return self.variant

    @cached_property
    def mag_thresholds(self) -> list[float]:
        return parse_thresholds("--mag_th", self.mag_th)

    @cached_property
    def quirks(self) -> set[str]:
        """Ids of the official quirks that this run reproduces."""
        quirks = self.OF_VARIANT[self.variant] - set(self.repaired)
        return quirks if self.um_loss is None else quirks - {"L1"} | ({"L1"} if self.um_loss == "leftthomas" else set())

    @property
    def single_overlaps(self) -> bool:
        return "L8" in self.quirks

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        return record_over_seven(self, record)

    @property
    def uniform_losses(self) -> dict[str, float]:
        return {"loss_cls": uniform_cross_entropy(self.num_classes, self.bce_reduction)}

    def check(self) -> None:
        super().check()
        _ = self.mag_thresholds
        if self.variant == "leftthomas-exact" and self.compat == "fixed":
            raise UserError(
                "--variant leftthomas-exact reproduces quirks, and --compat fixed repairs them. Give --compat official, or "
                "--variant leftthomas-fixed."
            )

    def counts(self, times: int) -> tuple[int, int]:
        """Numbers of action and of background snippets selected from `times`, at least 1 each (quirk B1)."""
        return max(1, times // self.r_act), max(1, times // self.r_bkg)


class CAS_Module(nn.Module):
    """Features of each snippet, and one logit per class."""

    def __init__(self, len_feature: int, num_classes: int, hidden: int, dropout: float):
        super().__init__()
        self.conv = nn.Sequential(Conv1d(len_feature, hidden, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(Conv1d(hidden, num_classes, 1, bias=False))
        self.drop_out = Dropout(dropout)

    def forward(self, x: Tensor | Snippets) -> tuple[Tensor, Tensor]:
        """Features (B, H, T) before dropout and logits (B, C, T) of snippets (B, F, T)."""
        features = self.conv(x)
        return features, self.classifier(self.drop_out(features))


class UMNetwork(nn.Module):
    """The classifier, and the selection of action and background snippets (docs/um.md, section 2)."""

    def __init__(self, config: UMConfig):
        super().__init__()
        self.config, self.dtype = config, DTYPES[config.precision]
        self.cas_module = CAS_Module(config.len_feature, config.num_classes, config.hidden, config.dropout)
        self.drop_out = Dropout(config.dropout)

    def forward(self, x: Tensor | Snippets) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, T, H), their magnitudes (B, T) without gradient, and logits (B, T, C), in single precision."""
        found = self.cas_module(Snippets.of(x, self.dtype, share=False))
        features_bth, cas_btc = (values.transpose(1, 2).float() for values in found)
        return features_bth, torch.linalg.vector_norm(features_bth.detach(), dim=2), cas_btc

    def video_score(self, cas_btc: Tensor) -> Tensor:
        """(B, C) softmax over classes of the mean of each class's largest logits."""
        k_action, _ = self.config.counts(cas_btc.shape[1])
        return cas_btc.topk(k_action, dim=1).values.mean(dim=1).softmax(dim=1)

    def select(self, magnitude_bt: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B, k) of the largest and of the smallest magnitudes, each among the times that a dropout mask keeps."""
        kept_bt = self.drop_out(torch.ones_like(magnitude_bt))
        k_action, k_background = self.config.counts(magnitude_bt.shape[1])
        action_bk = _largest(magnitude_bt * kept_bt, k_action)
        if "L2" in self.config.quirks:
            return action_bk, (magnitude_bt * kept_bt).topk(k_background, largest=False).indices
        lack_bt = magnitude_bt.amax(dim=1, keepdim=True) - magnitude_bt
        return action_bk, _largest(lack_bt * kept_bt, k_background)


def _largest(values_bt: Tensor, k: int) -> Tensor:
    """Times (B, k) of the k largest values. Equal ones, such as dropped times (quirk B11), are in the order of torch's sort."""
    return values_bt.sort(dim=1, descending=True).indices[:, :k]


class UM:
    settings = UMConfig
    narrow = True

    def __init__(self, config: UMConfig):
        self.config = config
        self.network = UMNetwork(config)

    def sample(self, video: Video, random: np.random.RandomState | None) -> Indices:
        return whole_or_random_indices(video.num_seg, self.config.num_segments, random)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        features_bth, magnitude_bt, cas_btc = self.network(batch.snippets)
        chosen = self.network.select(magnitude_bt)
        share_bst = torch.stack([torch.zeros_like(magnitude_bt).scatter_(1, k, 1 / k.shape[1]) for k in chosen], dim=1)
        score_background = (share_bst[:, 1:] @ cas_btc).squeeze(1).softmax(dim=1)
        label = batch.label_bc / batch.label_bc.sum(dim=1, keepdim=True)
        loss_cls = cross_entropy(self.network.video_score(cas_btc), label, config.bce_reduction)
        loss_be = cross_entropy(score_background, torch.full_like(label, 1 / config.num_classes), config.bce_reduction)
        action_b, background_b = self.sizes(features_bth, share_bst).unbind(dim=1)
        loss_um = ((config.margin - action_b).clamp(min=0) + background_b).square().mean()
        total = loss_cls + config.alpha * loss_um + config.beta * loss_be
        return {"loss_cls": loss_cls, "loss_be": loss_be, "loss_um": loss_um, "loss_total": total}

    def sizes(self, features_bth: Tensor, share_bst: Tensor) -> Tensor:
        """(B, S) norm of the mean feature of each selection; with quirk L1, norm over time of the mean over channels."""
        if "L1" in self.config.quirks:
            return torch.linalg.vector_norm((share_bst > 0) * features_bth.mean(dim=2)[:, None], dim=2)
        return torch.linalg.vector_norm(share_bst @ features_bth, dim=2)

    @torch.no_grad()
    def activations(self, snippets: Snippets) -> Arrays:
        _, magnitude_bt, cas_btc = self.network(snippets)
        found = {"cas": cas_btc.softmax(dim=2), "magnitude": magnitude_bt, "score": self.network.video_score(cas_btc)}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def activation_shapes(self) -> dict[str, tuple[int | None, ...]]:
        channels = self.config.num_classes
        return {"cas": (None, channels), "magnitude": (None,), "score": (channels,)}

    @torch.no_grad()
    def sequences(self, snippets: Snippets) -> Arrays:
        found = self.activations(snippets)
        return {"activation": found["cas"], "magnitude": found["magnitude"]}

    def predicted(self, score_c: NDArray[np.floating]) -> NDArray[np.bool_]:
        return score_c >= np.float32(self.config.class_th)

    def curves(self, arrays: Arrays) -> Curves:
        config = self.config
        cas, magnitude, score = arrays["cas"], arrays["magnitude"], arrays["score"]
        classes = np.flatnonzero(self.predicted(score))
        if len(classes) == 0:
            classes = np.array([score.argmax()])
        certainty = self.certainty(magnitude)
        duration, points = arrays.get("duration"), config.scale * len(cas)
        term = (np.float32(config.class_weight) * score[classes]).astype(np.float64)
        return Curves(
            classes=classes,
            activation=np.clip(min_max(columns_of(arrays, classes) * certainty[:, None]), 0, 1),
            common=certainty,
            sweeps=[Sweep(config.cas_thresholds, term), Sweep(config.mag_thresholds, term, support="common")],
            points=points,
            seconds_per_point=config.seconds_per_point(int(arrays["num_seg"]), points, duration),
            outer_width=config.outer,
            shortest_run=2,
            nms_threshold=config.nms_th,
            nms_pad=1.0 if "O2" in config.quirks else 0.0,
            nms_keeps_equal=config.variant != "official",
        )

    def certainty(self, magnitude_t: NDArray[np.floating]) -> NDArray[np.floating]:
        """(T,) magnitudes, scaled so that the mean of the smallest is 0 and the mean of the largest is 1, clipped to 0..1."""
        k_action, k_background = self.config.counts(len(magnitude_t))
        ordered = np.sort(magnitude_t)
        high, low = ordered[-k_action:].mean(), ordered[:k_background].mean()
        span = high - low
        return np.clip((magnitude_t - low) / (span if span > 0 else np.float32(1)), 0, 1)
