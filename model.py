"""BaS-Net: a filter that weighs time steps and a classifier shared by the base and the suppression branch.

Shapes: B batch, T time, F features, C action classes; class C, where there is one, is the background.
"""

import torch
from torch import Tensor, nn


class Filter_Module(nn.Module):
    """Foreground weight of every time step, from its own features alone."""

    def __init__(self, len_feature: int, hidden: int = 512):
        super().__init__()
        self.conv_1 = nn.Sequential(nn.Conv1d(len_feature, hidden, 1), nn.LeakyReLU())
        self.conv_2 = nn.Sequential(nn.Conv1d(hidden, 1, 1), nn.Sigmoid())

    def forward(self, x_btf: Tensor) -> Tensor:
        return self.conv_2(self.conv_1(x_btf.transpose(1, 2))).transpose(1, 2)


class CAS_Module(nn.Module):
    """Class activation sequence: one logit per time step and class."""

    def __init__(self, len_feature: int, num_classes: int, hidden: int = 2048, dropout: float = 0.7):
        super().__init__()
        self.conv_1 = nn.Sequential(nn.Conv1d(len_feature, hidden, 3, padding=1), nn.LeakyReLU())
        self.conv_2 = nn.Sequential(nn.Conv1d(hidden, hidden, 3, padding=1), nn.LeakyReLU())
        self.conv_3 = nn.Sequential(nn.Conv1d(hidden, num_classes, 1, bias=False))
        self.drop_out = nn.Dropout(dropout)

    def forward(self, x_btf: Tensor) -> Tensor:
        hidden_bht = self.conv_2(self.conv_1(x_btf.transpose(1, 2)))
        return self.conv_3(self.drop_out(hidden_bht)).transpose(1, 2)


class BaS_Net(nn.Module):
    """Both branches, or what an ablation leaves of them (docs/basnet.md, section 2).

    `ablation`: `full` both branches; `base` the base branch alone; `supp` the suppression branch alone;
    `baseline` the base branch without a background class. What is left out is None in the output.
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
    ):
        super().__init__()
        self.has_base = ablation != "supp"
        self.has_supp = ablation in ("full", "supp")
        if self.has_supp:
            self.filter_module = Filter_Module(len_feature, max(1, hidden // 4))
        self.cas_module = CAS_Module(len_feature, num_classes + (ablation != "baseline"), hidden, dropout)
        self.k = max(1, int(num_segments * topk))

    def video_score(self, cas_btc: Tensor) -> Tensor:
        """Softmax over classes of the mean of each class's k largest activations."""
        return cas_btc.topk(min(self.k, cas_btc.shape[1]), dim=1).values.mean(dim=1).softmax(dim=1)

    def forward(self, x_btf: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        score_base = cas_base = score_supp = cas_supp = fore_weights = None
        if self.has_supp:
            fore_weights = self.filter_module(x_btf)
        if self.has_base:
            cas_base = self.cas_module(x_btf)
            score_base = self.video_score(cas_base)
        if fore_weights is not None:
            cas_supp = self.cas_module(fore_weights * x_btf)
            score_supp = self.video_score(cas_supp)
        return score_base, cas_base, score_supp, cas_supp, fore_weights


def evaluated_branch(output: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor]:
    """The score and the activations that localization uses: the suppression branch's where there is one."""
    score_base, cas_base, score_supp, cas_supp, _ = output
    score, cas = (score_base, cas_base) if score_supp is None else (score_supp, cas_supp)
    assert isinstance(score, torch.Tensor) and isinstance(cas, torch.Tensor)
    return score, cas
