"""Wherever features are kept, batches are the same; the packed copy is used when it is of these files, and only then."""

import contextlib
import json
import os
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from conftest import TINY, WIDTH

from dataset import store
from dataset.draws import Draws
from dataset.store import open_store
from methods.base import build_method
from options import make_config, parse_args
from thumos_features import load_data, training_batch
from utils import UserError

CPU = torch.device("cpu")


@pytest.fixture
def opened(tiny):
    """Open the tiny data's store with more flags; what it said comes with it."""

    def run(*flags):
        config = make_config(parse_args([f"--data_path={tiny}", *TINY, "--batch_size=3", *flags]))
        data, said = load_data(config), []
        return config, data, open_store([*data.train, *data.test], config, CPU, said.append), said

    return run


def batches(config, data, opened_store):
    return [
        training_batch(data.train, opened_store, Draws(config, 0), build_method(config).sample, iteration)
        .snippets.dense()
        .transpose(1, 2)
        for iteration in range(4)
    ]


def features(data, opened_store):
    """All features that a store gives."""
    videos = [*data.train, *data.test]
    return torch.cat([opened_store.gather([video], [np.arange(video.num_seg)]).dense()[0].T for video in videos])


MEMORY, READ = "in memory", "read from their files at each use"


def test_batches_do_not_depend_on_where_features_are(opened):
    config, data, ram, said = opened()
    expected = batches(config, data, ram)
    assert all((oracles.per_item_batch(data.train, config, i) == batch.numpy()).all() for i, batch in enumerate(expected))
    assert said[0].endswith(MEMORY)
    for where, *flags in (
        (READ, "--cache=off"),
        (READ, "--cache_budget=0"),
        (MEMORY, "--cache=device"),
        (MEMORY, "--cache_path=none"),
        (READ, "--num_workers=1", "--cache=off"),
        (MEMORY, "--cache=ram"),
    ):
        config, data, other, said = opened(*flags)
        assert all((a == b).all() for a, b in zip(expected, batches(config, data, other), strict=True)), flags
        assert said[0].endswith(where), flags


def change_numbers_alone(path):
    """Other features in a file of the same size and time: nobody notices who does not read it."""
    state = path.stat()
    np.save(path, np.load(path) + 1)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size


def test_the_packed_copy_is_read_instead_of_the_files(opened, tiny):
    _, data, first, said = opened()
    assert "packed copy of the features is kept" in said[1] and (tiny / "packed" / "thumos14_rgb_flow_float32.bin").exists()
    before = features(data, first)
    for path in (tiny / "features").rglob("*.npy"):
        change_numbers_alone(path)
    _, data, again, said = opened()
    assert len(said) == 1 and torch.equal(features(data, again), before)
    _, data, unpacked, _ = opened("--cache_path=none")
    assert torch.equal(features(data, unpacked), before + 1)


def touch(path):
    os.utime(path, ns=(1, 1))


def longer(path):
    np.save(path, np.load(path)[[0, *range(len(np.load(path)))]])


def others_of_the_same_size(path):
    """And of a time that is written with as many digits."""
    time = path.stat().st_mtime_ns
    np.save(path, np.load(path) + 1)
    os.utime(path, ns=(time, time - 10**9))


@pytest.mark.parametrize("change", [touch, longer, others_of_the_same_size])
def test_a_packed_copy_of_other_files_is_replaced(opened, tiny, change):
    opened()
    for stream in ("rgb", "flow"):
        change(tiny / "features" / "train" / stream / "video_train_2.npy")
    _, data, matrix, said = opened()
    assert len(said) == 2
    np.testing.assert_array_equal(matrix.gather([data.train[2]], [np.arange(3)]).dense()[0].T, data.train[2].read()[:3])


def zeros_inside(whole: bytes) -> bytes:
    return whole[:-300] + bytes(200) + whole[-100:]


def other_numbers_inside(whole: bytes) -> bytes:
    return whole[:-500] + whole[-480:-460] + whole[-480:]


def swapped(whole: bytes) -> bytes:
    """Two snippets of the last video in each other's place."""
    size = 4 * 2 * WIDTH
    return whole[: -2 * size] + whole[-size:] + whole[-2 * size : -size]


def other_checksums(whole: bytes) -> bytes:
    header, _, values = whole.split(b"\n", 2)
    return header + b"\n" + json.dumps([1] * 9).encode() + b"\n" + values


