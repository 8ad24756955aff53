"""torch's Dropout, with draws that do not depend on which process computes a video.

torch draws from one stream in the order of channels, which takes a twentieth of a CPU's train step, as torch draws one
number at a time. Here numpy draws, from one key of torch's stream and a video's number in the batch. The official draws are
`as_torch`.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_part = (0, 0)  # number in the whole batch of the first video of this process, and how many videos that has; 0: its own alone


@contextlib.contextmanager
def part_of_batch(first: int, of: int) -> Iterator[None]:
    """Inside, videos are number `first` and following of `of`, and what is dropped is what one process would drop."""
    global _part
    before, _part = _part, (first, of)
    try:
        yield
    finally:
        _part = before


def by_video(values: Tensor, p: float) -> Tensor:
    """0 with probability `p`, else 1 / (1 - p), in the shape of `values`: a stream for every video."""
    kept = uniform(values).lt_(1 - p).to(values.dtype)
    return kept.div_(1 - p if p < 1 else 1)


def as_torch(values: Tensor, p: float) -> Tensor:
    """The same from torch's own stream, as a plain nn.Dropout draws."""
    return F.dropout(torch.ones(values.shape, device=values.device), p).to(values.dtype)


class Dropout(nn.Dropout):
    """nn.Dropout on values (B, ...), a video each."""

    draw = staticmethod(by_video)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        factors = self.draw(values, self.p)
        return values.mul_(factors) if self.inplace else values * factors


def uniform(values: Tensor) -> Tensor:
    """Numbers in [0, 1) in the shape of `values`, (B, T) or (B, C, T), in single precision: time by time of each video."""
    size_b, *size = values.shape
    first, of = _part
    back = (0, *range(values.ndim - 1, 0, -1))  # the axes of what is drawn, (B, T, C), in the order of `values`
    if values.device.type != "cpu":
        return torch.rand(of or size_b, *size[::-1], device=values.device)[first : first + size_b].permute(back)
    key = int(torch.randint(2**63 - 1, (), generator=torch.default_generator))  # named, or --compile would draw otherwise
    drawn = torch.empty(size_b, *size[::-1])
    for number, place in enumerate(drawn.numpy(), first):
        np.random.default_rng((key, number)).random(dtype=np.float32, out=place)
    return drawn.permute(back)
