"""Bootstrap intervals: a draw is scored as a table in which videos occur as often as drawn."""

import dataclasses
import time

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from eval import detection_map
from eval.bootstrap import bootstrap
from eval.table import InputError, columns, read_ground_truth, read_predictions

TIOU = [0.3, 0.5, 0.7]
RULE = ("official", False)


def tables(seed: int, videos: int = 6, per_video: int = 8) -> tuple[dict, dict]:
    r = np.random.default_rng(seed)
    rows = videos * per_video
    truth = {"video": np.arange(videos).repeat(3).astype(str), "label": r.choice(["x", "y"], videos * 3)}
    truth |= {"start": r.integers(0, 60, videos * 3).astype(float)}
    truth |= {"end": truth["start"] + 10}
    found = {"video": np.arange(videos).repeat(per_video).astype(str), "label": r.choice(["x", "y"], rows)}
    found |= {"start": r.integers(0, 60, rows) + 0.0}
    found |= {"end": found["start"] + r.integers(6, 14, rows), "score": r.permutation(rows) / rows}
    return truth, found


def repeated(table: dict, draws: np.ndarray) -> dict:
    """The rows of each video as often as it was drawn, each time as another video."""
    parts = [(v, copy) for v, count in enumerate(draws) for copy in range(count)]
    rows = [np.flatnonzero(table["video"] == str(v)) for v, _ in parts]
    names = np.concatenate([[f"{v}/{copy}"] * len(own) for (v, copy), own in zip(parts, rows, strict=True)])
    return {name: column[np.concatenate(rows)] for name, column in table.items()} | {"video": names}


@pytest.mark.filterwarnings("ignore:.*labels that the ground truth lacks")
@given(st.integers(0, 1000))
def test_a_draw_is_scored_as_repeated_videos(seed):
    truth, found = tables(seed)
    result = bootstrap(columns(truth, "truth", False), [columns(found, "found", True)], TIOU, 3, seed)
    np.testing.assert_allclose(result.ap[0], detection_map(truth, found, TIOU).ap, atol=1e-12)
    for ap, draws in zip(result.resampled[0], np.random.default_rng(seed).multinomial(6, [1 / 6] * 6, 3), strict=True):
        score = detection_map(repeated(truth, draws), repeated(found, draws), TIOU)
        present = [result.labels.index(label) for label in score.labels]
        np.testing.assert_allclose(ap[present], score.ap, atol=1e-12)
        assert np.isnan(np.delete(ap, present, axis=0)).all()


def test_a_run_does_not_differ_from_itself():
    truth, found = tables(0)
    result = bootstrap(columns(truth, "truth", False), [columns(found, "found", True)] * 2, TIOU, 50)
    interval = result.difference(1)
    assert (interval.value, interval.low, interval.high, interval.above) == (0, 0, 0, 0.5)
    assert all(interval.low == interval.high == 0 for interval in result.class_differences(1))


def test_a_better_run_is_ahead_and_pairing_narrows_the_interval():
    truth, found = tables(1, 60, 12)
    r = np.random.default_rng(0)
    worse = found | {"score": found["score"] + 0.05 * r.standard_normal(len(found["score"]))}
    best = found | {"start": found["start"].copy(), "end": found["end"].copy()}
    for row in range(0, len(best["start"]), 3):
        own = np.flatnonzero(truth["video"] == best["video"][row])
        near = own[np.abs(truth["start"][own] - best["start"][row]).argmin()]
        best["start"][row], best["end"][row] = truth["start"][near], truth["end"][near]
    result = bootstrap(columns(truth, "truth", False), [columns(t, "found", True) for t in (found, worse, best)], 0.5, 300)
    ahead = result.difference(2)
    assert ahead.low > 0 and ahead.above == 1 and ahead.low <= ahead.value <= ahead.high
    near, alone = result.difference(1), result.score(0)
    assert near.high - near.low < (alone.high - alone.low) / 2


def test_unlisted_videos_are_false_positives():
    truth, found = tables(2)
    more = {name: np.append(column, value) for (name, column), value in zip(found.items(), ("u", "x", 0, 9, 2), strict=True)}
    result = bootstrap(columns(truth, "t", False), [columns(t, "f", True) for t in (found, more)], TIOU, 200)
    np.testing.assert_allclose(result.ap[1], detection_map(truth, more, TIOU).ap, atol=1e-12)
    assert result.difference(1).value < 0 and result.difference(1).high <= 0


def test_unlisted_videos_without_detections_change_nothing():
    truth, found = tables(2)
    table = columns(found, "f", True)
    more = dataclasses.replace(table, videos=[*table.videos, "u"])
    results = [bootstrap(columns(truth, "t", False), [each], TIOU, 20) for each in (table, more)]
    np.testing.assert_array_equal(results[0].resampled, results[1].resampled)


@pytest.mark.parametrize("rule", [("stable", False), ("official", True)])
def test_each_run_is_matched_by_its_rules(rule):
    truth = {"video": ["a"] * 2, "label": ["x"] * 2, "start": [0, 20], "end": [10, 30]}
    found = {
        "video": ["a"] * 12,
        "label": ["x"] * 12,
        "start": [0, *range(20, 31)],
        "end": [3, *range(30, 41)],
        "score": [1] * 12,
    }
    result = bootstrap(
        columns(truth, "t", False), [columns(found, "f", True)] * 2, np.linspace(0.1, 0.9, 9), 9, rules=[RULE, rule]
    )
    for ap, (ties, single) in zip(result.ap, (RULE, rule), strict=True):
        np.testing.assert_allclose(ap, detection_map(truth, found, np.linspace(0.1, 0.9, 9), ties=ties, single=single).ap)
    assert not np.allclose(result.ap[0], result.ap[1])


def test_bad_numbers():
    truth, found = tables(0)
    for wrong in ({"resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(InputError, match="expected"):
            bootstrap(columns(truth, "t", False), [columns(found, "f", True)], TIOU, **wrong)


def test_published_detections_take_seconds(thumos_gt):
    truth = read_ground_truth(thumos_gt, "test")
    found = read_predictions(SHARED / "data" / "detections" / "stpn_thumos14.json")
    tiou = np.linspace(0.1, 0.9, 9)
    bootstrap(truth, [found], tiou, 1)  # compiles
    begin = time.perf_counter()
    result = bootstrap(truth, [found, found], tiou)
    assert time.perf_counter() - begin < 10
    interval = result.score(0)
    assert interval.value == pytest.approx(0.21254975689792848, abs=1e-12)
    assert 0.18 < interval.low < 0.21 < interval.high < 0.26
