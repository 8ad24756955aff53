"""Convolutions gated by the similarity of neighbouring times, as matrix products (docs/backtal.md, section 2).

A term is the product of one tap and some of the input channels; the layout defines its gate. The plain computation unfolds
the input to three times its channels and tiles the gates; here no tensor is wider than the input or the output.

Shapes: K branches, B videos, T times, I input channels, O output channels, E embedding channels. The three gates of a time
belong to the time before, the time itself and the time after.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fast.conv import Conv1d, meeting, padded
from fast.products import added, product

GateLayout = Literal["official", "paper"]


class Term(NamedTuple):
    tap: int
    gate: int
    channels: slice


def terms(channels: int, layout: GateLayout) -> list[Term]:
    """The terms whose sum is a convolution of three taps.

    In the paper, the gate of a tap is that of its input time. The official code numbers (channel c, tap j) as 3c + j and gives
    one gate to each third of these numbers, that is, to each third of the channels.
    """
    if layout == "paper":
        return [Term(tap, tap, slice(0, channels)) for tap in range(3)]
    first = [[-((tap - gate * channels) // 3) for gate in range(4)] for tap in range(3)]  # ceil((gate * channels - tap) / 3)
    return [Term(tap, gate, slice(*first[tap][gate : gate + 2])) for tap in range(3) for gate in range(3)]


def affinities(embedding_bte: Tensor) -> Tensor:
    """(B, T, 3) cosine similarity of each time to the time before, itself and the time after; zero beyond the ends."""
    beside_bt = (embedding_bte[:, 1:] * embedding_bte[:, :-1]).sum(2)
    own_bt = embedding_bte.detach().square().sum(2)  # 1, or 0 for a zero vector; its gradient would be rounding error
    return torch.stack([F.pad(beside_bt, (1, 0)), own_bt, F.pad(beside_bt, (0, 1))], dim=2)


class GatedConv1d(Conv1d):
    """Gated Conv1d of kernel 3: x (B, I, T) and gates (B, T, 3) -> (B, O, T)."""

    def __init__(self, *args: Any, layout: GateLayout = "official", **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.kernel_size != (3,):
            raise NotImplementedError(f"{self}: gates require kernel 3.")
        self.layout, self.terms = layout, terms(self.in_channels, layout)

    def forward(  # type: ignore[override]
        self, x: Tensor, gates_bt3: Tensor, weight_kbt: Tensor | None = None
    ) -> Tensor:
        """With weights (K, B, T), returns (K, B, O, T) for x times each of them; in large layers branches share products."""
        if weight_kbt is not None and self.is_tiny(x):
            weighted = (weight_kbt[:, :, None].to(x.dtype) * x).flatten(0, 1)
            out = self.forward(weighted, gates_bt3.repeat(len(weight_kbt), 1, 1))  # not self(...), which would run hooks twice
            return out.unflatten(0, weight_kbt.shape[:2])
        weight_3oi = self.weight.to(x.dtype).permute(2, 0, 1)
        inputs = [x.transpose(1, 2), gates_bt3, weight_3oi, self.terms]
        if weight_kbt is None:
            out = _GatedConvolution.apply(*inputs).unflatten(0, gates_bt3.shape[:2])
        else:
            out = _GatedBranches.apply(weight_kbt, *inputs)
        return (out if self.bias is None else out + self.bias.to(x.dtype)).transpose(-1, -2)


class _GatedBranches(torch.autograd.Function):
    """Computes each term's product once; branches weight and gate it. Saves it for the gradients of weights and gates."""

    @staticmethod
    def forward(
        ctx: Any, weight_kbt: Tensor, x_bti: Tensor, gates_bt3: Tensor, kernel_3oi: Tensor, parts: Sequence[Term]
    ) -> Tensor:
        out = x_bti.new_zeros(*weight_kbt.shape, kernel_3oi.shape[1])
        products = []
        for tap, gate, channels in parts:
            multiplied = product(x_bti.flatten(0, 1)[:, channels], kernel_3oi[tap, :, channels].t()).view(*x_bti.shape[:2], -1)
            here, there = meeting(tap)
            share = weight_kbt[:, :, there] * gates_bt3[:, here, gate]
            out[:, :, here].addcmul_(multiplied[:, there], share[..., None])
            products.append(multiplied)
        ctx.parts = parts
        ctx.save_for_backward(weight_kbt, x_bti, gates_bt3, kernel_3oi, *products)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kbto: Tensor) -> tuple[Tensor | None, ...]:
        weight, x, gates, kernel, *products = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        grad_weight, grad_gates = torch.zeros_like(weight), torch.zeros_like(gates)
        grad_kernel = torch.empty_like(kernel, memory_format=torch.contiguous_format)
        grad_product = torch.empty_like(products[0])
        for (tap, gate, channels), multiplied in zip(ctx.parts, products, strict=True):
            here, there = meeting(tap)
            share = weight[:, :, there] * gates[:, here, gate]
            grad_product[:, :: max(1, x.shape[1] - 1)] = 0  # of the first and the last time, which a tap may not see
            torch.mul(grad_kbto[0][:, here], share[0][..., None], out=grad_product[:, there])
            for branch, one in zip(grad_kbto[1:], share[1:], strict=True):
                grad_product[:, there].addcmul_(branch[:, here], one[..., None])
            found = torch.stack([torch.linalg.vecdot(branch[:, here], multiplied[:, there]) for branch in grad_kbto])
            grad_weight[:, :, there] += found * gates[:, here, gate]
            grad_gates[:, here, gate] += (found * weight[:, :, there]).sum(0)
            flat = grad_product.flatten(0, 1)
            product(flat.t(), x.flatten(0, 1)[:, channels], out=grad_kernel[tap, :, channels])
            if grad_x is not None:
                grad_x[:, :, channels] += product(flat, kernel[tap, :, channels]).view(*x.shape[:2], -1)
        return grad_weight, grad_x, grad_gates, grad_kernel, None


