"""torch's Dropout, with draws that do not depend on which process computes a video.

torch draws from one stream in the order of channels, which takes a twentieth of a CPU's train step, as torch draws one
number at a time. Here numpy draws, from one key of torch's stream and a video's number in the batch. The official draws are
`as_torch`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rows import Rows


def by_video(values: Tensor, p: float, rows: Rows | None) -> Tensor:
    """0 with probability `p`, else 1 / (1 - p), in the shape of `values`: a stream for every video."""
    kept = uniform(values, rows).lt_(1 - p).to(values.dtype)
    return kept.div_(1 - p if p < 1 else 1)


def as_torch(values: Tensor, p: float, rows: Rows | None) -> Tensor:
    """The same from torch's own stream, channels (if any) before time, as a plain nn.Dropout draws on (B, C, T)."""
    ones = torch.ones(values.transpose(1, -1).shape, device=values.device)
    return F.dropout(ones, p).transpose(1, -1).to(values.dtype)


class Dropout(nn.Dropout):
    """nn.Dropout on values (B, ...) of the videos of `rows`; without `rows` they are the whole batch."""

    draw = staticmethod(by_video)

    def forward(self, values: Tensor, rows: Rows | None = None) -> Tensor:
        if not self.training or self.p == 0:
            return values
        factors = self.draw(values, self.p, rows)
        return values.mul_(factors) if self.inplace else values * factors


def uniform(values: Tensor, rows: Rows | None) -> Tensor:
    """Numbers in [0, 1) in the shape of `values`, in single precision."""
    size_b, *size = values.shape
    first, of = (rows.first, rows.of) if rows else (0, 0)
    if values.device.type != "cpu":
        return torch.rand(of or size_b, *size, device=values.device)[first : first + size_b]
    key = int(torch.randint(2**63 - 1, ()))
    drawn = torch.empty(size_b, *size)
    for number, place in enumerate(drawn.numpy(), first):
        np.random.default_rng((key, number)).random(dtype=np.float32, out=place)
    return drawn
