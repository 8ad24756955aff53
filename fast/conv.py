"""nn.Conv1d as matrix products; in large layers each distinct snippet is multiplied once (docs/performance.md, section 1).

Shapes: B videos, T times, M times of all videos, N snippets, I input channels, O output channels, K taps. Tensors have
torch's shape (B, C, T); in memory, the channels of a time are contiguous, which suits matrix products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fast.products import added, by_onednn, left_of_several, library, product
from fast.snippets import Snippets

COMPUTED = {1: ((0,), "same"), 3: ((1,), "same")}  # supported paddings by kernel size
TINY = 2**21  # multiply-adds of a layer; below it, finding repeated snippets takes longer than multiplying them


class Conv1d(nn.Conv1d):
    """nn.Conv1d from (B, I, T) or `Snippets` to (B, O, T), for kernel 1 and for kernel 3 with padding 1.

    It computes in the precision of its input; under autocast, as nn.Conv1d does. Weights have nn.Conv1d's initial values, in
    another memory order. Only kernel 1 of a tensor with products by torch.mm has a second derivative.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        plain = (self.stride, self.dilation, self.groups, self.padding_mode) == ((1,), (1,), 1, "zeros")
        if not plain or self.padding not in COMPUTED.get(self.kernel_size[0], ()):
            raise NotImplementedError(
                f"{self}: fast.conv.Conv1d supports kernel 1 without padding and kernel 3 with padding 1, without stride, "
                "dilation or groups. Use torch.nn.Conv1d for others; in half precision, pass it x.float()."
            )
        weight_koi = self.weight.detach().permute(2, 0, 1).contiguous()
        self.weight.data = weight_koi.permute(1, 2, 0)

    def forward(self, x: Tensor | Snippets) -> Tensor:
        if self._is_torchs(x):
            return super().forward(x)  # type: ignore[arg-type]
        weight_oik = self.weight.to(x.dtype)
        bias_o = None if self.bias is None else self.bias.to(x.dtype)
        if self.kernel_size == (3,) and library(weight_oik) == "conv":
            return F.conv1d(x.dense() if isinstance(x, Snippets) else x, weight_oik, bias_o, padding=self.padding)
        weight_koi = weight_oik.permute(2, 0, 1)
        if isinstance(x, Snippets):
            if self._shares(x):
                return _of_snippets(x, self, weight_koi, bias_o)
            x = x.dense()
        x_bti = x.transpose(1, 2)
        if len(weight_koi) == 1:
            out_bto = linear(x_bti.flatten(0, 1), weight_koi.squeeze(0), bias_o).unflatten(0, x_bti.shape[:2])
        else:
            out_bto = _Convolution.apply(x_bti, weight_koi, bias_o)
        return out_bto.transpose(1, 2)

    def _shares(self, x: Snippets) -> bool:
        """True if times or branches may share products, and that pays."""
        return not self.is_tiny(x) and (x.repeats or x.shared is not None)

    def is_tiny(self, x: Tensor | Snippets) -> bool:
        """True if the layer has so few multiply-adds for `x` that sharing products does not pay."""
        size_b, _, size_t = x.shape
        return size_b * size_t * self.weight.numel() < TINY

    def _is_torchs(self, x: Tensor | Snippets) -> bool:
        """True under autocast, and for inputs of another shape or type, which torch computes or rejects."""
        batched = x.dtype.is_floating_point and len(x.shape) == 3 and x.shape[1] == self.in_channels
        return not batched or torch.is_autocast_enabled(x.device.type)


