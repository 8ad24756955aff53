"""A few hundred ways to spoil a small data set of each layout: every one ends in a correct run or in one clear message."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import TINY, make_tiny

from dataset.check import check, quick_check
from dataset.draws import Draws
from dataset.layouts import LAYOUTS
from dataset.prepare import main as prepare
from dataset.store import open_store
from methods.base import build_method
from options import make_config, parse_args
from thumos_features import load_data, training_batch, uniform_indices
from utils import UserError

CHANGES = 60  # of each layout
VALUES = [None, True, 0, -1, 1.5, 1e308, "", "x", "nan", "1_0", [], {}, [1], [1, 2], [2, 1], {"a": 1}, float("inf"), "\ud800"]
ARRAYS = [
    lambda a: a[:0],
    lambda a: a[:1],
    lambda a: a[:, :-1],
    lambda a: a[None],
    lambda a: a[0],
    lambda a: a.T,
    lambda a: np.asfortranarray(a),
    lambda a: a.astype(np.float16),
    lambda a: a.astype(np.float64),
    lambda a: a.astype(">f4"),
    lambda a: a.astype(np.int8),
    lambda a: a.astype(complex),
    lambda a: a.astype(bool),
    lambda a: a.astype(str),
    lambda a: a * np.nan,
    lambda a: a * np.inf,
    lambda a: np.repeat(a, 40, axis=0),
    lambda a: np.zeros(()),
    lambda a: np.array([{"x": 1}], dtype=object),
    lambda a: a.view([("x", "<f4")]) if a.dtype == np.float32 and a.flags.c_contiguous else a,
]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """A good data set of each layout."""
    root = tmp_path_factory.mktemp("fuzz")
    tiny = make_tiny(root / "tiny")
    for layout in LAYOUTS:
        prepare(["features", "--to", layout, f"--output={root / layout}", f"--data_path={tiny}", *TINY])
    return root


def spoil(folder, random):
    """Change one thing; returns what."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[random.integers(len(files))]
    if random.random() < 0.3:
        path = folder / "gt.json"
    before = path.read_bytes()
    kind = random.choice(["bytes", "cut", "empty", "gone", "content", "content", "content", "rename", "folder"])
    if kind == "bytes":
        after = bytearray(before)
        for place in random.integers(len(after), size=random.integers(1, 4)):
            after[place] = random.integers(256)
        path.write_bytes(bytes(after))
    elif kind == "cut":
        path.write_bytes(before[: random.integers(len(before))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "gone":
        path.unlink()
    elif kind == "rename":
        path.rename(path.with_name(f"v_{path.name}"))
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif path.suffix == ".json":
        content = json.loads(before)
        change_json(content, random)
        path.write_text(json.dumps(content))
    elif path.suffix == ".txt":
        path.write_text(random.choice(["", "\n\n", "video_train_0\nvideo_train_0\n", "nobody\n", before.decode() + "nobody\n"]))
    elif path.suffix == ".npy":
        np.save(path, ARRAYS[random.integers(len(ARRAYS))](np.load(path)), allow_pickle=True)
    else:
        arrays = dict(np.load(path))
        key = sorted(arrays)[random.integers(len(arrays))]
        if random.random() < 0.3:
            del arrays[key]
        else:
            array = arrays[key]
            arrays[key] = ARRAYS[random.integers(len(ARRAYS))](array if array.ndim == 2 else np.ones((3, 4), np.float32))
        np.savez(path, **arrays)
    return f"{kind} of {path.relative_to(folder)}"


def change_json(content, random):
    """Walk down a few levels, then put another value, drop a key or add one."""
    where = content
    for _ in range(random.integers(1, 6)):
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        if not keys:
            return
        key = keys[random.integers(len(keys))]
        if not isinstance(where[key], dict | list) or random.random() < 0.25:
            break
        where = where[key]
    if not isinstance(where, dict | list) or not where:
        return
    key = random.choice(list(where)) if isinstance(where, dict) else int(random.integers(len(where)))
    if random.random() < 0.3:
        del where[key]
    else:
        where[key] = VALUES[random.integers(len(VALUES))]


def work(folder, cache):
    """All that a run does with data, and the whole check."""
    config = make_config(parse_args([f"--data_path={folder}", *TINY, "--batch_size=5", f"--cache={cache}"]))
    data = load_data(config)
    quick_check(data, config)
    store = open_store([*data.train, *data.test], config, torch.device("cpu"), lambda _: None)
    batch = training_batch(data.train, store, Draws(config, 0), build_method(config).sample, 0)
    shown = store.gather(data.test, [uniform_indices(video.num_seg, config.num_segments) for video in data.test])
    assert torch.isfinite(batch.snippets.dense()).all() and torch.isfinite(shown.dense()).all()
    assert batch.snippets.shape[1:] == shown.shape[1:] == (12, 16)
    assert len(data.train) <= 5 and (batch.label_bc.sum(dim=1) >= 1).all() and len(data.truth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_spoilt_data_set_is_named_or_works(layout, layouts, tmp_path):
    random = np.random.default_rng(list(LAYOUTS).index(layout))
    good = worked = 0
    for number in range(CHANGES):
        folder = tmp_path / str(number)
        shutil.copytree(layouts / layout, folder)
        what = spoil(folder, random)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for cache in ("ram", "off"):
                try:
                    work(folder, cache)
                    worked += 1
                except UserError as error:
                    good += 1
                    assert "\n" not in str(error) and len(str(error)) < 2000, what
                except BaseException as error:
                    raise AssertionError(f"{what}, cache {cache}: {type(error).__name__}: {error}") from error
            try:
                check(make_config(parse_args([f"--data_path={folder}", *TINY])), quick=False)
            except UserError:
                pass
            except BaseException as error:
                raise AssertionError(f"{what}, check: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert good > CHANGES / 4 and worked > CHANGES / 8
