"""The diagnosis: the kind of each detection, the gain from mending it, oracles, sensitivity."""

import csv
import io
import json
import time

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st

from eval import detection_map
from eval.diagnosis import diagnose, read_durations
from eval.kinds import HIT, KINDS, MISSED, STATES
from eval.mending import ladder
from eval.table import InputError, known, read_ground_truth, read_predictions

TRUTH = {"a": [("x", 10, 20), ("x", 30, 34), ("x", 36, 40), ("x", 70, 90), ("y", 50, 60)], "b": [("y", 0, 10)]}


def columns(rows: list[tuple]) -> dict[str, list]:
    names = ["video", "label", "start", "end", "score"]
    return {name: [row[place] for row in rows] for place, name in enumerate(names) if not rows or place < len(rows[0])}


def truth(content: dict[str, list]) -> dict[str, list]:
    return columns([(video, *row) for video, rows in content.items() for row in rows])


CASES = {  # name: detections of descending score, and the kind of each
    "exact": ([("a", "x", 10, 20)], ["true positive"]),
    "close enough": ([("a", "x", 12, 20)], ["true positive"]),
    "second detection of an instance": ([("a", "x", 11, 20), ("a", "x", 10, 20)], ["true positive", "duplicate"]),
    "starts early": ([("a", "x", -5, 20)], ["starts early"]),
    "starts late": ([("a", "x", 16, 20)], ["starts late"]),
    "ends early": ([("a", "x", 10, 13)], ["ends early"]),
    "ends late": ([("a", "x", 10, 31)], ["ends late"]),
    "both ends, the start by more": ([("a", "x", 0, 25)], ["starts early"]),
    "both ends, the end by more": ([("a", "x", 7, 30)], ["ends late"]),
    "a short piece": ([("a", "x", 10.2, 10.5)], ["ends early"]),
    "two pieces apart": ([("a", "x", 70, 73), ("a", "x", 80, 84)], ["fragment", "fragment"]),
    "two pieces that touch": ([("a", "x", 70, 73), ("a", "x", 73, 76)], ["fragment", "fragment"]),
    "two pieces, one in the other": ([("a", "x", 70, 73), ("a", "x", 71, 72)], ["ends early", "ends early"]),
    "over two instances": ([("a", "x", 29, 41)], ["merge"]),
    "over one of two": ([("a", "x", 26, 35)], ["starts early"]),
    "another class": ([("a", "y", 10, 20)], ["wrong class"]),
    "another class, badly": ([("a", "y", 18, 30)], ["wrong class"]),
    "own class before another": ([("a", "y", 45, 62), ("a", "x", 48, 60)], ["true positive", "wrong class"]),
    "nothing there": ([("a", "x", 100, 110)], ["background"]),
    "barely overlapping": ([("a", "x", 0, 11)], ["background"]),
    "a video without the class": ([("b", "x", 20, 30)], ["background"]),
    "another video's instance": ([("b", "x", 10, 20)], ["background"]),
    "an unlisted video": ([("c", "x", 10, 20)], ["background"]),
    "an unknown class": ([("a", "z", 10, 20), ("a", "x", 10, 20)], ["ignored", "true positive"]),
    "an empty segment": ([("a", "x", 15, 15)], ["background"]),
    "an inverted segment": ([("a", "x", 18, 12)], ["background"]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kind_of_a_detection(name):
    rows, kinds = CASES[name]
    found = columns([(*row, 1.0 - 0.1 * place) for place, row in enumerate(rows)])
    diagnosis = diagnose(found, truth(TRUTH))
    assert [KINDS[kind] for kind in diagnosis.kind] == kinds


def test_what_a_detection_concerns():
    found = [("a", "x", 8, 20, 0.9), ("a", "x", 29, 41, 0.8), ("a", "y", 10, 20, 0.7), ("b", "y", 20, 30, 0.6)]
    diagnosis = diagnose(columns(found), truth(TRUTH))
    assert diagnosis.instance.tolist() == [0, 1, 0, -1]
    assert diagnosis.overlap == pytest.approx([10 / 12, 4 / 12, 1, 0])
    assert diagnosis.errors_of(0) == (-2, 0)
    assert [STATES[state] for state in diagnosis.state] == ["true positive", "merge", "merge", "missed", "missed", "missed"]
    assert diagnosis.states["missed"] == 3 and diagnosis.kinds["wrong class"] == 1
    assert diagnosis.confusion.tolist() == [[2, 0, 0], [1, 0, 1]]


def test_gains_by_hand():
    """Two classes, one instance each; class x has a true positive below a false one, class y a detection that starts late."""
    annotations = truth({"a": [("x", 0, 10), ("y", 20, 30)]})
    found = columns([("a", "x", 50, 60, 0.9), ("a", "x", 0, 10, 0.8), ("a", "y", 26, 30, 0.7)])
    diagnosis = diagnose(found, annotations)
    assert diagnosis.mAP == 0.25
    gains = {name: gain for name, gain in diagnosis.gains.items() if gain}
    assert gains == {
        "background": 0.25,
        "starts late": 0.5,
        "boundaries": 0.5,
        "localization": 0.5,
        "all detections": 0.75,
        "everything": 0.75,
    }
    assert [step.together for step in diagnosis.ladder] == [0.25, 0.25, 0.75, 1.0]
    assert [step.alone for step in diagnosis.ladder] == [0.25, 0.25, 0.75, 0.5]
    assert [(report.name, report.gain) for report in diagnosis.videos] == [("a", 0.75)]


def test_an_oracle_of_thresholds_begins_the_ladder():
    instances = read_ground_truth(truth({"a": [("x", 0, 10), ("x", 20, 30)]}))
    rows = [("a", "x", 0, 10, 0.9), ("a", "x", 26, 30, 0.8)]
    found, tuned = (known(read_predictions(columns(rows[:count])), instances, "count")[0] for count in (1, 2))
    steps = ladder(instances, found, 0.5, "official", tuned)
    assert [step.name for step in steps][:2] == ["as found", "best thresholds of each video"]
    assert [step.alone for step in steps] == [0.5] * 5 and [step.together for step in steps] == [0.5, 0.5, 0.5, 1.0, 1.0]


def test_a_wrong_class_is_found_once_it_is_right():
    annotations = truth({"a": [("x", 0, 10)], "b": [("y", 0, 10)]})
    diagnosis = diagnose(columns([("a", "y", 0, 10, 0.9), ("b", "y", 0, 10, 0.8)]), annotations)
    assert diagnosis.mAP == 0.25 and diagnosis.gains["wrong class"] == 0.75
    assert [STATES[state] for state in diagnosis.state] == ["wrong class", "true positive"]
    assert diagnosis.ladder[1].alone == 0.5  # the class of the video is known, and the detection gone


times = st.integers(0, 12)
spans = st.tuples(times, st.integers(-1, 8))
labels = st.sampled_from("xy")
truths = st.lists(st.tuples(st.sampled_from("ab"), labels, spans), min_size=1, max_size=12)
detections = st.lists(st.tuples(st.sampled_from("abcv"), st.sampled_from("xyz"), spans, st.integers(0, 4)), max_size=25)


@given(truths, detections, st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.sampled_from(["official", "stable"]))
def test_properties(instances, rows, tiou, ties):
    annotations = columns([(video, label, s, s + n) for video, label, (s, n) in instances])
    found = columns([(video, label, float(s), float(s + n), float(q)) for video, label, (s, n), q in rows])
    if not rows:
        found = {name: [] for name in ("video", "label", "start", "end", "score")}
    diagnosis = diagnose(found, annotations, tiou, ties=ties)
    classes = set(annotations["label"])
    # the kinds partition the detections, and the AP is that of scoring
    assert sum(diagnosis.kinds.values()) == len(rows)
    assert diagnosis.kinds["ignored"] == sum(label not in classes for _, label, *_ in rows)
    usable = {
        name: [v for v, label in zip(column, found["label"], strict=True) if label in classes] for name, column in found.items()
    }
    np.testing.assert_allclose(diagnosis.ap, detection_map(annotations, usable, tiou, ties=ties).ap[:, 0], atol=1e-12)
    # a true positive takes an instance of its own
    hits = diagnosis.kind == HIT
    assert len(set(diagnosis.instance[hits])) == hits.sum() == (diagnosis.state == HIT).sum()
    assert (diagnosis.overlap[hits] >= tiou).all()
    # mending everything gives 100 %, no mending costs anything, and more mending gains at least as much
    assert diagnosis.mAP + diagnosis.gains["everything"] == pytest.approx(1)
    assert min(diagnosis.gains.values()) >= -1e-12 and all(report.gain >= -1e-12 for report in diagnosis.videos)
    assert diagnosis.gains["boundaries"] <= diagnosis.gains["localization"] + 1e-12
    assert diagnosis.gains["localization"] <= diagnosis.gains["all detections"] + 1e-12
    # what each class reports adds up
    for report, ap in zip(diagnosis.classes, diagnosis.ap, strict=True):
        assert sum(np.diff([0, *report.recall]) * report.precision) == pytest.approx(ap)
        assert sum(report.kinds.values()) == report.detections
    assert diagnosis.confusion.sum() == len(usable["video"])
    # every instance counts in one part of each property that is known
    for name, parts in diagnosis.sensitivity.items():
        assert sum(part.instances for part in parts) == (0 if name.startswith("coverage") else len(instances))
        hits = sum(part.instances * part.recall for part in parts)
        assert not parts or hits == pytest.approx((diagnosis.state == HIT).sum())
    if len(videos := {video for video, *_ in instances}) == 1 and not {video for video, *_ in rows} - videos:
        assert diagnosis.videos[0].gain == pytest.approx(diagnosis.gains["everything"])
    json.loads(diagnosis.json())
    assert len(list(csv.reader(io.StringIO(diagnosis.detections_csv())))) == len(rows) + 1


def test_the_order_of_detections_changes_nothing():
    r = np.random.default_rng(0)
    rows = [
        ("ab"[r.integers(2)], "xy"[r.integers(2)], start, start + 1 + r.random() * 20, score)
        for score in r.permutation(60) / 60
        for start in [r.random() * 80]
    ]
    one = diagnose(columns(rows), truth(TRUTH))
    turned = diagnose(columns(rows[::-1]), truth(TRUTH))
    assert one.kind.tolist() == turned.kind.tolist()[::-1]
    assert one.gains == turned.gains and one.ladder == turned.ladder


def test_sensitivity_to_coverage():
    content = {
        "database": {
            f"v{number}": {
                "subset": "test",
                "duration": 100 if number else None,
                "annotations": [{"label": "x", "segment": [0, 10 * (number + 1)]}],
            }
            for number in range(6)
        }
    }
    assert read_durations(content) == {f"v{number}": 100 for number in range(1, 6)}
    found = columns([("v5", "x", 0, 60, 1.0)])
    parts = diagnose(found, content).sensitivity["coverage of the video"]
    assert [(part.low, part.high, part.recall) for part in parts][-1] == (0.5, 0.6, 1)
    assert sum(part.instances for part in parts) == 5 and parts[0].recall == 0
    assert parts[-1].mAP == 1  # normalized: its class is found completely, with no false positive


def test_names_that_a_spreadsheet_would_compute():
    annotations = truth({'=cmd|"\n': [("+x", 0, 10)]})
    diagnosis = diagnose(columns([('=cmd|"\n', "+x", 0, 10, 1.0)]), annotations)
    for text in (diagnosis.detections_csv(), diagnosis.instances_csv()):
        assert list(csv.reader(io.StringIO(text)))[1][:2] == ["'=cmd|\"\n", "'+x"]


@pytest.mark.parametrize("tiou", [0, -1, 1.1, "x", float("nan")])
def test_bad_thresholds(tiou):
    with pytest.raises(InputError, match="tiou is"):
        diagnose(columns([("a", "x", 0, 1, 1.0)]), truth(TRUTH), tiou)


def test_published_detections(thumos_gt):
    """STPN's detections: the mAP that its authors print, in seconds; merges cost most, as its actions are short and many."""
    path = SHARED / "data" / "detections" / "stpn_thumos14.json"
    annotations = read_ground_truth(thumos_gt, "test")
    diagnose(path, annotations)  # compiles
    begin = time.perf_counter()
    diagnosis = diagnose(path, annotations)
    assert time.perf_counter() - begin < 5
    assert diagnosis.mAP == pytest.approx(0.17704752986212224, abs=1e-12)
    assert sum(diagnosis.kinds.values()) == 9151 and len(diagnosis.videos) == 210
    assert diagnosis.mAP + diagnosis.gains["everything"] == pytest.approx(1, abs=1e-12)
    assert max(KINDS[1:-1], key=diagnosis.gains.__getitem__) == "merge"
    assert diagnosis.ladder[-1].together == pytest.approx(0.7715, abs=5e-5)
    parts = diagnosis.sensitivity["length in seconds"]
    assert parts[0].recall < 0.1 < 0.6 < parts[-1].recall
    assert (diagnosis.state == MISSED).sum() == 284
