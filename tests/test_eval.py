"""The evaluator against official values and against average precision written out plainly."""

import json
import subprocess
import sys
import warnings

import numpy as np
import oracles
import pandas
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from eval import ANETdetection, detection_map
from eval.classification import classification_map, exact_accuracy, top1_accuracy
from eval.eval_detection import DetectionScore, averages
from eval.proposals import average_recall
from eval.table import UNLISTED, InputError, read_ground_truth, read_predictions

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


STPN = [0.5212233222133074, 0.441962684059604, 0.3469824460262201, 0.2606196507708144, 0.17704752986212224]
STPN += [0.10088601182071574, 0.04988367797492453, 0.013361105199285262, 0.0009813841543627705]


def test_published_detections_of_another_method(thumos_gt):
    """STPN's file gives the figures its authors print, and those of the official evaluator."""
    stpn = thumos_gt.parent.parent / "detections" / "stpn_thumos14.json"
    mean_ap, average = ANETdetection(thumos_gt, stpn, subset="test", tiou_thresholds=TIOU["0.1:0.9"]).evaluate()
    np.testing.assert_allclose([*mean_ap, average], [*STPN, 0.21254975689792848], atol=1e-12)
    stable = detection_map(thumos_gt, stpn, ties="stable").mAP
    assert 1e-4 < np.abs(stable - STPN).max() < 5e-4  # equal overlaps are common: THUMOS's times are tenths of a second


def test_the_fixture_of_another_evaluator(thumos_gt):
    folder = thumos_gt.parent.parent / "detections" / "mmaction2_fixture"
    database = json.loads((folder / "gt.json").read_text())
    database = {name.removeprefix("v_"): video for name, video in database.get("database", database).items()}
    score = detection_map({"database": database}, folder / "result.json", TIOU["0.5:0.95"], subset="validation")
    assert score.average_mAP == pytest.approx(0.6177579365079365, abs=1e-12)


def test_official_evaluators_of_the_other_methods(golden_evaluation, official_scores):
    np.testing.assert_allclose(official_scores["backtal"].ap.T, golden_evaluation["backtal/ap"], atol=1e-12)
    np.testing.assert_allclose(official_scores["backtal"].mAP, golden_evaluation["backtal/map"], atol=1e-12)
    for name in ("asm_loc/thumos", "asm_loc/anet"):
        score = official_scores[name]
        order = [score.labels.index(f"{c:.0f}") for c in golden_evaluation[f"{name}/class_order"]]
        np.testing.assert_allclose(score.ap[order].T, golden_evaluation[f"{name}/ap"], atol=1e-12)


times = st.integers(0, 12)
spans = st.tuples(times, st.integers(-1, 8))
labels = st.sampled_from("xy")
truths = st.lists(st.tuples(st.sampled_from("ab"), labels, spans), min_size=1, max_size=12)
names = st.sampled_from(["a", "v_a", "b", "c", "v_c", "v_d"])  # c and d are in no ground truth
detections = st.lists(st.tuples(names, labels, spans, st.integers(0, 4)), max_size=25)
COLUMNS = ["video", "label", "start", "end", "score"]
TENTHS = np.array([0.1, 0.5, 0.9])


