"""The localization core against what the four official codes detect, and against the plain versions of its steps."""

import time
from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localize import VIDEOS_AT_ONCE, Curves, Sweep, localize, localize_all, min_max, resize, suppress, upsample
from methods.base import build_method
from options import make_config, parse_args

CASES = {
    3001: (1213, [3, 7, 12], "blocks"),
    3002: (211, [5], "blocks"),
    3003: (750, [0], "blocks"),
    3004: (96, [0, 19], "smooth"),
    3005: (400, [], "blocks"),
    3006: (333, [4], "first"),
    3007: (333, [4], "negative"),
    3008: (333, [4], "flat"),
    3009: (2500, [8, 9], "smooth"),
}


def golden_activations(seed):
    num_seg, high, kind = CASES[seed]
    r = np.random.default_rng(seed)
    snippet = np.arange(750)[:, None]
    blocks = np.repeat(r.standard_normal((94, 21)), 8, axis=0)[:750] * 2.0 + 0.5 * r.standard_normal((750, 21))
    cas = blocks
    if kind == "smooth":
        cas = np.sin(snippet / r.uniform(5, 40, (1, 21)) + r.uniform(0, 6, (1, 21))) * 3 + 0.3 * r.standard_normal((750, 21))
    elif kind == "first":
        cas = np.full((750, 21), -1.0)
        cas[0] = 5
    elif kind == "negative":
        cas = -np.abs(blocks) - 0.1
    elif kind == "flat":
        cas = np.ones((750, 21))
    score = (r.random(21) * 0.1).astype(np.float32)
    score[high] = np.linspace(0.26, 0.6, len(high)).astype(np.float32)
    return {"cas": cas.astype(np.float32), "score": score}, num_seg


def detections(arrays, num_seg, *flags):
    """BaS-Net's detections from given activations with published settings; the network is not used."""
    method = build_method(make_config(parse_args(["--hidden", "8", "--len_feature", "2", *flags])))
    return as_rows(localize(method.curves(arrays | {"num_seg": num_seg})))


def as_rows(found):
    return np.column_stack([found.classes, found.scores, found.segments])


def assert_same(found, expected):
    """Same order, classes and times; scores as near as means by prefix sums come."""
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=1e-9)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-6)


# ------------------------------------------------------------------------------------------------ official detections


@pytest.mark.parametrize("seed", CASES)
def test_basnet(golden, seed):
    arrays, num_seg = golden_activations(seed)
    if f"post/case{seed}/input_check" in golden:
        sums = [arrays["cas"].astype(np.float64).sum(), arrays["score"].astype(np.float64).sum()]
        np.testing.assert_allclose(sums, golden[f"post/case{seed}/input_check"], rtol=1e-6)
    found = detections(arrays, num_seg)
    if f"post/case{seed}/det" not in golden:  # nothing officially: B1, B2, or the crash B5
        assert len(found) == 0
    else:
        assert_same(found, golden[f"post/case{seed}/det"])


UM = {
    "p750": (2001, 750, 1213, 20, 3, 24),
    "p211": (2002, 211, 211, 20, 2, 24),
    "p96": (2003, 96, 96, 20, 0, 24),
    "p50s24": (2004, 50, 331, 100, 1, 24),
    "p50s16": (2004, 50, 331, 100, 1, 16),
}


