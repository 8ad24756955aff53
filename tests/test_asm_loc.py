"""ASM-Loc against the official code, and its fast layers against plain ones."""

import json
import os
import signal
import zlib
from argparse import Namespace
from copy import copy
from dataclasses import replace

import numpy as np
import oracle_asm_loc as oracle
import pytest
import torch
from conftest import ROOT, TINY, edit_gt
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from matching import assert_match
from test_localize import as_rows, assert_same
from test_resume import kept_bytes, records

import main
import main_eval
import train
from config import parse_thresholds
from dataset.draws import Draws
from dataset.store import Files
from engine import recorder
from engine.checkpoint import TrainingState
from engine.team import Team
from eval.table import read_ground_truth
from fast.adam import Adam
from fast.attention import find_places, mean_and_variance
from fast.snippets import Snippets
from localize import Detections, localize
from methods.asm_loc.method import losses
from methods.asm_loc.network import ASMNet
from methods.asm_loc.segments import Plan, at_random, stretched, uniform
from methods.base import build_method
from options import make_config, parse_args
from test import compute_activations, score
from thumos_features import Batch, Video, gather_input, load_data, training_batch
from train import Loss, make_optimizer, train_step
from utils import Stopped, UserError


@pytest.fixture(scope="session")
def golden_asm():
    """Values of the official code (docs/asm_loc.md, section 9 says how they came about)."""
    with np.load(ROOT / "tests" / "golden" / "asm_loc.npz") as file:
        return dict(file)


def config_for(*flags):
    return make_config(parse_args(["--method", "asm_loc", "--device", "cpu", "--seed", "0", *flags]))


# --------------------------------------------------------------------------------------------- the rules of the vectors

SCALES = [  # of a parameter's normal numbers, by its name: the first that fits
    (lambda key: key.endswith("running_mean"), lambda _: 0.1),
    (lambda key: key.endswith(".bn.weight"), lambda _: 0.5),
    (lambda key: key.endswith(".bn.bias"), lambda _: 0.05),
    (lambda key: key.endswith("bias"), lambda _: 0.1),
    (lambda key: key.startswith("feature_embedding"), lambda d: (3 * d) ** -0.5),
    (lambda key: key.startswith("att_branch"), lambda d: 4 * d**-0.5),
    (lambda key: key.startswith("snippet_cls"), lambda d: 12 * d**-0.5),
    (lambda key: key.startswith("uncertainty_branch"), lambda d: 0.5 * d**-0.5),
    (lambda key: ".conv_query" in key or ".conv_key" in key, lambda d: 2 * d**-0.5),
    (lambda key: ".conv_value" in key or ".conv_out" in key, lambda d: d**-0.5),
]


def fill(network, width):
    """Weights that depend on key and shape only."""
    content = {}
    for key, own in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            content[key] = torch.zeros_like(own)
            continue
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(own.shape)).astype(np.float32)
        if key.endswith("running_var"):
            content[key] = torch.from_numpy(np.float32(0.5) + np.abs(z))
        else:
            scale = next(scale for fits, scale in SCALES if fits(key))(width)
            content[key] = torch.from_numpy(z * np.float32(scale))
    network.load_state_dict(content)
    return network


def features(snippets, width, seed):
    return (np.abs(np.random.default_rng(seed).standard_normal((snippets, width))) * 0.5).astype(np.float32)


CASES = {
    "fwd_small_thumos": ("thumos14", 3, 48, 64, 20, 100),
    "fwd_small_anet": ("activitynet1.3", 3, 48, 64, 20, 200),
    "fwd_true_thumos": ("thumos14", 2, 750, 2048, 20, 300),
    "fwd_true_anet": ("activitynet1.3", 2, 150, 2048, 200, 400),
}


def case(golden_asm, tag, kind, network=ASMNet):
    dataset, size_b, size_t, width, classes, seed = CASES[tag]
    recipe = parse_args(["--method", "asm_loc", "--dataset", dataset])
    config = make_config(Namespace(**(vars(recipe) | {"dataset": "thumos14"})))  # whose classes need no annotations
    everywhere = recipe.dropout_on == "everything"
    net = fill(network(width, classes, width, kind == "full", (recipe.r_fg, recipe.r_bg), 0.0, everywhere), width)
    x = torch.from_numpy(features(size_b * size_t, width, seed).reshape(size_b, size_t, width))
    given = {key.removeprefix(f"{tag}/"): value for key, value in golden_asm.items() if key.startswith(f"{tag}/")}
    boxes = tuple(own[:count].astype(np.int64) for own, count in zip(given["bbox"], given["count"], strict=True))
    label_bc = torch.zeros(size_b, classes)
    label_bc[tuple(given["vid_label_idx"].T)] = 1
    pseudo = torch.zeros(size_b, size_t, classes + 1)
    b, t, c = given["pseudo_label_nz"][:, :3].astype(int).T
    pseudo[b, t, c] = torch.from_numpy(given["pseudo_label_nz"][:, 3])
    snippets = replace(Snippets.of(x), boxes=boxes)
    terms = lambda output: losses(output, label_bc, pseudo if kind == "full" else None, config)  # noqa: E731
    return net, snippets, terms, given, recipe


