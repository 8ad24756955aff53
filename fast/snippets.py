"""The distinct snippets of a batch, and the index of the snippet at each time.

A video with fewer snippets than times repeats snippets, and BaS-Net's two branches use the same snippets with different
weights. Large fast layers multiply each snippet once (fast/conv.py). All other functions take a batch as a tensor (B, F, T).

Shapes: B videos, T times, N snippets of all videos, F features, K taps, O output channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NO_BOXES: NDArray[np.int64] = np.zeros((0, 2), dtype=np.int64)
MULTIPLICATIONS = (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__)


@dataclass(frozen=True, eq=False, repr=False)
class Snippets:
    """Video b at time t is snippet `index_bt[b, t]` of the concatenated `parts`, times `weight_bt[b, t]`."""

    parts: tuple[Tensor, ...]  # (n, F) each, N snippets in all, of any float type
    index_bt: Tensor
    weight_bt: Tensor | None = None
    boxes: tuple[NDArray[np.int64], ...] = ()  # (n, 2) first and last times of each video's attention boxes
    dtype: torch.dtype = torch.float32  # in which layers compute
    shared: dict[nn.Module, tuple[Any, Tensor, Any]] | None = None  # by layer, its state, its products (N, K, O) and places

    @classmethod
    def of(cls, x: "Tensor | Snippets", dtype: torch.dtype = torch.float32, share: bool = True) -> "Snippets":
        """Batch of a tensor (B, T, F) or of `Snippets`. With `share`, weighted copies of it share products in large layers."""
        if isinstance(x, Tensor):
            size_b, size_t, _ = x.shape
            x = cls((x.flatten(0, 1),), torch.arange(size_b * size_t, device=x.device).view(size_b, size_t))
        if x.index_bt.device.type == "cpu" and (x.index_bt < 0).any():
            raise ValueError("Snippets.index_bt is negative; expected numbers of snippets, from 0")
        return replace(x, parts=(x.table(),), dtype=dtype, shared={} if share else None)

    def to(self, device: Any, *others: Any, **settings: Any) -> Any:
        """The batch on another device. With a dtype or more arguments, Tensor.to of the dense tensor."""
        if others or settings or isinstance(device, (torch.dtype, Tensor)):
            return self.dense().to(device, *others, **settings)
        device = torch.device(device)
        if self.index_bt.device == device:
            return self
        parts = self.parts if self.parts[0].device == device else (self.table().to(device),)
        return replace(self, parts=parts, index_bt=self.index_bt.to(device), shared=None)

    def table(self) -> Tensor:
        """The snippets (N, F), without weights."""
        return torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]

    def dense(self) -> Tensor:
        """The batch as a tensor (B, F, T)."""
        table = self.table().to(self.dtype)
        # not on a GPU, where the comparison would synchronize
        if table.device.type == "cpu" and torch.equal(self.index_bt.flatten(), torch.arange(len(table))):
            shown_btf = table.unflatten(0, self.index_bt.shape)
        else:
            shown_btf = table[self.index_bt]
        if self.weight_bt is not None:
            shown_btf = shown_btf * self.weight_bt[:, :, None].to(self.dtype)
        return shown_btf.transpose(1, 2)

    @property
    def repeats(self) -> bool:
        """True if there are fewer snippets than times."""
        return sum(map(len, self.parts)) < self.index_bt.numel()

    @property
    def device(self) -> torch.device:
        return self.index_bt.device

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.index_bt.shape[0], self.parts[0].shape[1], self.index_bt.shape[1]))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # copy and pickle look up missing names
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def weighted(self, weight: Any) -> Any:
        """Multiply: weights (B, 1, T) give weighted `Snippets`, anything else a product of the dense tensor."""
        size_b, _, size_t = self.shape
        if not isinstance(weight, Tensor) or weight.shape != (size_b, 1, size_t):
            return self.dense() * _as_tensor(weight)
        weight_bt = weight.squeeze(1)
        return replace(self, weight_bt=weight_bt if self.weight_bt is None else self.weight_bt * weight_bt)

    __mul__ = __rmul__ = weighted

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in MULTIPLICATIONS and len(args) == 2 and not kwargs:
            left, right = args
            return left.weighted(right) if isinstance(left, Snippets) else right.weighted(left)
        return function(*map(_as_tensor, args), **{name: _as_tensor(value) for name, value in (kwargs or {}).items()})


def _operator(name: str) -> Callable[..., Any]:
    return lambda self, *others: getattr(self.dense(), name)(*map(_as_tensor, others))


OPERATORS = ["add", "radd", "sub", "rsub", "truediv", "rtruediv", "floordiv", "mod", "matmul", "rmatmul", "pow", "rpow", "neg"]
OPERATORS += ["abs", "lt", "le", "gt", "ge", "eq", "ne", "getitem", "len"]
for _name in OPERATORS:
    setattr(Snippets, f"__{_name}__", _operator(f"__{_name}__"))


def _as_tensor(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_tensor, value))
    # a copy, so that in-place functions do not change the run's features
    return value.dense().clone() if isinstance(value, Snippets) else value