@given(
    truths, detections, st.sampled_from([1.0, 0.1, 1e300]), st.sampled_from(["official", "stable"]), st.sampled_from(UNLISTED)
)
def test_ap_is_that_of_rows_in_data_frames(truth, found, unit, ties, unlisted):
    """Equal scores, equal overlaps, empty and inverted segments, huge times, unlisted videos, one detection, none."""
    truth = pandas.DataFrame([(v, c, s * unit, (s + n) * unit) for v, c, (s, n) in truth], columns=COLUMNS[:4])
    rows = [(v, c, s * unit, (s + n) * unit, float(q)) for v, c, (s, n), q in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = detection_map(truth, pandas.DataFrame(rows, columns=COLUMNS), TENTHS, ties=ties, unlisted=unlisted)
    known = [(video.removeprefix("v_"), *row) for video, *row in rows if row[0] in set(truth.label)]
    listed = [row for row in known if row[0] in set(truth.video)]
    assert sum(score.unmatched.labels.values()) == len(rows) - len(known)
    assert sum(score.unmatched.videos.values()) == len(known) - len(listed)
    assert len(score.unmatched.videos) == len({row[0] for row in known} - set(truth.video))
    counted = pandas.DataFrame(known if unlisted == "count" else listed, columns=COLUMNS)
    np.testing.assert_allclose(score.ap, oracles.detection_map_by_rows(truth, counted, TENTHS, ties), atol=1e-12)


def test_published_detections_with_those_of_made_up_videos(thumos_gt):
    """The toolkit, which the oracle restates, takes a detection in a video that it does not know for a false positive."""
    content = json.loads((thumos_gt.parent.parent / "detections" / "stpn_thumos14.json").read_text())
    truth = read_ground_truth(thumos_gt, "test")
    listed = [(v, row["label"], *row["segment"], row["score"]) for v, rows in content["results"].items() for row in rows]
    r = np.random.default_rng(0)
    scores, classes = r.choice([row[4] for row in listed], 400), r.choice(truth.labels, 400)
    made_up = [(f"made_up_{n % 5}", str(classes[n]), float(n), n + 5.0, scores[n]) for n in range(400)]
    frame = pandas.DataFrame([*made_up[:200], *listed, *made_up[200:]], columns=COLUMNS)
    score = detection_map(thumos_gt, frame, TENTHS)
    assert sum(score.unmatched.videos.values()) == 400 and len(score.unmatched.videos) == 5
    names = np.array(truth.videos)[truth.video], np.array(truth.labels)[truth.label]
    plain = pandas.DataFrame(dict(zip(COLUMNS, (*names, *truth.segments.T), strict=False)))
    np.testing.assert_allclose(score.ap, oracles.detection_map_by_rows(plain, frame, TENTHS), rtol=0, atol=1e-12)
    ignored = ANETdetection(thumos_gt, frame, unlisted="ignore").evaluate()[0]
    np.testing.assert_allclose(ignored, STPN, atol=1e-12)
    assert (score.mAP < ignored[::4]).all()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), spans), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from("abc"), spans), max_size=15),
    st.lists(st.integers(0, 3), min_size=15, max_size=15),
)
def test_stable_ties_are_those_of_the_plain_form(truths, found, scores):
    truth, flat = {}, [(v, float(s), float(s + abs(n)), scores[i]) for i, (v, (s, n)) in enumerate(found)]
    for video, (start, length) in truths:
        truth.setdefault(video, []).append((float(start), float(start + abs(length) + 1)))
    tiou = np.array([0.1, 0.5, 0.9])
    columns = {"video": [v for v, rows in truth.items() for _ in rows], "label": ["x"] * len(truths)}
    columns |= {name: [row[i] for rows in truth.values() for row in rows] for i, name in enumerate(("start", "end"))}
    table = dict(zip(("video", "start", "end", "score"), zip(*flat, strict=True), strict=True)) if flat else {}
    table = {name: list(table.get(name, [])) for name in ("video", "start", "end", "score")} | {"label": ["x"] * len(flat)}
    ap = detection_map(columns, table, tiou, ties="stable").ap[0]
    np.testing.assert_allclose(ap, [oracles.average_precision(truth, flat, t) for t in tiou], atol=1e-12)


def test_thousands_of_detections_in_one_video():
    r = np.random.default_rng(0)
    truth = pandas.DataFrame({"video": "a", "label": "x", "start": np.arange(60.0), "end": np.arange(60.0) + 3})
    start = r.integers(0, 60, 3000).astype(float)
    found = pandas.DataFrame({"video": "a", "label": "x", "start": start, "end": start + 3, "score": r.random(3000).round(2)})
    tiou = np.array([0.1, 0.5])
    expected = oracles.detection_map_by_rows(truth, found, tiou)
    np.testing.assert_allclose(detection_map(truth, found, tiou).ap, expected, atol=1e-12)