def outputs(output):
    foreground, background = output.attention[..., :1], output.attention[..., 1:]
    named = {
        "fg_cls": output.score_fg,
        "bg_cls": output.score_bg,
        "temp_att": output.attention,
        "cas": output.logits.softmax(dim=2),
        "fg_cas": (output.logits * foreground).softmax(dim=2),
        "bg_cas": (output.logits * background).softmax(dim=2),
    }
    if output.uncertainty is not None:
        named["uncertainty"] = output.uncertainty[..., None]
    return {name: value.detach().numpy() for name, value in named.items()}


def values(terms):
    return [terms[f"loss_{name}"].item() for name in ("fg", "bg", "ab", "pi", "total")]


# ------------------------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize("kind", ["base", "full"])
@pytest.mark.parametrize("tag", CASES)
def test_forward_and_losses(golden_asm, tag, kind):
    network, snippets, terms, given, _ = case(golden_asm, tag, kind)
    with torch.no_grad():
        output = network.eval()(snippets)
    found = outputs(output)
    expected = {key.split("/")[2]: value for key, value in given.items() if key.startswith(f"{kind}/eval/")}
    assert len(expected) >= 6
    for name, value in expected.items():
        if name == "losses":
            np.testing.assert_allclose(values(terms(output)), value, atol=2e-4, rtol=0)
        elif name.endswith("_sum_abs"):
            np.testing.assert_allclose(np.abs(found[name.removesuffix("_sum_abs")].astype(np.float64)).sum(), value, rtol=1e-5)
        elif "[" in name:
            np.testing.assert_allclose(found[name.split("[")[0]][:, ::25, :8], value, atol=3e-5, rtol=0, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], value, atol=3e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", ["base", "full"])
@pytest.mark.parametrize("tag", ["fwd_small_thumos", "fwd_small_anet"])
def test_three_steps_of_adam(golden_asm, tag, kind):
    network, snippets, terms, given, recipe = case(golden_asm, tag, kind)
    meta = json.loads(str(golden_asm["meta_json"]))
    optimizer = Adam(network.parameters(), lr=1e-4, weight_decay=recipe.weight_decay)
    named = dict(network.named_parameters())
    network.train()
    found = []
    for step in range(3):
        output = network(snippets)
        loss = terms(output)
        found.append(values(loss))
        optimizer.zero_grad()
        loss["loss_total"].backward()
        if step == 0:
            for name, value in outputs(output).items():
                if f"{kind}/train0/{name}" in given:
                    np.testing.assert_allclose(value, given[f"{kind}/train0/{name}"], atol=3e-5, rtol=0, err_msg=name)
            for key, norm in zip(meta[f"{tag}/{kind}/param_order"], given[f"{kind}/train0/grad_l2"], strict=True):
                if not key.endswith(("conv_key.bias", "conv_out.bias")):
                    assert named[key].grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-5), key
        optimizer.step()
    np.testing.assert_allclose(found, given[f"{kind}/train/losses_3_adam_steps"], atol=2e-4, rtol=0)
    state = network.state_dict()
    for key, total in zip(meta[f"{tag}/{kind}/state_order"], given[f"{kind}/train/state_abs_sum_after_3"], strict=True):
        if not key.endswith(("conv_key.bias", "conv_out.bias")):
            assert state[key].double().abs().sum().item() == pytest.approx(total, rel=1e-4, abs=1e-4), key
    for key in [key for key in given if key.startswith(f"{kind}/train/MHSA")]:
        # Adam moves biases without a gradient by rounding errors, a rate a step, and the means follow
        np.testing.assert_allclose(state[key.split("/")[2]][:16].numpy(), given[key], atol=1e-4, err_msg=key)


boxes_of_a_video = st.lists(st.tuples(st.integers(0, 29), st.integers(-1, 12)), max_size=6)


@settings(max_examples=30)
@given(st.lists(boxes_of_a_video, min_size=1, max_size=3), st.booleans(), st.integers(0, 9))
def test_attention_where_boxes_are_is_attention_with_masks(videos, training, seed):
    """Boxes that overlap, hold each other, are empty or the same; outputs, gradients, statistics, the plain ones in double."""
    torch.manual_seed(seed)
    boxes = tuple(np.array([(a, min(a + n, 29)) for a, n in own], dtype=np.int64).reshape(-1, 2) for own in videos)
    snippets = replace(Snippets.of(torch.rand(len(videos), 30, 5)), boxes=boxes)
    ours, plain = ASMNet(5, 3, 16, True, (8, 3), 0.0), oracle.PlainASMNet(5, 3, 16, True, (8, 3), 0.0)
    fill(ours, 16), fill(plain, 16)
    found, expected = ours.train(training)(snippets), plain.double().train(training)(snippets)
    for name, value in outputs(expected).items():
        # batch norms over few snippets amplify the rounding of single precision: 2.1e-5 is the most that was met
        np.testing.assert_allclose(outputs(found)[name], value, atol=2e-4, err_msg=name)
    for output in (found, expected):
        weight = torch.linspace(-1, 1, output.logits.numel()).view_as(output.logits)
        ((output.logits * weight).mean() + output.uncertainty.mean() + output.score_bg[:, 0].mean()).backward()
    others = dict(plain.named_parameters())
    for key, weight in ours.named_parameters():
        other = others[key].grad
        np.testing.assert_allclose(weight.grad.numpy(), other.numpy(), atol=1e-4 * max(1, other.abs().max()), err_msg=key)
    for key, value in plain.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), atol=1e-5, err_msg=key)


