"""Every layout that researchers have on disk yields the same videos; what is missing or ambiguous is said."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, WIDTH, Harmful, edit_gt

from dataset.facts import KNOWN
from dataset.feature_files import patiently
from dataset.layouts import LAYOUTS, find_layout
from dataset.prepare import main as prepare
from dataset.store import Files, open_store
from methods.base import build_method
from options import make_config, parse_args
from test import compute_activations, detect, read_activations, save_activations
from thumos_features import load_data, load_database
from utils import UserError


def load(folder, *flags):
    return load_data(make_config(parse_args([f"--data_path={folder}", *TINY, *flags])))


def features(data):
    return {video.name: video.read() for video in [*data.train, *data.test]}


@pytest.fixture
def laid_out(tiny, tmp_path):
    def make(layout):
        prepare(["features", "--to", layout, f"--output={tmp_path / layout}", f"--data_path={tiny}", *TINY])
        return tmp_path / layout

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_videos(layout, laid_out, tiny):
    folder, expected = laid_out(layout), load(tiny)
    found = load(folder)
    assert f"layout {layout} in" in found.summary and "train: 5 videos" in found.summary
    assert [video.name for video in found.train] == [video.name for video in expected.train]
    assert [video.num_seg for video in found.test] == [video.num_seg for video in expected.test]
    for name, rows in features(expected).items():
        np.testing.assert_array_equal(features(found)[name], rows)
    assert all((a.label_c == b.label_c).all() for a, b in zip(found.train, expected.train, strict=True))
    flow = load(folder, "--modal=flow", f"--len_feature={WIDTH}")
    np.testing.assert_array_equal(flow.test[0].read(), expected.test[0].read()[:, WIDTH:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_conversion_that_was_interrupted_goes_on(layout, laid_out, capsys):
    folder = laid_out(layout)
    assert "9 videos written, 0 existed" in capsys.readouterr().out
    removed = sorted(path for path in folder.rglob(f"*{LAYOUTS[layout].suffix}"))[-1]
    before = removed.read_bytes()
    removed.unlink()
    laid_out(layout)
    assert "1 videos written, 8 existed" in capsys.readouterr().out
    assert layout == "backtal" or removed.read_bytes() == before


def test_um_keeps_several_data_sets_in_one_folder(laid_out, tmp_path):
    folder = laid_out("um")
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all" / "thumos14")
    (tmp_path / "all" / "thumos14" / "gt.json").rename(tmp_path / "all" / "thumos14" / "annotations.json")
    assert len(load(tmp_path / "all").train) == 5


@pytest.fixture
def activitynet(tmp_path):
    """Official-shaped annotations of ids without v_, features with it in UM's folders; one video of each subset is lost."""
    random = np.random.default_rng(0)
    database = {}
    for folder, subset, count in (("train", "training", 6), ("val", "validation", 4), ("test", "testing", 2)):
        for number in range(count):
            name = f"{folder}--{number}"
            label = ["Zumba", "Archery", "Making a cake"][number % 3]
            rows = [] if subset == "testing" else [{"label": label, "segment": [1.5, 9.0]}]
            database[name] = {"subset": subset, "duration": 20.0 + number, "annotations": rows, "url": "", "resolution": ""}
            for stream in ("rgb", "flow"):
                path = tmp_path / "anet" / "features_1.2" / folder / stream / f"v_{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                if number:
                    np.save(path, random.random((30 + number, WIDTH)).astype(np.float32))
    content = {"version": "VERSION 1.2", "taxonomy": [], "database": database}
    (tmp_path / "anet" / "activity_net.v1-2.min.json").write_text(json.dumps(content))
    return tmp_path / "anet"


def test_activitynet_is_read_as_it_is(activitynet):
    data = load(activitynet, "--dataset=activitynet1.2")
    assert [video.name for video in data.train] == [f"train--{n}" for n in range(1, 6)]
    assert [video.name for video in data.test] == ["val--1", "val--2", "val--3"], "of the subset with annotations"
    assert "1 of 6 annotated train videos have no features: train--0" in data.summary
    assert data.truth.labels == ["Archery", "Making a cake", "Zumba"], "sorted"
    assert len(data.truth) == 4, "a test video without features counts"
    assert data.test[0].duration == 21
    with pytest.raises(UserError, match=r"1 of 6 .* --missing drop"):
        load(activitynet, "--dataset=activitynet1.2", "--missing=fail")


