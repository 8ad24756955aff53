"""CoLA as one would write it first: torch's convolutions, scipy's morphology, and every negative snippet gathered."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from methods.cola import CoLA, CoLAConfig, Selection
from thumos_features import Batch


def windows(action_t: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Erosion and dilation of one video by a window of so many snippets."""
    window = np.ones(size)
    return ndimage.binary_erosion(action_t, window), ndimage.binary_dilation(action_t, window)


def regions(actionness_t: np.ndarray, m: int, M: int) -> tuple[np.ndarray, np.ndarray]:
    action_t = actionness_t > np.median(actionness_t)
    (small_eroded, small_dilated), (large_eroded, large_dilated) = windows(action_t, m), windows(action_t, M)
    return small_eroded & ~large_eroded, large_dilated & ~small_dilated


def largest(values_t: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-values_t, kind="stable")[:k]


def gathered(embeddings_bth: Tensor, places_bk: Tensor) -> Tensor:
    """(B, K, H)"""
    return embeddings_bth.gather(1, places_bk[:, :, None].expand(-1, -1, embeddings_bth.shape[2]))


def contrast(embeddings_bth: Tensor, selection: Selection, temperature: float) -> list[Tensor]:
    easy_action, easy_background, hard_action, hard_background = (gathered(embeddings_bth, kind) for kind in selection)
    losses = []
    for hard, positive, negatives in (
        (hard_action, easy_action, easy_background),
        (hard_background, easy_background, easy_action),
    ):
        query, key = (F.normalize(kind.mean(dim=1), dim=1) for kind in (hard, positive))
        negatives = F.normalize(negatives, dim=2)
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), (negatives * query[:, None]).sum(dim=2)], dim=1)
        losses.append(F.cross_entropy(logits / temperature, torch.zeros(len(logits), dtype=torch.int64)))
    return losses


class PlainCoLA(nn.Module):
    """The same weights, applied to every snippet shown by torch's convolutions."""

    def __init__(self, network: nn.Module):
        super().__init__()
        module = network.actionness_module
        self.embed, self.classify = module.f_embed[0], module.f_cls[0]
        self.dropout, self.snippet_dropout = nn.Dropout(module.dropout.p), nn.Dropout(network.snippet_dropout.p)

    def forward(self, x_btf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embeddings = F.relu(F.conv1d(x_btf.transpose(1, 2), self.embed.weight, self.embed.bias, padding=1))
        cas = F.relu(F.conv1d(self.dropout(embeddings) if self.training else embeddings, self.classify.weight))
        return embeddings.transpose(1, 2), cas.transpose(1, 2), cas.sum(dim=1)


def loss(network: PlainCoLA, x_btf: Tensor, label_bc: Tensor, config: CoLAConfig, masked: bool = False) -> dict[str, Tensor]:
    embeddings_bth, cas_btc, actionness_bt = network(x_btf)
    easy, hard = config.counts(cas_btc.shape[1])
    score_bc = cas_btc.sort(dim=1, descending=True).values[:, :easy].mean(dim=1).softmax(dim=1)
    loss_cls = F.binary_cross_entropy(score_bc, label_bc / label_bc.sum(dim=1, keepdim=True))
    actionness = actionness_bt.detach().numpy()
    mask = network.snippet_dropout(torch.ones_like(actionness_bt)).numpy() if masked else np.ones_like(actionness)
    kinds: list[list[np.ndarray]] = [[], [], [], []]
    for values, kept in zip(actionness, mask, strict=True):
        inner, outer = regions(values, config.m, config.M)
        chosen = (values * kept, (values.max() - values) * kept), (values * inner, values * outer)
        places = [largest(v, easy) for v in chosen[0]] + [largest(v, hard) for v in chosen[1]]
        for kind, own in zip(kinds, places, strict=True):
            kind.append(own)
    selection = Selection(*(torch.from_numpy(np.stack(kind)) for kind in kinds))
    loss_snico = sum(contrast(embeddings_bth, selection, config.temperature), loss_cls.new_zeros(()))
    return {"loss_cls": loss_cls, "loss_snico": loss_snico, "loss_total": loss_cls + config.snico_weight * loss_snico}


class PlainMethod(CoLA):
    """The method with this network and loss."""

    def __init__(self, config: CoLAConfig):
        super().__init__(config)
        self.network = PlainCoLA(self.network)  # type: ignore[assignment]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return loss(self.network, batch.snippets.dense().transpose(1, 2), batch.label_bc, self.config, masked=True)  # type: ignore[arg-type]
