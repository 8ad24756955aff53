"""The network against the official code's values: outputs, gradients, dropout stream, initial weights."""

import copy
import itertools
import zlib

import numpy as np
import pytest
import torch
from matching import settled, settled_entries
from oracles import official_draws
from torch.profiler import ProfilerActivity, profile

from fast.adam import Adam
from fast.conv import Conv1d
from fast.snippets import Snippets
from model import BaS_Net, evaluated_branch
from train import BaS_Net_loss

FORWARD, LOSSES = 1e-5, 1e-6  # tolerances: twice and four times what processors have differed by (docs/basnet.md, section 7)
SIZES = {"t100": (64, 100, [(1, 1.0), (2, 1.5), (3, 2.0), (4, 1.0)], 21), "t750": (2048, 750, [(1001, 1.0), (1002, 2.0)], 11)}


def golden_network(len_feature: int, times: int, dropout: float = 0.7) -> BaS_Net:
    network = BaS_Net(len_feature, 20, times, dropout=dropout)
    weights = {
        key: torch.from_numpy(
            np.random.default_rng(zlib.crc32(key.encode())).standard_normal(value.shape).astype(np.float32) * np.float32(0.02)
        )
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(weights)
    return network


def golden_batch(size: str) -> tuple[torch.Tensor, torch.Tensor]:
    width, times, videos, label_seed = SIZES[size]
    step = np.arange(times)
    features = [
        np.abs(np.random.default_rng(seed).standard_normal((times, width)).astype(np.float32))
        * (0.5 + 0.25 * ((step // 7) % 5)).astype(np.float32)[:, None]
        * np.float32(gain)
        for seed, gain in videos
    ]
    random = np.random.default_rng(label_seed)
    label = np.zeros((len(videos), 20), dtype=np.float32)
    for b in range(len(videos)):
        label[b, random.choice(20, size=1 + b % 2, replace=False)] = 1
    return torch.from_numpy(np.stack(features)), torch.from_numpy(label)


@pytest.mark.parametrize("size", ["t100", pytest.param("t750", marks=pytest.mark.whole)])
def test_forward_loss_and_gradients(golden, size, products_by):
    width, times, _, _ = SIZES[size]
    features, label = golden_batch(size)
    np.testing.assert_array_equal(label.numpy(), golden[f"{size}/label"])
    network = golden_network(width, times).eval()
    score_base, cas_base, score_supp, cas_supp, fore_weights = network(features)
    every = slice(None, None, max(1, times // 10))
    atol = 3e-5 if products_by == "conv" else FORWARD  # torch's own conv1d rounds more where there is no AVX-512
    for name, value in {
        "score_base": score_base,
        "score_supp": score_supp,
        "fore_weights": fore_weights.squeeze(2),
        "cas_base_slice": cas_base[:, every],
        "cas_supp_slice": cas_supp[:, every],
    }.items():
        np.testing.assert_allclose(value.detach().numpy(), golden[f"{size}/{name}"], atol=atol, err_msg=name)

    total, terms = BaS_Net_loss(alpha=1e-4)(score_base, score_supp, fore_weights, label)
    found = [terms[f"loss_{name}"].item() for name in ("base", "supp", "norm", "total")]
    np.testing.assert_allclose(found, golden[f"{size}/loss_base_supp_norm_total"], rtol=LOSSES)
    assert total is terms["loss_total"]

    total.backward()
    channels = settled(network, network, features)
    for key, parameter in network.named_parameters():
        flat = parameter.grad.flatten()
        expected = golden[f"{size}/grad_norm/{key}"]
        np.testing.assert_allclose(flat.double().norm().item(), expected, rtol=1e-4, err_msg=key)
        certain = settled_entries(key, parameter, channels)
        part, chosen = (values[:: max(1, len(flat) // 64)][:64].numpy() for values in (flat, certain))
        assert chosen.mean() > 0.6, "most entries are compared"
        expected = golden[f"{size}/grad_slice/{key}"]
        atol = 2e-4 * np.abs(expected).max()  # torch's own convolutions: 1.2e-4, by rectifiers of other layers
        np.testing.assert_allclose(part[chosen], expected[chosen], rtol=1e-4, atol=atol, err_msg=key)


@pytest.mark.parametrize("size, steps", [("t100", 30), ("t750", 5)])
@pytest.mark.whole
def test_adam_trajectory(golden, size, steps, products_by):
    features, label = golden_batch(size)
    network = golden_network(SIZES[size][0], SIZES[size][1], dropout=0.0).train()
    optimizer = Adam(network.parameters(), lr=1e-4, weight_decay=5e-4)
    criterion = BaS_Net_loss(alpha=1e-4)
    found = []
    for _ in range(steps):
        score_base, _, score_supp, _, fore_weights = network(features)
        total, terms = criterion(score_base, score_supp, fore_weights, label)
        found.append([terms[f"loss_{name}"].item() for name in ("base", "supp", "norm", "total")])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    expected = golden[f"{size}/adam{steps}_losses_no_dropout"]
    np.testing.assert_allclose(found[:10], expected[:10], rtol=1e-3)
    # rounding grows with every step of Adam: features times 1 + 3e-7 change the losses of the thirtieth by 3e-3
    np.testing.assert_allclose(found, expected, rtol=3e-2)


def test_dropout_draws_base_branch_first(golden):
    features, _ = golden_batch("t750")
    network = golden_network(2048, 750).train()
    torch.manual_seed(0)
    with torch.no_grad(), official_draws():
        score_base, _, score_supp, _, _ = network(features)
    np.testing.assert_allclose(score_base.numpy(), golden["t750/trainmode_seed0_score_base"], atol=FORWARD)
    np.testing.assert_allclose(score_supp.numpy(), golden["t750/trainmode_seed0_score_supp"], atol=FORWARD)


def test_seeded_initial_weights(golden):
    torch.manual_seed(0)
    for key, parameter in BaS_Net(2048, 20, 750).named_parameters():
        flat = parameter.detach().flatten()
        part, expected = flat[:: max(1, len(flat) // 16)][:16].numpy(), golden[f"init_seed0/{key}"]
        # torch scales what it draws, on some processors without rounding in between: the last bit of the largest differs
        last_bit = np.spacing(np.abs(expected).max())
        np.testing.assert_allclose(part, expected, rtol=0, atol=2 * last_bit, err_msg=key)


@pytest.mark.parametrize(
    "ablation, columns, present",
    [
        ("full", 21, (True, True, True, True, True)),
        ("baseline", 20, (True, True, False, False, False)),
        ("base", 21, (True, True, False, False, False)),
        ("supp", 21, (False, False, True, True, True)),
    ],
)
def test_ablations_leave_out_what_they_say(ablation, columns, present):
    network = BaS_Net(4, 20, 16, hidden=8, ablation=ablation)
    output = network(torch.rand(2, 16, 4))
    assert tuple(part is not None for part in output) == present
    score, cas = evaluated_branch(output)
    assert score.shape == (2, columns) and cas.shape == (2, 16, columns)
    assert any(key.startswith("filter_module") for key in network.state_dict()) == (ablation in ("full", "supp"))


def test_ablated_loss_terms():
    label = torch.tensor([[1.0, 0.0, 1.0]])
    criterion = BaS_Net_loss(alpha=0.1)
    score = torch.tensor([[0.2, 0.3, 0.5]])
    total, terms = criterion(score, None, None, label)  # baseline: no background column in the target
    expected = -np.mean([0.5 * np.log(0.2) + 0.5 * np.log(0.8), np.log(0.7), np.log(0.5)])
    assert total.item() == pytest.approx(expected) and terms["loss_supp"] == 0 == terms["loss_norm"]

    score = torch.tensor([[0.2, 0.3, 0.4, 0.1]])
    weights = torch.tensor([[[0.5], [0.25]]])
    total, terms = criterion(None, score, weights, label)
    expected = -np.mean(
        [0.5 * np.log(0.2) + 0.5 * np.log(0.8), np.log(0.7), 0.5 * np.log(0.4) + 0.5 * np.log(0.6), np.log(0.9)]
    )
    assert terms["loss_supp"].item() == pytest.approx(expected) and terms["loss_base"] == 0
    assert total.item() == pytest.approx(expected + 0.1 * 0.75)

    third = 1 / 3
    _, terms = criterion(score, None, None, label)
    expected = -np.mean(
        [third * np.log(p) + (1 - third) * np.log(1 - p) for p in (0.2, 0.4, 0.1)] + [np.log(0.7)]
    )  # base: classes and background share the target
    assert terms["loss_base"].item() == pytest.approx(expected)


def test_the_sum_over_classes_is_the_mean_times_their_number():
    random = torch.Generator().manual_seed(0)
    score = torch.rand(3, 5, generator=random).softmax(dim=1)
    label = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
    weights = torch.rand(3, 7, 1, generator=random)
    _, mean = BaS_Net_loss(0.1)(score, score, weights, label)
    _, summed = BaS_Net_loss(0.1, "classsum")(score, score, weights, label)
    for name in ("loss_base", "loss_supp"):
        torch.testing.assert_close(summed[name], 5 * mean[name])
    assert summed["loss_norm"] == mean["loss_norm"]


@pytest.mark.parametrize(("times", "share", "k"), [(750, 0.125, 93), (100, 0.6, 60), (200, 0.6, 120), (4, 0.125, 1)])
def test_number_of_snippets_in_a_score(times, share, k):
    assert BaS_Net(4, 3, times, 8, topk=share).k == k


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 1, 3), (1, 7, 3)])
def test_adam_on_weights_that_lie_otherwise(shape):
    """As torch's, with state and without, and with moments and gradients that lie in another order than their weight."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    turned, straight, other, others = (torch.nn.Parameter(start.clone()) for _ in range(4))
    ours = Adam([turned, other], lr=0.1, weight_decay=0.01)
    theirs = torch.optim.Adam([straight, others], lr=0.1, weight_decay=0.01)
    for order in itertools.permutations(range(3)):
        turned.data = turned.data.permute(order).contiguous().permute([order.index(axis) for axis in range(3)])
        for parameter, optimizer in ((turned, ours), (straight, theirs)):
            optimizer.zero_grad()
            (parameter * start).square().sum().backward()
        if order == (1, 0, 2):
            turned.grad = turned.grad.contiguous()
        theirs.step()
        ours.step()
        torch.testing.assert_close(turned, straight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(turned.grad, straight.grad, rtol=1e-5, atol=1e-5)
        found, expected = (optimizer.state_dict()["state"] for optimizer in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # none of the weight that had no gradient
        assert torch.equal(other, start)
        again = Adam([turned, other], lr=0.1, weight_decay=0.01)
        again.load_state_dict(copy.deepcopy(ours.state_dict()))
        ours = again


def memory_of_a_step(optimizer, weight, x):
    """Bytes that the third step takes, in sizes of the weight: the first makes the moments."""
    for step in range(3):
        optimizer.zero_grad()
        (weight * x).square().sum().backward()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=step == 2) as watched:
            optimizer.step()
    return sum(max(0, event.self_cpu_memory_usage) for event in watched.events()) / (weight.numel() * weight.element_size())


def test_adam_makes_no_copies_of_weights_that_lie_otherwise():
    """In the order of fast.conv.Conv1d. torch's own makes one of each gradient; should it cease to, ours is of no more use."""
    x = torch.rand(3, 100, 100).permute(1, 2, 0)
    weights = [torch.nn.Parameter(torch.rand(3, 100, 100).permute(1, 2, 0)) for _ in range(2)]
    assert memory_of_a_step(Adam(weights[:1], lr=1e-3, weight_decay=1e-3), weights[0], x) < 0.1
    assert memory_of_a_step(torch.optim.Adam(weights[1:], lr=1e-3, fused=True), weights[1], x) > 0.9


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_step_of_adam_is_noticed(kernel):
    """By autograd, which refuses a gradient at weights that are gone, and by a batch that remembers a layer's products."""
    layer, x = Conv1d(4, 6, kernel, padding=kernel // 2), Snippets.of(torch.rand(2, 9, 4))
    optimizer = Adam(layer.parameters(), lr=0.1, weight_decay=0.0)
    layer(x).square().sum().backward()
    optimizer.step()
    expected = torch.nn.functional.conv1d(x.dense(), layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected)
    squared = layer.weight.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()


def test_adam_whose_step_fails_leaves_weights_as_they_are():
    weight = torch.nn.Parameter(torch.rand(2, 3, 4).permute(2, 0, 1))
    straight = torch.nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    ours, theirs = Adam([weight], lr=0.1, weight_decay=0), torch.optim.Adam([straight], lr=0.1)
    for parameter in (weight, straight):
        parameter.square().sum().backward()
    betas, ours.param_groups[0]["betas"] = ours.param_groups[0]["betas"], None
    with pytest.raises(TypeError):
        ours.step()
    torch.testing.assert_close(weight, straight, rtol=0, atol=0)
    torch.testing.assert_close(weight.grad, straight.grad, rtol=0, atol=0)
    ours.param_groups[0]["betas"] = betas
    ours.step(), theirs.step()
    torch.testing.assert_close(weight, straight)
