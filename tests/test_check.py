"""Each thing that can be wrong with a data set is found, and a good one has no finding."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY, WIDTH, edit_gt, make_tiny

from dataset.check import as_text, check, quick_check
from dataset.prepare import main as prepare
from options import make_config, parse_args
from thumos_features import load_data
from utils import UserError


def findings(folder, *flags, quick=False):
    config = make_config(parse_args([f"--data_path={folder}", *TINY, *flags]))
    found = check(config, quick)[1]
    ignored = ("counts", "label absent")  # the tiny data are no THUMOS'14
    return [(f.error, f.kind, f.where, f.text) for f in found if f.kind not in ignored]


def features(folder, name="video_train_1", stream="rgb"):
    return folder / "features" / name.split("_")[1] / stream / f"{name}.npy"


def each_stream(folder, name, change):
    for stream in ("rgb", "flow"):
        path = features(folder, name, stream)
        np.save(path, change(np.load(path)))


def copy(folder, source, target):
    for stream in ("rgb", "flow"):
        features(folder, target, stream).write_bytes(features(folder, source, stream).read_bytes())


def annotation(**new):
    return lambda folder: edit_gt(folder, lambda db: db["video_train_0"]["annotations"][0].update(**new))


def snippets_of_quarter_stride(folder):
    edit_gt(folder, lambda db: [video.update(duration=3.0 + i / 10) for i, video in enumerate(db.values())])


CASES = {
    "features missing": (lambda d: features(d).unlink(), True, "train"),
    "annotation missing": (lambda d: np.save(features(d).with_stem("video_more"), np.ones((9, WIDTH))), False, "train"),
    "unusable file": (lambda d: features(d).write_bytes(b"\x93NUMPY"), True, "video_train_1"),
    "constant features": (lambda d: each_stream(d, "video_train_1", np.ones_like), False, "video_train_1"),
    "duplicate content": (lambda d: copy(d, "video_train_0", "video_train_3"), False, "video_train_0"),
    "annotation past the end": (annotation(segment=["1", "99"]), False, "video_train_0"),
    "inverted instance": (annotation(segment=["3", "1"]), False, "video_train_0"),
    "instance of no length": (annotation(segment=["3", "3"]), False, "video_train_0"),
    "instance before the start": (annotation(segment=["-3", "3"]), False, "video_train_0"),
    "snippets per second": (snippets_of_quarter_stride, True, "9 videos"),
    "label without training video": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(label="Diving")), False, "Diving",
    ),
}  # fmt: skip


def test_good_data_have_no_finding(tiny):
    assert findings(tiny) == []


@pytest.mark.parametrize("kind", CASES)
def test_what_is_wrong_is_found(kind, tiny):
    spoil, error, where = CASES[kind]
    spoil(tiny)
    found = findings(tiny)
    assert [row[:3] for row in found] == [(error, kind, where)], found


def test_a_video_in_both_subsets_is_an_error(tiny):
    copy(tiny, "video_train_0", "video_test_0")
    (found,) = findings(tiny)
    assert found[:2] == (True, "duplicate content") and "in training and in test" in found[3]
    split = tiny / "split_test.txt"
    split.write_text(split.read_text() + "v_video_train_0\n")
    row = {"label": "HighJump", "segment": ["1", "2"]}
    edit_gt(tiny, lambda db: db.update(v_video_train_0={"subset": "test", "annotations": [row]}))
    for stream in ("rgb", "flow"):
        target = features(tiny, "video_test_0", stream).with_stem("v_video_train_0")
        target.write_bytes(features(tiny, "video_train_0", stream).read_bytes())
    assert (True, "train and test overlap") in [row[:2] for row in findings(tiny, quick=True)]


def test_an_unknown_label_is_one_finding_among_others(tiny):
    annotation(label="Cooking")(tiny)
    features(tiny).unlink()
    assert {row[1] for row in findings(tiny) if row[0]} == {"unknown label", "features missing"}


def test_stretched_features_need_durations(tiny):
    for path in tiny.rglob("*.npy"):
        np.save(path, np.resize(np.load(path), (20, WIDTH)))
    assert "snippets per second" not in [row[1] for row in findings(tiny, quick=True)]
    edit_gt(tiny, lambda db: [video.update(duration=10.0 + n) for n, video in enumerate(db.values())])
    assert [row[:2] for row in findings(tiny, quick=True)] == [(True, "snippets per second")]


def test_durations_that_are_missing_are_reported(tmp_path):
    tiny = make_tiny(tmp_path / "timed")
    (tiny / "dataset.json").write_text('{"timing": "duration", "annotations": "gt.json"}')
    config = make_config(parse_args([f"--dataset={tiny}/dataset.json", *TINY]))
    assert "duration missing" in [finding.kind for finding in check(config, quick=True)[1]]


@pytest.fixture
def npz(tiny, tmp_path):
    """Tells the feature file of a video in BackTAL's layout another duration; as made, all last as annotated."""
    edit_gt(tiny, lambda db: [video.update(duration=num_snippets(tiny, name) * 0.64) for name, video in db.items()])
    prepare(["features", "--to", "backtal", f"--output={tmp_path / 'npz'}", f"--data_path={tiny}", *TINY])

    def tell(name, seconds):
        path = tmp_path / "npz" / ("test" if "test" in name else "val") / f"{name}.npz"
        with np.load(path) as file:
            content = dict(file)
        np.savez(path, allow_pickle=False, **content | {"duration": np.array(seconds)})

    return tell


