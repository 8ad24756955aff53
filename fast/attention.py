"""Attention inside boxes and between boxes, computed only at times that lie in a box (docs/asm_loc.md, section 3).

All boxes of a time contain it, so the times it attends to form one interval, from the earliest start of these boxes to the
latest end.

Shapes: B batch, T times, D channels; M times of the batch that lie in a box, G runs of them of at most S times, L times
of all runs with their padding, N boxes of the batch, P pairs of a box and a time in it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fast.conv import Conv1d, linear
from fast.snippets import NO_BOXES
from utils import UserError

Indices = NDArray[np.int64]

HEADS = 8
LONGER = 2.0  # largest ratio of lengths between runs that attend in one group


class Places(NamedTuple):
    """Index tensors of the boxes of a batch.

    A run is the times of overlapping boxes. Runs of similar length are a group; its shorter runs are padded to the longest.
    """

    time_m: Tensor  # index among all B*T times
    runs: list[Tensor]  # by group, (G, S, S), True where a time attends to another
    laid_l: Tensor  # index among the M times of all times of all groups; padding repeats a run's first
    from_laid_m: Tensor  # index of each of the M times in that order
    time_of_pair: Tensor  # (P,) index among the M times, pairs sorted by box
    first_of_box: Tensor  # (N,) first pair of each box in that order
    box_of_pair: Tensor  # (P,) pairs sorted by time
    first_of_time: Tensor  # (M,) first pair of each time in that order
    box_bn: Tensor  # (videos with boxes, most boxes of a video) padded with box 0
    there_bn: Tensor  # False at padding
    from_videos_n: Tensor  # index of each box in the flat `box_bn`

    def to(self, device: torch.device) -> "Places":
        moved = {name: value.to(device) for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return self._replace(**moved, runs=[attends_gss.to(device) for attends_gss in self.runs])


def find_places(boxes: Sequence[Indices], times: int) -> Places:
    """Index the boxes (n, 2) of each video of length `times`; a box whose first time is after its last is empty."""
    video_n = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    box_n2 = np.concatenate([*boxes, NO_BOXES]) + times * video_n[:, None]
    filled = np.flatnonzero(box_n2[:, 0] <= box_n2[:, 1])
    first, last = box_n2[filled].T
    by_first = np.argsort(first, kind="stable")
    starts, reach = first[by_first], np.maximum.accumulate(last[by_first])
    new_run = np.flatnonzero(np.r_[True, starts[1:] > reach[:-1]]) if len(starts) else starts
    run_start, run_end = starts[new_run], reach[np.r_[new_run[1:], len(starts)] - 1] if len(starts) else reach
    time_m = ragged(run_start, run_end - run_start + 1)

    by_last = np.argsort(last, kind="stable")
    ends, earliest = last[by_last], np.minimum.accumulate(first[by_last][::-1])[::-1]
    from_m = earliest[np.searchsorted(ends, time_m)] if len(ends) else time_m
    to_m = reach[np.searchsorted(starts, time_m, side="right") - 1] if len(starts) else time_m

    length_g = run_end - run_start + 1
    offset_g = np.cumsum(length_g) - length_g
    runs, laid, from_laid_m, filled_so_far = [], [], np.zeros(len(time_m), dtype=np.int64), 0
    for group in similar(length_g):
        count, longest = len(group), int(length_g[group].max())
        step_s = np.arange(longest)
        inside_gs = step_s < length_g[group, None]
        place_gs = offset_g[group, None] + np.where(inside_gs, step_s, 0)
        start_g1 = run_start[group, None]
        low_gs, high_gs = from_m[place_gs] - start_g1, to_m[place_gs] - start_g1
        attends = (low_gs[:, :, None] <= step_s) & (step_s <= high_gs[:, :, None])
        runs.append(torch.from_numpy(attends))
        laid.append(place_gs.flatten())
        number_gs = filled_so_far + np.arange(count * longest).reshape(count, longest)
        from_laid_m[place_gs[inside_gs]] = number_gs[inside_gs]
        filled_so_far += count * longest

    length_n = np.maximum(box_n2[:, 1] - box_n2[:, 0] + 1, 0)
    place_of_first = np.searchsorted(time_m, box_n2[:, 0])
    time_of_pair = ragged(place_of_first, length_n)
    box_of_pair = np.repeat(np.arange(len(length_n)), length_n)
    by_time = np.argsort(time_of_pair, kind="stable")
    per_time = np.bincount(time_of_pair, minlength=len(time_m))

    _, video_n, per_video = np.unique(video_n, return_inverse=True, return_counts=True)
    most = int(per_video.max(initial=0))
    there_bn = np.arange(most) < per_video[:, None]
    box_bn = np.where(there_bn, (np.cumsum(per_video) - per_video)[:, None] + np.arange(most), 0)
    return Places(
        torch.from_numpy(time_m),
        runs,
        torch.from_numpy(np.concatenate([*laid, time_m[:0]])),
        torch.from_numpy(from_laid_m),
        torch.from_numpy(time_of_pair),
        torch.from_numpy(np.cumsum(length_n) - length_n),
        torch.from_numpy(box_of_pair[by_time]),
        torch.from_numpy(np.cumsum(per_time) - per_time),
        torch.from_numpy(box_bn),
        torch.from_numpy(there_bn),
        torch.from_numpy(np.flatnonzero(there_bn)),
    )


def ragged(first: Indices, length: Indices) -> Indices:
    """Concatenation of the ranges first[i], ..., first[i] + length[i] - 1."""
    before = np.cumsum(length) - length
    return np.arange(length.sum()) + np.repeat(first - before, length)


def similar(length_g: Indices) -> list[NDArray[np.intp]]:
    """Group runs of similar length, so that little is computed for padding."""
    order = np.argsort(length_g, kind="stable")
    groups: list[list[int]] = []
    for run in order.tolist():
        if groups and length_g[run] <= LONGER * length_g[groups[-1][0]]:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [np.array(group) for group in groups]


class Attention(nn.Module):
    """Residual multi-head attention at the times in boxes, with a batch norm over all B*T times.

    Like nn.MultiheadAttention it is one layer: its convolutions and its batch norm only hold weights; do not replace them
    singly. Products are computed in `dtype`.
    """

    def __init__(self, width: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        if width % HEADS:
            raise UserError(f"--hidden {width} cannot be split into {HEADS} attention heads; expected a multiple of {HEADS}.")
        self.conv_query, self.conv_key, self.conv_value, self.conv_out = (Conv1d(width, width, 1) for _ in range(4))
        self.bn = nn.BatchNorm1d(width)
        nn.init.zeros_(self.bn.weight)
        self.dtype = dtype

    def queries_keys_values(self, x_nd: Tensor) -> list[Tensor]:
        """Queries, keys and values, (N, D) each."""
        x_1dn = x_nd.to(self.dtype).t()[None]
        # not [0], whose gradient is a transposing copy into zeros
        return [layer(x_1dn).squeeze(0).t() for layer in (self.conv_query, self.conv_key, self.conv_value)]

    def attended(self, three: list[Tensor], attends: Tensor) -> Tensor:
        """Attention (G*S, D) of queries, keys and values (G, S, D); `attends` (G, 1 or S, S) is the mask."""
        query, key, value = (values.unflatten(2, (HEADS, -1)).transpose(1, 2) for values in three)
        found = F.scaled_dot_product_attention(query, key, value, attends[:, None])
        return found.transpose(1, 2).flatten(2).flatten(0, 1)

    def out(self, x_nd: Tensor) -> Tensor:
        """Output projection (N, D) in single precision, without the bias."""
        return linear(x_nd, self.conv_out.weight.squeeze(2).to(x_nd.dtype)).float()

    def added(self, x_td: Tensor, more_md: Tensor, time_m: Tensor) -> Tensor:
        """`x_td` (B*T, D) plus the batch norm of the output, which is the bias, plus `more_md` at the times `time_m`."""
        bn, bias_d, count, there = self.bn, self.conv_out.bias, len(x_td), len(more_md)
        running_mean, running_var = bn.running_mean, bn.running_var
        assert bias_d is not None and running_mean is not None and running_var is not None
        mean_d, variance_d = running_mean - bias_d, running_var  # means are relative to the bias, like `more_md`
        if self.training:
            variance_there_d, mean_there_d = torch.zeros_like(bias_d), 0 * bias_d
            if there:
                mean_there_d, variance_there_d = mean_and_variance(more_md)
            share = there / count
            mean_d = share * mean_there_d
            variance_d = share * (variance_there_d + (mean_there_d - mean_d) ** 2) + (1 - share) * mean_d**2
            with torch.no_grad():
                running_mean.lerp_(mean_d + bias_d, bn.momentum or 0)
                running_var.lerp_(variance_d * (count / (count - 1)), bn.momentum or 0)
                if bn.num_batches_tracked is not None:
                    bn.num_batches_tracked += 1
            mean_d = mean_d + 0 * bias_d  # a zero gradient, so that weight decay applies to the bias
        scale_d = bn.weight * (variance_d + bn.eps).rsqrt()
        return (x_td + (bn.bias - mean_d * scale_d)).index_add_(0, time_m, more_md * scale_d)


class Inside(Attention):
    """Each time attends to the times with which it shares a box: (B, D, T) -> (B, D, T)."""

    def forward(self, x: Tensor, places: Places) -> Tensor:
        x_td = x.transpose(1, 2).flatten(0, 1)
        three = self.queries_keys_values(distinct(x_td, places.time_m))
        if places.runs:
            sizes = [attends_gss.shape[:2] for attends_gss in places.runs]
            # the gradient at padding is zero, because nothing attends to it and nothing takes it
            laid = [_Taken.apply(values, places.laid_l, places.from_laid_m) for values in three]
            parts = zip(*(values.split([count * longest for count, longest in sizes]) for values in laid), strict=True)
            found = [
                self.attended([values.unflatten(0, size) for values in part], attends_gss)
                for part, size, attends_gss in zip(parts, sizes, places.runs, strict=True)
            ]
            found_md = distinct(torch.cat(found), places.from_laid_m)
        else:
            found_md = three[0] + three[1] + three[2]  # (0, D)
        return self.added(x_td, self.out(found_md), places.time_m).unflatten(0, (len(x), -1)).transpose(1, 2)


class Between(Attention):
    """The boxes of a video, each the mean of its times, attend to one another; each time gets the mean of its boxes."""

    def forward(self, x: Tensor, places: Places) -> Tensor:
        x_td = x.transpose(1, 2).flatten(0, 1)
        three = self.queries_keys_values(means(distinct(x_td, places.time_m), places.time_of_pair, places.first_of_box))
        if len(places.box_bn):
            found = self.attended([values[places.box_bn] for values in three], places.there_bn[:, None])
            found_nd = found[places.from_videos_n]
        else:
            found_nd = three[0] + three[1] + three[2]  # (0, D)
        more_md = means(self.out(found_nd), places.box_of_pair, places.first_of_time)
        return self.added(x_td, more_md, places.time_m).unflatten(0, (len(x), -1)).transpose(1, 2)


def distinct(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` of rows of which none is taken twice, so that the gradient is a copy, and no sum."""
    return _Taken.apply(table, index, None)


