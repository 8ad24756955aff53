"""The snippets of a batch, each once, and which of them is shown at each time.

A video with fewer snippets than times shows snippets more than once, and BaS-Net's two branches show the same snippets with
different weights. The fast layers multiply each snippet once (fast/conv.py). To everything else a batch is the tensor (B, F, T)
that it stands for.

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
    """At time t, video b shows snippet `index_bt[b, t]` of all `parts` laid end to end, times `weight_bt`."""

    parts: tuple[Tensor, ...]  # (n, F) each, N snippets in all; any kind of float
    index_bt: Tensor  # never less than at the time before, the video before included
    weight_bt: Tensor | None = None
    boxes: tuple[NDArray[np.int64], ...] = ()  # (n, 2) of each video, first and last times between which it is to attend
    dtype: torch.dtype = torch.float32  # in which layers compute
    shared: dict[nn.Module, tuple[Any, Tensor]] | None = None  # of which state of a layer, and products with it (N, K, O)

    @classmethod
    def of(cls, x: "Tensor | Snippets", dtype: torch.dtype = torch.float32) -> "Snippets":
        """The batch `x`, or the batch that shows a tensor (B, T, F); its weightings share products from here on."""
        if isinstance(x, Tensor):
            size_b, size_t, _ = x.shape
            x = cls((x.flatten(0, 1),), torch.arange(size_b * size_t, device=x.device).view(size_b, size_t))
        if x.index_bt.device.type == "cpu" and (x.index_bt.flatten().diff() < 0).any():
            raise ValueError("Snippets.index_bt falls somewhere; gradients take it that it never does")
        return replace(x, parts=(x.table(),), dtype=dtype, shared={})

    def to(self, device: Any, *others: Any, **settings: Any) -> Any:
        """The batch on another device; of a type, or with more arguments, the tensor, as torch has it."""
        if others or settings or isinstance(device, (torch.dtype, Tensor)):
            return self.dense().to(device, *others, **settings)
        device = torch.device(device)
        if self.index_bt.device == device:
            return self
        parts = self.parts if self.parts[0].device == device else (self.table().to(device),)
        return replace(self, parts=parts, index_bt=self.index_bt.to(device))

    def table(self) -> Tensor:
        """(N, F), without weights."""
        return torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]

    def dense(self) -> Tensor:
        """(B, F, T)."""
        table = self.table().to(self.dtype)
        # not on a GPU, which would have to be waited for
        if table.device.type == "cpu" and torch.equal(self.index_bt.flatten(), torch.arange(len(table))):
            shown_btf = table.view(*self.index_bt.shape, -1)
        else:
            shown_btf = table[self.index_bt]
        if self.weight_bt is not None:
            shown_btf = shown_btf * self.weight_bt[:, :, None].to(self.dtype)
        return shown_btf.transpose(1, 2)

    @property
    def device(self) -> torch.device:
        return self.index_bt.device

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.index_bt.shape[0], self.parts[0].shape[1], self.index_bt.shape[1]))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # copying and pickling ask for what is not there
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def weighted(self, weight: Any) -> Any:
        """Weights (B, 1, T) give weighted snippets; anything else multiplies the tensor."""
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
    # a copy, or a function that works in place would change the features of the run
    return value.dense().clone() if isinstance(value, Snippets) else value
