"""The network on distinct snippets against the plain one on every snippet shown, and what it saves, counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import PlainBaSNet, official_draws
from torch.utils.flop_counter import FlopCounterMode

from fast import conv, products
from fast.dropout import part_of_batch
from fast.snippets import Snippets
from model import BaS_Net
from train import BaS_Net_loss


def shown(lengths, times, width, seed=0):
    """Videos of these lengths, each shown at so many times."""
    r = np.random.default_rng(seed)
    parts = [torch.from_numpy(r.standard_normal((length, width)).astype(np.float32)) for length in lengths]
    first = np.cumsum([0, *lengths[:-1]])
    index = [start + np.sort(r.integers(0, length, times)) for start, length in zip(first, lengths, strict=True)]
    return Snippets(tuple(parts), torch.from_numpy(np.stack(index)))


def outputs_and_gradients(network, x, label):
    torch.manual_seed(5)
    score_base, cas_base, score_supp, cas_supp, fore_weights = network(x)
    total, _ = BaS_Net_loss(0.01)(score_base, score_supp, fore_weights, label)
    total.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"base": cas_base, "supp": cas_supp, "weights": fore_weights, "total": total} | gradients


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    times=st.integers(1, 9),
    width=st.integers(1, 5),
    training=st.booleans(),
    shuffled=st.booleans(),
    seed=st.integers(0, 9),
)
def test_as_the_plain_network(size_of_tiny, lengths, times, width, training, shuffled, seed):
    """Outputs, gradients and the draws of dropout; snippets may be in any order."""
    torch.manual_seed(seed)
    plain, ours = (network(width, 3, times, hidden=8).train(training) for network in (PlainBaSNet, BaS_Net))
    ours.load_state_dict(plain.state_dict())
    rows = shown(lengths, times, width, seed)
    if shuffled:
        rows = replace(rows, index_bt=rows.index_bt.flatten()[torch.randperm(rows.index_bt.numel())].view_as(rows.index_bt))
    label = torch.eye(3)[torch.arange(len(lengths)) % 3]
    expected = outputs_and_gradients(plain, torch.cat(rows.parts)[rows.index_bt], label)
    with official_draws():
        found = outputs_and_gradients(ours, rows, label)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_features_have_a_gradient_if_asked_for(size_of_tiny):
    torch.manual_seed(0)
    plain, ours = (network(6, 3, 10, hidden=8, dropout=0.0) for network in (PlainBaSNet, BaS_Net))
    ours.load_state_dict(plain.state_dict())
    gradients = []
    for network in (plain, ours):
        x_btf = torch.linspace(-1, 1, 120).view(2, 10, 6).requires_grad_()
        network(x_btf)[2][:, 1].sum().backward()
        gradients.append(x_btf.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_negative_rows_are_refused():
    rows = shown([5, 9], 8, 4)
    with pytest.raises(ValueError, match="index_bt is negative"):
        BaS_Net(4, 3, 8, hidden=8)(replace(rows, index_bt=rows.index_bt - rows.index_bt[0, 0] - 1))


def test_a_value_that_is_no_number_stays_in_its_video(size_of_tiny):
    torch.manual_seed(0)
    network = BaS_Net(4, 3, 8, hidden=8).eval()
    rows = shown([5, 9, 3], 8, 4)
    expected = network(rows)[1]
    rows.parts[0][0, 1] = float("nan")
    found = network(rows)[1]
    assert found[0].isnan().any() and torch.equal(found[1:], expected[1:])


def test_a_batch_of_no_videos(size_of_tiny):
    score, cas, *_ = BaS_Net(4, 3, 8, hidden=8)(torch.rand(0, 8, 4))
    assert score.shape == (0, 4) and cas.shape == (0, 8, 4)


def test_a_share_of_a_batch_drops_what_it_would_in_the_whole():
    torch.manual_seed(0)
    network = BaS_Net(4, 3, 8, hidden=8).train()
    whole = shown([5, 9, 3], 8, 4)
    torch.manual_seed(1)
    expected = network(whole)[3]
    found = []
    for first, end in ((0, 2), (2, 3)):
        start = sum(len(part) for part in whole.parts[:first])
        torch.manual_seed(1)
        with part_of_batch(first, 3):
            found.append(network(Snippets(whole.parts[first:end], whole.index_bt[first:end] - start))[3])
    torch.testing.assert_close(torch.cat(found), expected)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_what_dropout_leaves_keeps_its_mean(p):
    torch.manual_seed(0)
    network = BaS_Net(4, 3, 8, dropout=p).train()
    left = network.cas_module.drop_out(torch.ones(2, 50, 100))
    assert left.mean().item() == pytest.approx(float(p < 1), abs=0.05)
    assert (left == 0).float().mean().item() == pytest.approx(p, abs=0.05)


def in_place(_self, left, right, **_):
    """What torch's counter does not know: products that are added where they belong."""
    return 2 * left[0] * left[1] * right[1]


def flops(network, x, label=None):
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        score_base, _, score_supp, _, fore_weights = network(x, localized_only=label is None)
        if label is not None:
            BaS_Net_loss(1e-4)(score_base, score_supp, fore_weights, label)[0].backward()
    return counter.get_total_flops()


@products.only("mm")  # torch's conv1d would share nothing
@pytest.mark.parametrize("lengths", [[64, 64], [20, 44]], ids=["every row once", "half of the rows"])
def test_what_a_step_and_an_evaluation_cost(monkeypatch, lengths):
    """A unit is one convolution of every time shown: 8 a step, not 11, and 2 an evaluation, not 4; fewer for repeated rows."""
    monkeypatch.setattr(conv, "TINY", 0)
    width = hidden = 32
    times, classes = 64, 3
    network = BaS_Net(width, classes, times, hidden).train()
    rows = shown(lengths, times, width)
    unit = 2 * len(lengths) * times * width * hidden * 3
    once = sum(lengths) / (len(lengths) * times)
    padding = (len(lengths) * (times + 2) - 2) / (len(lengths) * times)
    filtering = 2 * sum(lengths) * (width + 1) * (hidden // 4)
    classifying = 2 * len(lengths) * times * hidden * (classes + 1)
    step = (once + once + 2 * 3 * padding) * unit + 2 * filtering + 2 * sum(lengths) * (hidden // 4) + 2 * 3 * classifying
    label = torch.eye(3)[:2]
    assert flops(network, rows, label) == pytest.approx(step, rel=0.01)
    with torch.no_grad():
        assert flops(network.eval(), rows) == pytest.approx((once + padding) * unit + filtering + classifying, rel=0.01)
