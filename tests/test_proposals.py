"""Average recall at an average number of proposals: cases worked by hand, and the rule written out plainly."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.proposals import TIOU, average_recall
from eval.table import InputError, Table


def table(rows, videos=None):
    """A Table of (video, start, end[, score]) rows, all of one label."""
    names = videos or list(dict.fromkeys(row[0] for row in rows))
    return Table(
        names,
        ["any"],
        np.array([names.index(row[0]) for row in rows], dtype=np.int64),
        np.zeros(len(rows), dtype=np.int64),
        np.array([row[1:3] for row in rows], dtype=np.float64).reshape(-1, 2),
        np.array([row[3] for row in rows if len(row) > 3], dtype=np.float64),
    )


def test_one_video_by_hand():
    """The second best of four proposals covers 0.8 of the first truth, the last all of the second."""
    truth = table([("a", 0, 10), ("a", 20, 30)])
    found = table([("a", 20, 30, 0.1), ("a", 0, 8, 0.8), ("a", 50, 60, 0.9), ("a", 0, 6, 0.5)])
    score = average_recall(truth, found, most=4)
    assert score.numbers.shape == (100,) and score.recall.shape == (10, 100)
    assert np.allclose(score.numbers, np.arange(1, 101) * 0.04)
    expected = np.zeros((10, 100))
    expected[:7, 49:] += 0.5  # tIoU 0.5 to 0.8, from 50% on: 49% of four are one proposal
    expected[:, 99] += 0.5
    assert np.array_equal(score.recall, expected)
    average = [*[0] * 49, *[0.35] * 50, 0.85]
    assert np.allclose(score.average_recall, average)
    assert score.area == pytest.approx((0.35 / 2 + 49 * 0.35 + (0.35 + 0.85) / 2) * 0.04 / 4)
    assert [score.at(n) for n in (0, 1.96, 1.98, 2, 3, 4, 100)] == pytest.approx([0, 0, 0.175, 0.35, 0.35, 0.85, 0.85])


def test_a_better_proposal_recalls_only_what_was_not_recalled():
    """The first of two proposals covers 0.6 of the truth, the second 0.8."""
    score = average_recall(
        table([("a", 0, 10)]), table([("a", 0, 6, 0.9), ("a", 0, 8, 0.8)]), tiou=np.array([0.5, 0.7, 0.9]), most=2
    )
    assert np.array_equal(score.recall, [[*[0] * 49, *[1] * 51], [*[0] * 99, 1], [0] * 100])


def test_the_same_share_of_each_video():
    """At most 2 a video: of 2 and 6 proposals in two videos, half of each is kept, which leaves 2 on average."""
    truth = table([("a", 0, 1), ("b", 0, 1)])
    away = [(50 + n, 51 + n) for n in range(6)]
    found = [("a", *away[0], 0.9), ("a", 0, 1, 0.8)]
    found += (
        [("b", *away[n], 0.9 - n / 10) for n in range(2)] + [("b", 0, 1, 0.5)] + [("b", *away[n], 0.1) for n in range(3, 6)]
    )
    score = average_recall(truth, table(found), most=2)
    assert score.numbers[-1] == 2
    assert np.array_equal(score.recall[0], [*[0] * 99, 0.5])  # b's third is kept, a's second is not
    assert np.array_equal(average_recall(truth, table(found), most=4).recall[0], [*[0] * 49, *[0.5] * 50, 1])


def test_a_product_of_floats_does_not_cost_a_proposal():
    """49 * (1 / 49) is below 1 in floats, and so is 100 * (29 / 100) below 29."""
    truth = table([("a", 0, 1)])
    found = [("a", 0 if n == 28 else 50, 1 if n == 28 else 60, -float(n)) for n in range(100)]
    assert np.flatnonzero(average_recall(truth, table(found)).recall[0])[0] == 28
    found = table([("a", 0, 1, 49 - n) for n in range(49)])
    score = average_recall(truth, found, most=1)
    assert score.numbers[-1] == 1 and score.recall[0, -1] == 1


def test_videos_are_matched_by_name_and_others_ignored():
    """Videos without annotation count neither in V nor with their proposals, and the order of names is free."""
    truth = table([("b", 0, 1), ("a", 5, 6)], videos=["none", "a", "b"])
    inside = [("a", 5, 6, 0.2), ("b", 0, 1, 0.1)]
    alone = average_recall(truth, table(inside), most=1)
    crowded = average_recall(truth, table([("none", 0, 1, 0.9)] * 5 + inside + [("unknown", 0, 1, 0.9)] * 7), most=1)
    assert alone.numbers[-1] == crowded.numbers[-1] == 1 and alone.recall[0, -1] == 1
    assert np.array_equal(alone.recall, crowded.recall)


def test_of_equal_scores_the_earlier_goes_first():
    truth = table([("a", 0, 1)])
    rows = [("a", 0, 1, 0.5), ("a", 2, 3, 0.5)]
    assert average_recall(truth, table(rows), most=1).recall.all(axis=0)[-1]
    assert not average_recall(truth, table(rows[::-1]), most=1).recall.any()


@pytest.mark.parametrize("rows", [[], [("elsewhere", 0, 1, 0.5)]])
def test_nothing_found(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = average_recall(table([("a", 0, 1), ("a", 3, 3)]), table(rows))
        assert score.area == score.at(1) == score.at(0) == 0
    assert not score.recall.any()


def test_nothing_to_find():
    with pytest.raises(InputError, match="no annotation"):
        average_recall(table([], videos=["a"]), table([("a", 0, 1, 0.5)]))


def test_empty_segments_do_not_overlap():
    score = average_recall(table([("a", 3, 3)]), table([("a", 3, 3, 0.5), ("a", 4, 2, 0.4)]), tiou=np.array([0.01]))
    assert not score.recall.any()


def plain_recall(truth, found, tiou, most):
    """Recall at 1% to 100% of `most`, from lists of (video, start, end[, score])."""
    videos = sorted({row[0] for row in truth})
    proposals = {name: sorted((row for row in found if row[0] == name), key=lambda row: -row[3]) for name in videos}
    total = sum(len(rows) for rows in proposals.values())
    if total > most * len(videos):
        proposals = {name: rows[: len(rows) * most * len(videos) // total] for name, rows in proposals.items()}
    kept = sum(len(rows) for rows in proposals.values())
    numbers = [k / 100 * most for k in range(1, 101)]
    recall = []
    for threshold in tiou:
        recall.append([])
        for k in range(1, 101):
            best = {
                name: rows[: k * most * len(videos) * len(rows) // (100 * max(kept, 1))] for name, rows in proposals.items()
            }
            recalled = [any(plain_iou(row, other) >= threshold for other in best[row[0]]) for row in truth]
            recall[-1].append(sum(recalled) / len(truth))
    return numbers, recall


def plain_iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[1], b[1]))
    union = (a[2] - a[1]) + (b[2] - b[1]) - shared
    return shared / union if union else -1


times = st.integers(0, 6)
truths = st.lists(st.tuples(st.sampled_from("abc"), times, times), min_size=1, max_size=6)
detections = st.lists(st.tuples(st.sampled_from("abcd"), times, times, st.sampled_from([0.1, 0.5, 0.9])), max_size=25)


@given(truths, detections, st.integers(1, 9), st.permutations([0.2, 0.5, 0.6, 0.75, 1.0]))
def test_against_the_rule_written_out(truth, found, most, tiou):
    """Segments may be empty or inverted, scores equal and thresholds in any order."""
    score = average_recall(table(truth), table(found, videos=list("dcba")), np.array(tiou), most)
    numbers, recall = plain_recall(truth, found, tiou, most)
    assert np.allclose(score.numbers, numbers)
    assert np.array_equal(score.recall, recall)


@given(truths, detections, st.integers(1, 9))
def test_more_proposals_or_less_overlap_never_recall_less(truth, found, most):
    score = average_recall(table(truth), table(found), TIOU, most)
    assert (np.diff(score.recall, axis=1) >= 0).all() and (np.diff(score.recall, axis=0) <= 0).all()
    assert 0 <= score.area <= 1 and score.numbers[-1] <= most
    assert (np.diff([score.at(n) for n in np.linspace(0, most + 1, 50)]) >= -1e-12).all()