def test_both_numbers_are_printed_where_test_videos_are_dropped(activitynet, cli, tmp_path):
    flags = ["--dataset=activitynet1.2", f"--data_path={activitynet}", "--num_iters=2", "--lr=0.01", "--batch_size=3"]
    done = cli("main.py", *flags, "--seed=0", "--class_th=0", "--hidden=8", "--wide")
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")][2:]
    values = [float(row.split("|")[3]) for row in rows[:2]]
    assert "best *" in rows[1] and "3 videos, 3 instances" in done.stdout and values[1] >= values[0]
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert "class_weight" in config["derived, unpublished"] and "batch_size" not in config["derived, unpublished"]
    record = json.loads((tmp_path / "output" / "log.jsonl").read_text().splitlines()[-1])
    assert record["with_features"]["averages"]["0.5:0.95"] >= record["averages"]["0.5:0.95"]


def test_times_follow_the_duration_where_the_data_set_says_so(activitynet):
    config = make_config(parse_args([f"--data_path={activitynet}", *TINY, "--dataset=activitynet1.2"]))
    assert config.seconds(31, 21.0) == 21.0 and config.seconds(25) == 16.0
    assert [video.seconds for video in load_data(config).test] == [21.0, 22.0, 23.0]


def test_durations_count_only_where_they_are_to(tiny, laid_out):
    """A THUMOS'14 video lasts as long as its snippets, even with a known duration; BackTAL stretches videos to one length."""
    edit_gt(tiny, lambda db: [video.update(duration=30.0 + n) for n, video in enumerate(db.values())])
    (video, *_) = load(tiny).train
    assert video.duration == 30 and video.seconds == video.num_seg * 16 / 25
    folder = laid_out("backtal")
    path = folder / "val" / "video_train_0.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"duration": np.array(77.0)})
    (video, *_) = load(folder).train
    assert video.seconds == 77, "the file's duration wins over the annotations'"
    np.savez(path, **{key: value for key, value in arrays.items() if key != "duration"})
    (video, *_) = load(folder).train
    assert video.seconds == 30


def test_subsets_are_found_however_capitalised_and_never_guessed(tiny):
    edit_gt(tiny, lambda db: [video.update(subset=video["subset"].title()) for video in db.values()])
    assert len(load(tiny).test) == 4
    edit_gt(tiny, lambda db: [video.update(subset="vla") for video in db.values() if video["subset"] == "Test"])
    with pytest.raises(UserError, match=r"no annotated video of subset test or testing; its subsets are Train, vla"):
        load(tiny)


def test_a_video_without_annotation_is_not_of_its_subset(tiny):
    edit_gt(tiny, lambda db: db["video_train_2"].update(annotations=[]))
    with pytest.raises(UserError, match="video_train_2"):
        load(tiny)
    for subset in ("train", "test"):
        (tiny / f"split_{subset}.txt").unlink()
    assert [video.name[-1] for video in load(tiny).train] == ["0", "1", "3", "4"]


def test_annotations_without_subsets(tiny):
    """As in leftthomas/UM, the folder of a video's features is its subset; videos without features still count."""
    edit_gt(tiny, lambda db: [video.pop("subset") for video in db.values()])
    (tiny / "features" / "test" / "rgb" / "video_test_3.npy").unlink()
    data = load(tiny, "--missing=drop")
    assert len(data.test) == 3 and len(data.truth) == 4 and len(data.train) == 5
    for subset in ("train", "test"):
        (tiny / f"split_{subset}.txt").unlink()
    (tiny / "features" / "test" / "flow" / "video_test_3.npy").unlink()
    data = load(tiny)
    assert len(data.test) == len(data.truth) == 3


def test_asm_locs_ground_truth_has_more_videos_than_its_split(laid_out):
    """Its subsets are validation and test, and some annotated test videos are in no split: they count nevertheless."""
    folder = laid_out("asm_loc")
    extra = {"subset": "test", "annotations": [{"label": "HighJump", "segment": ["1", "2"]}]}
    edit_gt(folder, lambda db: [v.update(subset="validation") for v in db.values() if v["subset"] == "train"])
    edit_gt(folder, lambda db: db.update(video_test_9=extra))
    data = load(folder)
    assert len(data.test) == 4 and len(data.truth) == 5 and len(data.train) == 5