def test_mean_and_variance_are_torchs():
    x_md = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).add(3).requires_grad_()
    variance_d, mean_d = torch.var_mean(x_md, dim=0, correction=0)
    torch.testing.assert_close(mean_and_variance(x_md), (mean_d, variance_d))
    assert torch.autograd.gradcheck(mean_and_variance, x_md)


# ----------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("num_seg", [1, 2, 30, 60, 61, 143])
def test_official_sampling(golden_asm, num_seg):
    np.testing.assert_array_equal(uniform(num_seg, 60), golden_asm[f"samp/uniform_idx/L{num_seg}_T60"])
    if num_seg > 1:
        index, shares = at_random(num_seg, 60, np.random.RandomState(2))
        np.testing.assert_allclose((index * shares).sum(axis=1), golden_asm[f"samp/random_idx/L{num_seg}_T60"], atol=1e-12)


def test_official_stretching(golden_asm):
    x = features(40, 4, 11).astype(np.float64)
    warp = np.concatenate([[0], np.cumsum(golden_asm["samp/dyn/W"])])
    np.testing.assert_array_equal(warp, golden_asm["samp/dyn/cumsum"])
    index, shares = stretched(warp)
    out = (x[index] * shares[:, :, None]).sum(axis=1)
    np.testing.assert_allclose(out, golden_asm["samp/dyn/out"], atol=1e-6)
    np.testing.assert_allclose(out[uniform(len(out), 60)], golden_asm["samp/dyn/uniform60"], atol=1e-6)
    warp = np.array([0.0, 2, 4, 5, 6, 7])
    index, shares = stretched(warp)
    np.testing.assert_array_equal(warp, golden_asm["samp/dyn2/cumsum"])
    assert shares.min() < 0, "extrapolated below the first snippet"
    np.testing.assert_allclose((x[:5][index] * shares[:, :, None]).sum(axis=1), golden_asm["samp/dyn2/out"], atol=1e-6)


# ----------------------------------------------------------------------------------------------------------- segments


def plan_for(found, num_seg, labels, trained_on, *flags):
    """A video of such detections (class, score, start, end) in a step that follows another."""
    found = np.array(sorted(found, key=lambda row: (row[0], -row[1]))).reshape(-1, 4)
    config = config_for("--num_segments=30", "--hidden=8", "--len_feature=4", *flags)
    label_c = np.isin(np.arange(20), labels).astype(np.float32)
    annotations = [{"label": config.classes[c], "segment": [0, 1]} for c in labels]
    video = Video("v", num_seg, label_c, annotations, 25.0, 16, None, False, 2, (), lambda: np.zeros((num_seg, 4), np.float32))
    return Plan(Detections(found[:, 0].astype(int), found[:, 1], found[:, 2:]), video, trained_on, config), found


@st.composite
def detections_of_a_video(draw):
    num_seg = draw(st.integers(2, 50))
    place = st.integers(0, 2 * num_seg).map(lambda n: 0.32 * n)
    one = st.tuples(st.integers(0, 3), st.sampled_from([-0.1, 0.1, 0.2, 0.5, 0.9]), place, place)
    found = [(c, s, min(a, b), max(a, b) + 0.32) for c, s, a, b in draw(st.lists(one, max_size=12))]
    return found, num_seg, draw(st.permutations(range(4)))[: draw(st.integers(1, 3))], draw(st.booleans())


