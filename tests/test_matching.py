"""The rule by which detections behind a network are compared refuses what no rounding explains."""

import numpy as np
import pytest
from matching import SCORE, SHARE, assert_match
from test_localize import as_rows

from localize import Curves, Sweep, localize

POINT = 0.1
TOLERANCE = 1e-5


def curves(arrays):
    """Two classes, each above one threshold in many runs, none of which suppresses another."""
    snippets, classes = arrays["cas"].shape
    sweeps = [Sweep([0.5], np.zeros(classes))]
    return Curves(np.arange(classes), arrays["cas"], sweeps, 4 * snippets, POINT, outer_width=0.25, nms_threshold=0.5)


def made_up(at_threshold=0):
    """Activations no nearer to 0.5 than 0.01, but for some peaks that reach it by less than the tolerance."""
    random = np.random.default_rng(0)
    cas = random.random((1200, 2))
    cas = np.where(cas > 0.5, cas / 2 + 0.51, cas * 0.9).astype(np.float32)
    for n in range(at_threshold):
        cas[20 * n : 20 * n + 3, 0] = 0.1, 0.500001, 0.1
    return {"cas": cas}


@pytest.fixture
def expected():
    return as_rows(localize(curves(made_up())))


def assert_refused(activations, expected, message):
    with pytest.raises(AssertionError, match=message):
        assert_match(curves, [activations], [expected], TOLERANCE)


def test_the_same_detections_match(expected):
    assert len(expected) > 2 / SHARE
    assert_match(curves, [made_up()], [expected], TOLERANCE)
    expected[:, 1] += 0.9 * SCORE
    assert_match(curves, [made_up()], [expected], TOLERANCE)


def test_a_wrong_class_is_refused(expected):
    last = np.flatnonzero(expected[:, 0] == 0)[-1]
    expected[last, 0] = 1
    assert_refused(made_up(), expected[np.lexsort((-expected[:, 1], expected[:, 0]))], "lies at no threshold")


@pytest.mark.parametrize("points", [1, 2, -2])
def test_a_displaced_end_is_refused_away_from_thresholds(expected, points):
    expected[7, 3] += points * POINT
    assert_refused(made_up(), expected, "lies at no threshold")


@pytest.mark.parametrize("change", [2 * SCORE, -2 * SCORE])
def test_another_score_is_refused(expected, change):
    last = np.flatnonzero(expected[:, 0] == 0)[-1 if change < 0 else 0]
    expected[last, 1] += change
    assert_refused(made_up(), expected, "lies at no threshold")


def test_another_order_is_refused(expected):
    expected[[0, 5]] = expected[[5, 0]]
    assert_refused(made_up(), expected, "by descending score")


def test_a_lost_or_an_added_detection_is_refused(expected):
    assert_refused(made_up(), expected[1:], "is not expected")
    assert_refused(made_up(), np.insert(expected, 0, [0, 1, 2, 3], axis=0), "is expected")


@pytest.mark.parametrize("size", [1, 30])
def test_few_differences_at_thresholds_match_and_many_do_not(size):
    """Peaks that reach the threshold here and miss it there."""
    here, there = made_up(size), made_up(size)
    there["cas"][there["cas"] == np.float32(0.500001)] = 0.499999
    for some, others in ((here, there), (there, here)):
        expected = as_rows(localize(curves(others)))
        assert len(expected) != len(localize(curves(some)).scores)
        if size == 1:
            assert_match(curves, [some], [expected], TOLERANCE)
        else:
            assert_refused(some, expected, r"3\d of \d+ detections have no match")
