"""BackTAL: settings, network, losses, activations, curves (docs/backtal.md).

Shapes: K branches (base, suppression), B batch, T time, F features, H hidden channels, E embedding, C action classes; class C
is the background.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from config import ANY, Config, Quirk, Settings, average_and_maps, derived, flag, ours, parse_thresholds, published
from dataset.annotations import Database
from dataset.clicks import ANNOTATORS, SOURCES, find_source, read_clicks
from dataset.layouts import Layout, find_layout
from engine.device import DTYPES
from engine.flags import at_most, not_negative_integer, not_negative_number, optional, share
from eval.names import did_you_mean
from fast.conv import Conv1d, at_least_single
from fast.dropout import Dropout
from fast.gated import GatedConv1d, GateLayout, affinities
from fast.snippets import Snippets
from localize import Arrays, Curves, Sweep, columns_of, min_max
from model import Filter_Module
from thumos_features import Batch, Mixture, Video, interpolated

EMBEDDING = 32  # channels

ACTIVITYNET: Settings = {
    "seed": 5,
    "sep_weight": 0.1,
    "topk": 0.6,
    "sep_topk": 0.2,
    "class_th": 0.1,
    "lr": "[0.0002]*950",
    "batch_size": 128,
    "num_segments": 100,
    "cas_th": "0:0.15:0.025",
    "mag_th": None,
    "outer": 20.0,
    "class_weight": 0.6,
    "nms_th": 0.7,
    "shrink": 0.02,
    "whole_video": 0.6,
}


def click_source(text: str) -> str:
    if text in SOURCES or PurePath(text).suffix:
        return text
    hint = did_you_mean(text, SOURCES)
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SOURCES)}, and no file such as clicks.csv.{hint}")


@dataclass(frozen=True, kw_only=True)
class BackTALConfig(Config):
    """BackTAL's settings; defaults are the published values for THUMOS'14."""

    alpha: float = flag(0.0001, "weight of the filter's L1 norm in the loss", not_negative_number)
    topk: float = flag(0.125, "share of a video's snippets whose activations are averaged to its score", share)
    whole_video: float | None = flag(
        None,
        "score of the whole video as an additional proposal of each class that has proposals; none: no such proposal",
        optional(not_negative_number),
        metavar="SCORE",
    )
    affinity_layout: Literal["official", "paper"] = flag(
        "official",
        "what each of the three gates weights: a third of the channels, as in the code and its checkpoints, or one kernel tap, "
        "as in the paper (docs/backtal.md, section 2)",
        choices=["official", "paper"],
    )
    clicks: str = flag(
        "auto",
        "background clicks of the training videos: npz (in the feature files), human (the annotators' files in human_anns/ of "
        "--data_path), simulated (from the ground truth, which every report states), or a file with the columns video,second; "
        "auto: the first available of npz, human, simulated",
        click_source,
        metavar="SOURCE",
        ours=True,
    )
    annotator: str | None = flag(
        None, "annotator of the clicks for --clicks human (None: A1)", choices=[*ANNOTATORS, "all"], ours=True
    )
    click_seed: int = flag(0, "seed of simulated clicks", not_negative_integer, ours=True)
    clicks_per_gap: int = flag(1, "simulated clicks in each gap before, between and after actions", at_most(10_000), ours=True)
    click_noise: float = flag(
        0.0, "standard deviation of a simulated click's time", not_negative_number, metavar="SECONDS", ours=True
    )
    click_miss: float = flag(0.0, "share of gaps without a simulated click", share, ours=True)
    sep_weight: float = flag(1.0, "weight of the score separation loss", not_negative_number)
    emb_weight: float = flag(0.8, "weight of the embedding separation loss", not_negative_number)
    sep_topk: float = flag(0.125, "--topk of the score separation loss", share)
    similar_min: float = flag(0.5, "embeddings of one kind have no loss from this cosine up", share)
    different_max: float = flag(0.1, "embeddings of action and background have no loss up to this cosine", share)
    mag_th: str | None = flag(
        "0.3,0.375,0.45,0.525,0.6,0.675,0.75",
        "thresholds of the feature magnitude for further proposals; none: no such proposals",
        optional(str),
        metavar="START:STOP:STEP",
    )
    shrink: float = flag(0.0, "share of its length that a proposal loses at each end", share)

    QUIRKS: ClassVar = {
        "B2": Quirk("non-maximum suppression adds one second to lengths and intersections"),
        "B5": Quirk("a proposal that is the first frame alone is none", loses=True),
        "B6": Quirk("the contrast region on the right of a proposal is one frame short"),
        "B15": Quirk("a video where no class passes the threshold yields no detection", loses=True),
    }
    RECIPES: ClassVar = {
        ANY: published(seed=38, lr="[0.0001]*520", scale=1, nms_th=0.55),
        "thumos14": published(choose_by="0.5"),
        "activitynet1.2": published(ACTIVITYNET),
        "activitynet1.3": derived(ACTIVITYNET, lr="[0.0002]*1975"),
        "hacs": published(
            ACTIVITYNET,
            class_th=0.075,
            lr="[0.0001]*4704",
            batch_size=64,
            num_segments=200,
            cas_th="0:0.2:0.025",
            outer=200.0,
            nms_th=0.71,
        ),
        "demo": ours(choose_by="0.5", seed=0, num_segments=128, hidden=128, lr="[0.0015]*480", alpha=3e-4),
        "demo-activitynet": ours(ACTIVITYNET, seed=0, hidden=128, lr="[0.0015]*400", batch_size=32),
    }
    MUST_AGREE: ClassVar = (*Config.MUST_AGREE, "affinity_layout")
    PAPER_AVERAGE: ClassVar = "0.3:0.7"

    @property
    def described(self) -> str:
        return f"{self.affinity_layout} affinity layout, clicks {self.clicks_described}"

    @property
    def clicks_described(self) -> str:
        if self.clicks == "simulated":
            each = f"seed {self.click_seed}, {self.clicks_per_gap} a gap"
            noise = f", {100 * self.click_miss:g} % of gaps missed, {self.click_noise:g} s of noise"
            return f"simulated from the ground truth ({each}{noise if self.click_miss or self.click_noise else ''})"
        human = f"of human annotators ({self.annotator or ANNOTATORS[0]})"
        named = {"human": human, "npz": "of the feature files", "auto": "of its training"}
        return named.get(self.clicks, f"of {self.clicks}")

    @cached_property
    def mag_thresholds(self) -> list[float]:
        return parse_thresholds("--mag_th", self.mag_th) if self.mag_th else []

    @property
    def uniform_losses(self) -> dict[str, float]:
        return dict.fromkeys(("loss_base", "loss_supp"), math.log(self.num_classes + 1))

    def check(self) -> None:
        super().check()
        _ = self.mag_thresholds

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        maps = {f"{float(tiou):.2f}": value for tiou, value in record["mAP"].items()}
        return f"Epoch: {epoch}\n" + average_and_maps(self.record_average(record), maps)

    def prepare_training(self, videos: list[Any], layout: Layout, database: Database) -> tuple[list[Any], list[str]]:
        clicks, said = read_clicks(videos, layout, self, database)
        return [replace(video, clicks=clicks[video.name]) for video in videos], [said]

    def settled(self) -> "BackTALConfig":
        root = Path(self.data_path)
        return replace(self, clicks=find_source(self.clicks, root, find_layout(root, self.facts, self.layout), self.annotator))


class BackTALOutput(NamedTuple):
    """Outputs of the network; branches are base and suppression, or suppression alone."""

    score_kbc: Tensor  # means of each class's k largest activations
    cas_kbtc: Tensor
    embedding_bte: Tensor  # unit vectors
    fore_bt: Tensor
    magnitude_bt: Tensor | None  # norm of the suppression branch's first layer; None in training


class Gated_Module(nn.Module):
    """Two convolutions without bias, gated by affinities that both branches share."""

    def __init__(self, len_feature: int, hidden: int, layout: GateLayout):
        super().__init__()
        self.conv_1 = GatedConv1d(len_feature, hidden, 3, padding=1, bias=False, layout=layout)
        self.conv_2 = GatedConv1d(hidden, hidden, 3, padding=1, bias=False, layout=layout)
        self.lrelu = nn.LeakyReLU()

    def forward(self, x: Tensor, gates_bt3: Tensor, weight_kbt: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (K, B, H, T) of both layers for x (B, F, T) times the weights of each branch."""
        first = self.lrelu(self.conv_1(x, gates_bt3, weight_kbt))
        second = self.lrelu(self.conv_2(first.flatten(0, 1), gates_bt3.repeat(len(weight_kbt), 1, 1)))
        return first, second.unflatten(0, weight_kbt.shape[:2])


