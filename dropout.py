"""Dropout that draws the same for a video whichever process computes it.

The official codes draw from torch's stream, in an order that takes a twentieth of a CPU's train step, as torch draws one
number at a time. Here numpy draws them, from one key of torch's stream and a video's number in the batch.
"""

import numpy as np
import torch
from torch import Tensor, nn

from rows import Rows


class Dropout(nn.Module):
    """Zero with probability `p` and scaled to keep the mean, for values (B, ...) of the videos of `rows`."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, values: Tensor, rows: Rows) -> Tensor:
        if not self.training or self.p == 0:
            return values
        kept = uniform(values, rows).lt_(1 - self.p).to(values.dtype)
        return values * kept.div_(1 - self.p if self.p < 1 else 1)


def uniform(values: Tensor, rows: Rows) -> Tensor:
    """Numbers in [0, 1) in the shape of `values`, in single precision."""
    size_b, *size = values.shape
    if values.device.type != "cpu":
        return torch.rand(rows.of or size_b, *size, device=values.device)[rows.first : rows.first + size_b]
    key = int(torch.randint(2**63 - 1, ()))
    drawn = torch.empty(size_b, *size)
    for number, place in enumerate(drawn.numpy(), rows.first):
        np.random.default_rng((key, number)).random(dtype=np.float32, out=place)
    return drawn