GROUND_TRUTH = {"database": {"a": {"subset": "test", "annotations": [{"segment": [0, 1], "label": "x"}]}}}
GOOD = {"label": "x", "score": 0.5, "segment": [0, 1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected ActivityNet's JSON"),
        ("{}", "expected ActivityNet's JSON"),
        ('{"results": []}', "not an object of lists"),
        ('{"results": {"a": {"label": "x"}}}', "not an object of lists"),
        ('{"results": {"a": [], "a": []}}', "more than once"),
        *((json.dumps({"results": {"a": [GOOD, GOOD | bad]}}), "detection 1 of video a") for bad in (
            {"segment": [0, "x"]}, {"segment": ["0", 1]}, {"segment": [0]}, {"segment": [0, 1, 2]}, {"segment": "01"},
            {"segment": None}, {"segment": [0, float("nan")]}, {"segment": [0, float("inf")]}, {"segment": [[0], [1]]},
            {"segment": [0, 10**400]},
            {"score": None}, {"score": float("nan")}, {"score": True}, {"score": "high"}, {"score": [1]}, {"label": 3},
            {"label": None},
        )),
        (
            json.dumps({"results": {"a": [GOOD, {"label": "x", "segment": [0, 1], "score300": 1}]}}),
            "detection 1 of video a has no 'score', only label, score300, segment. .*--score_key",
        ),
        (json.dumps({"results": {"a": [GOOD, 7]}}), "detection 1 of video a"),
    ],
)  # fmt: skip
def test_bad_detections_are_named(tmp_path, content, message):
    path = tmp_path / "detections.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        detection_map(GROUND_TRUTH, path)
    assert str(path) in str(caught.value)


def test_other_bad_input_is_named(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "latin.json"):
        if path.name == "latin.json":
            path.write_bytes(b'{"results": {"\xe9": []}}')
        with pytest.raises(InputError, match=path.name):
            detection_map(GROUND_TRUTH, path)
    frame = pandas.DataFrame({"video": ["a"], "label": ["x"], "start": [0.0], "end": [1.0], "score": [np.nan]})
    with pytest.raises(InputError, match="score of row 0 is not finite"):
        detection_map(GROUND_TRUTH, frame)
    with pytest.raises(InputError, match=r"no 'score'.*--score_key"):
        detection_map(GROUND_TRUTH, frame.drop(columns="score"))
    with pytest.raises(InputError, match="unlisted is 'drop'; expected one of count, ignore"):
        detection_map(GROUND_TRUTH, {"results": {}}, unlisted="drop")
    with pytest.raises(InputError, match="shape"):
        detection_map(np.zeros((2, 3)), frame)
    for bad in ({"segment": [0, "nan"], "label": "x"}, {"segment": [0, 1]}, 3):
        with pytest.raises(InputError, match="video a has the annotation"):
            detection_map({"database": {"a": {"subset": "test", "annotations": [bad]}}}, {"results": {}})
    with pytest.raises(InputError, match="stable"):
        detection_map(GROUND_TRUTH, {"results": {}}, ties="random")
    for tiou in ([], ["a"], [[0.5], [0.3, 0.2]], [np.nan], 10**400):
        with pytest.raises(InputError, match="tiou"):
            detection_map(GROUND_TRUTH, {"results": {}}, tiou=tiou)
    for rows in ([GOOD | {"score": [1]}], [GOOD | {"segment": [[0], [1]]}], [GOOD | {"segment": [[0, 1], [1, 2]]}]):
        with pytest.raises(InputError, match="detection 0 of video a"):
            detection_map(GROUND_TRUTH, {"results": {"a": rows}})
    columns = {"video": ["a"], "label": ["x"], "start": [0], "end": [1], "score": [1]}
    for bad in ({"end": [10**400]}, {"start": [[0]]}, {"start": 0}, {"end": [1, 2]}, {"score": [[1], [1, 2]]}):
        with pytest.raises(InputError, match=r"shapes|is not a number"):
            detection_map(GROUND_TRUTH, columns | bad)
    for bad in ([True, 5], ["1_0", 20], {"0": 1, "5": 2}, {1, 2}):
        with pytest.raises(InputError, match="video a has the annotation"):
            read_ground_truth({"database": {"a": {"annotations": [{"segment": bad, "label": "x"}]}}})


