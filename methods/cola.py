"""CoLA: settings, network, snippet mining and contrast, activations, curves (docs/cola.md).

Shapes: B batch, T time, F features, H hidden channels, C action classes, K selected snippets, P predicted classes, Q 2 queries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from config import ANY, Config, Quirk, Settings, derived, flag, ours, parse_thresholds, published, record_over_seven
from engine.device import DTYPES
from engine.flags import not_negative_number, positive_integer, positive_number, share
from fast.conv import Conv1d
from fast.dropout import Dropout
from fast.snippets import Snippets
from localize import Arrays, Curves, Sweep, columns_of, min_max
from methods.losses import cross_entropy, uniform_cross_entropy
from thumos_features import Batch, Indices, Video, whole_or_random_indices
from utils import UserError

# The authors' branch for ActivityNet 1.2. It is reported not to learn (docs/cola.md, section 6).
ACTIVITYNET: Settings = {
    "head": "wide",
    "num_segments": 50,
    "r_easy": 10,
    "r_hard": 8,
    "snico_weight": 0.005,
    "batch_size": 256,
    "lr": "[0.0001]*100000",
    "eval_every": "500",
    "class_th": 0.1,
    "cas_th": "0:0.15:0.015",
    "timing": "rows",
}


@dataclass(frozen=True, kw_only=True)
class CoLAConfig(Config):
    """CoLA's settings; defaults are the published values for THUMOS'14."""

    r_easy: int = flag(5, "one in so many snippets is an easy action, and one in so many easy background", positive_integer)
    r_hard: int = flag(20, "one in so many snippets is a hard action, and one in so many hard background", positive_integer)
    m: int = flag(3, "snippets of the smaller window by which action regions are eroded and dilated", positive_integer)
    M: int = flag(6, "snippets of the larger window", positive_integer)
    snippet_dropout: float = flag(0.6, "share of snippets that the selection of easy ones leaves out", share)
    temperature: float = flag(0.07, "divisor of cosines in the contrastive loss", positive_number)
    snico_weight: float = flag(0.01, "weight of the contrastive loss", not_negative_number)
    bce_reduction: str = flag(
        "mean",
        "classification loss: mean over classes, or sum, without which many classes may not be learned (docs/cola.md)",
        choices=["mean", "classsum"],
    )
    head: str = flag(
        "narrow",
        "convolutions: kernels 3 and 1 (narrow), or kernels 9, 9 and 7 of the branch for ActivityNet 1.2 (wide)",
        choices=["narrow", "wide"],
    )
    aness_th: str = flag("0.1:0.925:0.025", "thresholds of the scaled actionness, start:stop:step")

    QUIRKS: ClassVar = {"C4": Quirk("non-maximum suppression adds one second to lengths and intersections")}
    RECIPES: ClassVar = {
        ANY: published(seed=0, lr="[0.0001]*6000", eval_every="100", class_th=0.2, nms_th=0.6),
        "thumos14": published(choose_by="0.1:0.7"),
        "activitynet1.2": published(ACTIVITYNET),
        "activitynet1.3": derived(ACTIVITYNET),
        "demo": ours(
            choose_by="0.1:0.7",
            num_segments=128,
            hidden=128,
            lr="[0.003]*480",
            eval_every="epoch",
            snico_weight=0.05,
            temperature=0.15,
        ),
        "demo-activitynet": ours(
            num_segments=50,
            hidden=128,
            lr="[0.0015]*400",
            batch_size=32,
            eval_every="epoch",
            class_th=0.1,
            timing="rows",
            bce_reduction="classsum",
        ),
    }
    MUST_AGREE: ClassVar = (*Config.MUST_AGREE, "head")
    RECORD_AVERAGE: ClassVar = "0.1:0.7"

    @cached_property
    def aness_thresholds(self) -> list[float]:
        return parse_thresholds("--aness_th", self.aness_th)

    @property
    def uniform_losses(self) -> dict[str, float]:
        return {"loss_cls": uniform_cross_entropy(self.num_classes, self.bce_reduction)}

    def check(self) -> None:
        super().check()
        _ = self.aness_thresholds
        if self.m >= self.M:
            raise UserError(f"--m {self.m} --M {self.M}: leave no hard snippets. Expected m less than M, such as 3 and 6.")

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        return record_over_seven(self, record)

    def counts(self, times: int) -> tuple[int, int]:
        """How many of the network's `times` are easy and hard: at least one (quirks C1 and C2)."""
        return max(1, times // self.r_easy), max(1, times // self.r_hard)


class ActionnessModule(nn.Module):
    """Embeddings of snippets and, from them, the class activation sequence."""

    def __init__(self, len_feature: int, num_classes: int, hidden: int, dropout: float, wide: bool):
        super().__init__()
        if wide:
            self.f_embed = nn.Sequential(nn.Conv1d(len_feature, hidden, 9, padding=4), nn.ReLU())
            logits = nn.Conv1d(hidden, num_classes, 9, padding=4, bias=False)
            each_class = nn.Conv1d(num_classes, num_classes, 7, dilation=2, padding=6, groups=num_classes, bias=False)
            self.f_cls = nn.Sequential(logits, each_class, nn.ReLU())
        else:
            self.f_embed = nn.Sequential(Conv1d(len_feature, hidden, 3, padding=1), nn.ReLU())
            self.f_cls = nn.Sequential(Conv1d(hidden, num_classes, 1, bias=False), nn.ReLU())
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor | Snippets) -> tuple[Tensor, Tensor]:
        """(B, F, T) -> embeddings (B, H, T) before dropout and CAS (B, C, T), not negative."""
        embeddings = self.f_embed(x)
        return embeddings, self.f_cls(self.dropout(embeddings))


