"""The localization core against the official code's detections and against the plain versions of its steps."""

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import make_config
from localize import localize, min_max, propose, suppress, upsample
from methods import build_method
from options import parse_args

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
    rows = np.arange(750)[:, None]
    blocks = np.repeat(r.standard_normal((94, 21)), 8, axis=0)[:750] * 2.0 + 0.5 * r.standard_normal((750, 21))
    cas = blocks
    if kind == "smooth":
        cas = np.sin(rows / r.uniform(5, 40, (1, 21)) + r.uniform(0, 6, (1, 21))) * 3 + 0.3 * r.standard_normal((750, 21))
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
    """What BaS-Net at its published settings makes of activations; weights play no part."""
    method = build_method(make_config(parse_args(["--hidden", "8", "--len_feature", "2", *flags])))
    found = localize(method.curves(arrays, num_seg))
    return np.column_stack([found.classes, found.scores, found.segments])


@pytest.mark.parametrize("seed", CASES)
def test_official_detections(golden, seed):
    arrays, num_seg = golden_activations(seed)
    if f"post/case{seed}/input_check" in golden:
        sums = [arrays["cas"].astype(np.float64).sum(), arrays["score"].astype(np.float64).sum()]
        np.testing.assert_allclose(sums, golden[f"post/case{seed}/input_check"], rtol=1e-6)
    found = detections(arrays, num_seg)
    if f"post/case{seed}/det" not in golden:  # nothing officially: B1, B2, or the crash B5
        assert len(found) == 0
        return
    expected = golden[f"post/case{seed}/det"]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], atol=1e-9)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=1e-6)


curves = st.lists(st.floats(-1, 1).map(np.float32), min_size=2, max_size=30).map(lambda x: np.array(x, dtype=np.float32))


@given(curves, st.integers(1, 6))
def test_upsample_is_linear_interpolation(values, scale):
    np.testing.assert_allclose(upsample(values[:, None], scale)[:, 0], oracles.upsample(values, scale), atol=1e-6)


@given(curves, st.sampled_from([0.0, 0.15, 0.25, 1.0, 20.0]))
def test_proposals_are_those_of_plain_slices(values, outer_width):
    curve = values.astype(np.float64)
    thresholds = [0.0, 0.1, 0.5]
    scores, first, last = propose(curve, thresholds, outer_width)
    expected = oracles.propose(curve.tolist(), thresholds, outer_width)
    assert list(zip(first, last, strict=True)) == [(a, b) for _, a, b in expected]
    np.testing.assert_allclose(scores, [s for s, _, _ in expected], atol=1e-9)


segments = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10), st.integers(0, 5)), max_size=25)


@given(segments, st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([0.0, 1.0]))
def test_suppression_is_that_of_pairs(rows, threshold, pad):
    spans = np.array([(start, start + length) for start, length, _ in rows], dtype=np.float64).reshape(-1, 2)
    scores = np.array([score for _, _, score in rows], dtype=np.float64)
    assert suppress(spans, scores, threshold, pad).tolist() == oracles.suppress(spans.tolist(), scores.tolist(), threshold, pad)


def test_min_max_leaves_negative_values_and_constant_curves_alone():
    sequence = np.array([[-1.0, -2.0, 1.0], [3.0, -1.0, 1.0], [1.0, -3.0, 1.0]], dtype=np.float32)
    expected = [[-1 / 3, -2, 0], [1, -1, 0], [1 / 3, -3, 0]]
    np.testing.assert_allclose(min_max(sequence), expected, rtol=1e-6)


def test_one_row_is_a_constant_curve():
    assert upsample(np.array([[0.5]], dtype=np.float32), 3).tolist() == [[0.5], [0.5], [0.5]]