class _GatedConvolution(torch.autograd.Function):
    """One product per tap with the gated input. The backward pass recomputes the gated input instead of saving it."""

    @staticmethod
    def forward(ctx: Any, x_bti: Tensor, gates_bt3: Tensor, kernel_3oi: Tensor, parts: Sequence[Term]) -> Tensor:
        wider = padded(x_bti)
        gated = torch.empty_like(x_bti, memory_format=torch.contiguous_format)
        out_no = product(_gated(wider, gates_bt3, parts, 0, gated), kernel_3oi[0].t())
        for tap in (1, 2):
            out_no = added(out_no, _gated(wider, gates_bt3, parts, tap, gated), kernel_3oi[tap].t())
        ctx.parts = parts
        ctx.save_for_backward(wider, gates_bt3, kernel_3oi)
        return out_no

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_no: Tensor) -> tuple[Tensor | None, ...]:
        wider, gates, kernel = ctx.saved_tensors
        size_t = gates.shape[1]
        grad_x, grad_gates = torch.zeros_like(wider), torch.zeros_like(gates)
        grad_kernel = torch.empty_like(kernel, memory_format=torch.contiguous_format)
        gated = torch.empty_like(wider[:, :size_t], memory_format=torch.contiguous_format)
        for tap in range(3):
            product(grad_no.t(), _gated(wider, gates, ctx.parts, tap, gated), out=grad_kernel[tap])
            product(grad_no, kernel[tap], out=gated.flatten(0, 1))
            for part in ctx.parts:
                if part.tap == tap:
                    shown = wider[:, tap : tap + size_t, part.channels]
                    grad = gated[:, :, part.channels]
                    grad_x[:, tap : tap + size_t, part.channels].addcmul_(grad, gates[:, :, part.gate, None])
                    grad_gates[:, :, part.gate] += grad.mul_(shown).sum(2)
        return grad_x[:, 1:-1], grad_gates, grad_kernel, None


def _gated(wider: Tensor, gates_bt3: Tensor, parts: Sequence[Term], tap: int, out: Tensor) -> Tensor:
    """(B*T, I) input of a tap, each channel times its gate; written to `out`."""
    size_t = gates_bt3.shape[1]
    for part in parts:
        if part.tap == tap:
            shown = wider[:, tap : tap + size_t, part.channels]
            torch.mul(shown, gates_bt3[:, :, part.gate, None], out=out[:, :, part.channels])
    return out.flatten(0, 1)