@pytest.mark.parametrize(
    "damage, videos",
    [
        (lambda whole: b"", 0),
        (lambda whole: b"x" + whole[1:], 0),
        (lambda whole: whole[: whole.index(b"\n") + 1], 0),
        (lambda whole: whole.replace(b"\n[", b"\n[[[", 1), 0),
        (lambda whole: whole[:-5], 1),
        (zeros_inside, 1),
        (other_numbers_inside, 1),
        (swapped, 1),
        (other_checksums, 9),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--cache_dtype=float16"]])
def test_a_damaged_packed_copy_is_mended_from_the_files(opened, tiny, damage, videos, flags):
    _, data, first, _ = opened(*flags)
    (path,) = (tiny / "packed").glob("*.bin")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    _, again_data, again, said = opened(*flags)
    assert torch.equal(features(again_data, again), features(data, first)) and path.read_bytes() == whole
    damaged = [line for line in said if "were damaged" in line]
    assert len(damaged) == (videos > 0) and all(f"{videos} videos of the packed copy" in line for line in damaged)
    assert "a packed copy of the features is kept" in said[-1] and len(opened(*flags)[3]) == 1


def other_features(path):
    np.save(path, 3 * np.load(path)[::-1])


def one_snippet(path):
    np.save(path, np.load(path)[:1])


@pytest.mark.parametrize("change", [other_features, one_snippet, longer, lambda path: path.unlink()])
@pytest.mark.parametrize("cache", ["ram", "off"])
def test_a_file_that_changes_after_the_check_is_refused(tiny, change, cache):
    """Other features are known by the first ones that were read; with --cache ram nothing is read again."""
    config = make_config(parse_args([f"--data_path={tiny}", *TINY, f"--cache={cache}", "--cache_path=none"]))
    data, known = load_data(config), {}
    videos = [*data.train, *data.test]
    if change is other_features:
        features(data, open_store(videos, config, CPU, lambda _: None, known))
        assert len(known) == len(videos)
    for stream in ("rgb", "flow"):
        change(tiny / "features" / "train" / stream / "video_train_2.npy")
    with pytest.raises(UserError, match=r"video_train_2.*(began|cannot be read)"):
        features(data, open_store(videos, config, CPU, lambda _: None, known))


def test_a_file_that_is_gone_before_it_is_packed_is_named(tiny):
    config = make_config(parse_args([f"--data_path={tiny}", *TINY]))
    data = load_data(config)
    (tiny / "features" / "test" / "flow" / "video_test_1.npy").unlink()
    with pytest.raises(UserError, match=r"video_test_1\.npy: was there when the run began and is gone"):
        open_store([*data.train, *data.test], config, CPU, lambda _: None)


def test_a_place_that_takes_no_copy_is_no_obstacle(opened, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    _, data, matrix, said = opened(f"--cache_path={tmp_path}/file/folder")
    assert (
        "no packed copy" in said[1] and (features(data, matrix)[: data.train[0].num_seg].numpy() == data.train[0].read()).all()
    )
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert "little space" in opened(f"--cache_path={tmp_path}/other")[3][1]


def test_half_precision_rounds_and_nothing_else(opened, tiny):
    config, data, whole, _ = opened()
    _, half_data, half, _ = opened("--cache_dtype=float16")
    sizes = [len(path.read_bytes().split(b"\n", 2)[2]) for path in sorted((tiny / "packed").glob("*.bin"))]
    numbers = sum(video.num_seg for video in (*data.train, *data.test)) * config.len_feature
    assert sizes == [2 * numbers, 4 * numbers], "and it takes half the room"
    for a, b in zip(batches(config, data, whole), batches(config, half_data, half), strict=True):
        assert b.dtype == torch.float32 and (a.half().float() == b).all()


def test_what_half_precision_cannot_hold_is_refused(opened, tiny):
    path = tiny / "features" / "train" / "rgb" / "video_train_2.npy"
    np.save(path, np.load(path) * 1e6)
    opened()
    with pytest.raises(UserError, match=r"video_train_2\.npy: has values beyond 65504"):
        opened("--cache_dtype=float16")


def test_halves_of_a_killed_run_are_removed_and_young_ones_left(opened, tiny):
    (tiny / "packed").mkdir()
    old, young = (tiny / "packed" / f".thumos14_rgb_flow_float32.bin.{name}.part" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("")
    os.utime(old, (1, 1))
    opened()
    assert young.exists() and not old.exists()


@pytest.mark.parametrize(
    ("free", "budget", "where"), [(2**40, 16, "on cuda:0"), (2**40, 0, READ), (1000, 16, MEMORY), (2**40, None, READ)]
)
def test_a_gpu_is_taken_if_it_has_room(opened, monkeypatch, free, budget, where):
    """A CUDA device that is not there: it is said where the features are to be, then the first thing on it fails."""
    config, data, _, _ = opened()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2**40))
    config = replace(config, cache="off") if budget is None else replace(config, cache_budget=budget)
    absent, said = torch.device("cuda", 0), []
    with (
        contextlib.nullcontext()
        if where != "on cuda:0" or torch.cuda.is_available()
        else pytest.raises((AssertionError, RuntimeError))
    ):
        open_store(data.train, config, absent, said.append)
    assert said[0].endswith(where)


@pytest.mark.gpu
def test_batches_from_a_gpu_are_the_same(opened):
    config, data, ram, _ = opened()
    said = []
    on_gpu = open_store([*data.train, *data.test], config, torch.device("cuda", 0), said.append)
    assert said[0].endswith("on cuda:0")
    for a, b in zip(batches(config, data, ram), batches(config, data, on_gpu), strict=True):
        assert b.is_cuda and torch.equal(a, b.cpu())
