"""Wherever features are kept, batches are the same; the packed copy is used when it is of these files, and only then."""

import os
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from conftest import TINY

from dataset import store
from dataset.draws import Draws
from dataset.store import Files, Matrix, open_store
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


def test_batches_do_not_depend_on_where_features_are(opened):
    config, data, ram, said = opened()
    expected = batches(config, data, ram)
    assert all((oracles.per_item_batch(data.train, config, i) == batch.numpy()).all() for i, batch in enumerate(expected))
    assert isinstance(ram, Matrix) and "in memory" in said[0]
    for flags in (
        ["--cache=off"],
        ["--cache=device"],
        ["--cache_path=none"],
        ["--num_workers=1", "--cache=off"],
        ["--cache=ram"],
    ):
        config, data, other, _ = opened(*flags)
        assert all((a == b).all() for a, b in zip(expected, batches(config, data, other), strict=True)), flags
    assert isinstance(opened("--cache=off")[2], Files) and isinstance(opened("--cache_budget=0")[2], Files)


def test_the_packed_copy_is_read_instead_of_the_files(opened, tiny, monkeypatch):
    _, _, first, said = opened()
    assert "packed copy of the features is kept" in said[1] and (tiny / "packed" / "thumos14_rgb_flow_float32.bin").exists()

    def never(*_):
        raise AssertionError("a file was read")

    monkeypatch.setattr("thumos_features.read_features", never)
    _, _, again, said = opened()
    assert len(said) == 1 and (again.snippets_nf == first.snippets_nf).all()


def touch(path):
    os.utime(path, ns=(1, 1))


def longer(path):
    np.save(path, np.load(path)[[0, *range(len(np.load(path)))]])


@pytest.mark.parametrize("change", [touch, longer])
def test_a_packed_copy_of_other_files_is_replaced(opened, tiny, change):
    opened()
    for stream in ("rgb", "flow"):
        change(tiny / "features" / "train" / stream / "video_train_2.npy")
    _, data, matrix, said = opened()
    assert len(said) == 2
    np.testing.assert_array_equal(matrix.gather([data.train[2]], [np.arange(3)]).dense()[0].T, data.train[2].read()[:3])


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"x" + b[1:], lambda b: b + b"x"])
def test_a_damaged_packed_copy_is_replaced(opened, tiny, damage):
    _, _, first, _ = opened()
    path = tiny / "packed" / "thumos14_rgb_flow_float32.bin"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    _, _, again, said = opened()
    assert len(said) == 2 and (again.snippets_nf == first.snippets_nf).all() and path.read_bytes() == whole


def test_a_place_that_takes_no_copy_is_no_obstacle(opened, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    _, _, matrix, said = opened(f"--cache_path={tmp_path}/file/folder")
    assert "no packed copy" in said[1] and len(matrix.snippets_nf)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert "little space" in opened(f"--cache_path={tmp_path}/other")[3][1]


def test_half_precision_rounds_and_nothing_else(opened):
    config, data, whole, _ = opened()
    _, half_data, half, _ = opened("--cache_dtype=float16")
    assert half.snippets_nf.dtype == torch.float16
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


def test_a_gpu_is_taken_if_it_has_room(opened, monkeypatch):
    config, data, _, _ = opened()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40))
    said = []
    monkeypatch.setattr(Matrix, "__init__", lambda *_: None)
    monkeypatch.setattr(store, "read_matrix", lambda *_: type("Rows", (), {"to": lambda self, device: self})())
    open_store(data.train, config, torch.device("cuda", 0), said.append)
    assert "on cuda:0" in said[0]
    open_store(data.train, replace(config, cache_budget=0.0), torch.device("cuda", 0), said.append)
    assert "from their files" in said[1]
