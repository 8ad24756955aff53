"""ASM-Loc against what the official code computes, and its fast forms against the plain ones."""

import json
import zlib
from argparse import Namespace
from dataclasses import replace

import numpy as np
import oracle_asm_loc as oracle
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_localize import as_rows, assert_same

from config import make_config
from eval.table import read_ground_truth
from localize import localize
from methods import build_method
from methods.asm_loc import losses
from methods.segment_attention import ASMNet
from methods.segments import at_random, stretched, uniform
from options import parse_args
from rows import Rows
from store import Files
from test import compute_activations, detect, score
from thumos_features import Batch, Video, rows_shown


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
    """Weights that a key and a shape determine."""
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


def features(rows, width, seed):
    return (np.abs(np.random.default_rng(seed).standard_normal((rows, width))) * 0.5).astype(np.float32)


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
    rows = Rows.shown(x)._replace(boxes=boxes)
    terms = lambda output: losses(output, label_bc, pseudo if kind == "full" else None, config)  # noqa: E731
    return net, rows, terms, given, recipe


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
    network, rows, terms, given, _ = case(golden_asm, tag, kind)
    with torch.no_grad():
        output = network.eval()(rows)
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
    network, rows, terms, given, recipe = case(golden_asm, tag, kind)
    meta = json.loads(str(golden_asm["meta_json"]))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=recipe.weight_decay, fused=True)
    named = dict(network.named_parameters())
    network.train()
    found = []
    for step in range(3):
        output = network(rows)
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


@settings(max_examples=40)
@given(st.lists(boxes_of_a_video, min_size=1, max_size=3), st.booleans(), st.integers(0, 9))
def test_attention_where_boxes_are_is_attention_with_masks(videos, training, seed):
    """Boxes that overlap, hold each other, are empty or the same; outputs, gradients, statistics."""
    torch.manual_seed(seed)
    boxes = tuple(np.array([(a, min(a + n, 29)) for a, n in own], dtype=np.int64).reshape(-1, 2) for own in videos)
    rows = Rows.shown(torch.rand(len(videos), 30, 5))._replace(boxes=boxes)
    ours, plain = ASMNet(5, 3, 16, True, (8, 3), 0.0), oracle.PlainASMNet(5, 3, 16, True, (8, 3), 0.0)
    fill(ours, 16), fill(plain, 16)
    found, expected = ours.train(training)(rows), plain.train(training)(rows)
    for name, value in outputs(expected).items():
        np.testing.assert_allclose(outputs(found)[name], value, atol=2e-5, err_msg=name)
    for output in (found, expected):
        weight = torch.linspace(-1, 1, output.logits.numel()).view_as(output.logits)
        ((output.logits * weight).mean() + output.uncertainty.mean() + output.score_bg[:, 0].mean()).backward()
    others = dict(plain.named_parameters())
    for key, weight in ours.named_parameters():
        other = others[key].grad
        np.testing.assert_allclose(weight.grad.numpy(), other.numpy(), atol=3e-5 * max(1, other.abs().max()), err_msg=key)
    for key, value in plain.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), atol=1e-5, err_msg=key)


# ----------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("num_seg", [1, 2, 30, 60, 61, 143])
def test_official_sampling(golden_asm, num_seg):
    np.testing.assert_array_equal(uniform(num_seg, 60), golden_asm[f"samp/uniform_idx/L{num_seg}_T60"])
    if num_seg > 1:
        rows, shares = at_random(num_seg, 60, np.random.RandomState(2))
        np.testing.assert_allclose((rows * shares).sum(axis=1), golden_asm[f"samp/random_idx/L{num_seg}_T60"], atol=1e-12)


def test_official_stretching(golden_asm):
    x = features(40, 4, 11).astype(np.float64)
    warp = np.concatenate([[0], np.cumsum(golden_asm["samp/dyn/W"])])
    np.testing.assert_array_equal(warp, golden_asm["samp/dyn/cumsum"])
    rows, shares = stretched(warp)
    out = (x[rows] * shares[:, :, None]).sum(axis=1)
    np.testing.assert_allclose(out, golden_asm["samp/dyn/out"], atol=1e-6)
    np.testing.assert_allclose(out[uniform(len(out), 60)], golden_asm["samp/dyn/uniform60"], atol=1e-6)
    warp = np.array([0.0, 2, 4, 5, 6, 7])
    rows, shares = stretched(warp)
    np.testing.assert_array_equal(warp, golden_asm["samp/dyn2/cumsum"])
    assert shares.min() < 0, "extrapolated below the first row"
    np.testing.assert_allclose((x[:5][rows] * shares[:, :, None]).sum(axis=1), golden_asm["samp/dyn2/out"], atol=1e-6)


# ---------------------------------------------------------------------------------------------------- the whole chain

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
            made_video(pattern % i, 100 * (subset == "test") + i, rows, own, config.classes)
            for i, (rows, own) in enumerate(zip(LENGTHS[subset], labels[subset], strict=True))
        ]
        for subset, pattern in zip(("train", "test"), patterns, strict=True)
    }
    return method, videos