@pytest.mark.parametrize("rule", ["official", "lt"])
@pytest.mark.parametrize("case", UM)
def test_um(golden_localization, case, rule):
    """Activations fused with feature magnitudes, which are thresholded too."""
    seed, snippets, num_seg, num_classes, high, scale = UM[case]
    r = np.random.default_rng(seed)
    blocks = (snippets + 7) // 8
    cas = np.repeat(r.random((blocks, num_classes)), 8, axis=0)[:snippets] * 0.8 + 0.2 * r.random((snippets, num_classes))
    magnitude = np.repeat(r.random(blocks), 8)[:snippets] * 80 + 10 * r.random(snippets)
    cas, magnitude = cas.astype(np.float32), magnitude.astype(np.float32)
    scores = (r.random(num_classes) * 0.1).astype(np.float32)
    chosen = r.choice(num_classes, high, replace=False)
    scores[chosen] = (0.25 + 0.5 * r.random(high)).astype(np.float32)
    np.testing.assert_allclose(
        [cas.astype(np.float64).sum(), magnitude.astype(np.float64).sum()], golden_localization[f"um/{case}/input_check"]
    )

    ordered = np.sort(magnitude)
    high_mean, low_mean = ordered[-(snippets // 9) :].mean(), ordered[: snippets // 4].mean()
    share = np.clip((magnitude - low_mean) / (high_mean - low_mean), 0, 1)
    fused = np.clip(min_max(cas * share[:, None]), 0, 1)
    classes = np.flatnonzero(scores >= np.float32(0.2)) if high else np.array([scores.argmax()])
    term = (np.float32(0.2) * scores[classes]).astype(np.float64)
    curves = Curves(
        classes=classes,
        activation=fused[:, classes],
        common=share,
        sweeps=[
            Sweep([i * 0.025 for i in range(10)], term),
            Sweep([0.4 + i * 0.025 for i in range(9)], term, support="common"),
        ],
        points=scale * snippets,
        seconds_per_point=16 * num_seg / (scale * snippets * 25),
        outer_width=0.25,
        shortest_run=2,
        nms_threshold=0.6,
        nms_pad=1.0 if rule == "official" else 0.0,
        nms_keeps_equal=rule == "lt",
    )
    assert_same(as_rows(localize(curves)), golden_localization[f"um/{case}/det_{rule}"])


@pytest.mark.parametrize("kind", ["test", "pseudo"])
@pytest.mark.parametrize("case", ["thu_static_long", "thu_dyn", "thu_argmax_only", "anet_static", "anet_dyn"])
def test_asm_loc(golden_localization, case, kind):
    """Activations mixed with attention, both thresholded, on a time axis that may be warped."""
    given = {key.split("/")[2]: value for key, value in golden_localization.items() if key.startswith(f"asm_loc/{case}/")}
    thumos = case.startswith("thu")
    probability = given["fg_cls_cols"]
    predicted = probability > np.float32(0.25 if thumos else 0.1)
    if not predicted.any():
        predicted[probability.argmax()] = True
    order = np.argsort(given["cols"])
    order = order[predicted[order]]
    snippets, num_seg = len(given["fg_att"]), int(given["vid_len"])
    own, shared = (1.0, 0.0) if thumos else (0.7, 0.3)
    none, term = np.zeros(len(order)), 0.25 * probability[order].astype(np.float64)
    if kind == "test":
        low = [0.005, 0.01, 0.015, 0.02]
        sweeps = [
            Sweep([0.15, 0.2] if thumos else low, none, "activation", own, shared),
            Sweep(np.arange(0.1, 0.925, 0.025) if thumos else low, none if thumos else term, "common", own, shared),
        ]
    elif thumos:
        sweeps = [Sweep(np.arange(0.4, 0.925, 0.025), none, "common", own, shared)]
    else:
        sweeps = [Sweep(np.arange(0.1, 0.305, 0.005), none, "activation", own, shared)]
    curves = Curves(
        classes=given["cols"][order],
        activation=given["fg_cas_cols"][:, order],
        common=given["fg_att"],
        sweeps=sweeps,
        points=20 * snippets,
        seconds_per_point=16 * num_seg / (25 * 20 * snippets),
        outer_width=0.2 if thumos else 0.15,
        shortest_run=2,
        nms_threshold=0.45 if thumos else 0.9,
        nms_pad=1.0,
        warp=given.get("cumsum"),
    )
    assert_same(as_rows(localize(curves)), given[f"{kind}_dets"])


def backtal_curves(given, dataset):
    """BackTAL's curves of one golden video, on the frames of the video."""
    points, _, duration = given["meta"]
    class_th, outer, weight, nms = {
        "th": (0.25, 0.25, 0.2, 0.55),
        "an": (0.1, 20, 0.6, 0.7),
        "ha": (0.075, 200, 0.6, 0.71),
    }[dataset]
    order = np.argsort(given["cls"])
    order = order[given["prob"][order] >= np.float32(class_th)]
    term = weight * given["prob"][order].astype(np.float64)
    stop = {"th": 0.25, "an": 0.15, "ha": 0.2}[dataset]
    sweeps = [Sweep(np.arange(0, stop, 0.025).astype(np.float32), term)]
    common = None
    if dataset == "th":
        common = np.clip(min_max(np.linalg.norm(given["feat"], axis=0)[:, None]), 0, 1)[:, 0]
        sweeps.append(Sweep(np.arange(0.3, 0.76, 0.075).astype(np.float32), term, support="common"))
    return Curves(
        classes=given["cls"][order],
        activation=min_max(given["rows"][order].T),
        common=common,
        sweeps=sweeps,
        points=int(points),
        resize=True,
        seconds_per_point=duration / points,
        outer_width=outer,
        right_surroundings_less=1,
        first_point_counts=False,
        shrink=0.0 if dataset == "th" else 0.02,
        whole_video_score=None if dataset == "th" else 0.6,
        nms_threshold=nms,
        nms_pad=1.0,
    )


@pytest.mark.parametrize("case", ["th0", "th1", "th2", "an0", "an1", "ha0", "ha1"])
def test_backtal(golden_localization, case):
    """Activations resized to frames, wide surroundings, proposals of the whole video."""
    given = {key.split(f"{case}_")[1]: v for key, v in golden_localization.items() if key.startswith(f"backtal/{case}_")}
    curves = backtal_curves(given, case[:2])
    found, expected = as_rows(localize(curves)), given["det"]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-6)
    number = np.argmax(curves.classes == given["cls"][0])
    if curves.classes[number] == given["cls"][0]:
        fine = resize(curves.activation[:, number], curves.points)[:: max(1, curves.points // 200)]
        np.testing.assert_array_equal(fine, given["resize0"].astype(np.float64))


@pytest.mark.parametrize("frames", [1, 2])
def test_backtal_loses_a_support_that_is_the_first_frame_alone(golden_localization, frames):
    activation = np.full((2, 750), -1, dtype=np.float32)
    activation[0, :frames] = 1
    given = {
        "meta": (750, 30, 25.0),
        "cls": np.array([5, 6]),
        "rows": activation,
        "prob": np.array([0.9, 0.3], dtype=np.float32),
    }
    if frames == 2:
        given["prob"][1] = 0
    given["feat"] = np.ones((4, 750), dtype=np.float32)
    found = as_rows(localize(backtal_curves(given, "th")))
    if frames == 1:
        assert len(found) == golden_localization["backtal/edge_frame0_ndet"][0]
    else:
        np.testing.assert_allclose(found, golden_localization["backtal/edge_frame01_det"], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "expected", "threshold", "pad", "keeps_equal", "columns"),
    [
        ("um/nms/in_class_score_start_end", "um/nms/official_0.6", 0.6, 1, False, [1, 2, 3]),
        ("um/nms/in_class_score_start_end", "um/nms/lt_0.6_start_end_score", 0.6, 0, True, [2, 3, 1]),
        ("asm_loc/nms/in", "asm_loc/nms/out_0.45", 0.45, 1, False, [1, 2, 3]),
        ("asm_loc/nms/in", "asm_loc/nms/out_0.9", 0.9, 1, False, [1, 2, 3]),
        ("backtal/nms_in", "backtal/nms_keep_55", 0.55, 1, False, [0, 1, 2]),
        ("backtal/nms_in", "backtal/nms_keep_70", 0.7, 1, False, [0, 1, 2]),
        ("backtal/nms_in", "backtal/nms_keep_71", 0.71, 1, False, [0, 1, 2]),
    ],
)
def test_official_suppression(golden_localization, given, expected, threshold, pad, keeps_equal, columns):
    rows = golden_localization[given]
    score, segments = (rows[:, 0], rows[:, 1:]) if rows.shape[1] == 3 else (rows[:, 1], rows[:, 2:])
    kept = suppress(np.ascontiguousarray(segments), np.argsort(score, kind="stable")[::-1], threshold, pad, keeps_equal)
    expected = golden_localization[expected]
    np.testing.assert_allclose(rows[kept][:, columns], expected if expected.shape[1] == 3 else expected[:, 1:], atol=1e-12)


# --------------------------------------------------------------------------------------------------- plain versions

values = st.floats(-1, 1, width=32) | st.sampled_from([0.0, 0.25, 0.5, 1.0])
levels = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]), min_size=1, max_size=5, unique=True).map(sorted)


