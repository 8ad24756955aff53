"""Dropout is an nn.Dropout that users find and change as usual, in all methods' networks."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fast.dropout import Dropout, as_torch, by_video, part_of_batch
from fast.snippets import Snippets
from fast.streams import FEW, fill
from methods.base import build_method
from model import CAS_Module
from options import make_config, parse_args

METHOD_NAMES = ["basnet", "um", "backtal", "asm_loc"]


def small(method):
    config = make_config(parse_args(["--method", method, *TINY]), training=False)
    torch.manual_seed(0)
    return build_method(config)


def outputs(method, seed):
    """All that the network computes in train mode."""
    torch.manual_seed(seed)
    found = method.network.train()(torch.rand(2, 16, 12, generator=torch.Generator().manual_seed(1)))
    return [part.detach() for part in found if isinstance(part, torch.Tensor)]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def turn_off(network):
    """Turn off Dropout as a user does in any network."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_turned_off_by_whoever_knows_torch(name):
    method = small(name)
    assert not same(outputs(method, 0), outputs(method, 1))
    turn_off(method.network)
    assert same(outputs(method, 0), outputs(method, 1))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_turned_on_alone_for_tests(name):
    """Monte Carlo dropout: the network in eval mode, its Dropouts in train mode."""
    method = small(name)
    method.network.eval()
    snippets = Snippets.of(torch.rand(2, 16, 12))
    plain = method.activations(snippets)
    for module in method.network.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    drawn = [method.activations(snippets) for _ in range(2)]
    assert (plain["cas"] != drawn[0]["cas"]).any() and (drawn[0]["cas"] != drawn[1]["cas"]).any()


def test_asm_loc_leaves_out_whole_times_then_too():
    network = small("asm_loc").network.networks[0].eval()
    network.dropout.train()
    torch.manual_seed(0)
    x_btd = torch.rand(2, 400, 8)
    logits_btc = network.classified(x_btd)
    assert abs((logits_btc == network.snippet_cls.bias).all(dim=2).float().mean() - 0.7) < 0.1, "of values alone 0.7**8"


def test_the_mask_of_ums_snippets_is_turned_off_too():
    method = small("um")
    method.network.train()
    magnitude_bt = torch.arange(16.0).repeat(2, 1)
    action_bk, _ = method.network.select(magnitude_bt)
    turn_off(method.network)
    largest_first = torch.arange(15, 15 - action_bk.shape[1], -1).repeat(2, 1)
    assert not torch.equal(action_bk, largest_first)
    assert torch.equal(method.network.select(magnitude_bt)[0], largest_first)


@pytest.mark.parametrize("draw", [by_video, as_torch])
def test_share_and_scale(draw):
    layer = Dropout(0.7)
    layer.draw = draw
    torch.manual_seed(0)
    out = layer(torch.ones(4, 200, 50))
    torch.testing.assert_close(out.unique(), torch.tensor([0, 1 / 0.3]))
    assert abs((out > 0).float().mean() - 0.3) < 0.01


@pytest.mark.parametrize("inplace", [False, True])
def test_as_torchs(inplace):
    """Constructor, checks, text, ends of the range, modes, copies and gradients."""
    ours, torchs = Dropout(0.25, inplace), nn.Dropout(0.25, inplace)
    assert isinstance(ours, nn.Dropout) and repr(ours) == repr(torchs) and not ours.state_dict()
    values = torch.rand(3, 5, 2) + 1
    for p in (0, 1):
        ours.p = p
        given = values.clone()
        assert torch.equal(ours(given), values * (1 - p)) and torch.equal(given, values * (1 - p if inplace else 1))
    ours.p = 0.5
    weight = values.clone().requires_grad_()
    out = ours(weight * 1)
    out.sum().backward()
    assert torch.equal(weight.grad, out.detach() / values) and set(weight.grad.unique().tolist()) == {0.0, 2.0}
    torch.manual_seed(0)
    drawn = ours(values.clone())
    torch.manual_seed(0)
    assert torch.equal(copy.deepcopy(ours)(values.clone()), drawn) and not torch.equal(drawn, values)
    assert torch.equal(ours.eval()(values), values)
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Dropout(p)


def numpys(shape, key, first):
    """The numbers that decide which values are kept."""
    return np.stack([np.random.default_rng((key, first + row)).random(shape[1], dtype=np.float32) for row in range(shape[0])])


@pytest.mark.parametrize("key", [0, 1, 2**32 - 1, 2**32, 12345678901234567, 2**63 - 2])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factors_are_those_of_numpys_generators(key, size, dtype):
    """Whichever part of a batch is drawn."""
    for first, p in ((0, 0.7), (3, 0.5), (2**20, 0.1), (1, 0.0), (2, 1.0)):
        found = np.full((4, size), np.nan, dtype=dtype)
        fill(found, p, key, first)
        kept = numpys(found.shape, key, first) < np.float32(1 - p)
        assert np.array_equal(found, kept / dtype(1 - p if p < 1 else 1)) and found.dtype == dtype


@settings(max_examples=200)
@given(key=st.integers(0, 2**63 - 2), first=st.integers(0, 2**31), bits=st.integers(1, 63), place=st.integers(0, 9))
def test_numbers_are_numpys_to_the_last_bit(key, first, bits, place):
    """A value is dropped where 1 - p is its number, and kept where it is the next larger one."""
    key >>= 63 - bits
    number = numpys((2, 5), key, first).flat[place]
    for share_kept in (number, np.nextafter(number, np.float32(1))):
        found = np.empty((2, 5), dtype=np.float32)
        fill(found, 1 - float(share_kept), key, first)
        assert (found.flat[place] > 0) == (share_kept > number)


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("rows", [1, 4, 5, 2**17])
def test_threads_fill_the_same(rows, threads):
    alone, together = np.full((2, rows, FEW // rows + 1), np.nan, dtype=np.float32)
    fill(alone, 0.5, 5, 7)
    fill(together, 0.5, 5, 7, threads)
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 3, 4), (3, 2, 0)])
def test_nothing_to_drop(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_weights_have_no_more_names_than_the_official_ones():
    assert [key for key in CAS_Module(4, 3, hidden=8).state_dict() if "drop" in key] == []


def test_a_copied_network_draws_the_same():
    method = small("basnet")
    assert same(outputs(method, 3), outputs(copy.deepcopy(method), 3))


def test_draws_do_not_depend_on_how_values_lie_in_memory():
    """So a seed is the same run by every library, and after any layer."""
    layer, found = Dropout(0.5), []
    for order in itertools.permutations(range(3)):
        values = torch.ones([(3, 4, 5)[axis] for axis in order]).permute([order.index(axis) for axis in range(3)])
        assert values.shape == (3, 4, 5)
        torch.manual_seed(0)
        found.append(layer(values))
    assert all(torch.equal(found[0], other) for other in found) and 0 < (found[0] == 0).float().mean() < 1


def test_videos_of_a_shared_batch_draw_what_they_draw_in_the_whole():
    layer, values = Dropout(0.5), torch.ones(5, 6, 4)
    torch.manual_seed(0)
    expected = layer(values)
    torch.manual_seed(0)
    with part_of_batch(2, 5):
        assert torch.equal(layer(values[2:4]), expected[2:4])
    torch.manual_seed(0)
    assert torch.equal(layer(values), expected)
