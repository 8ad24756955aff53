"""UM against the values of both public codes and against the plain version of every step (oracle_um.py)."""

import json
import zlib
from argparse import Namespace
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import oracle_um
import oracles
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matching import assert_match, settled, settled_entries
from test_localize import UM as POSTPROCESSED
from test_localize import as_rows, assert_same

from dataset.annotations import read_database
from engine.checkpoint import load_network
from eval.eval_detection import detection_map
from eval.table import read_ground_truth
from fast.snippets import Snippets
from localize import localize
from methods.base import build_method
from methods.um import UM, UMNetwork
from options import build_parser, make_config, parse_args
from test import Judge
from thumos_features import Batch
from train import make_optimizer
from utils import UserError

VIDEOS = {  # seed, snippets, gain of each video; classes; seed of the labels
    "n750": ([(1001, 750, 1.0), (1002, 750, 2.0)], 20, 11),
    "n37": ([(1003, 37, 1.0)], 20, 12),
    "n50": ([(1010, 50, 1.0), (1011, 50, 1.5), (1012, 50, 2.0), (1013, 50, 1.0)], 100, 13),
}
TERMS = ("loss_cls", "loss_um", "loss_be", "loss_total")
FORWARD, LOSSES = 1e-5, 1e-6  # tolerances: twice and four times what processors have differed by (docs/um.md, section 9)
GRADIENT_NORMS, ADAM_LOSSES = 5e-5, 1e-3
SMALL = ("--len_feature=6", "--hidden=16")
KEYS = ("cas_module.conv.0.weight", "cas_module.conv.0.bias", "cas_module.classifier.0.weight")


@pytest.fixture(scope="module")
def golden_um():
    """Values of the official code and of leftthomas/UM (docs/um.md, section 7)."""
    with np.load(Path(__file__).parent / "golden" / "um.npz") as file:
        return dict(file)


def config_of(*flags, classes=None):
    config = make_config(parse_args(["--method=um", "--precision=fp32", *flags]))
    return replace(config, classes=tuple(f"c{number:03d}" for number in range(classes))) if classes else config


def post(config):
    """The method with its network on the meta device, which allocates no weights."""
    with torch.device("meta"):
        return build_method(config)


@cache
def golden_weights(classes):
    shapes = zip(KEYS, [(2048, 2048, 3), (2048,), (classes, 2048, 1)], strict=True)
    return {
        key: torch.from_numpy(
            np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32) * np.float32(0.02)
        )
        for key, shape in shapes
    }


def golden_method(case, kind=UM, *flags):
    method = kind(config_of("--len_feature=2048", *flags, classes=VIDEOS[case][1]))
    method.network.load_state_dict(golden_weights(VIDEOS[case][1]))
    method.network.eval()
    return method