@st.composite
def any_curves(draw):
    """Curves with every field drawn."""
    snippets = draw(st.integers(1, 25))
    num_classes = draw(st.integers(0, 3))
    numbers = draw(st.lists(values, min_size=snippets * (num_classes + 1), max_size=snippets * (num_classes + 1)))
    table = np.array(numbers, dtype=np.float32).reshape(snippets, -1)
    resized = draw(st.booleans())
    points = draw(st.integers(1, 90)) if resized else snippets * draw(st.integers(1, 6))
    sweep = st.builds(
        Sweep,
        thresholds=levels,
        class_term=st.just(np.linspace(0.1, 0.2, num_classes)),
        support=st.sampled_from(["activation", "common"]),
        activation_share=st.sampled_from([1.0, 0.7, 0.0]),
        common_share=st.sampled_from([0.0, 0.3, 1.0]),
        thresholded=st.booleans(),
    )
    lengths = st.lists(st.floats(0.5, 4), min_size=2, max_size=30)
    return Curves(
        classes=np.arange(num_classes),
        activation=table[:, 1:],
        common=table[:, 0],
        sweeps=draw(st.lists(sweep, min_size=1, max_size=3)),
        points=points,
        resize=resized,
        seconds_per_point=draw(st.sampled_from([0.64 / 24, 1.0, 1e6])),
        outer_width=draw(st.sampled_from([0.0, 0.15, 0.25, 1.0, 20.0, 200.0])),
        nms_threshold=1.0,  # suppression is compared by itself below: here it would turn on the last bit of a score
        nms_keeps_equal=True,
        shortest_run=draw(st.integers(1, 2)),
        first_point_counts=draw(st.booleans()),
        right_surroundings_less=draw(st.integers(0, 1)),
        shrink=draw(st.sampled_from([0.0, 0.02])),
        whole_video_score=draw(st.sampled_from([None, 0.6])),
        warp=draw(st.none() | lengths.map(lambda x: np.concatenate([[0.0], np.cumsum(x)]))),
    )