def _of_snippets(x: Snippets, layer: Conv1d, weight_koi: Tensor, bias_o: Tensor | None) -> Tensor:
    """conv(w x)[t] = sum over j of w[t+j] (W_j x[t+j]): batches that differ only in the weights w share the products W_j x."""
    taps, size_o, _ = weight_koi.shape
    weight, index = layer.weight, x.index_bt
    index_state = (id(index), None if index.is_inference() else index._version)
    state = (id(weight), weight._version, weight.requires_grad, torch.is_grad_enabled(), index_state)
    state_before, products_nko, places = (x.shared or {}).get(layer, (None, None, None))
    if products_nko is None or state != state_before:
        products_nko = linear(x.table().to(x.dtype), weight_koi.flatten(0, 1)).view(-1, taps, size_o)
        places = _Places(index, products_nko)
        if x.shared is not None:
            x.shared[layer] = state, products_nko, places
    weight_bt = None if x.weight_bt is None else x.weight_bt.to(x.dtype)
    out_mo = _Sums.apply(products_nko, weight_bt, bias_o, places)
    return out_mo.unflatten(0, index.shape).transpose(1, 2)


def linear(x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None = None) -> Tensor:
    """F.linear with the library that fast/products.py chooses."""
    if by_onednn(x_ni, weight_oi.t()):
        return _Product.apply(x_ni, weight_oi, bias_o)
    return product(x_ni, weight_oi.t(), bias_o)  # by functions whose gradients torch computes


def at_least_single(x: Tensor) -> Tensor:
    """Convert half precision to single; other precisions are unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Product(torch.autograd.Function):
    """Product of (N, I) and the transpose of (O, I): (N, O), by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x_ni: Tensor, weight_oi: Tensor, bias_o: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_ni, weight_oi)
        return product(x_ni, weight_oi.t(), bias_o)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_no: Tensor) -> tuple[Tensor | None, ...]:
        x_ni, weight_oi = ctx.saved_tensors
        grad_x = product(grad_no, weight_oi) if ctx.needs_input_grad[0] else None
        grad_weight = product(grad_no.t(), x_ni) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_no.sum(0) if ctx.needs_input_grad[2] else None


class _Convolution(torch.autograd.Function):
    """Kernel 3 as three products of the same padded rows, shifted by one per tap; the input's gradient likewise."""

    @staticmethod
    def forward(ctx: Any, x_bti: Tensor, weight_3oi: Tensor, bias_o: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_bti, weight_3oi)  # not the padded copy: other layers keep x_bti anyway
        return _shifted(padded(x_bti).flatten(0, 1), [weight_oi.t() for weight_oi in weight_3oi], bias_o, x_bti.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bto: Tensor) -> tuple[Tensor | None, ...]:
        x_bti, weight_3oi = ctx.saved_tensors
        grad = padded(grad_bto).flatten(0, 1)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            x, grad_weight = padded(x_bti).flatten(0, 1), torch.empty_like(weight_3oi, memory_format=torch.contiguous_format)
            count = len(x) - 2
            grad_on = left_of_several(grad[1 : count + 1].t(), x[:count])
            for tap in range(3):
                product(grad_on, x[tap : tap + count], out=grad_weight[tap])
        if ctx.needs_input_grad[0]:
            grad_x = _shifted(grad, [weight_3oi[2], weight_3oi[1], weight_3oi[0]], None, grad_bto.shape[1])
        return grad_x, grad_weight, grad_bto.sum((0, 1)) if ctx.needs_input_grad[2] else None


def padded(x_bti: Tensor) -> Tensor:
    """(B, T+2, I) with zeros before and after each video; F.pad would fill the whole tensor with zeros first."""
    size_b, size_t, size_i = x_bti.shape
    wider = x_bti.new_empty(size_b, size_t + 2, size_i)
    wider[:, :: size_t + 1], wider[:, 1:-1] = 0, x_bti
    return wider


