"""Samplers against the official stream, batches against the loader rule, and what a bad data folder is told."""

import pickle
import shutil

import numpy as np
import oracles
import pytest
import torch
from conftest import TINY, WIDTH, Harmful, edit_gt
from hypothesis import given
from hypothesis import strategies as st

from dataset.draws import Draws, batch_videos
from dataset.store import Files, open_store
from methods.base import build_method
from options import make_config, parse_args
from thumos_features import fingerprint, load_data, random_indices, training_batch, uniform_indices
from utils import UserError


@pytest.mark.parametrize("times", [750, 50])
@pytest.mark.parametrize("num_seg", [7, 49, 50, 51, 300, 750, 1213])
def test_official_sampling(golden, times, num_seg):
    key = f"sample/T{times}_L{num_seg}"
    np.testing.assert_array_equal(uniform_indices(num_seg, times), golden[f"{key}_uniform"])
    np.testing.assert_array_equal(random_indices(num_seg, times, np.random.RandomState(0)), golden[f"{key}_random_seed0"])


@given(st.integers(1, 400), st.integers(1, 200), st.integers(0, 2**31))
def test_vectorised_draws_consume_the_stream_of_the_plain_loop(num_seg, times, seed):
    fast, plain = np.random.RandomState(seed), np.random.RandomState(seed)
    assert random_indices(num_seg, times, fast).tolist() == oracles.sample_snippets(num_seg, times, plain.choice)
    assert fast.randint(2**31) == plain.randint(2**31)
    assert uniform_indices(num_seg, times).min() >= 0 and uniform_indices(num_seg, times).max() < num_seg


def test_first_pass_shows_every_video_once():
    for official in (True, False):
        batches = [batch_videos(200, 16, iteration, seed=3, official=official) for iteration in range(13)]
        assert [len(batch) for batch in batches] == [16] * 12 + [8]
        assert sorted(np.concatenate(batches)) == list(range(200))


@pytest.fixture
def load(tiny):
    def run(*flags, subset="train"):
        config = make_config(parse_args([f"--data_path={tiny}", *TINY, *flags]))
        data = load_data(config)
        open_store([*data.train, *data.test], config, torch.device("cpu"), lambda _: None)
        return getattr(data, subset)

    return run


def test_streams_stand_side_by_side(load, tiny):
    both, rgb, flow = load(), load("--modal", "rgb", "--len_feature", "6"), load("--modal", "flow", "--len_feature", "6")
    for all_streams, first, second in zip(both, rgb, flow, strict=True):
        np.testing.assert_array_equal(all_streams.read(), np.hstack([first.read(), second.read()]))
        assert all_streams.read().dtype == np.float32
    assert [video.label_c.argmax() for video in both] == [11, 2, 0, 11, 2]


def test_a_batch_depends_on_seed_and_iteration_only(load):
    videos, config = load(), make_config(parse_args([*TINY, "--batch_size", "3"]))
    show = build_method(config).sample
    first, again = (training_batch(videos, Files(1), Draws(config, 7), show, 4) for _ in range(2))
    other = training_batch(videos, Files(1), Draws(config, 8), show, 4)
    assert first.snippets.shape == (3, 2 * WIDTH, 16) and first.label_bc.shape == (3, 20)
    same, differing = (torch.equal(first.snippets.dense(), batch.snippets.dense()) for batch in (again, other))
    assert same and not differing


def feature_file(tiny, name="video_train_1", stream="rgb"):
    return tiny / "features" / "train" / stream / f"{name}.npy"