class _Taken(torch.autograd.Function):
    """Rows `index` of a table. `back` are the rows of the result that have a gradient, one for each row of the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, back: Tensor | None) -> Tensor:
        ctx.save_for_backward(index, back)
        ctx.count = len(table)
        return table.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, back = ctx.saved_tensors
        if back is not None:
            return grad.index_select(0, back), None, None
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, index, grad), None, None


def means(table: Tensor, numbers: Tensor, first: Tensor) -> Tensor:
    """The mean of each bag of rows of a table, zero for an empty bag; bag i begins at numbers[first[i]]."""
    if len(numbers):
        return F.embedding_bag(numbers, table, first, mode="mean")
    return table.new_zeros(len(first), table.shape[1]) + 0 * table.sum()


def mean_and_variance(x_md: Tensor) -> tuple[Tensor, Tensor]:
    """Over rows; faster than torch.var_mean on a CPU."""
    mean_d, variance_d = _Moments.apply(x_md)
    return mean_d, variance_d


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_md: Tensor) -> tuple[Tensor, Tensor]:
        mean_d = x_md.mean(dim=0)
        ctx.save_for_backward(x_md, mean_d)
        return mean_d, (x_md - mean_d).square_().mean(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean_d: Tensor, grad_variance_d: Tensor) -> Tensor:
        x_md, mean_d = ctx.saved_tensors
        factor_d = grad_variance_d * (2 / len(x_md))
        return torch.addcmul(grad_mean_d / len(x_md) - factor_d * mean_d, x_md, factor_d)
