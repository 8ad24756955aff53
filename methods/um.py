"""UM on the seams of methods/: network, loss, activations, curves (docs/um.md).

Shapes: B batch, T time, F features, H hidden channels, C action classes, S the two sorts of
selected times, action and background.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from config import UMConfig
from engine.device import DTYPES
from fast.conv import Conv1d
from fast.dropout import Dropout
from fast.snippets import Snippets
from localize import Curves, Sweep, min_max
from methods.base import Arrays
from methods.losses import cross_entropy
from thumos_features import Batch, Indices, Video, random_indices, uniform_indices


class CAS_Module(nn.Module):
    """Features of every time and, from them, one logit per class."""

    def __init__(self, len_feature: int, num_classes: int, hidden: int, dropout: float):
        super().__init__()
        self.conv = nn.Sequential(Conv1d(len_feature, hidden, 3, padding=1), nn.ReLU())
        self.classifier = nn.Sequential(Conv1d(hidden, num_classes, 1, bias=False))
        self.drop_out = Dropout(dropout)

    def forward(self, x: Tensor | Snippets) -> tuple[Tensor, Tensor]:
        """(B, F, T) -> (B, H, T) before dropout and (B, C, T)."""
        features = self.conv(x)
        return features, self.classifier(self.drop_out(features))


class UMNetwork(nn.Module):
    """The classifier, and the times that it takes for action and for background (docs/um.md, section 2)."""

    def __init__(self, config: UMConfig):
        super().__init__()
        self.config, self.dtype = config, DTYPES[config.precision]
        self.cas_module = CAS_Module(config.len_feature, config.num_classes, config.hidden, config.dropout)
        self.drop_out = Dropout(config.dropout)

    def forward(self, x: Tensor | Snippets) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, T, H), their magnitudes (B, T) without a gradient, and activations (B, T, C), in single precision."""
        found = self.cas_module(Snippets.of(x, self.dtype))
        features_bth, cas_btc = (values.transpose(1, 2).float() for values in found)
        return features_bth, torch.linalg.vector_norm(features_bth.detach(), dim=2), cas_btc

    def video_score(self, cas_btc: Tensor) -> Tensor:
        """Softmax over classes of the mean of each class's largest activations."""
        k_action, _ = self.config.counts(cas_btc.shape[1])
        return cas_btc.topk(k_action, dim=1).values.mean(dim=1).softmax(dim=1)

    def select(self, magnitude_bt: Tensor) -> tuple[Tensor, Tensor]:
        """Times of the largest magnitudes and of the smallest, of those that a mask keeps."""
        kept_bt = self.drop_out(torch.ones_like(magnitude_bt))
        k_action, k_background = self.config.counts(magnitude_bt.shape[1])
        action_bk = _largest(magnitude_bt * kept_bt, k_action)
        if "L2" in self.config.quirks:
            return action_bk, (magnitude_bt * kept_bt).topk(k_background, largest=False).indices
        lack_bt = magnitude_bt.amax(dim=1, keepdim=True) - magnitude_bt
        return action_bk, _largest(lack_bt * kept_bt, k_background)


def _largest(values_bt: Tensor, k: int) -> Tensor:
    """Where the k largest are; of equals, as what a mask has dropped (quirk B11), those that torch's sort puts first."""
    return values_bt.sort(dim=1, descending=True).indices[:, :k]


class UM:
    def __init__(self, config: UMConfig):
        self.config = config
        self.network = UMNetwork(config)

    def shown(self, video: Video, random: np.random.RandomState | None) -> Indices:
        times = self.config.num_segments
        if random:
            return random_indices(video.num_seg, times, random)
        return uniform_indices(video.num_seg, min(video.num_seg, times))

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
        """(B, S) how large the mean feature of each selection is, or what quirk L1 takes for it."""
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
            activation=np.clip(min_max(cas[:, classes] * certainty[:, None]), 0, 1),
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
        """How far each magnitude is from the mean of the smallest to the mean of the largest, cut to 0..1."""
        k_action, k_background = self.config.counts(len(magnitude_t))
        ordered = np.sort(magnitude_t)
        high, low = ordered[-k_action:].mean(), ordered[:k_background].mean()
        span = high - low
        return np.clip((magnitude_t - low) / (span if span > 0 else np.float32(1)), 0, 1)