def test_saved_activations_know_durations(activitynet, tmp_path):
    config = make_config(
        parse_args([f"--data_path={activitynet}", *TINY, "--dataset=activitynet1.2", "--class_th=0", "--nms_th=1"])
    )
    data, method = load_data(config), build_method(config)
    live = compute_activations(method, data.test, Files(1), torch.device("cpu"), whole=True)
    save_activations(tmp_path / "a.npz", live)
    read = read_activations(tmp_path / "a.npz", method, load_database(config))
    for one, other in zip(detect(method, live).values(), detect(method, read).values(), strict=True):
        np.testing.assert_array_equal(one.segments, other.segments)
        np.testing.assert_array_equal(one.scores, other.scores)
    assert [float(arrays["duration"]) for arrays in read.values()] == [21, 22, 23]
    found = detect(method, live)["val--1"]
    whole = found.segments[found.scores == 0.6].tolist()
    assert [0.0, 21.0] in whole, "the whole video is a proposal of the recipe"


def test_backtals_annotations_are_found_where_its_repository_has_them(laid_out, tmp_path):
    folder = laid_out("backtal")
    repository = tmp_path / "repository"
    materials = repository / "lib" / "dataset" / "materials_THUMOS14"
    materials.mkdir(parents=True)
    (repository / "data").mkdir()
    folder.rename(repository / "data" / "THUMOS14")
    (repository / "data" / "THUMOS14" / "gt.json").rename(materials / "gt_thumos14.json")
    assert len(load(repository / "data" / "THUMOS14").test) == 4


def test_a_layout_can_be_forced(laid_out):
    folder = laid_out("asm_loc")
    assert len(load(folder, "--layout=asm_loc").test) == 4
    with pytest.raises(UserError, match=r"features/train/\{rgb,flow\}/VIDEO.npy"):
        load(folder, "--layout=basnet")


def test_nothing_there_is_basnets_layout(tmp_path):
    assert find_layout(tmp_path, KNOWN["thumos14"]).name == "basnet"


def test_half_of_the_split_files_is_a_mistake(tiny):
    (tiny / "split_test.txt").unlink()
    with pytest.raises(UserError, match=r"split_test\.txt: no such file"):
        load(tiny)
    (tiny / "split_train.txt").unlink()
    assert len(load(tiny).test) == 4


BAD_NPZ = {
    "no features": (lambda a: a.pop("feat_tem"), "has no feat_tem"),
    "wrong width": (lambda a: a.update(feat_spa=np.ones((5, 9))), r"\(5, 9\); expected \(6, L\)"),
    "other length": (lambda a: a.update(feat_spa=np.ones((6, 3))), "snippets"),
    "NaN": (lambda a: a.update(feat_spa=a["feat_spa"] * np.nan), "nan at row 0"),
    "duration": (lambda a: a.update(duration=np.array(-3.0)), "duration is -3"),
    "text": (lambda a: a.update(feat_spa=a["feat_spa"].astype(str)), "real numbers"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_a_bad_npz_is_named(case, laid_out):
    spoil, message = BAD_NPZ[case]
    path = laid_out("backtal") / "val" / "video_train_1.npz"
    arrays = dict(np.load(path))
    spoil(arrays)
    np.savez(path, allow_pickle=False, **arrays)
    with pytest.raises(UserError, match=rf"video_train_1.*{message}"):
        data = load(path.parent.parent)
        config = make_config(parse_args(TINY))
        open_store([*data.train, *data.test], config, torch.device("cpu"), lambda _: None)


@pytest.mark.parametrize("key", ["feat_spa", "feat_tem", "duration", "frame_num"])
def test_nothing_in_an_npz_is_executed(key, laid_out, tmp_path):
    path = laid_out("backtal") / "val" / "video_train_1.npz"
    np.savez(path, **(dict(np.load(path)) | {key: np.array([Harmful(tmp_path / "executed")])}))
    with pytest.raises(UserError, match=r"video_train_1\.npz"):
        features(load(path.parent.parent))
    assert not (tmp_path / "executed").exists()


def test_threads_that_parse_headers_are_in_nobodys_way():
    calls = []

    def now_and_then():
        calls.append(1)
        if len(calls) < 4:
            raise SystemError("AST constructor recursion depth mismatch (before=63, after=60)")
        return "read"

    assert patiently(now_and_then) == "read"
    with pytest.raises(SystemError):
        patiently(lambda: calls.clear() or now_and_then())