def golden_features(seed, snippets, gain):
    features = np.abs(np.random.default_rng(seed).standard_normal((snippets, 2048)).astype(np.float32))
    return features * (0.5 + 0.25 * ((np.arange(snippets) // 7) % 5)).astype(np.float32)[:, None] * np.float32(gain)


@cache
def golden_batch(case):
    videos, classes, seed = VIDEOS[case]
    random = np.random.default_rng(seed)
    label_bc = np.zeros((len(videos), classes), dtype=np.float32)
    for b in range(len(videos)):
        label_bc[b, random.choice(classes, size=1 + b % 2, replace=False)] = 1
    features_btf = np.stack([golden_features(*video) for video in videos])
    return Batch(Snippets.of(torch.from_numpy(features_btf)), torch.from_numpy(label_bc))


def losses(terms):
    return [terms[name].item() for name in TERMS]


# --------------------------------------------------------------------------------------------- network and losses


@pytest.mark.parametrize("case", VIDEOS)
def test_forward_selection_and_losses(golden_um, case, products_by):
    """Without dropout, and with the snippet mask of the golden values."""
    batch = golden_batch(case)
    np.testing.assert_array_equal(batch.label_bc.numpy(), golden_um[f"{case}/label"])
    times = batch.snippets.index_bt.shape[1]
    every = slice(None, None, max(1, times // 5))
    method = golden_method(case)
    exact = golden_method(case, UM, "--variant=leftthomas-exact")
    mask_bt = np.unpackbits(golden_um[f"{case}/segmask_kept"], axis=1)[:, :times].astype(np.float32) / np.float32(0.3)
    mask_bt = torch.from_numpy(mask_bt)

    with torch.no_grad():
        features_bth, magnitude_bt, cas_btc = found = method.network(batch.snippets)
        arrays = method.activations(batch.snippets)
    for name, value in {
        "score_act": arrays["score"],
        "feat_mag": arrays["magnitude"],
        "cas_softmax_slice": arrays["cas"][:, every, :20],
        "feat_slice": features_bth[:, every, :6].numpy(),
    }.items():
        np.testing.assert_allclose(value, golden_um[f"{case}/{name}"], rtol=FORWARD, atol=FORWARD, err_msg=name)

    for masked in ("", "mask_"):
        with patch("methods.um.Dropout.forward", lambda _, ones, m=masked: ones * mask_bt if m else ones):
            action_bk, background_bk = method.network.select(magnitude_bt)
            with patch.object(UMNetwork, "forward", lambda *_: found):
                ours, theirs = method.loss(batch), exact.loss(batch)
        for name, chosen_bk in (("act", action_bk), ("bkg", background_bk)):
            expected = golden_um[f"{case}/{masked}feat_{name}_mag"]
            np.testing.assert_allclose(magnitude_bt.gather(1, chosen_bk).numpy(), expected, rtol=FORWARD, err_msg=name)
        score_bkg = cas_btc.gather(1, background_bk[:, :, None].expand(-1, -1, cas_btc.shape[2])).mean(dim=1).softmax(dim=1)
        np.testing.assert_allclose(score_bkg.numpy(), golden_um[f"{case}/{masked}score_bkg"], atol=FORWARD)
        np.testing.assert_allclose(losses(ours), golden_um[f"{case}/{masked}loss_cls_um_be_total"], rtol=LOSSES)
        np.testing.assert_allclose(losses(theirs), golden_um[f"{case}/lt_{masked}loss_cls_um_be_total"], rtol=LOSSES)


@pytest.mark.parametrize("case", ["n50", pytest.param("n750", marks=pytest.mark.whole)])
def test_gradients_and_adam(golden_um, case, products_by):
    batch, method = golden_batch(case), golden_method(case)
    channels = settled(method.network, method.network, batch.snippets)
    optimizer = make_optimizer(method.network, method.config)
    found = []
    for step in range(5):
        terms = method.loss(batch)
        found.append(losses(terms))
        optimizer.zero_grad()
        terms["loss_total"].backward()
        for key, parameter in method.network.named_parameters() if step == 0 else ():
            flat = parameter.grad.flatten()
            expected = golden_um[f"{case}/grad_slice/{key}"]
            norm, scale = golden_um[f"{case}/grad_norm/{key}"], np.abs(expected).max()
            certain = settled_entries(key, parameter, channels)
            part, chosen = (values[:: max(1, len(flat) // 64)][:64].numpy() for values in (flat, certain))
            assert chosen.mean() > 0.8, "most entries are compared"
            np.testing.assert_allclose(flat.double().norm().item(), norm, rtol=GRADIENT_NORMS)
            np.testing.assert_allclose(part[chosen], expected[chosen], rtol=1e-4, atol=1e-5 * scale, err_msg=key)
        optimizer.step()
    np.testing.assert_allclose(found[0], golden_um[f"{case}/adam5_losses"][0], rtol=LOSSES)
    np.testing.assert_allclose(found, golden_um[f"{case}/adam5_losses"], rtol=ADAM_LOSSES)
    for key, parameter in method.network.named_parameters():
        flat, expected = parameter.detach().flatten(), golden_um[f"{case}/adam5_param_slice/{key}"]
        part = flat[:: max(1, len(flat) // 64)][:64].numpy()
        np.testing.assert_allclose(part, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max(), err_msg=key)


@pytest.mark.slow
def test_official_adam_leaves_double_precision(golden_um):
    """Agreement with later losses of single precision therefore does not measure exactness."""
    batch, method = golden_batch("n750"), golden_method("n750", oracle_um.PlainUM)
    method.network.double()
    features_btf = batch.snippets.dense().double()
    optimizer = make_optimizer(method.network, method.config)
    found = []
    for _ in range(4):
        with patch.object(Snippets, "dense", lambda _: features_btf):
            terms = method.loss(batch._replace(label_bc=batch.label_bc.double()))
        found.append(losses(terms))
        optimizer.zero_grad()
        terms["loss_total"].backward()
        optimizer.step()
    apart = np.abs(golden_um["n750/adam5_losses"][:4] / found - 1).max(axis=1)
    assert (apart[:2] < 1e-6).all() and apart[2] > 1e-4 and apart[3] > 1e-3


@pytest.mark.parametrize("kind", [UM, oracle_um.PlainUM])
def test_draws_of_training(golden_um, kind):
    """Features are dropped first, then snippets."""
    method = golden_method("n50", kind)
    method.network.train()
    torch.manual_seed(0)
    with torch.no_grad(), oracles.official_draws():
        terms = method.loss(golden_batch("n50"))
    np.testing.assert_allclose(losses(terms), golden_um["n50/trainmode_seed0_loss_cls_um_be_total"], rtol=LOSSES)


def test_seeded_initial_weights():
    """Framework defaults, made in the order of the official code."""
    torch.manual_seed(3)
    conv, classifier = torch.nn.Conv1d(6, 16, 3), torch.nn.Conv1d(16, 20, 1, bias=False)
    torch.manual_seed(3)
    ours = build_method(config_of(*SMALL)).network.state_dict()
    assert tuple(ours) == KEYS
    for key, expected in zip(KEYS, (conv.weight, conv.bias, classifier.weight), strict=True):
        assert torch.equal(ours[key], expected)


def small_batch(random, size=3, times=27, classes=20):
    """Videos with repeated snippets."""
    counts = [times, times // 2 + 1, 5][:size]
    parts = tuple(torch.rand(n, 6, generator=random) for n in counts)
    index = [first + torch.arange(times) * n // times for first, n in zip(np.cumsum([0, *counts]), counts, strict=False)]
    label_bc = torch.eye(classes)[torch.randperm(classes, generator=random)[:size]]
    label_bc[0, :3] = 1
    return Batch(Snippets(parts, torch.stack(index)), label_bc)


@pytest.mark.parametrize("flags", [[], ["--variant=leftthomas-exact"], ["--bce_reduction=classsum", "--margin=1", "--beta=2"]])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_losses_and_gradients_are_those_of_plain_steps(flags, mode):
    for seed in range(5):
        batch = small_batch(torch.Generator().manual_seed(seed))
        found = []
        for kind in (UM, oracle_um.PlainUM):
            torch.manual_seed(seed)
            method = kind(config_of(*SMALL, *flags))
            getattr(method.network, mode)()
            with oracles.official_draws():
                terms = method.loss(batch)
            terms["loss_total"].backward()
            found.append((terms, {key: value.grad for key, value in method.network.named_parameters()}))
        (ours, ours_grad), (plain, plain_grad) = found
        for name in TERMS:
            torch.testing.assert_close(ours[name], plain[name], rtol=1e-5, atol=1e-7)
        for key in KEYS:
            largest = plain_grad[key].abs().max().item()
            torch.testing.assert_close(ours_grad[key], plain_grad[key], rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["cas_module.classifier.0.weight", "cas_module.classifier.weight"])
def test_checkpoints_of_both_codes_load(tmp_path, name):
    config = config_of(*SMALL)
    weights = build_method(config).network.state_dict()
    weights[name] = weights.pop("cas_module.classifier.0.weight")
    torch.save(weights, tmp_path / "model.pth")
    network = build_method(config).network
    load_network(network, tmp_path / "model.pth", config)
    assert torch.equal(network.cas_module.classifier[0].weight, weights[name])
    other = config_of("--len_feature=3", "--hidden=16", "--modal=rgb")
    with pytest.raises(UserError, match="--modal"):
        load_network(build_method(other).network, tmp_path / "model.pth", other)


def test_l14_a_checkpoint_knows_what_it_was_trained_with(tmp_path, capfd):
    config = config_of(*SMALL)
    network = build_method(config).network
    torch.save({"network": network.state_dict(), "config": config.as_dict()}, tmp_path / "last.ckpt")
    load_network(network, tmp_path / "last.ckpt", config)
    assert capfd.readouterr().err == ""
    load_network(network, tmp_path / "last.ckpt", replace(config, num_segments=50, scale=16))
    told = capfd.readouterr().err
    assert "--num_segments 750; this run has 50" in told and "--scale 24; this run has 16" in told


# ------------------------------------------------------------------------------------------------- localization


def made_up(seed, snippets, num_seg, classes, high):
    """The activations that the golden detections were made from."""
    r = np.random.default_rng(seed)
    blocks = (snippets + 7) // 8
    cas = np.repeat(r.random((blocks, classes)), 8, axis=0)[:snippets] * 0.8 + 0.2 * r.random((snippets, classes))
    magnitude = np.repeat(r.random(blocks), 8)[:snippets] * 80 + 10 * r.random(snippets)
    score = (r.random(classes) * 0.1).astype(np.float32)
    chosen = r.choice(classes, high, replace=False)
    score[chosen] = (0.25 + 0.5 * r.random(high)).astype(np.float32)
    return {"cas": cas.astype(np.float32), "magnitude": magnitude.astype(np.float32), "score": score, "num_seg": num_seg}


@pytest.mark.parametrize(
    ("variant", "rule"), [("official", "official"), ("leftthomas-fixed", "lt"), ("leftthomas-exact", "lt")]
)
@pytest.mark.parametrize("case", POSTPROCESSED)
def test_official_detections(golden_um, golden_localization, case, variant, rule):
    *made, scale = POSTPROCESSED[case]
    arrays = made_up(*made)
    sums = [arrays["cas"].astype(np.float64).sum(), arrays["magnitude"].astype(np.float64).sum()]
    np.testing.assert_allclose(sums, golden_localization[f"um/{case}/input_check"])
    config = config_of(f"--variant={variant}", f"--scale={scale}", classes=made[3])
    expected = golden_localization[f"um/{case}/det_{rule}"]
    curves = post(config).curves(arrays)
    found = as_rows(localize(curves))
    np.testing.assert_array_equal(found[:, [0, 2, 3]], expected[:, [0, 2, 3]])
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=0, atol=1.2e-7)
    assert_same(oracle_um.plain_detections(config, arrays), expected)
    np.testing.assert_allclose(curves.common, golden_um[f"{case}/mag_norm"], atol=1e-6)
    if arrays["score"].argmax() in curves.classes:
        column = list(curves.classes).index(arrays["score"].argmax())
        np.testing.assert_allclose(curves.activation[:, column], golden_um[f"{case}/fused_argmax_class"], atol=1e-6)


@pytest.mark.parametrize("kind", [UM, oracle_um.PlainUM])
@pytest.mark.parametrize(("variant", "rule"), [("official", "official"), ("leftthomas-fixed", "lt")])
def test_from_features_to_detections(golden_um, variant, rule, kind):
    method = golden_method("n750", kind, f"--variant={variant}")
    snippets = Snippets.of(torch.from_numpy(golden_features(1002, 750, 1.0))[None])
    arrays = {key: value[0] for key, value in method.activations(snippets).items()} | {"num_seg": np.array(750)}
    np.testing.assert_allclose(arrays["score"], golden_um["e2e/score_act"], rtol=FORWARD)
    assert_match(method.curves, [arrays], [golden_um[f"e2e/det_{rule}"]], tolerance=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(9, 60), st.integers(0, 3), st.sampled_from(["official", "leftthomas-fixed"]))
def test_detections_are_those_of_plain_steps(seed, snippets, high, variant):
    arrays = made_up(seed, snippets, 2 * snippets, 5, high)
    config = config_of(f"--variant={variant}", "--scale=4", classes=5)
    curves = post(config).curves(arrays)
    assume(not any_ties(curves))
    assert_same(as_rows(localize(curves)), oracle_um.plain_detections(config, arrays))


def any_ties(curves):
    """Whether different proposals of a class score the same up to the last bits, which plain sums and prefix sums order."""
    found = as_rows(localize(replace(curves, nms_threshold=1.0, nms_pad=0.0, nms_keeps_equal=True)))
    class_step, score_step, *time_steps = np.abs(np.diff(found, axis=0)).T
    return ((class_step == 0) & (score_step < 1e-9) & (np.max(time_steps, axis=0) > 0)).any()


@pytest.mark.parametrize("times", [750, 50])
def test_official_sampling(golden_um, times):
    """Test videos keep their snippets unless they have more than T."""
    method = post(config_of(f"--num_segments={times}"))
    for num_seg in (7, 49, 50, 51, 300, 750, 1213):
        video = Namespace(num_seg=num_seg)
        drawn = method.sample(video, np.random.RandomState(0))
        np.testing.assert_array_equal(drawn, golden_um[f"sample/T{times}_L{num_seg}_random_seed0"])
        np.testing.assert_array_equal(method.sample(video, None), golden_um[f"sample/T{times}_L{num_seg}_uniform"])


# ------------------------------------------------------------------------------------------------------ scoring


@pytest.fixture(scope="module")
def near_truth(thumos_gt):
    """The truth of the test videos, and detections near it."""
    random = np.random.default_rng(5)
    database = {name: video for name, video in read_database(thumos_gt, "").items() if video["subset"] == "test"}
    results = {}
    for name, video in database.items():
        for annotation in [row for row in video["annotations"] for _ in range(2)]:
            start, end = map(float, annotation["segment"])
            first, last = (start, end) + random.standard_normal(2) * 0.3 * (end - start)
            row = {"label": annotation["label"], "score": random.random(), "segment": [first, max(last, first + 0.1)]}
            row["segment"][1] = last if last > first else first + 0.1
            results.setdefault(name, []).append(row)
    return {"database": database}, {"results": results}


@pytest.mark.parametrize("name", ["0.1:0.7", "0.5:0.95"])
def test_official_and_mmaction_scores(near_truth, golden_evaluation, name):
    tiou = np.linspace(0.1, 0.7, 7) if name == "0.1:0.7" else np.linspace(0.5, 0.95, 10)
    for single, ties, evaluator in ((False, "official", "official"), (True, "stable", "mmaction")):
        mean_ap, average = detection_map(*near_truth, tiou, "test", ties, single)
        np.testing.assert_allclose([*mean_ap, average], golden_evaluation[f"um/{evaluator}_{name}"], rtol=0, atol=1e-15)


def test_the_authors_record_of_detections_that_their_evaluator_scored(near_truth):
    """Digits of `um/official_0.1:0.7` in the golden file, of detections that are scored at nine thresholds here."""
    score = detection_map(*near_truth, np.linspace(0.1, 0.9, 9), "test")
    names = [f"{tiou:g}" for tiou in score.tiou]
    record = {"iteration": 9, "test_acc": 2 / 3, "mAP": dict(zip(names, score.mAP.tolist(), strict=True))}
    text = config_of().record_text(record | {"averages": score.averages, "average_mAP": score.average_mAP}, epoch=0)
    maps = ["0.8281", "0.8144", "0.7860", "0.7348", "0.6318", "0.4663", "0.2277"]
    lines = ["Step: 9", "Test_acc: 0.6667", "average_mAP: 0.6413", *(f"mAP@0.{n}: {value}" for n, value in enumerate(maps, 1))]
    assert text == "\n".join(lines) + "\n"


def test_the_official_average_is_over_the_papers_overlaps():
    assert config_of().choose_by == "0.1:0.7"


# ------------------------------------------------------------------------------------------------------- quirks


@pytest.mark.parametrize("num_seg", [1, 2, 5, 8])
def test_b1_l10_a_short_video_is_localized(num_seg):
    """Officially fewer than nine snippets give NaN; leftthomas/UM leaves out videos of one snippet."""
    method = build_method(config_of(*SMALL))
    method.network.eval()
    arrays = {key: value[0] for key, value in method.activations(Snippets.of(torch.rand(1, num_seg, 6))).items()}
    assert np.isfinite(arrays["score"]).all()
    found = localize(method.curves(arrays | {"num_seg": num_seg}))
    assert np.isfinite(as_rows(found)).all() and (len(found.scores) > 0 or num_seg == 1)


def test_b3_the_sum_over_classes_is_a_switch():
    batch = small_batch(torch.Generator().manual_seed(0))
    mean, summed = (
        build_method(config_of(*SMALL, f"--bce_reduction={reduction}", "--dropout=0")) for reduction in ("mean", "classsum")
    )
    summed.network.load_state_dict(mean.network.state_dict())
    ours, theirs = mean.loss(batch), summed.loss(batch)
    for name, factor in (("loss_cls", 20), ("loss_be", 20), ("loss_um", 1)):
        torch.testing.assert_close(theirs[name], factor * ours[name])


def test_b11_dropped_snippets_fill_up_the_background():
    network = build_method(config_of(*SMALL, "--r_bkg=2")).network
    magnitude_bt, mask_bt = torch.tensor([[5.0, 4, 3, 2, 1, 6]]), torch.tensor([[0.0, 0, 0, 0, 1, 0]])
    with patch("methods.um.Dropout.forward", lambda *_: mask_bt):
        first, *others = network.select(magnitude_bt)[1][0].tolist()
    assert first == 4 and len(set(others) - {4}) == 2


def test_b13_a_label_without_ground_truth_is_left_out_of_account():
    truth = {"database": {"v": {"subset": "test", "annotations": [{"label": "a", "segment": [0, 1]}]}}}
    rows = [{"label": label, "score": 0.5, "segment": [0, 1]} for label in "ab"]
    with pytest.warns(UserWarning, match="label"):
        assert detection_map(truth, {"results": {"v": rows}}, [0.5], "test").average_mAP == 1


@pytest.mark.parametrize(
    ("flags", "quirks"),
    [
        ([], {"O2"}),
        (["--fix=O2"], set()),
        (["--compat=fixed"], set()),
        (["--variant=leftthomas-fixed"], set()),
        (["--variant=leftthomas-exact"], {"L1", "L2", "L8"}),
        (["--variant=leftthomas-exact", "--fix=L1,l8"], {"L2"}),
        (["--variant=leftthomas-exact", "--um_loss=official"], {"L2", "L8"}),
        (["--um_loss=leftthomas"], {"O2", "L1"}),
    ],
)
def test_variants_and_what_they_reproduce(flags, quirks):
    assert config_of(*flags).quirks == quirks


def test_o2_l7_suppression_of_either_code():
    """Two peaks of a second each, a quarter of a second apart; overlaps that equal the threshold."""
    arrays = made_up(0, 60, 60, 3, 1)
    number = arrays["score"].argmax()
    arrays["cas"][:], arrays["magnitude"][:] = 0, 0
    arrays["cas"][[10, 12], number] = arrays["magnitude"][[10, 12]] = 1
    flags = ["--cas_th=0.2:0.3:0.1", "--mag_th=0.2:0.3:0.1", "--nms_th=0.2"]
    counts = [
        len(localize(post(config_of(*flags, f"--variant={variant}", *fix, classes=3)).curves(arrays)).scores)
        for variant, fix in (("official", []), ("official", ["--fix=O2"]), ("leftthomas-fixed", []))
    ]
    assert counts == [1, 2, 2]
    official, fixed, other = (
        post(config_of(f"--variant={variant}", *fix, classes=3)).curves(arrays)
        for variant, fix in (("official", []), ("official", ["--fix=O2"]), ("leftthomas-fixed", []))
    )
    assert (official.nms_pad, fixed.nms_pad, other.nms_pad) == (1, 0, 0)
    assert (official.nms_keeps_equal, fixed.nms_keeps_equal, other.nms_keeps_equal) == (False, False, True)


def test_o3_shares_are_whole_numbers(capsys):
    assert config_of("--r_act=8", "--r_bkg=3").counts(50) == (6, 16)
    with pytest.raises(SystemExit):
        parse_args(["--method=um", "--r_act=8.5"])
    assert "--r_act" in capsys.readouterr().err


def test_l1_the_wrong_axis_changes_the_loss(golden_um):
    right, wrong = (golden_um[f"n750/{code}loss_cls_um_be_total"][1] for code in ("", "lt_"))
    assert wrong > 2 * right
    batch = small_batch(torch.Generator().manual_seed(0))
    ours, theirs = (build_method(config_of(*SMALL, "--dropout=0", *flag)) for flag in ([], ["--um_loss=leftthomas"]))
    theirs.network.load_state_dict(ours.network.state_dict())
    assert not torch.isclose(ours.loss(batch)["loss_um"], theirs.loss(batch)["loss_um"], rtol=1e-3)


def test_l2_the_background_is_among_the_dropped():
    magnitude_bt = torch.rand(4, 100, generator=torch.Generator().manual_seed(0))
    mask_bt = (torch.rand(4, 100, generator=torch.Generator().manual_seed(1)) > 0.6).float() / 0.4
    for flags, dropped in ((["--variant=official"], 0), (["--variant=leftthomas-exact"], 25)):
        network = build_method(config_of(*SMALL, *flags)).network
        with patch("methods.um.Dropout.forward", lambda _, ones: ones * mask_bt):
            background_bk = network.select(magnitude_bt)[1]
        assert ((mask_bt.gather(1, background_bk) == 0).sum(dim=1) == dropped).all()


def test_l8_overlaps_in_single_precision_reach_the_score():
    """An overlap just below a threshold is at it once it is rounded."""
    truth = {"database": {"v": {"subset": "test", "annotations": [{"label": "c000", "segment": [0, 1]}]}}}
    found = {"results": {"v": [{"label": "c000", "score": 0.5, "segment": [0, 0.5 - 1e-9]}]}}
    assert detection_map(truth, found, [0.5], "test").average_mAP == 0
    assert detection_map(truth, found, [0.5], "test", single=True).average_mAP == 1
    assert not config_of().single_overlaps and config_of("--variant=leftthomas-exact").single_overlaps


@pytest.mark.parametrize(("variant", "hit"), [("leftthomas-exact", True), ("leftthomas-fixed", False)])
def test_l8_is_what_the_variant_scores_with(variant, hit):
    """An instance that the longest detection overlaps by 0.5 once that is rounded, and by less than any threshold else."""
    config, activations = config_of(f"--variant={variant}", classes=3), {"v": made_up(0, 30, 30, 3, 1)}
    found = judged(config, activations, config.classes[0], [0, 9]).found["v"]
    longest = np.diff(found.segments).argmax()
    start, end = found.segments[longest]
    segment = [start, end + (end - start) * (1 + 1e-9)]
    score_at = judged(config, activations, config.classes[found.classes[longest]], segment).score
    assert score_at.tiou[4] == 0.5 and (score_at.mAP[4] > 0) == hit


def judged(config, activations, label, segment):
    """The evaluation of one video that has one instance."""
    truth = {"database": {"v": {"subset": "test", "annotations": [{"label": label, "segment": segment}]}}}
    return Judge(config, {"v": np.eye(3, dtype=np.float32)[0]}, read_ground_truth(truth, "test"))(activations)


def test_l9_l10_a_video_lasts_as_its_snippets_unless_its_duration_is_wanted():
    arrays = made_up(0, 30, 30, 3, 1)
    for variant in ("official", "leftthomas-fixed", "leftthomas-exact"):
        method = post(config_of(f"--variant={variant}", classes=3))
        for known, seconds in ((arrays, 30 * 16 / 25), (arrays | {"duration": np.array(100.0)}, 100.0)):
            curves = method.curves(known)
            assert curves.points * curves.seconds_per_point == pytest.approx(seconds)
    for dataset in ("activitynet1.2", "activitynet1.3"):
        assert parse_args(["--method=um", f"--dataset={dataset}"]).timing == "rows"


# -------------------------------------------------------------------------------------------------- command line


def test_flags_and_defaults():
    args = vars(parse_args(["--method=um"]))
    expected = {"variant": "official", "alpha": 5e-4, "beta": 1.0, "margin": 100.0, "r_act": 9, "r_bkg": 4, "class_th": 0.2}
    expected |= {"mag_th": "0.4:0.625:0.025", "bce_reduction": "mean", "um_loss": None, "lr": "[0.0001]*10000"}
    expected |= {"num_segments": 750, "scale": 24, "nms_th": 0.6, "eval_every": "100", "weight_decay": 5e-4, "dropout": 0.7}
    expected |= {"cas_th": "0:0.25:0.025", "outer": 0.25, "class_weight": 0.2, "hidden": 2048, "batch_size": 16}
    assert {name: args[name] for name in expected} == expected
    assert "ablation" not in args and "topk" not in args
    activitynet = parse_args(["--method=um", "--dataset=activitynet1.3"])
    assert (activitynet.variant, activitynet.num_segments, activitynet.margin) == ("leftthomas-fixed", 50, 100)
    text = " ".join(build_parser("um", "activitynet1.2").format_help().split())
    assert "(default: leftthomas-fixed; published)" in text
    assert config_of().mag_thresholds == np.arange(0.4, 0.625, 0.025).tolist()
    with pytest.raises(UserError, match="--mag_th"):
        config_of("--mag_th=0.4:1")


def test_training_evaluating_and_saved_activations(cli, tmp_path):
    flags = ["--method=um", "--lr=[0.01]*4", "--eval_every=2", "--seed=0"]
    assert "um (official) on thumos14" in cli("main.py", *flags).stdout
    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    last = records[-1]
    assert {"loss_cls", "loss_be", "loss_um", "loss_total"} < set(last)
    assert last["choice"] == pytest.approx(last["averages"]["0.1:0.7"])
    saved, model = tmp_path / "saved.npz", tmp_path / "model" / "model_seed_0.pkl"
    live = cli("main_eval.py", "--method=um", f"--model_file={model}", f"--save_activations={saved}").stdout
    written = (tmp_path / "output" / "best_record.txt").read_text().splitlines()
    assert written[0] == "Step: 0" and len(written) == 10
    kept = cli("main_eval.py", "--method=um", f"--activations={saved}").stdout
    assert [line.split("|")[3:] for line in live.splitlines() if "|" in line] == [
        line.split("|")[3:] for line in kept.splitlines() if "|" in line
    ]
    with np.load(saved) as arrays:
        lengths = {len(arrays[key]) for key in arrays if key.endswith("/cas")}
    assert max(lengths) <= 16 and len(lengths) > 1, "a video shorter than --num_segments keeps its snippets"