def _shifted(rows: Tensor, taps_io: list[Tensor], bias_o: Tensor | None, size_t: int) -> Tensor:
    """(B, T, O) sum of each tap's product with the shifted rows; sums across two videos are computed and skipped."""
    count = len(rows) - 2
    out = product(rows[:count], taps_io[0], bias_o)
    for tap in (1, 2):
        out = added(out, rows[tap : tap + count], taps_io[tap])
    size_o, between = out.shape[1], size_t + 2
    found = out.as_strided((len(rows) // between, size_t, size_o), (between * size_o, size_o, 1))
    return found.data  # autograd forbids in-place changes of a view that a Function returns


class _Places:
    """Where the taps of a layer find snippets; the same for all branches of a batch."""

    def __init__(self, index_bt: Tensor, products_nko: Tensor):
        (size_n, taps, _), device, count = products_nko.shape, index_bt.device, index_bt.numel()
        inside_btk = _neighbours(torch.ones_like(index_bt, dtype=products_nko.dtype), taps)

        def place(values_bt: Tensor) -> Tensor:
            """Beyond the ends, where the share is zero, a time's own: not of another video, whose values may be NaN."""
            return torch.where(inside_btk > 0, _neighbours(values_bt, taps), values_bt[:, :, None])

        place_btk = taps * place(index_bt) + torch.arange(taps, device=device)
        self.index_bt, self.inside_btk = index_bt, inside_btk
        self.products, self.first_of_time = place_btk.flatten(), torch.arange(0, taps * count, taps, device=device)
        time_btk = place(torch.arange(count, device=device).view_as(index_bt))
        # the gradient of a tap comes from the opposite offset
        product_p = (taps * index_bt[:, :, None] + torch.arange(taps - 1, -1, -1, device=device)).flatten()
        self.by_product = product_p.argsort(stable=True)
        self.times = time_btk.flatten()[self.by_product]
        self.first_of_product = torch.searchsorted(product_p[self.by_product], torch.arange(taps * size_n, device=device))


class _Sums(torch.autograd.Function):
    """Sums of snippet products as embedding bags: forward over the products of a time, backward over the times of a product."""

    @staticmethod
    def forward(ctx: Any, products_nko: Tensor, weight_bt: Tensor | None, bias_o: Tensor | None, places: _Places) -> Tensor:
        share_btk = places.inside_btk if weight_bt is None else _neighbours(weight_bt, products_nko.shape[1])
        out = _bags(products_nko.flatten(0, 1), places.products, share_btk.flatten(), places.first_of_time)
        ctx.save_for_backward(products_nko, weight_bt)
        ctx.places = places
        return out if bias_o is None else out.add_(bias_o)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mo: Tensor) -> tuple[Tensor | None, ...]:
        products_nko, weight_bt = ctx.saved_tensors
        places, taps = ctx.places, products_nko.shape[1]
        grad_products = grad_weight = None
        if ctx.needs_input_grad[0]:
            share_btk = places.inside_btk if weight_bt is None else places.inside_btk * weight_bt[:, :, None]
            grad_products = _bags(grad_mo, places.times, share_btk.flatten()[places.by_product], places.first_of_product)
            grad_products = grad_products.view_as(products_nko)
        if ctx.needs_input_grad[1]:
            grad_weight, grad_bto = torch.zeros_like(weight_bt), grad_mo.unflatten(0, weight_bt.shape)
            for tap in range(taps):
                here, there = meeting(tap, taps)
                multiplied = products_nko[:, tap][places.index_bt[:, there]]
                grad_weight[:, there] += torch.linalg.vecdot(grad_bto[:, here], multiplied)
        grad_bias = grad_mo.sum(0) if ctx.needs_input_grad[2] else None
        return grad_products, grad_weight, grad_bias, None


def meeting(tap: int, taps: int = 3) -> tuple[slice, slice]:
    """Output times and input times that a tap connects."""
    now, other = slice(0, None), slice(1, None)
    until = slice(0, -1)
    return ((other, until), (now, now), (until, other))[tap if taps > 1 else 1]


def _bags(table: Tensor, places: Tensor, shares: Tensor, first: Tensor) -> Tensor:
    """Weighted sums of rows of a table: F.embedding_bag, without its checks, which take longer than a small sum."""
    return torch.embedding_bag(table, places, first, per_sample_weights=shares)[0]


def _neighbours(values_bt: Tensor, taps: int) -> Tensor:
    """(B, T, K) values at the input times of each tap, zero beyond the ends."""
    return F.pad(values_bt, (taps // 2, taps // 2)).unfold(1, taps, 1) if taps > 1 else values_bt[:, :, None]