@given(any_curves())
def test_detections_are_those_of_plain_steps(curves):
    found = as_rows(localize(curves))
    expected = np.array(oracles.localize(curves), dtype=np.float64).reshape(-1, 4)
    assert found.shape == expected.shape

    def in_order_of_place(rows):
        return rows[np.lexsort((rows[:, 1].round(6), rows[:, 3].round(6), rows[:, 2].round(6), rows[:, 0]))]

    np.testing.assert_allclose(in_order_of_place(found), in_order_of_place(expected), rtol=1e-9, atol=1e-9)
    for number in curves.classes:
        assert (np.diff(found[found[:, 0] == number, 1]) <= 0).all()


@given(st.lists(values, min_size=2, max_size=30).map(lambda x: np.array(x, dtype=np.float32)), st.integers(1, 6))
def test_upsample_is_linear_interpolation(sequence, scale):
    np.testing.assert_array_equal(upsample(sequence, scale), oracles.upsample(sequence, scale))


segments = st.lists(st.tuples(st.integers(-5, 40), st.integers(-2, 10), st.integers(0, 5)), max_size=25)


@example([(0, 5, 0), (0, 10, 0)], 0.5, 0.0, True, 1e300)  # an overlap that rounds to the threshold or above it
@given(
    segments,
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    st.sampled_from([1, 1e300]),
)
def test_suppression_is_that_of_pairs(rows, threshold, pad, keeps_equal, unit):
    """Equal scores, empty and inverted segments, huge times."""
    spans = np.array([(start, start + length) for start, length, _ in rows], dtype=np.float64).reshape(-1, 2) * unit
    scores = np.array([score for _, _, score in rows], dtype=np.float64)
    kept = suppress(spans, np.argsort(scores, kind="stable")[::-1], threshold, pad, keeps_equal)
    assert kept.tolist() == oracles.suppress(spans.tolist(), scores.tolist(), threshold, pad, keeps_equal)


def test_thousands_of_runs_with_surroundings_wider_than_the_video():
    """The sums stay exact where a naive search would take the square of the time."""
    curve = np.random.default_rng(0).random(4000).astype(np.float32)[:, None]
    curves = Curves(np.array([0]), curve, [Sweep([0.3, 0.8], np.zeros(1))], 4000, 0.1, 200.0, 1.0, nms_keeps_equal=True)
    found, expected = as_rows(localize(curves)), np.array(oracles.localize(curves))
    assert len(found) > 1500
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-12)
    np.testing.assert_allclose(np.sort(found[:, 2]), np.sort(expected[:, 2]))


def test_min_max_leaves_negative_values_and_constant_curves_alone():
    sequence = np.array([[-1.0, -2.0, 1.0], [3.0, -1.0, 1.0], [1.0, -3.0, 1.0]], dtype=np.float32)
    expected = [[-1 / 3, -2, 0], [1, -1, 0], [1 / 3, -3, 0]]
    np.testing.assert_allclose(min_max(sequence), expected, rtol=1e-6)


