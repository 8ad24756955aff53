"""torch's Dropout, with masks that do not depend on which process computes a video.

torch draws all masks from one stream, one number at a time, which takes a twentieth of a train step on a CPU. Here each video
has a stream (fast/streams.py) of a key from torch's and its number in the batch. `as_torch` draws as the official code does.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast.streams import fill

_part = (0, 0)  # index of this process's first video in the whole batch, and the batch's size; 0: one process


@contextlib.contextmanager
def part_of_batch(first: int, of: int) -> Iterator[None]:
    """Inside, videos are number `first`, `first` + 1, ... of a batch of `of`; masks equal those of a single process."""
    global _part
    before, _part = _part, (first, of)
    try:
        yield
    finally:
        _part = before


def by_video(values: Tensor, p: float) -> Tensor:
    """Factors in the shape of `values`: 0 with probability `p`, else 1 / (1 - p); one stream per video, drawn time by time."""
    size_b, *size = values.shape
    first, of = _part
    if values.device.type == "cpu":
        key = int(
            torch.randint(2**63 - 1, (), generator=torch.default_generator)
        )  # named, since --compile would change the draw
        factors = torch.empty(size_b, *size[::-1], dtype=torch.promote_types(values.dtype, torch.float32))
        fill(factors.flatten(1).numpy(), p, key, first, torch.get_num_threads())
    else:
        drawn = torch.rand(of or size_b, *size[::-1], device=values.device)[first : first + size_b]
        factors = drawn.lt_(1 - p).div_(1 - p if p < 1 else 1)
    back = (0, *range(values.ndim - 1, 0, -1))  # from the drawn (B, T, C) to the axes of `values`
    return factors.permute(back).to(values.dtype)


def as_torch(values: Tensor, p: float) -> Tensor:
    """The factors of `by_video`, but from torch's own stream, as nn.Dropout draws them."""
    return F.dropout(torch.ones(values.shape, device=values.device), p).to(values.dtype)


class Dropout(nn.Dropout):
    """nn.Dropout on values (B, ...) of B videos."""

    draw = staticmethod(by_video)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        factors = self.draw(values, self.p)
        return values.mul_(factors) if self.inplace else values * factors
