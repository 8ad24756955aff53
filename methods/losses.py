"""Losses that methods share, and BaS-Net's.

Shapes: B batch, T time, C action classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def uniform_cross_entropy(classes: int, reduction: str) -> float:
    """`cross_entropy` of equal scores, with whatever target that sums to 1."""
    total = math.log(classes) - (classes - 1) * math.log1p(-1 / classes) if classes > 1 else 0.0
    return total if reduction == "classsum" else total / classes


def cross_entropy(score: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Binary cross-entropy over videos and classes, or times the number of classes: `classsum`."""
    # torch's function raises on NaN, on a GPU for good; the added zero shows a NaN in the loss instead
    mean = F.binary_cross_entropy(score.nan_to_num(nan=0.5), target) + 0 * score.sum()
    return mean * score.shape[1] if reduction == "classsum" else mean
