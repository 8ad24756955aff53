"""BackTAL against the official code's values and against its plain form (tests/oracle_backtal.py)."""

import json
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import oracle_backtal
import pytest
import torch
from conftest import ROOT, TINY, one_thread
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from config import parse_schedule
from dataset.draws import Draws
from dataset.store import Files
from engine.checkpoint import load_network
from fast.adam import Adam
from fast.gated import GatedConv1d, affinities, terms
from localize import localize, resize
from methods.backtal import BackTALConfig, BackTALLoss, BackTALNetwork, BackTALOutput
from methods.base import build_method
from options import make_config, parse_args
from test import detect, detections_text, read_activations
from thumos_features import Video, interpolated, load_database, training_batch
from utils import UserError

PRESENT = {
    "th": ((4, 7), (2,), (19,)),
    "an": ((11,), (99,), (0, 50), (7,)),
    "ha": ((150,), (3,), (42, 199)),
}
SIZES = {"th": (101, 25, 750, 20, (5, 3, 0)), "an": (102, 10, 100, 100, (4, 1, 2, 0)), "ha": (103, 20, 200, 200, (6, 0, 2))}
DATASETS = {"th": "thumos14", "an": "activitynet1.2", "ha": "hacs"}
FORWARD, LOSSES = 2e-5, 1e-5  # tolerances: ten times what processors have differed by (docs/backtal.md, section 8)
GRADIENT_NORMS, GRADIENT_ENTRIES = 5e-5, 1e-3
TERMS = ("base", "supp", "norm", "click", "sep", "emb", "total")


@pytest.fixture(scope="module")
def golden():
    """Values of the official code (docs/backtal.md, section 8 says how they came about)."""
    with np.load(ROOT / "tests" / "golden" / "backtal.npz") as file:
        return dict(file)


def config_of(dataset, *flags):
    """Published settings; what must be found in files is given."""
    args = parse_args(["--method", "backtal", "--dataset", "thumos14", "--clicks", "simulated", *flags])
    wanted = parse_args(["--method", "backtal", "--dataset", dataset])
    own = {name: getattr(wanted, name) for name in ("num_segments", "topk", "sep_topk", "sep_weight")}
    return replace(make_config(args), **own)


