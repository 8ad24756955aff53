"""What a network is given: the feature rows of a batch's videos, each once, and the times at which they are shown.

A short video is shown at T times but has fewer rows, so that what is computed row by row is computed on the rows.

Shapes: B videos, T times, N rows of all videos, F features, K products of a row.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable


class Rows(NamedTuple):
    """At time t, video b shows row `index_bt[b, t]` of all `parts` laid end to end."""

    parts: tuple[Tensor, ...]  # (n, F) each, N rows in all; any kind of float
    index_bt: Tensor  # never less than at the time before, the video before included
    first: int = 0  # these videos are number `first` and following
    of: int = 0  # of so many, where a batch is shared by processes; 0: they are the batch
    boxes: tuple[NDArray[np.int64], ...] = ()  # (n, 2) of each video, first and last times between which it is to attend

    @classmethod
    def shown(cls, x: "Tensor | Rows") -> "Rows":
        """The rows, joined once for all that multiplies them, or those of a (B, T, F) tensor."""
        if isinstance(x, Rows):
            return x._replace(parts=(x.joined(),))
        size_b, size_t, _ = x.shape
        return cls((x.flatten(0, 1),), torch.arange(size_b * size_t, device=x.device).view(size_b, size_t))

    def to(self, device: torch.device) -> "Rows":
        if self.index_bt.device == device:
            return self
        parts = self.parts if self.parts[0].device == device else (self.joined().to(device),)
        return self._replace(parts=parts, index_bt=self.index_bt.to(device))

    def joined(self) -> Tensor:
        """(N, F)."""
        return torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]

    def dense(self) -> Tensor:
        """(B, T, F) in single precision."""
        table = self.joined().float()
        size_n = len(table)
        # not on a GPU, which would have to be waited for
        if table.device.type == "cpu" and torch.equal(self.index_bt.flatten(), torch.arange(size_n)):
            return table.view(*self.index_bt.shape, -1)
        return table[self.index_bt]

    def times(self, weight_fk: Tensor) -> Tensor:
        """Every row by a matrix: (N, K)."""
        return self.joined().to(weight_fk.dtype) @ weight_fk


SLOPE = 0.01  # of LeakyReLU below zero; ReLU is that of slope 0


class _Conv3(torch.autograd.Function):
    """A convolution over three times as three matrix products, each of the same padded rows moved on by one; LeakyReLU."""

    @staticmethod
    def forward(ctx: Any, x_bth: Tensor, weight_3hk: Tensor, bias_k: Tensor, slope: float) -> Tensor:
        size_b, size_t, _ = x_bth.shape
        padded = _padded(x_bth)
        count = len(padded) - 2
        out = padded.new_empty(len(padded), weight_3hk.shape[2])  # two rows a video are of no use, and left out
        torch.mm(padded[:count], weight_3hk[0], out=out[:count])
        for tap in (1, 2):
            out[:count].addmm_(padded[tap : tap + count], weight_3hk[tap])
        out = F.leaky_relu_(out.add_(bias_k), slope).view(size_b, size_t + 2, -1)[:, :size_t]
        ctx.save_for_backward(x_bth, weight_3hk, out)  # which others keep too, and not the padded copy of it
        ctx.slope = slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_btk: Tensor) -> tuple[Tensor | None, ...]:
        x_bth, weight_3hk, out = ctx.saved_tensors
        padded = _padded(x_bth)
        size_b, size_t, size_k = grad_btk.shape
        grad = grad_btk.new_empty(size_b, size_t + 2, size_k)
        grad[:, size_t:] = 0
        torch.ops.aten.leaky_relu_backward(grad_btk, out, ctx.slope, True, grad_input=grad[:, :size_t])
        count = len(padded) - 2
        grad = grad.flatten(0, 1)[:count]
        grad_weight = torch.empty_like(weight_3hk, memory_format=torch.contiguous_format)
        for tap in range(3):
            torch.mm(padded[tap : tap + count].t(), grad, out=grad_weight[tap])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(padded)
            torch.mm(grad, weight_3hk[0].t(), out=grad_x[:count])
            grad_x[count:] = 0
            for tap in (1, 2):
                grad_x[tap : tap + count].addmm_(grad, weight_3hk[tap].t())
            grad_x = grad_x.view(size_b, size_t + 2, -1)[:, 1:-1]
        return grad_x, grad_weight, grad.sum(0), None


def _padded(x_bth: Tensor) -> Tensor:
    """(B*(T+2), H) with a row of zeros before and after each video."""
    return F.pad(x_bth, (0, 0, 1, 1)).flatten(0, 1)


class _RowConv3(torch.autograd.Function):
    """Sums of products as embedding bags: of three products a time, and backwards of all the times of a row; LeakyReLU."""

    @staticmethod
    def forward(ctx: Any, products_n3k: Tensor, weight_n: Tensor, bias_k: Tensor, index_bt: Tensor, slope: float) -> Tensor:
        rows = _neighbours(index_bt)
        bags = 3 * rows + torch.arange(3, device=rows.device)
        weights = weight_n[rows] * _neighbours(torch.ones_like(index_bt, dtype=weight_n.dtype))
        out = _bags(products_n3k.flatten(0, 1), bags.flatten(0, 1), weights.flatten(0, 1))
        out = F.leaky_relu_(out.add_(bias_k), slope).view(*index_bt.shape, -1)
        ctx.slope = slope
        ctx.save_for_backward(products_n3k, weight_n, index_bt, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_btk: Tensor) -> tuple[Tensor | None, ...]:
        products_n3k, weight_n, index_bt, out = ctx.saved_tensors
        grad = torch.ops.aten.leaky_relu_backward(grad_btk, out, ctx.slope, True).flatten(0, 1)
        times = torch.arange(len(grad), device=grad.device).view_as(index_bt)
        first = torch.searchsorted(index_bt.flatten(), torch.arange(len(weight_n), device=grad.device))
        inside = _neighbours(torch.ones_like(index_bt, dtype=grad.dtype))
        grad_products, grad_weight = torch.empty_like(products_n3k), torch.zeros_like(weight_n)
        for tap in range(3):  # a time's middle row is the left one of the next time, and the right one of the time before
            shown = _bags(grad, _neighbours(times)[:, :, 2 - tap].flatten(), inside[:, :, 2 - tap].flatten(), first)
            torch.mul(shown, weight_n[:, None], out=grad_products[:, tap])
            if ctx.needs_input_grad[1]:
                grad_weight += torch.linalg.vecdot(shown, products_n3k[:, tap])
        return grad_products, grad_weight if ctx.needs_input_grad[1] else None, grad.sum(0), None, None


def _bags(table: Tensor, bags: Tensor, weights: Tensor, first: Tensor | None = None) -> Tensor:
    """Weighted sums of rows of a table."""
    return F.embedding_bag(bags, table, first, mode="sum", per_sample_weights=weights)


def convolve(x_bth: Tensor, weight_3hk: Tensor, bias_k: Tensor, slope: float = SLOPE) -> Tensor:
    """LeakyReLU of a convolution of kernel 3, padding 1, time before channels: (B, T, K)."""
    return _Conv3.apply(x_bth, weight_3hk, bias_k, slope)


def convolve_rows(products_n3k: Tensor, weight_n: Tensor, bias_k: Tensor, index_bt: Tensor, slope: float = SLOPE) -> Tensor:
    """The same of rows times their weights, from every row's products with the three taps.

    conv(w x)[t] = sum over j of w[t+j] (W_j x[t+j]): the weight of a whole row commutes with the matrices, so branches that
    differ in w alone share the products.
    """
    if index_bt.device.type == "cpu" and (index_bt.flatten().diff() < 0).any():
        raise ValueError("Rows.index_bt falls somewhere; gradients take it that it never does")
    return _RowConv3.apply(products_n3k, weight_n, bias_k, index_bt, slope)


def _neighbours(values_bt: Tensor) -> Tensor:
    """(B, T, 3): values at t-1, t and t+1, zero past the ends."""
    return F.pad(values_bt, (1, 1)).unfold(1, 3, 1)