def spoilt(tiny, value):
    features = np.load(feature_file(tiny)).astype(np.float64)
    features[3, 2] = value
    return features


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 99999), }"
BAD = {
    "no gt.json": (lambda d: (d / "gt.json").unlink(), ["gt.json", "no such file", "--dataset demo"]),
    "gt.json a folder": (lambda d: [(d / "gt.json").unlink(), (d / "gt.json").mkdir()], ["gt.json", "folder"]),
    "gt.json not JSON": (lambda d: (d / "gt.json").write_text("{"), ["gt.json", "not JSON"]),
    "gt.json not text": (lambda d: (d / "gt.json").write_bytes(b"\xff\x00\x81"), ["gt.json", "UTF-8"]),
    "gt.json without database": (lambda d: (d / "gt.json").write_text("[]"), ["gt.json", '"database"']),
    "segment of three": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(segment=[1, 2, 3])),
        ["gt.json", "video_test_0", "segment"],
    ),
    "time not a number": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(segment=["a", "b"])),
        ["gt.json", "video_test_0"],
    ),
    "time NaN": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(segment=["nan", "2"])),
        ["gt.json", "video_test_0"],
    ),
    "data_path a file": (
        lambda d: [shutil.rmtree(d), d.write_text("")],
        ["gt.json", "no such file"],
    ),
    "gt.json nested without end": (lambda d: (d / "gt.json").write_text("[" * 100000), ["gt.json", "not JSON"]),
    "endless number": (lambda d: (d / "gt.json").write_text("9" * 5000), ["gt.json", "not JSON"]),
    "huge time": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(segment=[1, 10**400])),
        ["gt.json", "video_test_0"],
    ),
    "segment a text": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(segment="15")),
        ["gt.json", "video_test_0", "segment"],
    ),
    "time a boolean": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(segment=[True, 5])),
        ["gt.json", "video_test_0"],
    ),
    "label a list": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(label=["HighJump"])),
        ["gt.json", "video_test_0"],
    ),
    "label missing": (
        lambda d: edit_gt(d, lambda db: db["video_test_0"]["annotations"][0].update(label=None)),
        ["gt.json", "video_test_0"],
    ),
    "video a number": (lambda d: edit_gt(d, lambda db: db.update(video_test_0=3)), ["gt.json", "video_test_0"]),
    "a zip file": (lambda d: feature_file(d).write_bytes(b"PK\x03\x04 nothing"), ["video_train_1.npy", "truncated"]),
    "header without sense": (
        lambda d: feature_file(d).write_bytes(feature_file(d).read_bytes().replace(b"'shape'", b"'sh(pe'")),
        ["video_train_1.npy"],
    ),
    "header of a huge array": (
        lambda d: feature_file(d).write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + HUGE.ljust(117).encode() + b"\n"),
        ["video_train_1.npy"],
    ),
    "no subset": (lambda d: edit_gt(d, lambda db: db["video_test_0"].pop("subset")), ["gt.json", "video_test_0", "subset"]),
    "unknown label": (
        lambda d: edit_gt(d, lambda db: db["video_train_0"]["annotations"][0].update(label="Cooking")),
        ["gt.json", "video_train_0", "Cooking", "VolleyballSpiking"],
    ),
    "no split": (lambda d: (d / "split_train.txt").unlink(), ["split_train.txt", "no such file"]),
    "empty split": (lambda d: (d / "split_train.txt").write_text("\n"), ["split_train.txt", "no video"]),
    "repeated video": (
        lambda d: (d / "split_train.txt").write_text("video_train_0\nvideo_train_0\n"),
        ["split_train.txt", "video_train_0", "more than once"],
    ),
    "split names an unannotated video": (
        lambda d: (d / "split_train.txt").write_text("video_train_0\nvideo_validation_9\n"),
        ["split_train.txt", "1 of 2", "data/gt.json", "video_validation_9"],
    ),
    "split names a test video": (
        lambda d: (d / "split_train.txt").write_text("video_train_0\nvideo_test_0\n"),
        ["split_train.txt", "data/gt.json", "video_test_0", "subset"],
    ),
    "no annotation of a test video": (
        lambda d: edit_gt(d, lambda db: [video.update(annotations=[]) for name, video in db.items() if "test" in name]),
        ["gt.json: none of its 4 videos of subset test has an annotation", "Annotated subsets are train.", "--ground_truth"],
    ),
    "no annotation at all": (
        lambda d: edit_gt(d, lambda db: [video.update(annotations=[]) for video in db.values()]),
        ["gt.json: none of its 9 videos has an annotation", "--ground_truth"],
    ),
    "no video at all": (lambda d: edit_gt(d, lambda db: db.clear()), ["gt.json: it contains no video", "--ground_truth"]),
    "no test video": (
        lambda d: edit_gt(d, lambda db: [db.pop(name) for name in list(db) if "test" in name]),
        ["gt.json: no annotated video of subset test or testing; its subsets are train."],
    ),
    "other videos, and no subsets": (
        lambda d: [
            edit_gt(d, lambda db: [db.update({f"{name}x": {"annotations": db.pop(name)["annotations"]}}) for name in list(db)]),
            *((d / f"split_{subset}.txt").unlink() for subset in ("train", "test")),
        ],
        ["gt.json: names no subsets", "none of its annotated videos is in the folder of the train subset", "features/train"],
    ),
    "missing features": (
        lambda d: [feature_file(d, f"video_train_{n}").unlink() for n in (0, 3)],
        ["2 of 5", "video_train_0", "video_train_3", "features/train", "--missing drop"],
    ),
    "truncated array": (
        lambda d: feature_file(d).write_bytes(feature_file(d).read_bytes()[:-7]),
        ["video_train_1.npy", "truncated"],
    ),
    "an archive": (
        lambda d: [np.savez(d / "a.npz", a=np.ones((9, 6))), (d / "a.npz").rename(feature_file(d))],
        ["video_train_1.npy", "NpzFile"],
    ),
    "truncated header": (lambda d: feature_file(d).write_bytes(b"\x93NUMPY"), ["video_train_1.npy", "truncated"]),
    "empty file": (lambda d: feature_file(d).write_bytes(b""), ["video_train_1.npy", "truncated"]),
    "pickled array": (
        lambda d: np.save(feature_file(d), np.array([{"a": 1}], dtype=object), allow_pickle=True),
        ["video_train_1.npy"],
    ),
    "text array": (lambda d: np.save(feature_file(d), np.array([["a"] * WIDTH])), ["video_train_1.npy", "<U1", "real numbers"]),
    "wrong width": (lambda d: np.save(feature_file(d), np.ones((9, 7))), ["video_train_1.npy", "(9, 7)", "(L, 6)"]),
    "no rows": (lambda d: np.save(feature_file(d), np.ones((0, 6))), ["video_train_1.npy", "(0, 6)"]),
    "one axis": (lambda d: np.save(feature_file(d), np.ones(6)), ["video_train_1.npy", "(6,)"]),
    "streams of different length": (
        lambda d: np.save(feature_file(d), np.ones((9, 6))),
        ["video_train_1", "rgb", "flow", "9", "snippets"],
    ),
    "NaN": (
        lambda d: np.save(feature_file(d), spoilt(d, np.nan)),
        ["video_train_1.npy", "nan at row 3, column 2"],
    ),
    "infinite once float32": (
        lambda d: np.save(feature_file(d), spoilt(d, 1e300)),
        ["video_train_1.npy", "inf at row 3, column 2"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_gets_one_message(case, load, tiny):
    spoil, expected = BAD[case]
    spoil(tiny)
    with pytest.raises(UserError) as error:
        load()
    assert [part for part in expected if part not in str(error.value)] == []


@pytest.mark.parametrize("write", [lambda path, harm: path.write_bytes(pickle.dumps(harm)), np.save], ids=["alone", "array"])
def test_nothing_in_a_feature_file_is_executed(load, tiny, tmp_path, write):
    write(
        feature_file(tiny), np.array([Harmful(tmp_path / "executed")]) if write is np.save else Harmful(tmp_path / "executed")
    )
    with pytest.raises(UserError, match=r"video_train_1\.npy"):
        load()
    assert not (tmp_path / "executed").exists()


def test_byte_order_marks_and_integers_are_fine(load, tiny):
    for name in ("gt.json", "split_train.txt"):
        (tiny / name).write_bytes(b"\xef\xbb\xbf" + (tiny / name).read_bytes())
    snippets = len(np.load(feature_file(tiny)))
    np.save(feature_file(tiny), np.ones((snippets, WIDTH), dtype=np.uint8))
    assert [video.name for video in load()] == [f"video_train_{n}" for n in range(5)]


def test_the_fingerprint_changes_with_annotations_of_test_videos(tiny):
    def now():
        data = load_data(make_config(parse_args([f"--data_path={tiny}", *TINY])))
        return fingerprint([*data.train, *data.test], data.truth)

    before = now()
    assert now() == before
    edit_gt(tiny, lambda db: db["video_test_0"]["annotations"][0].update(segment=["1.5", "5"]))
    assert now() != before
