"""tools.lab: settings are localized and scored as main_eval.py does, the grid, the parts, the files."""

import csv
import dataclasses
import json
import re
import shlex

import numpy as np
import pytest
from conftest import run_here

from engine.search import Part, Search, settings_read, video_scores
from eval import detection_map
from eval.table import columns, read_predictions
from methods.base import METHODS
from options import make_config, parse_args
from test import as_table, detect, without_memory


def made_up(method: str) -> tuple:
    """A config of a method, and activations of some videos."""
    config = make_config(
        parse_args([f"--method={method}", "--len_feature=2", "--hidden=8", "--num_segments=40"]), training=False
    )
    r = np.random.default_rng(0)
    activations = {}
    for number in range(20):
        shapes = without_memory(config).activation_shapes()
        arrays = {name: r.random([40 if n is None else n for n in shape]).astype(np.float32) for name, shape in shapes.items()}
        activations[f"v{number}"] = arrays | {"num_seg": np.array(50 + number)}
    return config, activations


def same(table, other) -> bool:
    names = ("video", "label", "segments", "scores")
    return all(np.array_equal(getattr(table, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("method", METHODS)
def test_shared_proposals_give_the_detections_of_a_run(method):
    config, activations = made_up(method)
    settings = [{"outer": 0.5, "nms_th": value} for value in (0.0, 0.3, 0.45, 0.7, 1.0)]
    search = Search(config, activations, {})
    for setting, table in zip(settings, search.detections(settings), strict=True):
        alone = without_memory(dataclasses.replace(config, **setting))
        assert same(table, as_table(detect(alone, activations), config.classes)), setting
    assert len(table) > 200


@pytest.mark.parametrize(
    ("method", "own"), [("basnet", "whole_video"), ("um", "mag_th"), ("asm_loc", "att_th"), ("cola", "aness_th")]
)
def test_the_settings_that_localization_reads(method, own):
    config, activations = made_up(method)
    read = settings_read(config, activations["v0"])
    assert {"nms_th", "outer", "cas_th", "class_th", own} <= read
    assert not {"hidden", "lr", "alpha", "batch_size", "dropout"} & read


def test_the_scores_of_each_video_alone():
    truth = {"video": ["a", "a", "b"], "label": ["x", "y", "x"], "start": [0, 20, 0], "end": [10, 30, 10]}
    rows = [("a", "x", 0, 10, 0.5), ("a", "y", 50, 60, 0.9), ("a", "y", 20, 30, 0.8), ("b", "y", 0, 10, 0.7)]
    found = columns(
        dict(zip(("video", "label", "start", "end", "score"), map(list, zip(*rows, strict=True)), strict=True)), "", True
    )
    np.testing.assert_allclose(video_scores(columns(truth, "", False), found, np.array([0.5])), [0.75, 0])


@pytest.fixture
def lab(cli, tiny, tmp_path):
    """Run tools.lab on activations of a network that is not trained."""
    cli("main.py", "--lr=0.01", "--num_iters=1", "--seed=0")
    model = f"--model_file={tmp_path}/model/BaS_Net_model_seed_0.pkl"
    saved, training = tmp_path / "test.npz", tmp_path / "train.npz"
    cli("main_eval.py", model, f"--save_activations={saved}", f"--save_train_activations={training}", "--class_th=0.05")
    assert sorted({key.partition("/")[0] for key in np.load(training).files}) == [f"video_train_{n}" for n in range(5)]

    def run(*flags: str, expect: int = 0):
        done = cli("tools.lab", str(saved), "--class_th=0.05", *flags, expect=expect)
        return done.stdout if expect == 0 else done.stderr

    return run


def test_the_laboratory(lab, cli, tmp_path):
    out = lab("--grid", "nms_th=0.2:0.8:0.3", "class_th=0.01,0.05", "outer=0.25")
    with open(tmp_path / "output" / "settings.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [len(rows), rows[0].keys() >= {"nms_th", "class_th", "choose", "test mAP@0.5"}] == [6, True]
    assert sorted({row["nms_th"] for row in rows}) == ["0.2", "0.5", "0.8"]
    assert (tmp_path / "output" / "settings.png").read_bytes().startswith(b"\x89PNG")
    assert "no estimate for others" in out
    # the command that it prints gives the mAP of its first row
    line = shlex.split(next(line for line in out.splitlines() if line.startswith("python main_eval.py")))
    assert run_here([*line[1:], f"--output_path={tmp_path}/again"]).returncode == 0
    record = json.loads((tmp_path / "again" / "evaluation.json").read_text())["record"]
    assert record["average_mAP"] == pytest.approx(float(rows[0]["test"]), abs=1e-12)
    # a second run moves the files of the first aside
    lab("--grid", "nms_th=0.5")
    assert (tmp_path / "output" / "earlier_runs" / "1" / "settings.csv").exists()


def test_choosing_on_other_videos(lab, tmp_path):
    out = lab("--grid", "nms_th=0.2,0.8", "--select=split:0.5", "--seed=1", "--per_video")
    assert "below the best choice on the tested videos" in out and "an oracle" in out
    out = lab("--grid", "nms_th=0.2,0.8", "--select=train", f"--train_activations={tmp_path}/train.npz")
    assert "chosen on the training videos" in out
    assert "also has video_test_0" in lab(
        "--grid", "nms_th=0.2", "--select=train", f"--train_activations={tmp_path}/test.npz", expect=2
    )


def test_random_settings_are_different_and_repeatable(lab, tmp_path):
    def settings() -> list:
        with open(tmp_path / "output" / "settings.csv", newline="") as stream:
            return sorted((row["nms_th"], row["cas_th"]) for row in csv.DictReader(stream))

    flags = ("--grid", "nms_th=0.2:0.8", "cas_th=0:0.25:0.025", "cas_th=0.1,0.2", "--random=7", "--seed=5")
    lab(*flags)
    first = settings()
    lab(*flags)
    assert first == settings() and len(set(first)) == 7
    assert {cas for _, cas in first} == {"0:0.25:0.025", "0.1,0.2"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--grid", "nmsth=0.2"], "Did you mean nms_th"),
        (["--grid", "hidden=8"], "reads no such setting"),
        (["--grid", "nms_th=0.2:0.8"], "no range"),
        (["--grid", "nms_th=0.8:0.2:0.1"], "no range"),
        (["--grid", "nms_th=0.2:0.8:x"], "not numbers"),
        (["--grid", "nms_th=0:1:1e-9"], "no range"),
        (["--grid", "nms_th=7"], "not in 0..1"),
        (["--grid", "nms_th=0.5", "--select=train"], "--train_activations"),
        (["--grid", "nms_th=0.5", "--select=split:2"], "--select split:2"),
        (["--grid", "nms_th=0.5", "--select=split:inf"], "--select split:inf"),
        (["--grid", "nms_th=0.5", "--select=test:0.5"], "--select test:0.5"),
        (["--grid", "nms_th=0:1:0.002", "outer=0:1:0.002"], "at most 100,000"),
    ],
)
def test_mistakes(lab, flags, said):
    assert re.search(re.escape(said), lab(*flags, expect=2))


@pytest.mark.filterwarnings("ignore:.*labels that the ground truth lacks")
def test_parts_are_scored_alone():
    config, activations = made_up("basnet")
    r = np.random.default_rng(1)
    rows = [(name, config.classes[r.integers(20)], s, s + 9) for name in activations for s in r.integers(0, 20, 30).tolist()]
    truth = dict(zip(("video", "label", "start", "end"), map(list, zip(*rows, strict=True)), strict=True))
    few = {"v1", "v2", "v3"}
    inside = [name in few for name in truth["video"]]
    own = {name: [value for value, keep in zip(column, inside, strict=True) if keep] for name, column in truth.items()}
    search = Search(config, activations, {"few": Part(columns(own, "", False), frozenset(few))})
    (trial,) = search.run([{"nms_th": 0.5}], 1)
    method = without_memory(make_config(parse_args(["--len_feature=2", "--hidden=8", "--num_segments=40", "--nms_th=0.5"])))
    found = as_table(detect(method, {name: activations[name] for name in few}), config.classes)
    np.testing.assert_allclose(trial.mAP["few"], detection_map(own, read_predictions(found), config.tiou_thresholds).mAP)
