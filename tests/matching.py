"""Detections and gradients that follow from a network, compared on any processor.

Processors order the sums of a matrix product differently. A detection ends where a curve crosses a threshold, so a last bit
may move an end by a fine point, split a run, or change what suppresses what. The rule for detections:

* Two detections match if they have the same class, times within one fine point and scores within SCORE.
* At most SHARE of the detections, or a single one, have no match.
* Every detection without a match, or with one at other times, lies at a threshold: it appears or disappears when the
  activations are nudged by no more than the network's tolerance.

Detections from stored arrays are arithmetic of this project alone: they are compared by test_localize.assert_same.

A rectifier's gradient jumps where its input crosses zero: `settled` says which channels have no input near zero.
"""

import numpy as np
import torch
from test_localize import as_rows

from localize import localize

SCORE = 1e-5
SHARE = 1 / 200
EQUAL = 1e-9  # seconds between equal times
NUDGES = 32
NEAR_ZERO = 1e-4  # a sum of thousands of products of size one that is smaller may have either sign


def assert_match(curves, activations, expected, tolerance):
    """Compare `expected` rows (class, score, start, end) with the detections of `curves` of each video's `activations`."""
    differing = total = 0
    for arrays, wanted in zip(activations, expected, strict=True):
        described = curves(arrays)
        found = as_rows(localize(described))
        for rows in (found, wanted):
            assert (np.lexsort((-rows[:, 1], rows[:, 0])) == np.arange(len(rows))).all(), "by class, then by descending score"
        extra, lost = unmatched(found, wanted, EQUAL)
        differing += max(map(len, unmatched(extra, lost, described.seconds_per_point + EQUAL)))
        total += max(len(found), len(wanted))
        if len(extra) or len(lost):
            assert_at_a_threshold(curves, arrays, extra, lost, tolerance)
    assert differing <= max(1, SHARE * total), f"{differing} of {total} detections have no match"


def unmatched(some, others, seconds):
    """Rows of each side that match no row of the other."""
    free = np.ones(len(others), dtype=bool)
    alone = []
    for row in some:
        apart = np.abs(others - row)
        fits = np.flatnonzero(free & (apart[:, 0] == 0) & (apart[:, 1] <= SCORE) & (apart[:, 2:] <= seconds).all(axis=1))
        if len(fits):
            free[fits[apart[fits, 2:].sum(axis=1).argmin()]] = False
        else:
            alone.append(row)
    return np.array(alone).reshape(-1, 4), others[free]


def assert_at_a_threshold(curves, arrays, extra, lost, tolerance):
    """Each row of `lost` appears after some nudge, and each row of `extra` disappears after some nudge."""
    nudged = [as_rows(localize(curves(nudge(arrays, tolerance, seed)))) for seed in range(NUDGES)]
    for row in lost:
        assert any(has(rows, row, SCORE) for rows in nudged), f"{row} is expected and lies at no threshold"
    for row in extra:
        # a nudge moves the scores of all detections of a class a little, which does not count as losing them
        assert not all(has(rows, row, 10 * SCORE) for rows in nudged), f"{row} is not expected and lies at no threshold"


def has(rows, row, score):
    apart = np.abs(rows - row)
    return ((apart[:, 0] == 0) & (apart[:, 1] <= score) & (apart[:, 2:] <= EQUAL).all(axis=1)).any()


def nudge(arrays, tolerance, seed):
    """The network's activations in single precision, plus random signs times a share of each column's largest value."""
    random = np.random.default_rng(seed)

    def moved(values):
        step = np.float32(tolerance) * np.abs(values).max(axis=0)
        return values + step * random.choice(np.float32([-1, 1]), values.shape)

    return {name: moved(values) if values.dtype == np.float32 else values for name, values in arrays.items()}


def rows_of_file(content, classes):
    """Rows of each video of a detections file."""
    return {
        name: np.array([(classes.index(row["label"]), row["score"], *row["segment"]) for row in rows])
        for name, rows in content["results"].items()
    }


def settled(network, forward, *inputs):
    """By name of each convolution before a rectifier: which of its channels (H,) have no output within NEAR_ZERO of zero."""
    found, hooks = {}, []

    def watch(name, convolution):
        def note(_module, _inputs, output_bht):
            found[name] = found.get(name, True) & (output_bht.abs() > NEAR_ZERO).all(dim=2).all(dim=0)

        hooks.append(convolution.register_forward_hook(note))

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Sequential) and isinstance(module[-1], torch.nn.ReLU | torch.nn.LeakyReLU):
            watch(f"{name}.0", module[0])
    with torch.no_grad():
        forward(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def settled_entries(key, parameter, channels):
    """Which entries (N,) of a parameter, flat, belong to settled channels; all if no rectifier follows it."""
    own_h = channels.get(key.rpartition(".")[0], torch.ones(1, dtype=torch.bool))
    return own_h.repeat_interleave(parameter.numel() // len(own_h))
