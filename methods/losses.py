"""BaS-Net's loss, and the cross-entropy that methods share.

Shapes: B batch, T time, C action classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BaS_Net_loss(nn.Module):
    """Video classification losses of both branches and L1 norm of the filter (docs/basnet.md, section 3)."""

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
        """Binary cross-entropy with the label, including a background class if any, normalized to sum 1."""
        if background is not None:
            label = torch.cat([label, label.new_full((len(label), 1), background)], dim=1)
        return cross_entropy(score, label / label.sum(dim=1, keepdim=True), self.reduction)


def uniform_cross_entropy(classes: int, reduction: str) -> float:
    """`cross_entropy` of equal scores, with whatever target that sums to 1."""
    total = math.log(classes) - (classes - 1) * math.log1p(-1 / classes) if classes > 1 else 0.0
    return total if reduction == "classsum" else total / classes


def cross_entropy(score: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Binary cross-entropy, averaged over videos and over classes (`mean`) or summed over classes (`classsum`)."""
    # torch's function raises on NaN, and leaves a GPU unusable; adding 0 * score makes the loss NaN instead
    mean = F.binary_cross_entropy(score.nan_to_num(nan=0.5), target) + 0 * score.sum()
    return mean * score.shape[1] if reduction == "classsum" else mean
