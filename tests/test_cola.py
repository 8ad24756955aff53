"""CoLA against the values of the authors' code (docs/cola.md, section 8) and against plain versions of each step."""

import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import oracle_cola
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matching import assert_match
from test_localize import as_rows

from fast.snippets import Snippets
from localize import localize
from methods.base import build_method
from methods.cola import CoLA, CoLANetwork, Selection, contrast, dilated, eroded, largest, regions
from options import make_config, parse_args
from thumos_features import Batch
from train import make_optimizer
from utils import UserError

# by case: seed, T and gain of each video; F; C; seed of the labels; flags
CASES = {
    "s90": ([(1, 90, 1.0), (2, 90, 1.5)], 48, 20, 21, []),
    "n750": ([(1001, 750, 0.25)], 2048, 20, 11, []),
    "a50": ([(1010, 50, 1.0), (1011, 50, 1.5), (1012, 50, 2.0), (1013, 50, 1.0)], 48, 100, 13, ["--dataset=activitynet1.2"]),
}
TERMS = "loss_action_ha_hb_snico_total"
FORWARD, LOSSES, GRADIENTS, ADAM = 1e-5, 1e-5, 1e-4, 1e-3


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "cola.npz") as file:
        return dict(file)


def config_of(*flags, classes=20):
    args = parse_args(["--method=cola", "--precision=fp32", *flags])
    dataset, args.dataset = args.dataset, "thumos14"  # whose classes are known without data
    return replace(make_config(args), dataset=dataset, classes=tuple(f"c{number:03d}" for number in range(classes)))


@cache
def golden_weights(len_feature, classes, wide):
    kernel = 9 if wide else 3
    shapes = {"f_embed.0.weight": (2048, len_feature, kernel), "f_embed.0.bias": (2048,)}
    shapes |= {"f_cls.0.weight": (classes, 2048, 9), "f_cls.1.weight": (classes, 1, 7)} if wide else {}
    shapes = {"f_cls.0.weight": (classes, 2048, 1)} | shapes
    weights = {}
    for name, shape in shapes.items():
        key = f"actionness_module.{name}"
        drawn = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32) * np.float32(0.02)
        weights[key] = torch.from_numpy(drawn)
    return weights


def golden_method(case):
    _, width, classes, _, flags = CASES[case]
    method = CoLA(config_of(f"--len_feature={width}", *flags, classes=classes))
    method.network.load_state_dict(golden_weights(width, classes, case == "a50"))
    method.network.eval()
    return method