def test_the_subset_for_testing_is_found():
    def database(*subsets):
        return {"database": {s: {"subset": s, "annotations": [{"segment": [0, 1], "label": s}]} for s in subsets}}

    for subsets, expected in (
        (("train", "test"), "test"),
        (("Validation", "Test"), "Test"),
        (("training", "validation"), "validation"),
    ):
        assert detection_map(database(*subsets), {"results": {}}).labels == [expected]
    with pytest.raises(InputError, match="its subsets are dev, train; say which"):
        detection_map(database("train", "dev"), {"results": {}})


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (None, "none of its 2 videos of subset 'Test' has an annotation; annotated subsets are train; say which"),
        ("Test", "none of its 2 videos of subset 'Test' has an annotation; annotated subsets are train; say which"),
        ("dev", "no subset 'dev'; its subsets are Test, train; say which"),
        (3, "no subset 3; its subsets are Test, train; say which"),
    ],
)
def test_a_subset_without_annotations_is_told_from_one_that_is_not_there(subset, message):
    database = {"a": {"subset": "Test", "annotations": []}, "b": {"subset": "Test"}}
    database["c"] = GROUND_TRUTH["database"]["a"] | {"subset": "train"}
    with pytest.raises(InputError, match=message):
        detection_map({"database": database}, {"results": {}}, subset=subset)
    del database["c"]
    with pytest.raises(InputError, match="none of its 2 videos has an annotation"):
        detection_map({"database": database}, {"results": {}}, subset=subset)
    with pytest.raises(InputError, match="it contains no video"):
        detection_map({"database": {}}, {"results": {}}, subset=subset)


def test_importing_the_evaluator_does_not_import_torch():
    code = "import sys; from eval import detection_map; assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


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
    results = {"a": [GOOD | {"label": "Cooking"}, GOOD], "b": [GOOD | {"score": 1}, GOOD | {"label": "Cooking"}]}
    with pytest.warns(UserWarning, match=r"^2 detections have labels that the ground truth lacks \(Cooking\)") as caught:
        assert ANETdetection(GROUND_TRUTH, {"results": results}).evaluate()[1] == 0.5
    assert len(caught) == 1
    assert ANETdetection(GROUND_TRUTH, {"results": {}}).evaluate()[0].tolist() == [0.0] * 9