def test_one_row_is_a_constant_curve():
    assert upsample(np.array([0.5], dtype=np.float32), 3).tolist() == [0.5, 0.5, 0.5]


@given(st.lists(any_curves(), min_size=1, max_size=40), st.booleans())
def test_videos_together_are_as_alone(videos, double):
    """Many to a thread and in several threads, of any size, rule and number of classes, of mixed precision."""
    videos = [replace(c, activation=c.activation.astype(float)) if i % 3 == 0 and double else c for i, c in enumerate(videos)]
    for found, curves in zip(localize_all(videos), videos, strict=True):
        np.testing.assert_array_equal(as_rows(found), as_rows(localize(curves)))


def test_no_video_has_no_detections():
    assert localize_all([]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": np.array([0, 1])}, "columns of activation"),
        ({"sweeps": [Sweep([0.5], np.zeros(2))]}, "columns of activation"),
        ({"sweeps": [Sweep([0.5], np.zeros(1), support="common")]}, r"needs Curves\.common"),
        ({"sweeps": [Sweep([0.5, 0.4], np.zeros(1))]}, "ascend"),
        ({"common": np.ones(3, np.float32)}, "2 snippets"),
        ({"points": 5}, "no multiple of 2 snippets"),
        ({"sweeps": []}, "at least one sweep"),
        ({"sweeps": [Sweep([np.nan], np.zeros(1))]}, "finite"),
        ({"outer_width": -1.0}, "out of range"),
        ({"outer_width": np.inf}, "out of range"),
        ({"points": 7.5, "resize": True}, "out of range"),
        ({"activation": np.ones((2, 1), np.uint8)}, "uint8"),
        ({"common": np.ones(2, np.float16)}, "float16"),
        ({"activation": np.ones((0, 1), np.float32)}, "no multiple of 0 snippets"),
    ],
)
def test_a_method_that_describes_its_curves_wrongly_is_told(change, message):
    curves = Curves(np.array([0]), np.ones((2, 1), np.float32), [Sweep([0.5], np.zeros(1))], 2, 1.0, 0.25, 0.5)
    assert len(localize(curves).scores) == 1
    with pytest.raises(ValueError, match=message):
        replace(curves, **change)


def test_of_equal_scores_the_later_proposal_goes_first():
    """Two runs of height 1 with the same surroundings, of different lengths, over one threshold."""
    activation = np.array([0, 1, 0, 0, 1, 0], dtype=np.float32)[:, None]
    curves = Curves(np.array([0]), activation, [Sweep([0.5], np.zeros(1))], 6, 1.0, 1.0, 0.5)
    assert as_rows(localize(curves)).tolist() == [[0, 1, 4, 5], [0, 1, 1, 2]]


@pytest.mark.parametrize("depth", [5.0, 5e7])
def test_what_lies_deep_below_zero_costs_no_precision(depth):
    """A class hardly above zero is divided by its maximum: its other values become huge."""
    curve = np.full(750, -depth)
    curve[100:110], curve[400:420] = np.linspace(0.3, 1, 10), np.linspace(1, 0.2, 20)
    curves = Curves(np.array([0]), curve[:, None], [Sweep([0.25, 0.5], np.zeros(1))], 750, 0.1, 0.25, 1.0)
    expected = [curve[100:110].mean(), curve[103:110].mean(), curve[400:418].mean(), curve[400:412].mean()]
    found = np.sort(as_rows(localize(curves))[:, 1])
    np.testing.assert_allclose(found, np.sort(expected), atol=0.05)
    flat = replace(curves, activation=np.maximum(curve, 0)[:, None])
    np.testing.assert_allclose(found, np.sort(as_rows(localize(flat))[:, 1]), atol=1e-8)


def test_an_exception_while_curves_are_described_stops_at_once():
    """What waits is not begun: of eight parts, the one under way is finished."""
    wavy = np.random.default_rng(0).random((40, 5), dtype=np.float32)
    curves = Curves(np.arange(5), wavy, [Sweep(np.linspace(0.1, 0.9, 30), np.zeros(5))], 40, 1.0, 0.25, 0.5)
    videos = [curves] * 8 * VIDEOS_AT_ONCE
    localize_all(videos[:1])  # compiles

    def described():
        yield from videos
        raise KeyboardInterrupt

    begun = time.monotonic()
    localize_all(videos, threads=1)
    whole, begun = time.monotonic() - begun, time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        localize_all(described(), threads=1)
    assert time.monotonic() - begun < whole / 2
