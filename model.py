"""BaS-Net: a filter that weighs time steps and a classifier shared by the base and the suppression branch.

Both branches convolve the same rows, one of them weighted, so the first layer's products are computed once, and where a
video repeats a row, once for the row (rows.convolve_rows; docs/performance.md, section 1). So the layers hold weights under
the official names, and rows.py applies them.

Shapes: B batch, T time, N distinct rows of the batch, F features, H hidden channels, C action classes; class C, where there
is one, is the background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropout import Dropout
from rows import Rows, convolve, convolve_rows

Output = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def convolution_in(layer: nn.Module) -> nn.Conv1d:
    """The layer itself, or the first of several."""
    convolution = layer[0] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(convolution, nn.Conv1d)
    return convolution


def weights(layer: nn.Module, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution in `layer`, in their own precision unless told; no bias is zero."""
    convolution = convolution_in(layer)
    bias = convolution.weight.new_zeros(1) if convolution.bias is None else convolution.bias
    return convolution.weight.to(dtype or bias.dtype), bias.to(dtype or bias.dtype)


def lay_out(layer: nn.Module, *order: int) -> None:
    """Keep the weight in memory as products take it, so that no step has to turn it and its gradient round."""
    convolution = convolution_in(layer)
    turned = convolution.weight.detach().permute(order).contiguous()
    convolution.weight.data = turned.permute([order.index(axis) for axis in range(3)])


class Filter_Module(nn.Module):
    """Foreground weight of every row, from its own features alone."""

    def __init__(self, len_feature: int, hidden: int = 512):
        super().__init__()
        self.conv_1 = nn.Sequential(nn.Conv1d(len_feature, hidden, 1), nn.LeakyReLU())
        self.conv_2 = nn.Sequential(nn.Conv1d(hidden, 1, 1), nn.Sigmoid())

    def forward(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        """(N, 1) in the precision of the weights."""
        weight_hf1, bias_h = weights(self.conv_1, dtype)
        hidden_nh = F.leaky_relu(rows.times(weight_hf1.squeeze(2).t()) + bias_h)
        weight_1h1, bias_1 = weights(self.conv_2)
        return F.linear(hidden_nh.to(bias_1.dtype), weight_1h1.squeeze(2), bias_1).sigmoid()


class CAS_Module(nn.Module):
    """Class activation sequence: one logit per time step and class."""

    def __init__(self, len_feature: int, num_classes: int, hidden: int = 2048, dropout: float = 0.7):
        super().__init__()
        self.conv_1 = nn.Sequential(nn.Conv1d(len_feature, hidden, 3, padding=1), nn.LeakyReLU())
        self.conv_2 = nn.Sequential(nn.Conv1d(hidden, hidden, 3, padding=1), nn.LeakyReLU())
        self.conv_3 = nn.Sequential(nn.Conv1d(hidden, num_classes, 1, bias=False))
        self.drop_out = Dropout(dropout)
        lay_out(self.conv_1, 1, 2, 0)
        lay_out(self.conv_2, 2, 1, 0)

    def forward(self, rows: Rows, dtype: torch.dtype, row_weights: list[Tensor]) -> list[Tensor]:
        """Activations (B, T, C) in single precision of the rows times each of the weights (N,)."""
        weight_hf3, bias_1 = weights(self.conv_1, dtype)
        weight_f3h = weight_hf3.permute(1, 2, 0)
        products_n3h = rows.times(weight_f3h.flatten(1)).view(-1, *weight_f3h.shape[1:])
        weight_hh3, bias_2 = weights(self.conv_2, dtype)
        weight_3hh = weight_hh3.permute(2, 1, 0)
        weight_ch1, _ = weights(self.conv_3, dtype)
        found = []
        for weight_n in row_weights:
            x_bth = convolve_rows(products_n3h, weight_n.to(dtype), bias_1, rows.index_bt)
            x_bth = self.drop_out(convolve(x_bth, weight_3hh, bias_2), rows)
            found.append(F.linear(x_bth, weight_ch1.squeeze(2)).float())
        return found


class BaS_Net(nn.Module):
    """Both branches, or what an ablation leaves of them (docs/basnet.md, section 2).

    `ablation`: `full` both branches; `base` the base branch alone; `supp` the suppression branch alone;
    `baseline` the base branch without a background class. What is left out is None in the output.
    `dtype` is that of the large products; weights, scores and losses are in single precision.
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
        """Softmax over classes of the mean of each class's k largest activations."""
        return cas_btc.topk(min(self.k, cas_btc.shape[1]), dim=1).values.mean(dim=1).softmax(dim=1)

    def forward(self, x: Tensor | Rows, localized_only: bool = False) -> Output:
        """Scores and activations of both branches, and foreground weights (B, T, 1), of features (B, T, F) or `Rows`.

        `localized_only` leaves out the base branch where there is another: localization does not use it.
        """
        rows = Rows.shown(x)
        score_base = cas_base = score_supp = cas_supp = fore_weights = None
        row_weights = []
        if self.has_base and not (localized_only and self.has_supp):
            row_weights.append(rows.joined().new_ones(len(rows.joined())))
        if self.has_supp:
            weight_n1 = self.filter_module(rows, self.dtype)
            fore_weights = F.embedding(rows.index_bt, weight_n1)
            row_weights.append(weight_n1.squeeze(1))
        found = self.cas_module(rows, self.dtype, row_weights)
        if self.has_supp:
            cas_supp = found.pop()
            score_supp = self.video_score(cas_supp)
        if found:
            cas_base = found.pop()
            score_base = self.video_score(cas_base)
        return score_base, cas_base, score_supp, cas_supp, fore_weights


def evaluated_branch(output: Output) -> tuple[Tensor, Tensor]:
    """The score and the activations that localization uses: the suppression branch's where there is one."""
    score_base, cas_base, score_supp, cas_supp, _ = output
    score, cas = (score_base, cas_base) if score_supp is None else (score_supp, cas_supp)
    assert isinstance(score, torch.Tensor) and isinstance(cas, torch.Tensor)
    return score, cas