def test_unlisted_videos_are_told_without_a_warning():
    results = {"results": {"v_x": [GOOD | {"score": 1}], "x": [GOOD], "y": [], "z": [GOOD], "a": [GOOD]}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = {unlisted: detection_map(GROUND_TRUTH, results, unlisted=unlisted) for unlisted in ("count", "ignore")}
    assert {unlisted: score.average_mAP for unlisted, score in scores.items()} == {"count": 0.5, "ignore": 1}
    for unlisted, done in (("count", "They count as false positives"), ("ignore", "They are ignored")):
        assert scores[unlisted].unmatched.videos == {"v_x": 2, "z": 1}
        [note] = scores[unlisted].notes
        assert note.startswith("3 detections lie in 2 videos that the ground truth does not list (v_x, z). " + done)


def test_scores_may_go_by_another_name():
    """And `version` and `external_data` may be absent, as in every file here."""
    rows = [{"label": "x", "score300": score, "segment": [start, start + 1]} for score, start in ((0.2, 0), (0.1, 5))]
    for predictions in ({"results": {"a": rows}}, {"video": ["a", "a"], "label": ["x", "x"], "start": [0, 5], "end": [1, 6]}):
        if "video" in predictions:
            predictions["score300"] = [0.2, 0.1]
        assert detection_map(GROUND_TRUTH, predictions, score_key="score300").average_mAP == 1
        assert ANETdetection(GROUND_TRUTH, predictions, score_key="score300").evaluate()[1] == 1
    array = np.array([["a", "x", 0, 1, 0.5]], dtype=object)
    assert detection_map(GROUND_TRUTH, array, score_key="score300").average_mAP == 1  # columns by place


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
    assert top1_accuracy(score, label) == 1.0
    assert top1_accuracy(score[::-1], label) == pytest.approx(2 / 3)
    # class 0: ranked v0+, v1-, v2+ -> (1 + 2/3)/2; class 1: both first -> 1; class 2 never occurs
    assert classification_map(score, label) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def test_thresholds_may_come_in_any_order_and_one_alone():
    r = np.random.default_rng(0)
    start = r.random(200) * 50
    truth = {"video": ["a"] * 200, "label": ["x"] * 200, "start": start, "end": start + 2}
    found = {
        "video": ["a"] * 200,
        "label": ["x"] * 200,
        "start": start + r.random(200),
        "end": start + 2,
        "score": r.random(200),
    }
    tiou = np.array([0.7, 0.3, 0.5, 0.3])
    together = detection_map(truth, found, tiou).ap[0]
    assert together[1] == together[3] > together[2] > together[0]
    assert together.tolist() == [detection_map(truth, found, t).ap[0, 0] for t in tiou.tolist()]


def test_averages_go_by_their_range():
    score = DetectionScore(np.linspace(0.1, 0.9, 9), np.arange(9.0)[None], read_ground_truth(GROUND_TRUTH))
    assert score.averages == {"0.1:0.5": 2.0, "0.1:0.7": 3.0, "0.1:0.9": 4.0, "0.3:0.7": 4.0}
    assert averages(np.array([0.1, 0.3, 0.5]), np.ones(3)) == {}


def test_videos_go_by_their_names_with_and_without_v():
    results = {"v_a": [GOOD]}
    assert detection_map(GROUND_TRUTH, {"results": results}).average_mAP == 1
    assert average_recall(read_ground_truth(GROUND_TRUTH), read_predictions({"results": results})).at(1) == 1
    assert detection_map({"database": {"v_a": GROUND_TRUTH["database"]["a"]}}, {"results": {"a": [GOOD]}}).average_mAP == 1


def test_numbers_name_the_same_video_whatever_their_type():
    truth = pandas.DataFrame({"video": [1], "label": [2], "start": [0.0], "end": [1.0]})
    assert detection_map(truth, np.array([[1, 2, 0, 1, 0.5]])).average_mAP == 1


def test_columns_may_have_the_toolkits_names():
    truth = {"video-id": ["a"], "label": ["x"], "t-start": [0], "t-end": [1]}
    assert detection_map(truth, truth | {"score": [1]}).average_mAP == 1


def test_a_ground_truth_without_subsets_counts_whole():
    annotations = GROUND_TRUTH["database"]["a"]["annotations"]
    truth = {"database": {"a": {"annotations": annotations}, "b": {"annotations": annotations}}}
    assert detection_map(truth, {"results": {"a": [GOOD]}}).average_mAP == 0.5


def test_the_rule_for_ties_reaches_the_kernel():
    """Of two equal scores the official order takes the later first: it is the wrong one here."""
    results = {"results": {"a": [GOOD, GOOD | {"segment": [5, 6]}]}}
    assert ANETdetection(GROUND_TRUTH, results, tiou_thresholds=0.5, ties="stable").evaluate()[1] == 1
    assert ANETdetection(GROUND_TRUTH, results, tiou_thresholds=0.5).evaluate()[1] == 0.5
    with pytest.warns(UserWarning, match="blocked"):
        ANETdetection(GROUND_TRUTH, results, check_status=True)