def golden_network(golden, dataset, dropout=0.7):
    _, _, times, classes, _ = SIZES[dataset]
    share = 0.125 if dataset == "th" else 0.6
    with torch.device("meta"):
        network = BackTALNetwork(2048, classes, times, dropout=dropout, topk=share)
    network = network.to_empty(device="cpu")
    scale = dict(zip(golden["weights_keys"], golden["weights_scale"], strict=True))
    weights = {
        key: torch.from_numpy(
            np.random.default_rng(zlib.crc32(key.encode())).standard_normal(value.shape).astype(np.float32)
            * np.float32(scale[key])
        )
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(weights)
    return network


def golden_batch(golden, dataset):
    seed, block, times, classes, counts = SIZES[dataset]
    r = np.random.default_rng(seed)
    blocks = r.standard_normal((len(counts), 2048, times // block))
    noise = r.standard_normal((len(counts), 2048, times))
    x = (np.repeat(blocks, block, axis=2) + noise).astype(np.float32)
    np.testing.assert_allclose(x.astype(np.float64).sum(), golden[f"{dataset}_x_check"][0], rtol=1e-9)
    click = np.zeros((len(counts), times), dtype=np.float32)
    for b, count in enumerate(counts):
        click[b, r.permutation(times)[:count]] = 1
    np.testing.assert_array_equal(np.argwhere(click), golden[f"{dataset}_click_idx"])
    label = np.zeros((len(counts), classes), dtype=np.float32)
    for b, present in enumerate(PRESENT[dataset]):
        label[b, list(present)] = 1
    return torch.from_numpy(x).transpose(1, 2).contiguous(), torch.from_numpy(label), torch.from_numpy(click)


def near(found, expected, share, name=""):
    """Within a share of the array's largest value."""
    found = found.detach().numpy()
    assert found.shape == expected.shape, name
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max(), rtol=0, err_msg=name)


def losses_of(terms_by_name):
    return [terms_by_name[f"loss_{name}"].item() for name in TERMS]


# -------------------------------------------------------------------------------------------------------- official values


@pytest.mark.parametrize("dataset", SIZES)
def test_forward_losses_and_gradients(golden, dataset):
    x, label, click = golden_batch(golden, dataset)
    network = golden_network(golden, dataset).eval()
    output = network(x)
    with torch.no_grad():
        alone = network(x, localized_only=True)
    np.testing.assert_allclose(alone.cas_kbtc[0].numpy(), output.cas_kbtc[1].detach().numpy(), atol=5e-5)
    stored = {key.removeprefix(f"{dataset}_"): value for key, value in golden.items() if key.startswith(f"{dataset}_")}
    step = x.shape[1] // 50
    for name, value in {
        "score_base": output.score_kbc[0],
        "score_supp_logit": output.score_kbc[1],
        "score_supp_softmax": output.score_kbc[1].softmax(1),
        "fore_weights": output.fore_bt[:, None],
        "feat1_supp_mag": alone.magnitude_bt,
        "cas_base_b0": output.cas_kbtc[0, 0, ::step, :21].T,
        "cas_supp_b0": output.cas_kbtc[1, 0, ::step, :21].T,
        "cas_base_b1": output.cas_kbtc[0, 1, ::step, -21:].T,
        "cas_supp_b1": output.cas_kbtc[1, 1, ::step, -21:].T,
        "embedding_b0": output.embedding_bte[0, ::step].T,
    }.items():
        near(value, stored[name], FORWARD, name)
    found = BackTALLoss(config_of(DATASETS[dataset]))(output, label, click)
    np.testing.assert_allclose(losses_of(found), stored["loss_f32"], rtol=LOSSES)
    if dataset == "th":
        found["loss_total"].backward()
        for key, parameter in network.named_parameters():
            flat, expected = parameter.grad.flatten(), stored[f"grad|{key}"]
            np.testing.assert_allclose(flat.double().norm(), expected[0], rtol=GRADIENT_NORMS, err_msg=key)
            ends = torch.cat([flat[:4], flat[-4:]]) if len(flat) > 1 else torch.cat([flat, flat])
            root_mean_square = expected[0] / len(flat) ** 0.5
            atol = GRADIENT_ENTRIES * root_mean_square
            np.testing.assert_allclose(ends, expected[1:], rtol=1e-4, atol=atol, err_msg=key)


@pytest.mark.parametrize("dataset", ["an"])
def test_losses_in_double_precision(golden, dataset):
    x, label, click = golden_batch(golden, dataset)
    network = golden_network(golden, dataset).eval().double()
    network.dtype = torch.float64
    with torch.no_grad():
        output = network(x)
        found = BackTALLoss(config_of(DATASETS[dataset]))(output, label.double(), click.double())
    near(output.score_kbc[0], golden[f"{dataset}_score_base_f64"], 1e-12)
    near(output.score_kbc[1], golden[f"{dataset}_score_supp_logit_f64"], 1e-12)
    np.testing.assert_allclose(losses_of(found), golden[f"{dataset}_loss_f64"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["th", "ha"])
def test_losses_in_double_precision_of_longer_videos(golden, dataset):
    test_losses_in_double_precision(golden, dataset)


def adam_trajectory(golden, steps):
    x, label, click = golden_batch(golden, "th")
    network = golden_network(golden, "th", dropout=0.0).train()
    optimizer = Adam(network.parameters(), lr=1e-4, weight_decay=5e-4)
    criterion = BackTALLoss(config_of("thumos14"))
    found = []
    for _ in range(steps):
        terms_by_name = criterion(network(x), label, click)
        found.append(losses_of(terms_by_name))
        optimizer.zero_grad()
        terms_by_name["loss_total"].backward()
        optimizer.step()
    expected = golden["th_adam_losses_modern"][:steps]
    np.testing.assert_allclose(found[0], expected[0], rtol=LOSSES)
    for ours, official in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[-1], official[-1], rtol=1e-4)
        # a term may be a thousandth of the total: the official code with two versions of torch differs by 1.5e-4 of such a term
        np.testing.assert_allclose(ours, official, rtol=1e-4, atol=1e-4 * official[-1])
    return network


@pytest.mark.whole
def test_adam_begins_as_officially(golden):
    adam_trajectory(golden, 2)


@pytest.mark.slow
def test_adam_trajectory(golden):
    for key, parameter in adam_trajectory(golden, 4).named_parameters():
        np.testing.assert_allclose(
            parameter.detach().double().norm(), golden[f"th_adam4_norm|{key}"][0], rtol=1e-5, err_msg=key
        )


def test_initial_weights_are_drawn_in_the_official_order():
    torch.manual_seed(38)
    weights = BackTALNetwork(2048, 20, 750).state_dict()
    for key, first, last, total in (  # of the official code
        ("base_module.conv_1.weight", -0.009783583, 0.005385049, 40.34741),
        ("classifier_module.conv.weight", 0.005499216, -0.015763832, 8.306065),
        ("embedding_module.conv_2.weight", -0.015968841, -0.012411378, 2.2045),
    ):
        flat = weights[key].flatten().double()
        np.testing.assert_allclose([flat[0], flat[-1]], [first, last], rtol=0, atol=5e-9, err_msg=key)
        np.testing.assert_allclose(flat.sum(), total, rtol=1e-4, err_msg=key)


def gated(layout, x, gates, weight_oi3, *weights):
    layer = GatedConv1d(weight_oi3.shape[1], len(weight_oi3), 3, padding=1, bias=False, layout=layout)
    return torch.func.functional_call(layer, {"weight": weight_oi3}, (x, gates, *weights))


def test_official_gated_convolution(golden, products_by):
    """Seven channels, so that thirds are not whole; a zero vector has no affinity even to itself."""
    embedding = torch.nn.functional.normalize(torch.from_numpy(golden["unit_att_embedding_raw"]), dim=1)
    gates = affinities(embedding.transpose(1, 2))
    near(gates.transpose(1, 2), golden["unit_att_sims"], 2e-6)
    assert gates[0, 4, 1] == 0
    x, weight = (torch.from_numpy(golden[f"unit_att_{name}"]) for name in ("feature", "weight"))
    found = {layout: gated(layout, x, gates, weight) for layout in ("official", "paper")}
    near(found["official"], golden["unit_att_out"], 2e-6)
    alone = gated("official", x, gates, weight, torch.ones(1, len(x), x.shape[2]))
    near(alone[0], golden["unit_att_out"], 2e-6)
    assert np.abs(found["paper"].numpy() - golden["unit_att_out"]).max() > 0.1


@pytest.mark.parametrize(("dataset", "sep_topk"), [("th", 0.25), ("an", 0.125)])
def test_official_losses(golden, dataset, sep_topk):
    def given(name):
        return torch.from_numpy(golden[f"unit_loss_{name}"])

    cas = torch.stack([given("cas_base"), given("cas_supp")]).transpose(2, 3)
    embedding = torch.nn.functional.normalize(given("emb_raw"), dim=1).transpose(1, 2)
    output = BackTALOutput(cas.topk(4, dim=2).values.mean(2), cas, embedding, given("fore")[:, 0], None)
    click = (given("click") == 4).float()
    config = replace(config_of(DATASETS[dataset]), num_segments=16, topk=0.25, sep_topk=sep_topk)
    found = BackTALLoss(config)(output, given("label"), click)
    np.testing.assert_allclose(losses_of(found), golden[f"unit_loss_{dataset}"], rtol=1e-6)
    plain = oracle_backtal.losses(output, given("label"), click, config, 4, int(16 * sep_topk))
    np.testing.assert_allclose(losses_of(plain), golden[f"unit_loss_{dataset}"], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- plain forms


@pytest.mark.parametrize("layout", ["official", "paper"])
@pytest.mark.parametrize("channels", [1, 2, 3, 7, 64])
def test_every_weight_is_in_one_term(layout, channels):
    seen = [(term.tap, c) for term in terms(channels, layout) for c in range(channels)[term.channels]]
    assert sorted(seen) == [(tap, c) for tap in range(3) for c in range(channels)]
    gates = {(term.tap, c): term.gate for term in terms(channels, layout) for c in range(channels)[term.channels]}
    expected = {(j, c): (3 * c + j) // channels if layout == "official" else j for j in range(3) for c in range(channels)}
    assert gates == expected


@pytest.mark.parametrize("layout", ["official", "paper"])
@pytest.mark.parametrize(("channels", "times"), [(1, 1), (5, 1), (5, 2), (8, 11)])
def test_gated_convolutions_and_gradients(size_of_tiny, layout, channels, times):
    """Against the plain form in double precision, and by finite differences."""
    random = torch.Generator().manual_seed(channels + times)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64, requires_grad=True)

    x, weight, gates, branches = draw(2, channels, times), draw(4, channels, 3), draw(2, times, 3), draw(2, 2, times)
    plain = [oracle_backtal.gated_convolution(x * w[:, None], weight, gates.transpose(1, 2), layout) for w in branches]
    torch.testing.assert_close(gated(layout, x, gates, weight, branches), torch.stack(plain))
    torch.testing.assert_close(gated(layout, x * branches[0][:, None], gates, weight), plain[0])
    assert torch.autograd.gradcheck(lambda *given: gated(layout, *given), (x, gates, weight, branches))
    assert torch.autograd.gradcheck(lambda *given: gated(layout, *given), (x, gates, weight))


def small_networks(layout="official", dropout=0.0):
    torch.manual_seed(0)
    ours = BackTALNetwork(24, 3, 40, hidden=24, dropout=dropout, layout=layout).train()
    plain = oracle_backtal.PlainBackTAL(24, 3, 40, hidden=24, dropout=dropout, layout=layout).train()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def small_batch():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(6, 40, 24, generator=random)
    label = torch.tensor([[1.0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    click = torch.zeros(6, 40)
    click[0, [3, 9, 30]] = click[1, [0]] = click[2, [39, 38]] = click[4, [5, 6, 7, 8]] = 1
    return x, label, click


def test_no_operation_takes_three_times_the_memory_of_the_input(size_of_tiny):
    """The unfolded input of the plain form does, and so do its tiled gates."""
    x, _, _ = small_batch()
    largest = []
    for network in small_networks():
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            network(x).cas_kbtc.sum().backward()
        largest.append(max(event.self_cpu_memory_usage for event in watched.events()))
    assert largest[0] < 3 * x.numel() * x.element_size() <= largest[1]


def test_a_gated_layer_keeps_its_precision_and_runs_hooks_once(size_of_tiny):
    layer, shapes = GatedConv1d(4, 6, 3, padding=1), []
    layer.register_forward_hook(lambda *call: shapes.append(call[2].shape))
    out = layer(torch.rand(2, 4, 5).bfloat16(), torch.rand(2, 5, 3).bfloat16(), torch.rand(2, 2, 5))
    assert shapes == [(2, 2, 6, 5)] and out.dtype == torch.bfloat16


@pytest.mark.parametrize("layout", ["official", "paper"])
def test_network_and_losses_are_those_of_the_plain_form(size_of_tiny, layout):
    x, label, click = small_batch()
    config = replace(config_of("thumos14"), num_segments=40, topk=0.2, sep_topk=0.1)
    criterion, found = BackTALLoss(config), []
    for network in small_networks(layout):
        network.k = 8
        output = network(x)
        if isinstance(network, oracle_backtal.PlainBackTAL):
            named = oracle_backtal.losses(output, label, click, config, 8, 4)
        else:
            named = criterion(output, label, click)
        named["loss_total"].backward()
        found.append((named, dict(network.named_parameters())))
    (ours, own), (plain, theirs) = found
    np.testing.assert_allclose(losses_of(ours), losses_of(plain), rtol=1e-5)
    for key, parameter in own.items():
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-4, atol=1e-6, msg=key)


def test_a_batch_without_clicks_learns_from_labels_alone():
    x, label, click = small_batch()
    network, _ = small_networks()
    config = replace(config_of("thumos14"), num_segments=40)
    found = BackTALLoss(config)(network(x), label, 0 * click)
    assert [found[f"loss_{name}"].item() for name in ("click", "sep", "emb")] == [0, 0, 0]
    found["loss_total"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    few = torch.cat([click[:1], 0 * click[1:]])
    alone = BackTALLoss(config)(network(x[:1]), label[:1], click[:1])
    among = BackTALLoss(config)(network(x), label, few)
    for name in ("click", "sep", "emb"):
        torch.testing.assert_close(among[f"loss_{name}"], alone[f"loss_{name}"])


# ----------------------------------------------------------------------------------------------------------- on the seams


def video_of(name, clicks, label, num_seg=12, seconds=30.0):
    def read():
        return np.random.default_rng(len(name)).random((num_seg, 12), dtype=np.float32)

    return Video(name, num_seg, np.array(label, np.float32), [], 25.0, 16, seconds, True, 6, (), read, clicks=clicks)


def test_shares_of_a_batch_add_up_to_the_whole():
    """Means over clicks and clicked videos are over those of the whole batch, whichever process has them."""
    config = replace(config_of("thumos14", "--hidden", "8", "--len_feature", "12", "--dropout", "0"), num_segments=16)
    torch.manual_seed(0)
    method = build_method(config)
    label = np.eye(20, dtype=np.float32)
    clicks = [(0.1, 0.5, 0.9), (), (0.3,), (0.2, 0.7), ()]
    videos = [video_of("v" * (n + 1), clicks[n], label[n]) for n in range(5)]
    draws = Draws(replace(config, batch_size=5), 0)
    whole = training_batch(videos, Files(1), draws, method.sample, 0)
    parts = [
        training_batch(videos, Files(1), draws, method.sample, 0, lambda _, s=s: s)
        for s in (slice(0, 2), slice(2, 5), slice(5, 5))
    ]
    assert [part.share for part in parts] == [0.4, 0.6, 0.0]
    expected = method.loss(whole)
    assert all(expected[f"loss_{name}"] > 0 for name in ("click", "sep", "emb"))
    losses = [{name: term.item() for name, term in method.loss(part).items()} for part in parts]
    for name, term in expected.items():
        found = sum(part.share * loss[name] for part, loss in zip(parts, losses, strict=True))
        np.testing.assert_allclose(found, term.item(), rtol=1e-5, err_msg=name)


@given(st.integers(1, 60), st.integers(1, 60))
def test_input_is_resized_as_activations_are(num_seg, times):
    """Snippets and shares give what the localization core's resizing gives, time by time."""
    values = np.random.default_rng(num_seg).random(num_seg, dtype=np.float32)
    mixture = interpolated(num_seg, times)
    assert mixture.snippets_tk.max() < num_seg and mixture.snippets_tk.min() >= 0
    np.testing.assert_allclose((values[mixture.snippets_tk] * mixture.shares_tk).sum(1), resize(values, times), atol=1e-5)
    if num_seg == times:
        np.testing.assert_array_equal((values[mixture.snippets_tk] * mixture.shares_tk).sum(1), values)


def localization(dataset, *flags, **changes):
    """A method with the published settings of localization, whatever its network."""
    wanted = parse_args(["--method", "backtal", "--dataset", DATASETS[dataset]])
    names = ("class_th", "cas_th", "mag_th", "outer", "class_weight", "nms_th", "shrink", "whole_video")
    config = config_of(DATASETS[dataset], "--hidden", "8", "--len_feature", "12", *flags)
    classes = tuple(map(str, range(SIZES[dataset][3])))
    return build_method(replace(config, classes=classes, **({name: getattr(wanted, name) for name in names} | changes)))


def golden_activations(given, classes):
    frames, _, duration = given["meta"]
    cas = np.zeros((given["rows"].shape[1], classes + 1), dtype=np.float32)
    score = np.zeros(classes + 1, dtype=np.float32)
    cas[:, given["cls"]], score[given["cls"]] = given["rows"].T, given["prob"]
    magnitude = np.linalg.norm(given["feat"], axis=0) if "feat" in given else cas[:, 0]
    numbers = {"num_seg": np.array(len(cas)), "duration": np.array(duration), "frames": np.array(int(frames))}
    return {"cas": cas, "score": score, "magnitude": magnitude} | numbers


@pytest.mark.parametrize("case", ["th0", "th1", "th2", "an0", "an1", "ha0", "ha1"])
def test_official_detections(golden_localization, case):
    given = {key.split(f"{case}_")[1]: v for key, v in golden_localization.items() if key.startswith(f"backtal/{case}_")}
    arrays = golden_activations(given, SIZES[case[:2]][3])
    found, expected = localize(localization(case[:2]).curves(arrays)), given["det"]
    np.testing.assert_array_equal(found.classes, expected[:, 0])
    np.testing.assert_allclose(found.scores, expected[:, 1], atol=1e-6)
    np.testing.assert_allclose(found.segments, expected[:, 2:], atol=1e-6)


def one_class(activation, prob=0.9, duration=25.0):
    """Class 5 has these activations, magnitude tells nothing."""
    cas = np.full((len(activation), 21), -1, dtype=np.float32)
    cas[:, 5] = activation
    score = np.zeros(21, dtype=np.float32)
    score[5] = prob
    numbers = {"num_seg": np.array(len(activation)), "duration": np.array(duration), "frames": np.array(len(activation))}
    return {"cas": cas, "score": score, "magnitude": np.ones(len(activation), dtype=np.float32)} | numbers


def detected(arrays, *flags, **changes):
    found = localize(localization("th", *flags, **changes).curves(arrays))
    return np.column_stack([found.classes, found.scores, found.segments])


def test_b2_one_second_is_added_to_lengths_and_intersections():
    activation = np.full(100, -1.0)
    activation[[20, 21, 23, 24]] = 1  # two stretches of half a second, a quarter of a second apart
    official, fixed = (detected(one_class(activation), *flags, nms_th=0.3) for flags in ((), ("--fix", "B2")))
    assert len(official) == 1 and len(fixed) == 2
    assert 0 < fixed[:, 2].max() - fixed[:, 3].min() < 1, "the two do not touch"


def test_b5_the_first_frame_alone_is_no_proposal(golden_localization):
    activation = np.full(750, -1.0)
    activation[0] = 1
    assert len(detected(one_class(activation))) == golden_localization["backtal/edge_frame0_ndet"][0] == 0
    assert len(detected(one_class(activation), "--fix", "B5")) == 1
    activation[1] = 1
    np.testing.assert_allclose(detected(one_class(activation)), golden_localization["backtal/edge_frame01_det"], atol=1e-6)


def test_b6_the_surroundings_on_the_right_are_one_frame_short():
    """Of a run of eight, two frames on each side count; the last of them, on the right, is as high as the run."""
    activation = np.full(100, -1.0)
    activation[40:48], activation[49] = 1, 1
    official, fixed = (detected(one_class(activation), *flags) for flags in ((), ("--fix", "B6")))
    scores = [found[(found[:, 2:] == [10, 12]).all(1), 1].item() for found in (official, fixed)]
    np.testing.assert_allclose(scores[0] - scores[1], 1 / 4, atol=1e-6)


def test_b15_a_video_without_a_confident_class_yields_nothing():
    unsure = one_class(np.sin(np.arange(100) / 5), prob=0.2)
    assert len(detected(unsure)) == 0 and set(detected(unsure, "--fix", "B15")[:, 0]) == {5}


def test_compat_repairs_all():
    assert config_of("thumos14", "--compat", "fixed").repaired == tuple(BackTALConfig.QUIRKS) == ("B2", "B5", "B6", "B15")


def test_frames_are_those_of_the_file_or_of_the_duration():
    method, arrays = localization("th"), one_class(np.ones(100))
    assert method.curves(arrays).points == 100
    del arrays["frames"]
    assert method.curves(arrays).points == 625, "25 seconds of 25 frames"
    del arrays["duration"]
    assert method.curves(arrays).points == 1600, "100 snippets of 16 frames"


def test_the_best_is_the_best_at_one_tiou():
    found = {f"{tenth / 10:g}": 0.1 * tenth for tenth in range(1, 10)}
    by_half, by_average = config_of("thumos14"), config_of("thumos14", "--choose_by", "all")
    assert (by_half.choice_of(found), by_average.choice_of(found)) == pytest.approx((0.5, 0.5))
    assert by_half.choice_of(found | {"0.9": 0.0}) == 0.5 > by_average.choice_of(found | {"0.9": 0.0})
    assert "clicks simulated from the ground truth" in by_half.as_dict()["described"]


RUN = ["--method", "backtal", "--lr", "[0.01]*4", "--seed", "0", "--class_th", "0.01"]


@pytest.mark.whole
def test_a_run_and_what_it_leaves(cli, tiny, tmp_path):
    """Training and evaluating: a checkpoint of ours, one in the official form, saved activations; a picture."""
    done = cli("main.py", *RUN)
    assert "clicks simulated from the ground truth (seed 0, 1 a gap)" in " ".join(done.stdout.split("mAP at tIoU")[-1].split())
    record = json.loads((tmp_path / "output" / "log.jsonl").read_text().splitlines()[-1])
    assert record["iteration"] == 4 and record["loss_emb"] > 0 and record["loss_click"] > 0
    last = tmp_path / "model" / "BackTAL_model_seed_0_last.ckpt"
    weights = torch.load(last, weights_only=True)["network"]
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "official.pth")
    evaluate = ["main_eval.py", *RUN]
    cli(*evaluate, f"--model_file={last}", f"--save_activations={tmp_path}/a.npz")
    detections = (tmp_path / "output" / "detections.json").read_text()
    assert len(json.loads(detections)["results"]) == 4
    assert (tmp_path / "output" / "best_record.txt").read_text().startswith("Epoch: 0\naverage_mAP: ")
    done = cli(*evaluate, f"--model_file={tmp_path}/official.pth")
    assert (tmp_path / "output" / "detections.json").read_text() == detections and "clicks of its training" in done.stdout
    with np.load(tmp_path / "a.npz") as file:
        assert {key.split("/")[1] for key in file} == {"cas", "score", "magnitude", "num_seg"}
    config = config_of("thumos14", f"--data_path={tiny}", *TINY, "--class_th", "0.01")
    method = build_method(config)
    activations = read_activations(tmp_path / "a.npz", method, load_database(config))
    assert "".join(detections_text(detect(method, activations), config.classes)) == detections, "to the last bit"
    with pytest.raises(UserError, match="--affinity_layout official there, paper here"):
        load_network(method.network, last, replace(config, affinity_layout="paper"))
    line = [
        sys.executable,
        "-m",
        "tools.plot",
        *RUN,
        f"--data_path={tiny}",
        *TINY,
        f"--model_file={last}",
        f"--figure={tmp_path}/v.png",
    ]
    subprocess.run(line, cwd=ROOT, env=one_thread(), check=True)
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")


def test_half_precision_rounds_and_nothing_else(cli, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        cli("main.py", *RUN, "--precision", precision, "--num_iters", "1")
        record = json.loads((tmp_path / "output" / "log.jsonl").read_text())
        losses.append([record[f"loss_{name}"] for name in TERMS])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert losses[0] != losses[1]


PUBLISHED = {
    "thumos14": (
        "750 0.125 0.125 1.0 16 520 0.0001 0.25 0:0.25:0.025 0.3,0.375,0.45,0.525,0.6,0.675,0.75 0.25 0.2 0.55 0.0 None 0.5 38"
    ),
    "activitynet1.2": "100 0.6 0.2 0.1 128 950 0.0002 0.1 0:0.15:0.025 None 20.0 0.6 0.7 0.02 0.6 all 5",
    "hacs": "200 0.6 0.2 0.1 64 4704 0.0001 0.075 0:0.2:0.025 None 200.0 0.6 0.71 0.02 0.6 all 5",
}


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_published_settings(dataset):
    """The configuration files of the official code; lengths of schedules are its epochs times the batches of a pass."""
    args = parse_args(["--method", "backtal", "--dataset", dataset])
    rates = parse_schedule(args.lr)
    names = "class_th cas_th mag_th outer class_weight nms_th shrink whole_video choose_by seed"
    found = [args.num_segments, args.topk, args.sep_topk, args.sep_weight, args.batch_size, len(rates), rates[0]]
    found += [getattr(args, name) for name in names.split()]
    assert " ".join(map(str, found)) == PUBLISHED[dataset] and len(set(rates)) == 1
    common = (args.alpha, args.emb_weight, args.similar_min, args.different_max, args.dropout, args.weight_decay, args.hidden)
    assert common == (1e-4, 0.8, 0.5, 0.1, 0.7, 5e-4, 2048)
    assert (args.affinity_layout, args.clicks, args.annotator) == ("official", "auto", None)


@pytest.mark.parametrize("flags", ["--clicks somewhere", "--annotator A4", "--clicks_per_gap 0", "--click_miss 2"])
def test_refused_flags(flags, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--method", "backtal", *flags.split()])
    assert flags.split()[0] in capsys.readouterr().err