@given(detections_of_a_video(), st.sampled_from([("0.5", "6", "0.7"), ("0", "10", "0.3"), ("1", "3", "1")]))
def test_segments_are_those_of_plain_steps(video, setting):
    """Stretched time, boxes and labels, of training and test videos, with as many classes as there are."""
    delta, gamma, alpha = setting
    flags = [f"--delta={delta}", f"--gamma={gamma}", f"--proposal_share={alpha}"]
    plan, found = plan_for(*video, *flags)
    _, num_seg, labels, trained_on = video
    classes = labels if trained_on else list(dict.fromkeys(found[:, 0].astype(int)))
    by_class = [[tuple(row) for row in found[found[:, 0] == c, 1:]] for c in classes]
    try:
        w = oracle.weights([own for own in by_class if own], num_seg, float(delta), float(gamma), float(alpha))
    except oracle.Tie:
        reject()
    cumsum = np.concatenate([[0], np.cumsum(w)])
    np.testing.assert_allclose(plan.warp, cumsum, atol=1e-9)
    assert plan.warp[-1] == pytest.approx(round(plan.warp[-1]), abs=1e-9), "stretched runs last whole snippets"
    ordered = [row[1:] for own in by_class for row in sorted(own, key=lambda row: -row[0])]
    times = len(plan.sample(None).snippets_tk)
    assert times == min(30, round(plan.warp[-1]))
    for count in (times, 30):
        expected = oracle.boxes(ordered, num_seg, plan.warp, count, float(delta))
        np.testing.assert_array_equal(plan.boxes(count), np.array(expected).reshape(-1, 2))
        label_tc = plan.labels(count)
        triples = [(int(c), a, b) for c, _, a, b in found]
        np.testing.assert_array_equal(label_tc, oracle.labels(triples, plan.label_c, num_seg, plan.warp, count))
        np.testing.assert_allclose(label_tc.sum(axis=1), 1, atol=1e-6)


def test_a_short_action_is_stretched_to_gamma_widened_snippets():
    plan, _ = plan_for([(0, 0.6, 12.8, 16.0), (0, 0.5, 30.0, 31.0)], 60, [0], True)
    weight_l = np.diff(plan.warp)  # 5 snippets, widened to 11, last 12; those of the worse detection last as before
    np.testing.assert_allclose(weight_l, [1] * 18 + [12 / 11] * 11 + [1] * 31, atol=1e-9)
    mixture = plan.sample(np.random.RandomState(0))
    assert mixture.snippets_tk.shape == (30, 4) and mixture.boxes is not None and len(mixture.boxes) == 2


# ---------------------------------------------------------------------------------------------------- the whole chain

TOLERANCE = 3e-5  # of what the network gives, as test_forward_and_losses has it
LENGTHS = {"train": [25, 60, 61, 150, 97, 200], "test": [1, 2, 30, 60, 83, 170, 240]}
CHAINS = {
    "THUMOS": ("thumos14", 20, "--num_segments=60", "--steps=2", ("video_validation_%07d", "video_test_%07d")),
    "ActivityNet": ("activitynet1.3", 200, "--num_segments=40", "--steps=1", ("v_train%02d", "v_test%02d")),
}


def chain(golden_asm, dataset):
    """The method with the vectors' weights, and its videos."""
    name, classes, *flags, patterns = CHAINS[dataset]
    flags += ["--method=asm_loc", "--device=cpu", "--hidden=32", "--len_feature=32"]
    recipe = parse_args([f"--dataset={name}", *flags])
    config = make_config(Namespace(**(vars(recipe) | {"dataset": "thumos14"})))
    config = replace(config, classes=tuple(f"c{number:03d}" for number in range(classes)))
    method = build_method(config)
    for network in method.network.networks:
        fill(network, 32)
        with torch.no_grad():
            network.att_branch.weight *= 0.25
            network.att_branch.weight += torch.tensor([12 / 32, -12 / 32])[:, None, None]
            network.att_branch.bias.copy_(torch.tensor([-2.1, 2.1]))
    labels = json.loads(str(golden_asm["meta_json"]))["labels_e2e"][dataset]
    videos = {
        subset: [
            made_video(pattern % i, 100 * (subset == "test") + i, num_seg, own, config.classes)
            for i, (num_seg, own) in enumerate(zip(LENGTHS[subset], labels[subset], strict=True))
        ]
        for subset, pattern in zip(("train", "test"), patterns, strict=True)
    }
    return method, videos


def made_video(name, j, num_seg, labels, classes):
    z = np.abs(np.random.default_rng(1000 + j).standard_normal((num_seg, 32)))
    proto = np.abs(np.random.default_rng(2000 + j).standard_normal(32))
    on = np.arange(num_seg) // (3 + j % 4) % 3 == 1
    x = (0.15 * z + 0.8 * on[:, None] * proto).astype(np.float32)
    label_c = np.zeros(len(classes), dtype=np.float32)
    label_c[labels] = 1
    seconds = num_seg * 16 / 25
    spans = [(round(0.1 * seconds * (i + 1), 2), round(0.1 * seconds * (i + 1) + 0.3 * seconds, 2)) for i in range(len(labels))]
    annotations = [{"label": classes[c], "segment": list(span)} for c, span in zip(labels, spans, strict=True)]
    return Video(name, num_seg, label_c, annotations, 25.0, 16, None, False, 16, (), lambda: x)


def in_order(rows):
    return rows[np.argsort(rows[:, 0], kind="stable")]


def nonzero(label_tc):
    t, c = np.nonzero(label_tc)
    return np.column_stack([t, c, label_tc[t, c]])


