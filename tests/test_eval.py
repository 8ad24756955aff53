"""The evaluator against official values and against average precision written out plainly."""

import json

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.classification import classification_map, exact_accuracy
from eval.eval_detection import ANETdetection, detection_ap

TIOU = {"0.1:0.9": np.linspace(0.1, 0.9, 9), "0.1:0.7": np.linspace(0.1, 0.7, 7), "0.5:0.95": np.linspace(0.5, 0.95, 10)}


@pytest.mark.parametrize("name", TIOU)
def test_official_map(golden, thumos_gt, name):
    database = json.loads(thumos_gt.read_text())["database"]
    r = np.random.default_rng(5)
    results = {}
    for video, content in database.items():
        if content["subset"] != "test":
            continue
        rows = results.setdefault(video, [])
        for annotation in content["annotations"]:
            start, end = map(float, annotation["segment"])
            for _ in range(2):
                jitter = r.standard_normal(2) * 0.3 * (end - start)
                score = r.random()
                segment = [start + jitter[0], end + jitter[1]]
                if segment[1] <= segment[0]:
                    segment[1] = segment[0] + 0.1
                rows.append({"label": annotation["label"], "score": score, "segment": segment})
    mean_ap, average = ANETdetection(str(thumos_gt), {"results": results}, "test", TIOU[name]).evaluate()
    np.testing.assert_allclose([*mean_ap, average], golden[f"eval/{name}"], atol=1e-9)


def test_published_detections_of_another_method(thumos_gt):
    """STPN's file gives the figures its authors print, and those of the official evaluator."""
    stpn = thumos_gt.parent.parent / "detections" / "stpn_thumos14.json"
    mean_ap, average = ANETdetection(thumos_gt, stpn, subset="test", tiou_thresholds=TIOU["0.1:0.9"]).evaluate()
    expected = [0.5212233222133074, 0.441962684059604, 0.3469824460262201, 0.2606196507708144, 0.17704752986212224]
    expected += [0.10088601182071574, 0.04988367797492453, 0.013361105199285262, 0.0009813841543627705]
    # two ground truths of equal overlap go as numpy's unstable sort puts them, which differs between processors
    np.testing.assert_allclose(mean_ap[:4], expected[:4], atol=5e-4)
    np.testing.assert_allclose(mean_ap[4:], expected[4:], atol=1e-12)
    assert average == pytest.approx(0.21254975689792848, abs=2e-4)


times = st.integers(0, 30)
spans = st.tuples(st.sampled_from("ab"), times, st.integers(1, 8))


@given(st.lists(spans, min_size=1, max_size=8), st.lists(spans, max_size=15), st.permutations(range(15)))
def test_ap_is_that_of_the_plain_form(truths, found, ranks):
    truth, rows = {}, {}
    for video, start, length in truths:
        truth.setdefault(video, []).append((float(start), float(start + length)))
    flat = [(v, float(s), float(s + n), float(ranks[i])) for i, (v, s, n) in enumerate(found)]
    for video, *row in flat:
        rows.setdefault(video, []).append(tuple(row))
    tiou = np.array([0.1, 0.5, 0.9])
    ap = detection_ap({"x": truth}, {"x": rows}, tiou)["x"]
    np.testing.assert_allclose(ap, [oracles.average_precision(truth, flat, t) for t in tiou], atol=1e-12)


def test_every_class_and_video_of_the_subset_counts():
    database = {
        "a": {"subset": "test", "annotations": [{"segment": [0, 10], "label": "x"}, {"segment": [0, 10], "label": "y"}]},
        "b": {"subset": "test", "annotations": [{"segment": [5, 6], "label": "x"}]},
        "c": {"subset": "train", "annotations": [{"segment": [0, 1], "label": "z"}]},
    }
    rows = [{"label": "x", "score": 1.0, "segment": [0, 9]}]
    evaluator = ANETdetection({"database": database}, {"results": {"a": rows}}, "test", [0.5, 0.95])
    mean_ap, average = evaluator.evaluate()
    assert mean_ap.tolist() == [0.25, 0.0] and average == 0.125
    assert {label: ap.tolist() for label, ap in evaluator.ap.items()} == {"x": [0.5, 0], "y": [0, 0]}


def test_empty_equal_segments_count_as_a_hit():
    database = {"a": {"subset": "test", "annotations": [{"segment": [3, 3], "label": "x"}]}}
    results = {"a": [{"label": "x", "score": 1.0, "segment": [3, 3]}]}
    assert ANETdetection({"database": database}, {"results": results}).evaluate()[1] == 1.0


def test_unknown_labels_are_ignored_with_a_warning_and_no_prediction_scores_zero():
    database = {"a": {"subset": "test", "annotations": [{"segment": [0, 1], "label": "x"}]}}
    results = {"a": [{"label": "Cooking", "score": 1.0, "segment": [0, 1]}]}
    with pytest.warns(UserWarning, match="Cooking"):
        assert ANETdetection({"database": database}, {"results": results}).evaluate()[1] == 0
    assert ANETdetection({"database": database}, {"results": {}}).evaluate()[0].tolist() == [0.0] * 9


def test_verbose_prints_the_map_of_each_threshold(capsys):
    database = {"a": {"subset": "test", "annotations": [{"segment": [0, 1], "label": "x"}]}}
    ANETdetection({"database": database}, {"results": {}}, verbose=True).evaluate()
    assert "mAP@0.10: 0.0000" in capsys.readouterr().out
    with pytest.raises(ValueError, match="validation"):
        ANETdetection({"database": database}, {"results": {}}, subset="validation")


def test_video_classification():
    label = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.float32)
    score = np.array([[0.9, 0.1, 0.0], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1]])
    assert exact_accuracy(score > 0.25, label) == pytest.approx(2 / 3)
    # class 0: ranked v0+, v1-, v2+ -> (1 + 2/3)/2; class 1: both first -> 1; class 2 never occurs
    assert classification_map(score, label) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
