"""The report's JavaScript localizes as localize.py does, and judges detections as eval/kinds.py does."""

import numpy as np
import pytest
from in_node import in_node
from random_curves import as_json, random_curves

from eval.diagnosis import diagnose
from eval.kinds import KINDS, STATES
from localize import localize
from methods.base import METHODS
from options import make_config, parse_args
from test import without_memory
from tools.report.network import classes_kept, localizable, without_choice

VIDEOS = 200
AS_ARRAYS = """given.map((video) => {
  const kind = video.single ? Float32Array : Float64Array;
  const activation = video.activation.map((column) => kind.from(column));
  return localize({...video, activation, common: video.common && kind.from(video.common)});
})"""


@pytest.fixture(scope="module")
def videos():
    random = np.random.default_rng(0)
    return [random_curves(random) for _ in range(VIDEOS)]


def assert_same(videos, answers):
    total = 0
    for curves, answer in zip(videos, answers, strict=True):
        expected = localize(curves)
        assert answer["classes"] == expected.classes.tolist()
        np.testing.assert_allclose(answer["scores"], expected.scores, rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.reshape(answer["segments"], (-1, 2)), expected.segments, rtol=0, atol=1e-9)
        total += len(expected.classes)
    assert total > 1000


def test_javascript_finds_what_python_finds(videos, tmp_path):
    assert_same(videos, in_node(["localize.js"], [as_json(curves) for curves in videos], AS_ARRAYS, tmp_path))


FLAGS = [[], ["--class_th", "0.45"], ["--compat", "official"], ["--outer", "0.6", "--nms_th", "0.4", "--class_weight", "0.7"]]


def random_arrays(method, random, kind):
    """Activations of one video as `method` would compute them, except for their values."""
    snippets = int(random.integers(2, 60))
    shapes = {
        name: [snippets if size is None else size for size in shape] for name, shape in method.activation_shapes().items()
    }
    arrays = {name: random.random(shape).astype(np.float32) for name, shape in shapes.items()}
    if kind == "none":
        arrays["score"] *= 0.01
    elif kind == "first":
        arrays["score"] *= 0.01
        arrays["score"][0] = 0.9
    elif kind == "equal":  # one class above the threshold, one at it
        arrays["score"] *= 0.01
        arrays["score"][[3, 5]] = 0.9, np.float32(method.config.class_th)
    return arrays | {"num_seg": np.array(snippets)}


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("name", list(METHODS))
def test_stored_videos_give_the_detections_of_the_run(name, flags, tmp_path):
    """The page stores classes, curves and class terms; with the run's settings they give what the run found."""
    random = np.random.default_rng(1)
    config = make_config(parse_args(["--method", name, "--hidden", "8", "--len_feature", "4", *flags]))
    method, live, page = without_memory(config), without_choice(config), np.arange(config.num_classes)
    stored, expected = [], []
    for number in range(12):
        arrays = random_arrays(method, random, ("none", "first", "equal", "many")[number % 4])
        kept = classes_kept(method, arrays, np.zeros(config.num_classes))
        stored.append(localizable(live, method, arrays, kept, page))
        expected.append(localize(method.curves(arrays)))
    video = {
        "truth": [],
        "runs": [{"found": {"label": {"u2": ""}, "segments": {"f8": ""}, "score": {"f8": ""}}, "drawn": None}],
    }
    given = [video | {"runs": [video["runs"][0] | {"localize": each}]} for each in stored]
    again = "((rule) => relocalize(rule, usualSettings(rule)))(prepared(video, [{}]).runs[0].rule)"
    answers = in_node(["localize.js", "live.js"], given, f"given.map((video) => {again})", tmp_path)
    for answer, found in zip(answers, expected, strict=True):
        order = sorted(answer, key=lambda one: one["label"])
        assert [one["label"] for one in order] == found.classes.tolist()
        np.testing.assert_allclose([one["score"] for one in order], found.scores, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            np.reshape([[one["start"], one["end"]] for one in order], (-1, 2)), found.segments, rtol=0, atol=1e-9
        )