def assert_items(method, videos, given, random):
    """What the network is shown of videos, and is to learn from them."""
    for video in videos:
        own = {key.removeprefix(f"{video.name}/"): value for key, value in given.items() if key.startswith(f"{video.name}/")}
        shown = method.sample(video, random)
        mixed = (video.read()[shown.snippets_tk] * shown.shares_tk[:, :, None]).sum(axis=1)
        np.testing.assert_allclose(mixed[:, :4], own["feat[:,:4]"], atol=2e-6)
        np.testing.assert_array_equal(shown.boxes, own["bbox"])
        expected = own["pseudo_label_nz"]
        found = nonzero(method.plan(video).labels(len(mixed)))
        np.testing.assert_array_equal(found, expected[np.lexsort((expected[:, 1], expected[:, 0]))])


def as_detections(rows):
    return Detections(rows[:, 0].astype(np.int64), rows[:, 1], rows[:, 2:])


def in_tensors(detections):
    """Detections of several videos as a step hands them on."""
    rows = torch.from_numpy(np.concatenate([*detections.values()]))
    counts = torch.tensor([len(own) for own in detections.values()])
    return {"counts": counts, "classes": rows[:, 0].long(), "scores": rows[:, 1], "segments": rows[:, 2:]}


@pytest.mark.parametrize("dataset", CHAINS)
@pytest.mark.whole
def test_the_whole_chain(golden_asm, dataset):
    """Each step starts from the official proposals of the step before. What it makes of them is equal: stretched time, boxes
    and labels. What its network finds matches: proposals and detections."""
    method, videos = chain(golden_asm, dataset)
    everything = [*videos["train"], *videos["test"]]
    store, cpu = Files(1), torch.device("cpu")
    golden = {key.removeprefix(f"e2e/{dataset}/"): value for key, value in golden_asm.items() if f"e2e/{dataset}/" in key}
    method.begin_step(0, {})
    for step in range(method.config.steps + 1):
        if step:
            found = compute_activations(method, everything, store, cpu)
            pseudo = {name: in_order(golden[f"pseudo{step}/{name}"]) for name in found}
            assert_match(method.pseudo_curves, found.values(), pseudo.values(), TOLERANCE)
            method.begin_step(step, method.refine(found, videos["train"]) | in_tensors(pseudo))
            for video in everything:
                if video.num_seg > 1:
                    np.testing.assert_array_equal(
                        np.diff(method.plan(video).warp).round(9), golden[f"W{step}/{video.name}"].round(9)
                    )
            for subset, random in (("test", None), ("train", np.random.RandomState(2))):
                prefix = f"items_{subset}{step}/"
                given = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
                assert_items(method, videos[subset], given, random)
        activations = compute_activations(method, videos["test"], store, cpu)
        expected = {name: in_order(golden[f"det{step}/{name}"]) for name in activations}
        assert_match(method.curves, activations.values(), expected.values(), TOLERANCE)
        assert_log(method, videos["test"], activations, expected, golden[f"log{step}"])


def assert_log(method, videos, activations, detections, expected):
    """Mean losses on the test videos, accuracy, and average mAP of the official detections."""
    method.network.eval()
    terms = []
    for video in videos:
        snippets = gather_input([video], Files(1), [method.sample(video, None)])
        with torch.no_grad():
            terms.append(values(method.loss(Batch(snippets, torch.from_numpy(video.label_c)[None], [video]))))
    np.testing.assert_allclose(np.mean(terms, axis=0), expected[:5], atol=2e-4)
    database = {video.name: {"subset": "test", "annotations": video.annotations} for video in videos}
    truth = read_ground_truth({"database": database}, "test")
    labels = {video.name: video.label_c for video in videos}
    tiou = (np.arange(0.1, 0.8, 0.1) if method.config.steps > 1 else np.arange(0.5, 1.0, 0.05)).tolist()
    found = {name: as_detections(rows) for name, rows in detections.items()}
    scoring = copy(method)
    scoring.config = replace(method.config, tiou_thresholds=tuple(tiou))
    evaluation = score(scoring, activations, found, labels, truth)
    scores = np.stack([activations[video.name]["score"][:-1] for video in videos])
    assert np.abs(scores - method.config.class_th).min() > TOLERANCE, "no class hangs on a last bit"
    # the official accuracy knows no best class where none is above
    right = [np.array_equal(row, video.label_c > 0) for row, video in zip(scores > method.config.class_th, videos, strict=True)]
    np.testing.assert_allclose([np.mean(right), evaluation.average_mAP], expected[5:], atol=1e-6)