class Classifier_Module(nn.Module):
    def __init__(self, hidden: int, num_classes: int, dropout: float):
        super().__init__()
        self.conv = Conv1d(hidden, num_classes + 1, 1, bias=False)
        self.drop_out = Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, H, T) -> (B, T, C+1) in single precision."""
        return at_least_single(self.conv(self.drop_out(hidden)).transpose(1, 2))


class Embedding_Module(nn.Module):
    def __init__(self, len_feature: int, hidden: int):
        super().__init__()
        self.conv_1 = Conv1d(len_feature, hidden, 3, padding=1)
        self.conv_2 = Conv1d(hidden, EMBEDDING, 3, padding=1)
        self.lrelu = nn.LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, T) -> (B, T, E) unit vectors in the precision of the weights."""
        hidden = at_least_single(self.lrelu(self.conv_1(x)))
        return F.normalize(self.conv_2(hidden).transpose(1, 2), dim=2)


class BackTALNetwork(nn.Module):
    """`dtype` is the type of large matrix products; weights, embeddings, scores and losses have the parameters' type."""

    def __init__(
        self,
        len_feature: int,
        num_classes: int,
        num_segments: int,
        hidden: int = 2048,
        dropout: float = 0.7,
        topk: float = 0.125,
        layout: GateLayout = "official",
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.filter_module = Filter_Module(len_feature, max(1, hidden // 4))
        self.base_module = Gated_Module(len_feature, hidden, layout)
        self.classifier_module = Classifier_Module(hidden, num_classes, dropout)
        self.embedding_module = Embedding_Module(len_feature, max(1, hidden // 4))
        self.k = max(1, int(num_segments * topk))
        self.dtype = dtype

    def forward(self, x: Tensor | Snippets, localized_only: bool = False) -> BackTALOutput:
        """Output for features (B, T, F) or `Snippets`; `localized_only` skips the base branch, unused in localization."""
        snippets = Snippets.of(x, self.dtype)
        fore_bt = self.filter_module(snippets).squeeze(1)
        features = snippets.dense()
        embedding_bte = self.embedding_module(features)
        weight_kbt = fore_bt[None] if localized_only else torch.stack([torch.ones_like(fore_bt), fore_bt])
        gates_bt3 = affinities(embedding_bte).to(self.dtype)
        first, second = self.base_module(features, gates_bt3, weight_kbt.to(self.dtype))
        # taken apart in the order of memory, in which autograd puts their gradients together again
        branches = second.transpose(2, 3).unbind()
        cas_kbtc = torch.stack([self.classifier_module(branch_bth.transpose(1, 2)) for branch_bth in branches])
        magnitude_bt = first[-1].float().norm(dim=1) if localized_only else None
        return BackTALOutput(top_mean(cas_kbtc, self.k), cas_kbtc, embedding_bte, fore_bt, magnitude_bt)


def top_mean(cas_kbtc: Tensor, k: int) -> Tensor:
    """(..., C) mean over time of each class's k largest activations."""
    return cas_kbtc.topk(min(k, cas_kbtc.shape[-2]), dim=-2).values.mean(dim=-2)


class BackTALLoss(nn.Module):
    """Video classification of both branches, L1 norm of the filter, and three click losses (docs/backtal.md, section 3)."""

    def __init__(self, config: BackTALConfig):
        super().__init__()
        self.config = config
        self.k, self.sep_k = (max(1, int(config.num_segments * share)) for share in (config.topk, config.sep_topk))

    def forward(
        self, output: BackTALOutput, label_bc: Tensor, click_bt: Tensor, counts: tuple[float, float] | None = None
    ) -> dict[str, Tensor]:
        """Named terms; `click_bt` is 1 at background clicks, else 0. The click losses of a batch without clicks are 0.

        `counts` are the numbers of clicks and of clicked videos to divide by (None: those of `click_bt`).
        """
        config = self.config
        (score_base, score_supp), (cas_base, cas_supp) = output.score_kbc, output.cas_kbtc
        clicked_b = click_bt.amax(dim=1)
        clicks, clicked = counts or (click_bt.sum().clamp(min=1), clicked_b.sum().clamp(min=1))

        def over_clicked(value_b: Tensor) -> Tensor:
            return (value_b * clicked_b).sum() / clicked

        background_bt = cas_base.log_softmax(dim=2)[:, :, -1]
        found = {
            "loss_base": classification(score_base, label_bc, 1.0),
            "loss_supp": classification(score_supp, label_bc, 0.0),
            "loss_norm": output.fore_bt.abs().sum(dim=1).mean(),
            "loss_click": -(background_bt * click_bt).sum() / clicks,
            "loss_sep": over_clicked(self.score_separation(score_base, cas_base, label_bc, click_bt)),
            "loss_emb": over_clicked(self.embedding_separation(output.embedding_bte, cas_supp, label_bc, click_bt)),
        }
        weight = {"loss_norm": config.alpha, "loss_sep": config.sep_weight, "loss_emb": config.emb_weight}
        total = torch.stack([weight.get(name, 1.0) * term for name, term in found.items()]).sum()
        return found | {"loss_total": total}

    def score_separation(self, score_bc: Tensor, cas_btc: Tensor, label_bc: Tensor, click_bt: Tensor) -> Tensor:
        """(B,) softplus of a labelled class's mean activation at clicks minus its largest ones' mean, averaged over classes."""
        high_bc = score_bc if self.sep_k == self.k else top_mean(cas_btc, self.sep_k)
        clicked_bc = torch.einsum("btc,bt->bc", cas_btc, click_bt) / click_bt.sum(1, keepdim=True).clamp(min=1)
        term_bc = F.softplus(clicked_bc - high_bc)[:, :-1]
        return (term_bc * label_bc).sum(1) / label_bc.sum(1).clamp(min=1)

    def embedding_separation(self, embedding_bte: Tensor, cas_btc: Tensor, label_bc: Tensor, click_bt: Tensor) -> Tensor:
        """(B,) hinge losses that pull action to action and clicks to clicks, and push action and clicks apart.

        Action is the k times with the highest activations of each labelled class; a time counts once per such class.
        """
        top_bkc = cas_btc[:, :, :-1].detach().topk(min(self.k, cas_btc.shape[1]), dim=1).indices
        action_bt = torch.zeros_like(click_bt).scatter_add_(
            1, top_bkc.flatten(1), label_bc.to(click_bt)[:, None].expand(top_bkc.shape).flatten(1)
        )
        cosine_btt = embedding_bte @ embedding_bte.transpose(1, 2)
        kinds = (action_bt, click_bt)
        hinges = []
        for own in kinds:
            least_bt = cosine_btt.masked_fill(own[:, None] == 0, torch.inf).min(dim=2).values
            hinges.append((own, self.config.similar_min - least_bt))
        for own, other in (kinds, kinds[::-1]):
            most_bt = cosine_btt.masked_fill(other[:, None] == 0, -torch.inf).max(dim=2).values
            hinges.append((own, most_bt - self.config.different_max))
        parts = [(own * hinge.relu()).sum(1) / own.sum(1).clamp(min=1) for own, hinge in hinges]
        return torch.stack(parts).sum(0)


def classification(score_bc: Tensor, label_bc: Tensor, background: float) -> Tensor:
    """Cross-entropy of the softmax over classes with the label normalized to sum 1, background included."""
    target = torch.cat([label_bc, label_bc.new_full((len(label_bc), 1), background)], dim=1)
    target = target / (target.sum(dim=1, keepdim=True) + 1e-10)
    return -(target * score_bc.log_softmax(dim=1)).sum(1).mean()


def clicked_times(videos: Sequence[Video], times: int) -> NDArray[np.float32]:
    """(B, T) 1 where one of the T equal parts of a video contains a click, else 0."""
    click_bt = np.zeros((len(videos), times), dtype=np.float32)
    for click_t, video in zip(click_bt, videos, strict=True):
        click_t[[min(times - 1, int(share * times)) for share in video.clicks]] = 1
    return click_bt


class BackTAL:
    settings = BackTALConfig
    narrow = True

    def __init__(self, config: BackTALConfig):
        self.config = config
        self.network = BackTALNetwork(
            config.len_feature,
            config.num_classes,
            config.num_segments,
            config.hidden,
            config.dropout,
            config.topk,
            config.affinity_layout,
            DTYPES[config.precision],
        )
        self.criterion = BackTALLoss(config)

    def sample(self, video: Video, random: np.random.RandomState | None) -> Mixture:
        return interpolated(video.num_seg, self.config.num_segments)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        times = self.config.num_segments
        click_bt, whole_bt = clicked_times(batch.videos, times), clicked_times(batch.whole or batch.videos, times)
        clicks, clicked = (batch.share * float(count) or 1.0 for count in (whole_bt.sum(), whole_bt.any(axis=1).sum()))
        on_device_bt = torch.from_numpy(click_bt).to(batch.label_bc.device)
        return self.criterion(self.network(batch.snippets), batch.label_bc, on_device_bt, (clicks, clicked))

    @torch.no_grad()
    def activations(self, snippets: Snippets) -> Arrays:
        output = self.network(snippets, localized_only=True)
        assert output.magnitude_bt is not None
        score_bc = output.score_kbc[-1].softmax(dim=1)
        found = {"cas": output.cas_kbtc[-1], "score": score_bc, "magnitude": output.magnitude_bt}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def activation_shapes(self) -> dict[str, tuple[int | None, ...]]:
        channels = self.config.num_classes + 1
        return {"cas": (None, channels), "score": (channels,), "magnitude": (None,)}

    @torch.no_grad()
    def sequences(self, snippets: Snippets) -> Arrays:
        output = self.network(snippets)
        affinity_bt = affinities(output.embedding_bte)[:, :, 2]
        named = {
            "base branch": output.cas_kbtc[0],
            "suppressed branch": output.cas_kbtc[1],
            "foreground\nweight": output.fore_bt,
            "affinity to\nthe next row": affinity_bt,
        }
        return {name: value.cpu().numpy() for name, value in named.items()}

    def predicted(self, score_c: NDArray[np.floating]) -> NDArray[np.bool_]:
        return score_c[: self.config.num_classes] >= np.float32(self.config.class_th)

    def curves(self, arrays: Arrays) -> Curves:
        config = self.config
        score = arrays["score"][: config.num_classes]
        seconds = config.seconds(int(arrays["num_seg"]), float(arrays["duration"]) if "duration" in arrays else None)
        frames = int(arrays["frames"]) if "frames" in arrays else max(1, round(seconds * config.fps))
        classes = np.flatnonzero(self.predicted(score))
        if len(classes) == 0 and "B15" in config.repaired:
            classes = np.array([np.argmax(score)])
        term = config.class_weight * score[classes].astype(np.float64)
        sweeps, common = [Sweep(np.array(config.cas_thresholds, np.float32).tolist(), term)], None
        if config.mag_thresholds:
            common = np.clip(min_max(arrays["magnitude"][:, None]), 0, 1)[:, 0]
            sweeps.append(Sweep(np.array(config.mag_thresholds, np.float32).tolist(), term, support="common"))
        return Curves(
            classes=classes,
            activation=min_max(columns_of(arrays, classes)),
            common=common,
            sweeps=sweeps,
            points=config.scale * frames,
            resize=True,
            seconds_per_point=seconds / (config.scale * frames),
            outer_width=config.outer,
            right_surroundings_less=0 if "B6" in config.repaired else 1,
            first_point_counts="B5" in config.repaired,
            shrink=config.shrink,
            whole_video_score=config.whole_video,
            nms_threshold=config.nms_th,
            nms_pad=0.0 if "B2" in config.repaired else 1.0,
        )