@pytest.mark.parametrize(
    "change", [{"class_th": 0.3}, {"class_weight": 0.9}, {"outer": 0.7}, {"nms_th": 0.35}, {"cas_th": "0.1,0.2,0.3"}]
)
def test_moved_sliders_give_what_a_run_with_these_settings_finds(change, tmp_path):
    random = np.random.default_rng(2)
    flags = ["--cas_th", "0.05,0.15,0.25", "--hidden", "8", "--len_feature", "4"]
    config = make_config(parse_args(flags))
    method, live, page = without_memory(config), without_choice(config), np.arange(config.num_classes)
    changed = without_memory(make_config(parse_args([*flags, *(f"--{flag}={value}" for flag, value in change.items())])))
    arrays = random_arrays(method, random, "many")
    kept = classes_kept(method, arrays, np.ones(config.num_classes))
    moved = {{"outer": "outer_width", "nms_th": "nms_threshold"}.get(name, name): value for name, value in change.items()}
    if "cas_th" in change:
        moved = {"thresholds": [[0.1, 0.3]]}
    given = {"rule": localizable(live, method, arrays, kept, page), "moved": moved}
    expression = """((rule) => relocalize(rule, {...usualSettings(rule), ...given.moved}))(prepared({truth: [], runs: [
      {found: {label: {u2: ""}, segments: {f8: ""}, score: {f8: ""}}, drawn: null, localize: given.rule},
    ]}, [{}]).runs[0].rule)"""
    answer = in_node(["localize.js", "live.js"], given, expression, tmp_path)
    expected = localize(changed.curves(arrays))
    assert len(expected.scores) and [one["label"] for one in answer] == expected.classes.tolist()
    np.testing.assert_allclose(
        [one["score"] for one in answer], expected.scores, rtol=0, atol=1e-6
    )  # weights in single precision
    np.testing.assert_allclose([[one["start"], one["end"]] for one in answer], expected.segments, rtol=0, atol=1e-9)


def random_segments(random, count, labels, scored):
    start = np.round(random.uniform(0, 40, count), 1)
    rows = {"start": start, "end": start + np.round(random.exponential(4, count), 1), "label": random.choice(labels, count)}
    return rows | {"video": np.full(count, "v")} | ({"score": random.permutation(count) / max(1, count)} if scored else {})


def random_video(random):
    truth = random_segments(random, int(random.integers(1, 12)), ["0", "1", "2"], False)
    return random_segments(random, int(random.integers(0, 40)), np.unique(truth["label"]), True), truth


def between_two():
    """A detection that overlaps two instances equally, and one that overlaps the first."""
    truth = {"start": [0.0, 4.0], "end": [4.0, 8.0], "label": ["0", "0"], "video": ["v", "v"]}
    found = {"start": [2.0, 0.0], "end": [6.0, 4.0], "label": ["0", "0"], "video": ["v", "v"], "score": [0.9, 0.8]}
    return tuple({name: np.array(column) for name, column in rows.items()} for rows in (found, truth))


def as_rows(columns):
    names = [name for name in ("label", "start", "end", "score") if name in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*(columns[name].tolist() for name in names), strict=True)]


@pytest.mark.parametrize("tiou", [0.05, 0.3, 0.5, 0.8])
def test_javascript_judges_as_python_does(tiou, tmp_path):
    random = np.random.default_rng(int(tiou * 100))
    videos = [random_video(random) for _ in range(60)] + [between_two()]
    given = [[as_rows(found), as_rows(truth)] for found, truth in videos]
    answers = in_node(["judge.js"], given, f"given.map(([found, truth]) => judge(found, truth, {tiou}))", tmp_path)
    kinds = set()
    for (found, truth), answer in zip(videos, answers, strict=True):
        expected = diagnose(found, truth, tiou, ties="stable")
        assert [judged["kind"] for judged in answer["detections"]] == [KINDS[kind] for kind in expected.kind]
        assert [judged["instance"] for judged in answer["detections"]] == expected.instance.tolist()
        np.testing.assert_allclose([judged["overlap"] for judged in answer["detections"]], expected.overlap, atol=1e-12)
        assert answer["states"] == [STATES[state] for state in expected.state]
        kinds |= {judged["kind"] for judged in answer["detections"]}
    assert len(kinds) >= 8