@pytest.mark.parametrize("kind", ["test", "pseudo"])
@pytest.mark.parametrize("case", ["thu_static_long", "thu_dyn", "thu_argmax_only", "anet_static", "anet_dyn"])
def test_official_detections(golden_localization, case, kind):
    """From what the network gives to detections, by the method's own curves."""
    given = {key.split("/")[2]: value for key, value in golden_localization.items() if key.startswith(f"asm_loc/{case}/")}
    recipe = parse_args(["--method=asm_loc", f"--dataset={'thumos14' if case.startswith('thu') else 'activitynet1.3'}"])
    config = make_config(Namespace(**(vars(recipe) | {"dataset": "thumos14", "hidden": 8, "len_feature": 2})))
    config = replace(config, classes=tuple(map(str, range(200))))
    arrays = {
        "cas": np.zeros((len(given["fg_att"]), 201), dtype=np.float32),
        "attention": given["fg_att"],
        "score": np.zeros(201, dtype=np.float32),
        "num_seg": given["vid_len"],
    }
    arrays["cas"][:, given["cols"]] = given["fg_cas_cols"]
    arrays["score"][given["cols"]] = given["fg_cls_cols"]
    if "cumsum" in given:
        arrays["warp"] = given["cumsum"]
    method = build_method(config)
    curves = method.curves(arrays) if kind == "test" else method.pseudo_curves(arrays)
    assert_same(as_rows(localize(curves)), given[f"{kind}_dets"])


# ---------------------------------------------------------------------------------------------------------------- runs

# with these, proposals of the right classes stretch time and fill boxes, so that steps depend on what was found before
CHAIN = ["--method=asm_loc", "--steps=2", "--class_th=0.01", "--pseudo_th=0.3:0.7:0.01", "--proposal_share=1"]
CHAIN += ["--nms_th=0.9", "--delta=0", "--gamma=14"]
RUN = [*CHAIN, "--seed=0", "--lr=[0.02]*24", "--step_iters=8", "--eval_every=4", "--batch_size=2"]


class Killed(BaseException):
    pass


@pytest.fixture
def run(tiny, tmp_path):
    """main.py or main_eval.py in this process, on the tiny data; returns the folder of the files."""

    def start(work, *flags, folder="run"):
        places = [f"--{kind}_path={tmp_path / folder / kind}" for kind in ("model", "output", "log")]
        work(parse_args([f"--data_path={tiny}", "--cache_path=none", *TINY, *places, *flags, "--quiet"]))
        return tmp_path / folder

    return start


