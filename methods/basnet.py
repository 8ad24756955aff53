"""BaS-Net on the seams of methods/: network, loss, activations, curves (docs/basnet.md).

Shapes: B batch, T time, C action classes, K classes to localize.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config import BaSNetConfig
from engine.device import DTYPES
from fast.dropout import as_torch
from fast.snippets import Snippets
from localize import Curves, Sweep, min_max
from methods.base import Arrays
from methods.losses import BaS_Net_loss
from model import BaS_Net, evaluated_branch
from thumos_features import Batch, Indices, Video, random_indices, uniform_indices


class BaSNet:
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

    def shown(self, video: Video, random: np.random.RandomState | None) -> Indices:
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
            activation=min_max(cas[:, classes]),
            sweeps=[Sweep(config.cas_thresholds, config.class_weight * term)],
            points=points,
            seconds_per_point=config.seconds_per_point(int(arrays["num_seg"]), points, duration),
            outer_width=config.outer,
            nms_threshold=config.nms_th,
            nms_pad=0.0 if "B4" in config.repaired else 1.0,
            whole_video_score=config.whole_video,
        )

    def localized_classes(self, score_c: NDArray[np.floating]) -> NDArray[np.integer]:
        """Predicted classes, less what quirks B1 and B2 lose."""
        classes = np.flatnonzero(self.predicted(score_c))
        if len(classes) == 0 and "B2" in self.config.repaired:
            return np.array([np.argmax(score_c)])
        if not classes.any() and "B1" not in self.config.repaired:
            return classes[:0]
        return classes