def test_durations_that_differ_by_more_than_a_snippet_are_reported(npz, tiny, tmp_path):
    folder, count = tmp_path / "npz", num_snippets(tiny, "video_test_1")
    assert findings(folder) == []
    npz("video_test_1", (count - 0.9) * 0.64)
    assert findings(folder) == []
    npz("video_test_1", (count - 1.1) * 0.64)
    npz("video_train_2", 77.0)
    first, second = findings(folder, quick=True)
    annotated = num_snippets(tiny, "video_train_2") * 0.64
    text = f"77.00 s in its feature file, {annotated:.2f} s in the annotations; the former is used"
    assert first == (False, "durations differ", "video_train_2", text)
    assert second[2] == "video_test_1" and second[3].startswith(f"{(count - 1.1) * 0.64:.2f} s in its feature file, ")
    config = make_config(parse_args([f"--data_path={folder}", *TINY]))
    (said,) = [finding for finding in quick_check(load_data(config), config) if finding.kind == "durations differ"]
    assert (said.where, said.text) == ("video_train_2", f"{text} (and 1 more)")


def test_annotation_times_are_held_against_the_duration_of_the_feature_file(npz, tmp_path):
    npz("video_test_1", 3.0)
    ((*_, text),) = [row for row in findings(tmp_path / "npz", quick=True) if row[1] == "annotation past the end"]
    assert text == "Billiards 1.5 to 4.5 s, but the video lasts 3.0 s"


def test_integers_are_reported(tiny):
    each_stream(tiny, "video_train_1", lambda features: np.arange(features.size).reshape(features.shape))
    assert [row[:3] for row in findings(tiny)] == [(False, "features of integers", "video_train_1")]


def test_some_names_with_v_are_reported(tiny):
    for stream in ("rgb", "flow"):
        path = features(tiny, stream=stream)
        path.rename(path.with_stem("v_video_train_1"))
    (found,) = findings(tiny)
    assert found[:3] == (False, "names with and without v_", "train") and "1 of 5" in found[3]


def test_the_stride_is_guessed_from_durations(tiny):
    edit_gt(tiny, lambda db: [video.update(duration=num_snippets(tiny, name) / 7.5) for name, video in db.items()])
    (found,) = findings(tiny, quick=True)
    assert found[3].startswith("7.5 snippets per second: features of stride 4 at 30 fps; expected 1.56")


def num_snippets(folder, name):
    return len(np.load(features(folder, name)))


def test_the_quick_form_reads_no_features(tiny, monkeypatch):
    features(tiny).write_bytes(features(tiny).read_bytes()[:-4] + np.array([np.nan], np.float32).tobytes())
    assert [row[1] for row in findings(tiny)] == ["unusable file"] and findings(tiny, quick=True) == []


def test_a_run_says_warnings_and_refuses_errors(tiny):
    annotation(segment=["1", "99"])(tiny)
    config = make_config(parse_args([f"--data_path={tiny}", *TINY]))
    assert "annotation past the end" in [finding.kind for finding in quick_check(load_data(config), config)]
    snippets_of_quarter_stride(tiny)
    with pytest.raises(UserError, match=r"snippets per second: .* dataset\.check"):
        quick_check(load_data(config), config)


def run(folder, *flags):
    command = [sys.executable, "-m", "dataset.check", f"--data_path={folder}", *TINY, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.whole
def test_exit_codes_and_forms(tiny):
    done = run(tiny)
    assert done.returncode == 0 and "warning counts" in " ".join(done.stdout.split())
    features(tiny).unlink()
    done = run(tiny, "--json", "--quick")
    assert done.returncode == 1
    content = json.loads(done.stdout)
    assert {"error": True, "kind": "features missing"}.items() <= content["findings"][0].items()
    (tiny / "gt.json").unlink()
    done = run(tiny)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_errors_come_first_in_the_table(tiny):
    features(tiny).unlink()
    config = make_config(parse_args([f"--data_path={tiny}", *TINY]))
    lines = as_text(*check(config, quick=True)).splitlines()
    levels = [line.split()[0] for line in lines if line.startswith(("ERROR", "warning"))]
    assert levels == sorted(levels) and levels[0] == "ERROR"


def test_a_thousand_videos_take_seconds(tmp_path):
    import time

    folder = make_tiny(tmp_path / "many", train=700, test=300)
    begun = time.monotonic()
    assert findings(folder) == []
    assert time.monotonic() - begun < 20