def golden_features(seed, times, width, gain):
    features = np.abs(np.random.default_rng(seed).standard_normal((times, width)).astype(np.float32))
    return features * (0.5 + 0.25 * ((np.arange(times) // 7) % 5)).astype(np.float32)[:, None] * np.float32(gain)


@cache
def golden_batch(case):
    videos, width, classes, seed, _ = CASES[case]
    random = np.random.default_rng(seed)
    label_bc = np.zeros((len(videos), classes), dtype=np.float32)
    for b in range(len(videos)):
        label_bc[b, random.choice(classes, size=1 + b % 2, replace=False)] = 1
    features_btf = np.stack([golden_features(video, times, width, gain) for video, times, gain in videos])
    return Batch(Snippets.of(torch.from_numpy(features_btf)), torch.from_numpy(label_bc))


def terms_of(method, batch):
    """Classification, both contrasts, their sum and the total, as the golden values have them."""
    parts = []

    def contrast_heard(*arguments):
        parts.extend(found := contrast(*arguments))
        return found

    with patch("methods.cola.contrast", contrast_heard):
        terms = method.loss(batch)
    return terms, [terms["loss_cls"], *parts, terms["loss_snico"], terms["loss_total"]]


def numbers(terms):
    return [term.item() for term in terms]


# ------------------------------------------------------------------------------------------------ network and mining


@pytest.mark.parametrize("case", CASES)
def test_forward_mining_and_losses(golden, case, products_by):
    method, batch = golden_method(case), golden_batch(case)
    np.testing.assert_array_equal(batch.label_bc.numpy(), golden[f"{case}/label"])
    every = slice(None, None, max(1, batch.snippets.shape[2] // 10))
    with torch.no_grad():
        embeddings_bth, cas_btc, actionness_bt = method.network(batch.snippets)
        selection = method.network.select(actionness_bt)
        for name, value in {
            "video_scores": method.network.video_score(cas_btc),
            "actionness": actionness_bt,
            "cas_slice": cas_btc[:, every, :20],
            "embeddings_slice": embeddings_bth[:, every, :8],
        }.items():
            np.testing.assert_allclose(value.numpy(), golden[f"{case}/{name}"], rtol=FORWARD, atol=FORWARD, err_msg=name)
        _, terms = terms_of(method, batch)
    for name, region in zip(("inner", "outer"), regions(actionness_bt, 3, 6), strict=True):
        np.testing.assert_array_equal(region.numpy(), golden[f"{case}/{name}"], err_msg=name)
    assert_selected(golden, f"{case}/idx_", selection, actionness_bt)
    np.testing.assert_allclose(numbers(terms), golden[f"{case}/{TERMS}"], rtol=LOSSES)


def assert_selected(golden, prefix, selection, actionness_bt):
    """The same snippets in the same order, but where actionness is equal up to rounding."""
    for name, found_bk in zip(("EA", "EB", "HA", "HB"), selection, strict=True):
        expected_bk = torch.from_numpy(golden[prefix + name].astype(np.int64))
        values = [actionness_bt.gather(1, places).numpy() for places in (found_bk, expected_bk)]
        np.testing.assert_allclose(*values, rtol=FORWARD, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_the_mask_of_snippets(golden, case):
    """Training's form with a fixed snippet mask: what it leaves out is selected last in both easy selections."""
    method, batch = golden_method(case), golden_batch(case)
    size_b, _, size_t = batch.snippets.shape
    kept = np.random.default_rng(500 + CASES[case][3]).random((size_b, size_t)) >= 0.6
    mask_bt = torch.from_numpy(kept / np.float32(0.4))
    method.network.snippet_dropout.forward = lambda ones: ones * mask_bt
    np.testing.assert_array_equal(kept.sum(axis=1), golden[f"{case}/mask_kept"])
    with torch.no_grad():
        actionness_bt = method.network(batch.snippets)[2]
        selection = method.network.select(actionness_bt)
        _, terms = terms_of(method, batch)
    for name, found_bk in zip(("EA", "EB"), selection, strict=False):
        expected_bk = torch.from_numpy(golden[f"{case}/mask_idx_{name}"].astype(np.int64))
        values = [actionness_bt.gather(1, places).numpy() for places in (found_bk, expected_bk)]
        np.testing.assert_allclose(*values, rtol=FORWARD, err_msg=name)
    np.testing.assert_allclose(numbers(terms), golden[f"{case}/mask_{TERMS}"], rtol=LOSSES)


@pytest.mark.whole
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_five_adam_steps(golden, case, products_by):
    method, batch = golden_method(case), golden_batch(case)
    optimizer = make_optimizer(method.network, method.config)
    for step in range(5):
        terms, listed = terms_of(method, batch)
        np.testing.assert_allclose(numbers(listed), golden[f"{case}/adam5_losses"][step], rtol=ADAM if step else LOSSES)
        optimizer.zero_grad()
        terms["loss_total"].backward()
        if step == 0:
            for key, weight in method.network.named_parameters():
                gradient = weight.grad.contiguous().flatten()
                np.testing.assert_allclose(gradient.double().norm().item(), golden[f"{case}/grad_norm/{key}"], rtol=GRADIENTS)
                sampled = gradient[:: max(1, len(gradient) // 64)][:64].numpy()
                expected = golden[f"{case}/grad_slice/{key}"]
                np.testing.assert_allclose(sampled, expected, atol=GRADIENTS * np.abs(expected).max(), err_msg=key)
        optimizer.step()
    for key, weight in method.network.named_parameters():
        flat = weight.detach().contiguous().flatten()
        sampled = flat[:: max(1, len(flat) // 64)][:64].numpy()
        np.testing.assert_allclose(sampled, golden[f"{case}/adam5_param_slice/{key}"], atol=5 * 1e-4 * ADAM, err_msg=key)


@pytest.mark.parametrize("name, width, classes, flags", [("main", 2048, 20, []), ("anet12", 64, 100, ["--head=wide"])])
def test_initial_weights_are_the_official_ones(golden, name, width, classes, flags):
    torch.manual_seed(0)
    network = CoLANetwork(config_of(f"--len_feature={width}", *flags, classes=classes))
    state = network.state_dict()
    assert [f"init_seed0_{name}/{key}" for key in state] == [key for key in golden if key.startswith(f"init_seed0_{name}/")]
    for key, weight in state.items():
        flat = weight.contiguous().flatten()
        sampled = flat[:: max(1, len(flat) // 16)][:16].numpy()
        np.testing.assert_allclose(sampled, golden[f"init_seed0_{name}/{key}"], rtol=3e-7)


# ------------------------------------------------------------------------------------------------------------- mining


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 7))
def test_windows_are_those_of_scipy(action, size):
    """Whose even windows are off-centre: one more to the left in erosion, to the right in dilation."""
    action_bt = torch.tensor([action])
    eroded_t, dilated_t = oracle_cola.windows(np.array(action), size)
    assert eroded(action_bt, size)[0].tolist() == eroded_t.tolist()
    assert dilated(action_bt, size)[0].tolist() == dilated_t.tolist()


def test_the_windows_as_published_and_no_symmetric_ones():
    """Of an action from 10 to 19: two snippets inside its start and one inside its end, two before and one after."""
    actionness_bt = torch.zeros(1, 40)
    actionness_bt[0, 10:20] = 1
    inner_bt, outer_bt = regions(actionness_bt, 3, 6)
    assert inner_bt.nonzero()[:, 1].tolist() == [11, 12, 18] and outer_bt.nonzero()[:, 1].tolist() == [7, 8, 21]
    for symmetric in (5, 7):
        others = regions(actionness_bt, 3, symmetric)
        assert not torch.equal(others[0], inner_bt) and not torch.equal(others[1], outer_bt)


@pytest.mark.parametrize("times", [1, 2, 3, 7, 50, 97])
@given(seed=st.integers(0, 10_000))
def test_regions_and_selections_against_plain_ones(times, seed):
    """With ties: actionness has few values. Also where a region has fewer snippets than are wanted."""
    actionness = np.random.default_rng(seed).integers(0, 4, times).astype(np.float32)
    found = regions(torch.from_numpy(actionness)[None], 3, 6)
    for region_bt, expected_t in zip(found, oracle_cola.regions(actionness, 3, 6), strict=True):
        assert region_bt[0].tolist() == expected_t.tolist()
    k = max(1, times // 3)
    assert largest(torch.from_numpy(actionness)[None], k)[0].tolist() == oracle_cola.largest(actionness, k).tolist()


@pytest.mark.parametrize("times, counts", [(750, (150, 37)), (50, (10, 2)), (19, (3, 1)), (4, (1, 1)), (1, (1, 1))])
def test_c1_c2_at_least_one_snippet_is_selected(times, counts):
    config = config_of()
    assert config.counts(times) == counts
    network = CoLANetwork(replace(config, hidden=8, len_feature=6))
    with torch.no_grad():
        _, cas_btc, actionness_bt = network(torch.rand(2, times, 6))
        assert torch.isfinite(network.video_score(cas_btc)).all()
        assert all(torch.isfinite(value).all() for value in contrast(cas_btc, network.select(actionness_bt), 0.07))


def test_contrast_against_snippets_gathered_one_by_one():
    torch.manual_seed(0)
    embeddings_bth = torch.rand(3, 30, 5, dtype=torch.float64, requires_grad=True)
    selection = Selection(*(torch.stack([torch.randperm(30)[:k] for _ in range(3)]) for k in (6, 6, 2, 2)))
    ours, plain = contrast(embeddings_bth, selection, 0.07), oracle_cola.contrast(embeddings_bth, selection, 0.07)
    for value, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(sum(losses), embeddings_bth, retain_graph=True)[0] for losses in (ours, plain)]
    torch.testing.assert_close(*gradients)


def test_equal_embeddings_give_the_loss_of_a_guess():
    selection = Selection(*(torch.arange(k)[None] for k in (150, 150, 37, 37)))
    losses = contrast(torch.ones(1, 750, 4), selection, 0.07)
    assert sum(losses).item() == pytest.approx(2 * np.log(151), rel=1e-5)


def test_selections_have_no_gradient_and_embeddings_do():
    method = CoLA(config_of("--len_feature=6", "--hidden=8", "--num_segments=60"))
    batch = Batch(Snippets.of(torch.rand(2, 60, 6)), torch.eye(20)[:2])
    _, terms = terms_of(method, batch)
    terms[3].backward()
    gradient = {name: weight.grad for name, weight in method.network.actionness_module.named_parameters()}
    assert gradient["f_cls.0.weight"] is None and (gradient["f_embed.0.weight"] != 0).any()


# ------------------------------------------------------------------------------------------------------ localization


POSTPROCESSED = {  # seed, T, L, C, classes above the threshold, the threshold, kind
    "p750": (2001, 750, 1213, 20, 3, 0.2, ""),
    "p60": (2003, 60, 60, 20, 0, 0.2, ""),
    "ptie": (2005, 48, 48, 20, 3, 0.2, "tie"),
    "pnear": (2005, 48, 48, 20, 3, 0.2, "near"),
    "p4": (2006, 4, 4, 20, 2, 0.2, ""),
    "p2": (2007, 2, 2, 20, 1, 0.2, ""),
    "p50": (2004, 50, 331, 100, 2, 0.1, ""),
}


def postprocessed(case):
    seed, times, num_seg, classes, high, threshold, kind = POSTPROCESSED[case]
    random, blocks = np.random.default_rng(seed), (times + 7) // 8
    cas = np.repeat(random.random((blocks, classes)), 8, axis=0)[:times] * 0.8 + 0.2 * random.random((times, classes))
    actionness = np.repeat(random.random(blocks), 8)[:times] * 8 + random.random(times)
    cas, actionness = cas.astype(np.float32), actionness.astype(np.float32)
    score = (random.random(classes) * threshold / 2).astype(np.float32)
    chosen = random.choice(classes, high, replace=False)
    score[chosen] = 0.25 + 0.5 * random.random(high)
    if kind:
        actionness = np.floor(actionness)
        cas[:, np.sort(chosen)[: 2 if kind == "tie" else 1]] = 0
        cas = np.floor(cas * 4) / 4 if kind == "near" else cas
    return {"cas": cas, "actionness": actionness, "score": score, "num_seg": np.array(num_seg)}


@pytest.mark.parametrize("case", POSTPROCESSED)
def test_official_detections(golden, case):
    arrays, classes = postprocessed(case), POSTPROCESSED[case][3]
    np.testing.assert_array_equal(arrays["score"], golden[f"{case}/score"])
    sums = [arrays[name].astype(np.float64).sum() for name in ("cas", "actionness")]
    np.testing.assert_allclose(sums, golden[f"{case}/input_check"], rtol=1e-12)
    method = without_memory(config_of(*(["--dataset=activitynet1.2"] if case == "p50" else []), classes=classes))
    found, expected = as_rows(localize(method.curves(arrays))), golden[f"{case}/det"]
    expected = expected[np.argsort(expected[:, 0], kind="stable")]
    assert len(found) == len(expected) and (found[:, 0] == expected[:, 0]).all()
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-6)
    if case != "pnear":
        np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=1e-9)


def without_memory(config):
    with torch.device("meta"):
        return build_method(config)


@pytest.mark.whole
def test_detections_of_a_video_from_end_to_end(golden):
    method = golden_method("n750")
    features = golden_features(1002, 750, 2048, 2.0)
    arrays = {name: value[0] for name, value in method.activations(Snippets.of(torch.from_numpy(features)[None])).items()}
    np.testing.assert_allclose(arrays["score"], golden["e2e/video_scores"], atol=FORWARD)
    assert_match(method.curves, [arrays | {"num_seg": np.array(750)}], [golden["e2e/det"]], FORWARD)


def test_c4_one_second_is_added_in_suppression():
    arrays = postprocessed("p60")
    official, repaired = (as_rows(localize(without_memory(config_of(*flags)).curves(arrays))) for flags in ([], ["--fix=C4"]))
    assert len(official) < len(repaired)


def test_a_class_without_activation_scores_its_class_term(golden):
    """Quirk C8: the proposals of the actionness have nothing to be scored by."""
    arrays = postprocessed("ptie")
    found = as_rows(localize(without_memory(config_of()).curves(arrays)))
    (dead,) = {int(c) for c in np.flatnonzero(arrays["score"] >= 0.2) if not arrays["cas"][:, c].any()} & {0} or {
        int(np.flatnonzero(arrays["score"] >= 0.2)[0])
    }
    own = found[found[:, 0] == dead]
    np.testing.assert_allclose(own[:, 1], np.float32(0.2) * arrays["score"][dead], atol=1e-7)


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--m=6", "--M=6"], "--m 6 --M 6: leave no hard snippets"),
        (["--aness_th=0.5:0.1:0.1"], "--aness_th"),
        (["--fix=C9"], "C9 cannot be chosen; expected ids among C4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(flags, told):
    with pytest.raises(UserError, match=told):
        config_of(*flags)


@pytest.mark.parametrize("flags", [[], ["--head=wide"], ["--precision=bf16"]])
def test_a_run_trains_evaluates_and_resumes_to_the_same_bytes(cli, tmp_path, flags):
    line = ["--method=cola", "--lr=[0.01]*4", "--seed=0", "--eval_every=2", "--class_th=0.05", *flags]
    cli("main.py", *line)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "output").iterdir() if path.suffix != ".md"}
    cli("main.py", *line, "--num_iters=2")
    cli("main.py", *line, "--resume")
    assert whole["log.jsonl"] == (tmp_path / "output" / "log.jsonl").read_bytes()
    assert whole["detections_last_seed_0.json"] == (tmp_path / "output" / "detections_last_seed_0.json").read_bytes()
    lines = (tmp_path / "output" / "best_record_seed_0.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Step", "Test_acc", "average_mAP", *(f"mAP@0.{n}" for n in range(1, 8))]
    model = f"--model_file={tmp_path / 'model' / 'CoLA_model_seed_0.pkl'}"
    assert "cola on thumos14" in cli("main_eval.py", "--method=cola", "--class_th=0.05", *flags, model).stdout
    other = ["--head=wide"] if flags != ["--head=wide"] else ["--head=narrow"]
    assert "--head" in cli("main_eval.py", "--method=cola", *other, model, expect=2).stderr


def test_a_checkpoint_of_the_authors_loads_as_it_is(cli, tmp_path):
    """Its keys are those of the network, whose batches stand in `model_best.pth.tar` as a plain state dict."""
    method = CoLA(config_of("--len_feature=12", "--hidden=8"))
    names = ("f_embed.0.weight", "f_embed.0.bias", "f_cls.0.weight")
    assert list(method.network.state_dict()) == [f"actionness_module.{name}" for name in names]
    torch.save(method.network.state_dict(), tmp_path / "model_best.pth.tar")
    assert "cola on thumos14" in cli("main_eval.py", "--method=cola", f"--model_file={tmp_path / 'model_best.pth.tar'}").stdout


def test_the_form_that_is_trained_equals_the_plain_network():
    method = CoLA(config_of("--len_feature=6", "--hidden=16", "--num_segments=40"))
    plain = oracle_cola.PlainCoLA(method.network).eval()
    batch = Batch(Snippets.of(torch.rand(3, 40, 6)), torch.eye(20)[:3])
    method.network.eval()
    ours = method.loss(batch)
    theirs = oracle_cola.loss(plain, batch.snippets.dense().transpose(1, 2), batch.label_bc, method.config)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


def test_activations_have_the_shapes_that_they_announce(cli, tmp_path):
    saved = tmp_path / "found.npz"
    cli("main.py", "--method=cola", "--lr=[0.01]*1", "--seed=0")
    model = f"--model_file={tmp_path / 'model' / 'CoLA_model_seed_0.pkl'}"
    told = cli("main_eval.py", "--method=cola", model, f"--save_activations={saved}").stdout
    again = cli("main_eval.py", "--method=cola", f"--activations={saved}").stdout
    rows = [[line.split("|")[3:] for line in text.splitlines() if line.startswith("|")][-1] for text in (told, again)]
    assert rows[0] == rows[1]