class Selection(NamedTuple):
    """Snippets (B, K) of each kind; easy ones are selected by actionness, hard ones at the borders of action regions."""

    easy_action: Tensor
    easy_background: Tensor
    hard_action: Tensor
    hard_background: Tensor


class CoLANetwork(nn.Module):
    """The classifier, and the selection of snippets to contrast (docs/cola.md, sections 2 and 3)."""

    def __init__(self, config: CoLAConfig):
        super().__init__()
        self.config, wide = config, config.head == "wide"
        self.dtype = torch.float32 if wide else DTYPES[config.precision]
        self.actionness_module = ActionnessModule(config.len_feature, config.num_classes, config.hidden, config.dropout, wide)
        self.snippet_dropout = Dropout(config.snippet_dropout)

    def forward(self, x: Tensor | Snippets) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, T, H), CAS (B, T, C) and actionness (B, T) of features (B, T, F) or `Snippets`."""
        found = self.actionness_module(Snippets.of(x, self.dtype, share=False))
        embeddings_bth, cas_btc = (values.transpose(1, 2).float() for values in found)
        return embeddings_bth, cas_btc, cas_btc.sum(dim=2)

    def video_score(self, cas_btc: Tensor) -> Tensor:
        """Softmax over classes of the mean of each class's largest activations."""
        easy, _ = self.config.counts(cas_btc.shape[1])
        return cas_btc.topk(easy, dim=1).values.mean(dim=1).softmax(dim=1)

    def select(self, actionness_bt: Tensor) -> Selection:
        easy, hard = self.config.counts(actionness_bt.shape[1])
        kept_bt = self.snippet_dropout(torch.ones_like(actionness_bt))
        lack_bt = actionness_bt.amax(dim=1, keepdim=True) - actionness_bt
        inner_bt, outer_bt = regions(actionness_bt, self.config.m, self.config.M)
        return Selection(
            largest(actionness_bt * kept_bt, easy),
            largest(lack_bt * kept_bt, easy),
            largest(actionness_bt * inner_bt, hard),
            largest(actionness_bt * outer_bt, hard),
        )


def largest(values_bt: Tensor, k: int) -> Tensor:
    """(B, K) places of the k largest values; of equal ones, the earliest (quirk C9)."""
    return values_bt.sort(dim=1, descending=True, stable=True).indices[:, :k]