def made_video(name, j, rows, labels, classes):
    z = np.abs(np.random.default_rng(1000 + j).standard_normal((rows, 32)))
    proto = np.abs(np.random.default_rng(2000 + j).standard_normal(32))
    on = np.arange(rows) // (3 + j % 4) % 3 == 1
    x = (0.15 * z + 0.8 * on[:, None] * proto).astype(np.float32)
    label_c = np.zeros(len(classes), dtype=np.float32)
    label_c[labels] = 1
    seconds = rows * 16 / 25
    spans = [(round(0.1 * seconds * (i + 1), 2), round(0.1 * seconds * (i + 1) + 0.3 * seconds, 2)) for i in range(len(labels))]
    annotations = [{"label": classes[c], "segment": list(span)} for c, span in zip(labels, spans, strict=True)]
    return Video(name, rows, label_c, annotations, 25.0, 16, None, False, 16, (), lambda: x)


def in_order(rows):
    return rows[np.argsort(rows[:, 0], kind="stable")]


def nonzero(label_tc):
    t, c = np.nonzero(label_tc)
    return np.column_stack([t, c, label_tc[t, c]])


def assert_items(method, videos, given, random):
    """What the network is shown of videos, and is to learn from them."""
    for video in videos:
        own = {key.removeprefix(f"{video.name}/"): value for key, value in given.items() if key.startswith(f"{video.name}/")}
        shown = method.shown(video, random)
        mixed = (video.read()[shown.rows_tk] * shown.shares_tk[:, :, None]).sum(axis=1)
        np.testing.assert_allclose(mixed[:, :4], own["feat[:,:4]"], atol=2e-6)
        np.testing.assert_array_equal(shown.boxes, own["bbox"])
        expected = own["pseudo_label_nz"]
        found = nonzero(method.plan(video).labels(len(mixed)))
        np.testing.assert_array_equal(found, expected[np.lexsort((expected[:, 1], expected[:, 0]))])


@pytest.mark.parametrize("dataset", CHAINS)
def test_the_whole_chain(golden_asm, dataset):
    """Proposals, stretched time, boxes, labels and detections of every step, each from the step before."""
    method, videos = chain(golden_asm, dataset)
    everything = [*videos["train"], *videos["test"]]
    store, cpu = Files(1), torch.device("cpu")
    golden = {key.removeprefix(f"e2e/{dataset}/"): value for key, value in golden_asm.items() if f"e2e/{dataset}/" in key}
    method.begin_step(0, {})
    for step in range(method.config.steps + 1):
        if step:
            found = compute_activations(method, everything, store, cpu)
            pseudo = {name: as_rows(localize(method.pseudo_curves(arrays))) for name, arrays in found.items()}
            known = method.refine(found, videos["train"])
            method.begin_step(step, known)
            for video in everything:
                assert_same(pseudo[video.name], in_order(golden[f"pseudo{step}/{video.name}"]))
                if video.num_seg > 1:
                    np.testing.assert_array_equal(
                        np.diff(method.plan(video).warp).round(9), golden[f"W{step}/{video.name}"].round(9)
                    )
            for subset, random in (("test", None), ("train", np.random.RandomState(2))):
                prefix = f"items_{subset}{step}/"
                given = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
                assert_items(method, videos[subset], given, random)
        activations = compute_activations(method, videos["test"], store, cpu)
        for video in videos["test"]:
            assert_same(as_rows(localize(method.curves(activations[video.name]))), in_order(golden[f"det{step}/{video.name}"]))
        assert_log(method, videos["test"], activations, golden[f"log{step}"])


def assert_log(method, videos, activations, expected):
    """Mean losses on the test videos, accuracy and average mAP."""
    method.network.eval()
    terms = []
    for video in videos:
        rows = rows_shown([video], Files(1), [method.shown(video, None)])
        with torch.no_grad():
            terms.append(values(method.loss(Batch(rows, torch.from_numpy(video.label_c)[None], [video]))))
    np.testing.assert_allclose(np.mean(terms, axis=0), expected[:5], atol=2e-4)
    database = {video.name: {"subset": "test", "annotations": video.annotations} for video in videos}
    truth = read_ground_truth({"database": database}, "test")
    labels = {video.name: video.label_c for video in videos}
    tiou = (np.arange(0.1, 0.8, 0.1) if method.config.steps > 1 else np.arange(0.5, 1.0, 0.05)).tolist()
    config = replace(method.config, tiou_thresholds=tuple(tiou))
    evaluation = score(method, activations, detect(method, activations), labels, truth, config)
    above = np.stack([activations[video.name]["score"][:-1] > method.config.class_th for video in videos])
    # the official accuracy knows no best class where none is above
    right = [np.array_equal(row, video.label_c > 0) for row, video in zip(above, videos, strict=True)]
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
