"""BaS-Net: settings, loss, activations, curves (docs/basnet.md). Its network is in model.py, its flags in options.py.

Shapes: B batch, T time, C action classes, K classes to localize.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config import Config, Quirk, Settings, derived, ours, published
from engine.device import DTYPES
from fast.dropout import as_torch
from fast.snippets import Snippets
from localize import Arrays, Curves, Sweep, columns_of, min_max
from methods.losses import BaS_Net_loss, uniform_cross_entropy
from model import BaS_Net, evaluated_branch
from thumos_features import Batch, Indices, Video, random_indices, uniform_indices

# BaS-Net's authors published no settings for ActivityNet. These are BackTAL's, which has the same two branches plus clicks.
# The length of a schedule is BackTAL's number of epochs times the number of batches of the complete training set.
ACTIVITYNET: Settings = {
    "num_segments": 100,
    "topk": 0.6,
    "lr": "[0.0002]*950",
    "batch_size": 128,
    "class_th": 0.1,
    "cas_th": "0:0.15:0.025",
    "outer": 20.0,
    "class_weight": 0.6,
    "nms_th": 0.7,
    "whole_video": 0.6,
    "bce_reduction": "classsum",
}


@dataclass(frozen=True, kw_only=True)
class BaSNetConfig(Config):
    """BaS-Net's settings; options.py defines its flags, with the published values for THUMOS'14."""

    ablation: str
    alpha: float
    topk: float
    bce_reduction: str
    whole_video: float | None

    QUIRKS: ClassVar = {
        "B1": Quirk("a video whose only predicted class is number 0 yields no detection", loses=True),
        "B2": Quirk("a video where no class passes the threshold yields no detection", loses=True),
        "B3": Quirk("the class term of a proposal's score is the thresholded score, so always 1"),
        "B4": Quirk("non-maximum suppression adds one second to lengths and intersections"),
        "B6": Quirk("after the first pass every batch is the first batch of a new shuffle"),
    }
    RECIPES: ClassVar = {
        "thumos14": published(),
        "activitynet1.2": derived(ACTIVITYNET),
        "activitynet1.3": derived(ACTIVITYNET, lr="[0.0002]*1975"),
        "hacs": derived(
            ACTIVITYNET,
            num_segments=200,
            lr="[0.0001]*4704",
            batch_size=64,
            class_th=0.075,
            cas_th="0:0.2:0.025",
            outer=200.0,
            nms_th=0.71,
        ),
        "demo": ours(seed=0, num_segments=128, hidden=128, lr="[0.0015]*480", alpha=3e-4),
        "demo-activitynet": ours(ACTIVITYNET, seed=0, hidden=128, lr="[0.0015]*400", batch_size=32),
    }
    MUST_AGREE: ClassVar = (*Config.MUST_AGREE, "ablation")

    @property
    def described(self) -> str:
        return self.ablation

    @property
    def first_batch_again(self) -> bool:
        return "B6" not in self.repaired

    @property
    def uniform_losses(self) -> dict[str, float]:
        loss = uniform_cross_entropy(self.num_classes + (self.ablation != "baseline"), self.bce_reduction)
        return {"loss_base": loss, "loss_supp": loss}


class BaSNet:
    settings = BaSNetConfig
    narrow = True

    def __init__(self, config: BaSNetConfig):
        self.config = config
        self.network = BaS_Net(
            config.len_feature,
            config.num_classes,
            config.num_segments,
            config.hidden,
            config.dropout,
            config.ablation,
            config.topk,
            DTYPES[config.precision],
        )
        if config.draws == "official":
            self.network.cas_module.drop_out.draw = as_torch
        self.criterion = BaS_Net_loss(config.alpha, config.bce_reduction)

    def sample(self, video: Video, random: np.random.RandomState | None) -> Indices:
        times = self.config.num_segments
        return random_indices(video.num_seg, times, random) if random else uniform_indices(video.num_seg, times)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        score_base, _, score_supp, _, fore_weights = self.network(batch.snippets)
        return self.criterion(score_base, score_supp, fore_weights, batch.label_bc)[1]

    @torch.no_grad()
    def activations(self, snippets: Snippets) -> Arrays:
        score, cas = evaluated_branch(self.network(snippets, localized_only=True))
        return {"cas": cas.cpu().numpy(), "score": score.cpu().numpy()}

    def activation_shapes(self) -> dict[str, tuple[int | None, ...]]:
        channels = self.config.num_classes + (self.config.ablation != "baseline")
        return {"cas": (None, channels), "score": (channels,)}

    @torch.no_grad()
    def sequences(self, snippets: Snippets) -> Arrays:
        _, cas_base, _, cas_supp, fore_weights = self.network(snippets)
        named = {"base branch": cas_base, "suppressed branch": cas_supp, "foreground\nweight": fore_weights}
        return {name: value.squeeze(2).cpu().numpy() for name, value in named.items() if value is not None}

    def predicted(self, score_c: NDArray[np.floating]) -> NDArray[np.bool_]:
        return score_c[: self.config.num_classes] >= np.float32(self.config.class_th)

    def curves(self, arrays: Arrays) -> Curves:
        config = self.config
        cas, score = arrays["cas"], arrays["score"][: config.num_classes]
        duration, points = arrays.get("duration"), config.scale * len(cas)
        classes = self.localized_classes(score)
        term = score[classes].astype(np.float64) if "B3" in config.repaired else np.ones(len(classes))
        return Curves(
            classes=classes,
            activation=min_max(columns_of(arrays, classes)),
            sweeps=[Sweep(config.cas_thresholds, config.class_weight * term)],
            points=points,
            seconds_per_point=config.seconds_per_point(int(arrays["num_seg"]), points, duration),
            outer_width=config.outer,
            nms_threshold=config.nms_th,
            nms_pad=0.0 if "B4" in config.repaired else 1.0,
            whole_video_score=config.whole_video,
        )

    def localized_classes(self, score_c: NDArray[np.floating]) -> NDArray[np.integer]:
        """Indices of the predicted classes, without those that quirks B1 and B2 lose."""
        classes = np.flatnonzero(self.predicted(score_c))
        if len(classes) == 0 and "B2" in self.config.repaired:
            return np.array([np.argmax(score_c)])
        if not classes.any() and "B1" not in self.config.repaired:
            return classes[:0]
        return classes