def regions(actionness_bt: Tensor, m: int, M: int) -> tuple[Tensor, Tensor]:
    """(B, T) where snippets lie just inside and just outside an action: an actionness above the video's median.

    An even window is off-centre, by one snippet to the left in erosion and to the right in dilation, as published (quirk C5).
    """
    size_t = actionness_bt.shape[1]
    ordered_bt = actionness_bt.sort(dim=1).values
    median_b1 = (ordered_bt[:, (size_t - 1) // 2] + ordered_bt[:, size_t // 2])[:, None] / 2
    action_bt = actionness_bt > median_b1
    inner_bt = eroded(action_bt, m) & ~eroded(action_bt, M)
    outer_bt = dilated(action_bt, M) & ~dilated(action_bt, m)
    return inner_bt, outer_bt


def eroded(action_bt: Tensor, size: int) -> Tensor:
    """(B, T) where all of a window is action; past the ends nothing is."""
    return F.pad(action_bt, (size // 2, (size - 1) // 2)).unfold(1, size, 1).all(dim=2)


def dilated(action_bt: Tensor, size: int) -> Tensor:
    """(B, T) where some of a window is action."""
    return F.pad(action_bt, ((size - 1) // 2, size // 2)).unfold(1, size, 1).any(dim=2)


def contrast(embeddings_bth: Tensor, selection: Selection, temperature: float) -> tuple[Tensor, Tensor]:
    """The losses of hard actions and hard background: near the easy ones of their kind, far from each of the other kind."""
    shares_bkt = torch.stack(
        [torch.zeros_like(embeddings_bth[:, :, 0]).scatter_(1, kind, 1 / kind.shape[1]) for kind in selection], dim=1
    )
    key_bqh, query_bqh = (shares_bkt @ embeddings_bth).split(2, dim=1)  # easy ones are keys, hard ones queries
    length_bq, length_bt = length(query_bqh), length(embeddings_bth)
    cosine_bq = (query_bqh * key_bqh).sum(dim=2) / (length_bq * length(key_bqh))
    cosine_btq = embeddings_bth @ query_bqh.transpose(1, 2) / (length_bt[:, :, None] * length_bq[:, None])
    losses = []
    for query, negatives_bk in enumerate((selection.easy_background, selection.easy_action)):
        logits = torch.cat([cosine_bq[:, query, None], cosine_btq[:, :, query].gather(1, negatives_bk)], dim=1) / temperature
        losses.append((logits.logsumexp(dim=1) - logits[:, 0]).mean())
    return losses[0], losses[1]


def length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=2).clamp(min=1e-12)


class CoLA:
    settings = CoLAConfig
    narrow = True

    def __init__(self, config: CoLAConfig):
        self.config = config
        self.network = CoLANetwork(config)

    def sample(self, video: Video, random: np.random.RandomState | None) -> Indices:
        return whole_or_random_indices(video.num_seg, self.config.num_segments, random)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        embeddings_bth, cas_btc, actionness_bt = self.network(batch.snippets)
        label = batch.label_bc / batch.label_bc.sum(dim=1, keepdim=True)
        loss_cls = cross_entropy(self.network.video_score(cas_btc), label, config.bce_reduction)
        selection = self.network.select(actionness_bt.detach())
        loss_snico = sum(contrast(embeddings_bth, selection, config.temperature), loss_cls.new_zeros(()))
        total = loss_cls + config.snico_weight * loss_snico
        return {"loss_cls": loss_cls, "loss_snico": loss_snico, "loss_total": total}

    @torch.no_grad()
    def activations(self, snippets: Snippets) -> Arrays:
        _, cas_btc, actionness_bt = self.network(snippets)
        found = {"cas": cas_btc, "actionness": actionness_bt, "score": self.network.video_score(cas_btc)}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def activation_shapes(self) -> dict[str, tuple[int | None, ...]]:
        channels = self.config.num_classes
        return {"cas": (None, channels), "actionness": (None,), "score": (channels,)}

    def sequences(self, snippets: Snippets) -> Arrays:
        found = self.activations(snippets)
        return {"activation": found["cas"], "actionness": found["actionness"]}

    def predicted(self, score_c: NDArray[np.floating]) -> NDArray[np.bool_]:
        return score_c >= np.float32(self.config.class_th)

    def curves(self, arrays: Arrays) -> Curves:
        """Activation and actionness are thresholded; the activation scores the proposals of both."""
        config, score = self.config, arrays["score"]
        classes = np.flatnonzero(self.predicted(score))
        if len(classes) == 0:
            classes = np.array([score.argmax()])
        points = config.scale * len(arrays["cas"])
        term = (np.float32(config.class_weight) * score[classes]).astype(np.float64)
        return Curves(
            classes=classes,
            activation=np.clip(min_max(columns_of(arrays, classes)), 0, 1),
            common=np.clip(min_max(arrays["actionness"][:, None])[:, 0], 0, 1),
            sweeps=[Sweep(config.cas_thresholds, term), Sweep(config.aness_thresholds, term, support="common")],
            points=points,
            seconds_per_point=config.seconds_per_point(int(arrays["num_seg"]), points, arrays.get("duration")),
            outer_width=config.outer,
            shortest_run=2,
            nms_threshold=config.nms_th,
            nms_pad=0.0 if "C4" in config.repaired else 1.0,
        )
