"""BaS-Net: a filter that weights snippets, and a classifier shared by the base and the suppression branch.

The layers of fast/ are drop-in replacements of torch's. You can change any layer here or replace it by one of torch.nn
(docs/performance.md, section 1).

Shapes: B batch, F features, T times, C classes, of which the last is the background except in the baseline.
"""

import torch
from torch import Tensor, nn

from fast.conv import Conv1d, at_least_single
from fast.dropout import Dropout
from fast.snippets import Snippets

Output = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Filter_Module(nn.Module):
    """Predicts the foreground weight of each snippet."""

    def __init__(self, len_feature: int, hidden: int = 512):
        super().__init__()
        self.conv_1 = nn.Sequential(Conv1d(len_feature, hidden, 1), nn.LeakyReLU())
        self.conv_2 = nn.Sequential(Conv1d(hidden, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor | Snippets) -> Tensor:
        """(B, F, T) -> (B, 1, T) in single precision."""
        return self.conv_2(at_least_single(self.conv_1(x)))


class CAS_Module(nn.Module):
    """Predicts the class activation sequence: one logit per time and class."""

    def __init__(self, len_feature: int, num_classes: int, hidden: int = 2048, dropout: float = 0.7):
        super().__init__()
        self.conv_1 = nn.Sequential(Conv1d(len_feature, hidden, 3, padding=1), nn.LeakyReLU())
        self.conv_2 = nn.Sequential(Conv1d(hidden, hidden, 3, padding=1), nn.LeakyReLU())
        self.conv_3 = nn.Sequential(Conv1d(hidden, num_classes, 1, bias=False))
        self.drop_out = Dropout(dropout)

    def forward(self, x: Tensor | Snippets) -> Tensor:
        """(B, F, T) -> (B, T, C) in single precision."""
        hidden = self.conv_2(self.conv_1(x))
        return self.conv_3(self.drop_out(hidden)).transpose(1, 2).float()


class BaS_Net(nn.Module):
    """Both branches, or those of an ablation (docs/basnet.md, section 2).

    `ablation`: `full` has both branches; `base` the base branch alone; `supp` the suppression branch alone;
    `baseline` the base branch without a background class. Outputs of a missing branch are None.
    Large layers compute in `dtype`; weights, scores and losses are in single precision.
    """

    def __init__(
        self,
        len_feature: int,
        num_classes: int,
        num_segments: int,
        hidden: int = 2048,
        dropout: float = 0.7,
        ablation: str = "full",
        topk: float = 0.125,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.has_base = ablation != "supp"
        self.has_supp = ablation in ("full", "supp")
        if self.has_supp:
            self.filter_module = Filter_Module(len_feature, max(1, hidden // 4))
        self.cas_module = CAS_Module(len_feature, num_classes + (ablation != "baseline"), hidden, dropout)
        self.k = max(1, int(num_segments * topk))
        self.dtype = dtype

    def video_score(self, cas_btc: Tensor) -> Tensor:
        """(B, C) softmax over classes of the mean of each class's k largest activations."""
        return cas_btc.topk(min(self.k, cas_btc.shape[1]), dim=1).values.mean(dim=1).softmax(dim=1)

    def forward(self, x: Tensor | Snippets, localized_only: bool = False) -> Output:
        """Scores (B, C) and CAS (B, T, C) of both branches, and foreground weights (B, T, 1).

        `x` is a tensor (B, T, F) or `Snippets`. `localized_only` skips the base branch if localization does not use it.
        """
        x = Snippets.of(x, self.dtype)
        score_base = cas_base = score_supp = cas_supp = fore_weights = None
        if self.has_base and not (localized_only and self.has_supp):
            cas_base = self.cas_module(x)
            score_base = self.video_score(cas_base)
        if self.has_supp:
            weights = self.filter_module(x)
            cas_supp = self.cas_module(weights * x)
            score_supp = self.video_score(cas_supp)
            fore_weights = weights.transpose(1, 2)
        return score_base, cas_base, score_supp, cas_supp, fore_weights


def evaluated_branch(output: Output) -> tuple[Tensor, Tensor]:
    """The score and the CAS for localization: the suppression branch's, or the base branch's if there is no other."""
    score_base, cas_base, score_supp, cas_supp, _ = output
    score, cas = (score_base, cas_base) if score_supp is None else (score_supp, cas_supp)
    assert isinstance(score, torch.Tensor) and isinstance(cas, torch.Tensor)
    return score, cas