def test_a_run_stopped_inside_a_step_ends_with_the_same_files(run, tmp_path, monkeypatch):
    """Asked to stop inside step 1 and at its end, and killed inside step 2."""
    straight = kept_bytes(run(main.train, *RUN))
    assert [record["iteration"] for record in records(tmp_path / "run")] == [4, 8, 12, 16, 20, 24]
    monkeypatch.setattr(recorder, "CHECKPOINT_SHARE", 1e9)  # one before every evaluation
    for at, error, step in ((12, Stopped, 1), (16, Stopped, 1), (22, Killed, 2)):

        def until(loss, state, *rest, at=at, error=error):
            terms = train_step(loss, state, *rest)
            if state.iteration == at and error is Killed:
                raise Killed
            if state.iteration == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return terms

        with monkeypatch.context() as patched, pytest.raises(error):
            patched.setattr(train, "train_step", until)
            run(main.train, *RUN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        saved = torch.load(tmp_path / "run" / "model" / "ASM_Loc_model_seed_0_last.ckpt")
        assert saved["step"] == step and len(saved["known"]["videos"]) == 9 and len(saved["known"]["scores"]) > 0
        assert kept_bytes(run(main.train, *RUN, "--resume")) == straight, at


def rows_of_file(path):
    found = json.loads(path.read_text())["results"]
    return [(video, row["label"], *row["segment"], row["score"]) for video in sorted(found) for row in found[video]]


def test_a_checkpoint_alone_gives_the_detections_of_the_training(run, tmp_path):
    """The chain of networks is followed from the first; boxes at hand during the training are the same."""
    folder = run(main.train, *RUN)
    last = folder / "model" / "ASM_Loc_model_seed_0_last.ckpt"
    assert torch.load(last)["network"]["step"] == 2
    expected = rows_of_file(folder / "output" / "detections_last_seed_0.json")
    assert len(expected) >= 5
    state, steps = torch.load(last), CHAIN
    assert any((state["network"][key] != 0).any() for key in state["network"] if key.endswith("bn.weight"))
    saved, found = tmp_path / "activations.npz", folder / "output" / "detections.json"
    run(main_eval.evaluate, *steps, f"--model_file={last}", f"--save_activations={saved}")
    assert rows_of_file(found) == expected
    run(main_eval.evaluate, *steps, f"--activations={saved}")
    assert rows_of_file(found) == expected

    run(main_eval.evaluate, *steps, f"--model_file={last}", "--gamma=0")
    assert rows_of_file(found) != expected, "what the steps hand on counts"

    official = tmp_path / "official"
    official.mkdir()
    for step, name in enumerate(("model_step0_last_epoch", "model_step1_last_epoch", "model_step2_best_epoch")):
        begin = f"networks.{step}."
        part = {key.removeprefix(begin): value for key, value in state["network"].items() if key.startswith(begin)}
        content = {"epoch": 7, "model_state_dict": part, "optimizer": {}, "best_test_mAP": np.float64(0.3)}
        torch.save(content, official / f"{name}.pth")
    run(main_eval.evaluate, *steps, f"--model_file={official}")
    assert rows_of_file(found) == expected
    (official / "model_step2_best_epoch.pth").unlink()
    with pytest.raises(UserError, match=r"model_step2_best_epoch\.pth: no such file; expected a checkpoint"):
        run(main_eval.evaluate, *steps, f"--model_file={official}")
    with pytest.raises(UserError, match="expected a checkpoint file"):
        run(main_eval.evaluate, f"--model_file={official}")


def test_a_best_model_of_an_earlier_step_is_followed_to_that_step_only(run):
    """And with quirk Q2 repaired the best is of the last step."""
    folder = run(main.train, *RUN, "--seed=3")
    best_file = folder / "model" / "ASM_Loc_model_seed_3.pkl"
    best = max(records(folder), key=lambda record: record["choice"])
    assert torch.load(best_file)["step"] == (best["iteration"] - 1) // 8 == 1
    run(main_eval.evaluate, *CHAIN, f"--model_file={best_file}")
    expected = rows_of_file(folder / "output" / "detections_best_seed_3.json")
    assert rows_of_file(folder / "output" / "detections.json") == expected
    folder = run(main.train, *RUN, "--seed=3", "--fix=Q2", folder="repaired")
    assert torch.load(folder / "model" / "ASM_Loc_model_seed_3.pkl")["step"] == 2


def test_only_the_network_of_a_step_is_trained(tiny):
    config = config_for(f"--data_path={tiny}", *TINY, *RUN[1:])
    data = load_data(config)
    torch.manual_seed(0)
    method = build_method(config)
    optimizer, scaler, draws = make_optimizer(method.network, config), torch.amp.GradScaler(enabled=False), Draws(config, 0)
    state = TrainingState(method.network, optimizer, scaler, 0, "", draws)
    store, cpu = Files(1), torch.device("cpu")
    before = {key: value.clone() for key, value in method.network.state_dict().items()}
    for step in range(3):
        if step:
            known = method.refine(compute_activations(method, data.test + data.train, store, cpu), data.train)
            method.begin_step(step, known)
        batch = training_batch(data.train, store, draws, method.sample, step)
        train_step(Loss(method), state, batch, 0.01, Team())
        after = {key: value.clone() for key, value in method.network.state_dict().items()}
        changed = {key.split(".")[1] for key, value in after.items() if key != "step" and not torch.equal(value, before[key])}
        assert changed == {str(step)}
        before = after


# ------------------------------------------------------------------------------------------------- settings and quirks


def test_published_settings_are_pinned():
    thumos, activitynet = (
        vars(parse_args(["--method=asm_loc", f"--dataset={name}"])) for name in ("thumos14", "activitynet1.3")
    )
    expected = {
        "steps": (3, 1),
        "step_iters": (1300, 7100),
        "lr": ("[0.0001]*10400", "[0.0001]*14200"),
        "batch_size": (16, 64),
        "weight_decay": (5e-5, 1e-3),
        "dropout": (0.7, 0.7),
        "num_segments": (750, 150),
        "r_fg": (8, 2),
        "r_bg": (3, 10),
        "lambda_fg": (1, 5),
        "lambda_bg": (0.5, 0.5),
        "lambda_ab": (0.5, 0.5),
        "beta": (0.2, 0.2),
        "delta": (0.5, 0),
        "proposal_share": (0.7, 0.3),
        "gamma": (6, 10),
        "class_th": (0.25, 0.1),
        "scale": (20, 20),
        "outer": (0.2, 0.15),
        "nms_th": (0.45, 0.9),
    }
    assert {name: (thumos[name], activitynet[name]) for name in expected} == expected
    config = config_for()
    for found, wanted in (
        (config.cas_thresholds, np.arange(0.15, 0.25, 0.05)),
        (config.att_thresholds, np.arange(0.1, 0.925, 0.025)),
        (config.pseudo_thresholds, np.arange(0.4, 0.925, 0.025)),
        (parse_thresholds("--cas_th", activitynet["cas_th"]), [0.005, 0.01, 0.015, 0.02]),
        (parse_thresholds("--cas_th", activitynet["pseudo_th"]), np.arange(0.1, 0.305, 0.005)),
    ):
        np.testing.assert_array_equal(found, wanted)
    assert [config.step_of(i) for i in (0, 1299, 1300, 3899, 3900, 10399)] == [0, 0, 1, 2, 3, 3]


def test_mistakes_in_own_flags():
    with pytest.raises(UserError, match="--att_th"):
        config_for("--att_th=a:b")
    with pytest.raises(UserError, match="--hidden 12"):
        build_method(config_for("--hidden=12", "--len_feature=4"))


def test_q3_unreachable_videos_count_and_the_score_without_them_is_beside(run, tiny):
    edit_gt(tiny, lambda database: database.update(video_test_99=database["video_test_0"]))
    record = records(run(main.train, *RUN))[-1]
    assert record["ground_truth"].startswith("5 videos") and record["with_features"]["ground_truth"].startswith("4 videos")


def test_q4_classes_that_a_training_video_lacks_stretch_it():
    found = [(3, 0.6, 12.8, 16.0), (3, 0.5, 25.6, 28.8)]

    def total(*flags):
        return plan_for(found, 60, [0], True, *flags)[0].warp[-1]

    assert total("--stretch_by=detected") > 60 == total("--stretch_by=annotated") == total()


def test_q5_classes_come_in_order_of_appearance():
    """Of two that start together the one that appears later is met first, and drops the other if that ends no later."""
    found = [(1, 0.6, 0.0, 6.4), (2, 0.6, 0.0, 9.6)]
    flags = ["--proposal_share=0", "--delta=0"]
    assert plan_for(found, 30, [1, 2], True, *flags)[0].boxes(30).tolist() == [[0, 15]]
    assert plan_for(found, 30, [2, 1], True, *flags)[0].boxes(30).tolist() == [[0, 10], [0, 15]]


def test_q6_a_single_detection_never_stretches_unless_its_score_is_negative():
    assert plan_for([(0, 0.6, 12.8, 16.0)], 60, [0], True)[0].warp[-1] == 60
    assert plan_for([(0, -0.6, 12.8, 16.0)], 60, [0], True)[0].warp[-1] > 60


def test_q8_suppression_adds_a_second():
    """Two peaks of a second each, less than a second apart."""
    attention = np.zeros(60, dtype=np.float32)
    attention[[10, 12]] = 1
    arrays = {"cas": np.zeros((60, 21), dtype=np.float32), "attention": attention, "num_seg": np.array(60)}
    arrays |= {"score": np.eye(21, dtype=np.float32)[3]}
    small = ["--hidden=8", "--len_feature=4", "--att_th=0.2:0.3:0.1", "--nms_th=0.2"]
    counts = [len(localize(build_method(config_for(*small, *fix)).curves(arrays)).scores) for fix in ([], ["--fix=Q8"])]
    assert counts == [1, 2]


def test_q9_the_last_snippet_of_a_long_video_is_never_drawn():
    random = np.random.RandomState(0)
    drawn = np.concatenate([at_random(100, 30, random)[0][:, 0] for _ in range(200)])
    assert set(drawn.tolist()) == set(range(99))


def test_q11_a_video_of_one_snippet_is_trained_on():
    assert at_random(1, 30, np.random.RandomState(0))[0].max() == 0
    plan, _ = plan_for([(0, 0.6, 0.0, 0.64)], 1, [0], True)
    shown = plan.sample(np.random.RandomState(0))
    assert plan.warp is None and set(shown.snippets_tk.ravel().tolist()) == {0}
    np.testing.assert_allclose(shown.shares_tk.sum(axis=1), 1)


def test_q12_any_number_of_boxes():
    boxes = np.stack([np.arange(300), np.arange(300) + 5], axis=1)
    places = find_places([boxes[:0], boxes], 400)
    assert len(places.time_m) == 305 and places.box_bn.shape == (1, 300) and len(places.runs) == 1


def test_q26_a_training_video_without_proposals_of_its_class_is_all_background():
    label_tc = plan_for([(3, 0.6, 12.8, 16.0)], 60, [0], True)[0].labels(30)
    assert label_tc[:, -1].all() and label_tc.sum() == 30


def test_q28_durations_are_ignored():
    arrays = {
        "cas": np.tile(np.linspace(0, 1, 30, dtype=np.float32)[:, None], (1, 21)),
        "attention": np.linspace(0, 1, 30, dtype=np.float32),
        "score": np.full(21, 0.5, dtype=np.float32),
        "num_seg": np.array(30),
        "duration": np.array(25.0),
    }
    small = ["--hidden=8", "--len_feature=4"]
    official, fixed = (build_method(config_for(*small, *fix)).curves(arrays) for fix in ([], ["--fix=Q28"]))
    assert official.points * official.seconds_per_point == pytest.approx(19.2)
    assert fixed.points * fixed.seconds_per_point == pytest.approx(25) and fixed.warped_seconds == 25
    arrays["warp"] = np.linspace(0, 40, 31)
    found = localize(build_method(config_for(*small, "--fix=Q28")).curves(arrays))
    assert found.segments.max() == pytest.approx(25)


def test_dropout_leaves_out_times_and_values():
    """On average the logits are those without dropout; a time that is left out has the bias."""
    torch.manual_seed(0)
    network = fill(ASMNet(5, 3, 16, False, (8, 3), 0.6), 16).train()
    x = torch.rand(4, 50, 5)
    with torch.no_grad():
        drawn = torch.stack([network(x).logits for _ in range(2000)])
        expected = network.eval()(x).logits
    bias = network.snippet_cls.bias
    left_out = (drawn == bias).all(dim=3)
    assert left_out.float().mean().item() == pytest.approx(0.6, abs=0.01)
    error = (drawn.mean(dim=0) - expected) / (drawn.std(dim=0) / 2000**0.5)
    assert error.abs().max() < 5 and error.std().item() == pytest.approx(1, abs=0.15)
