"""Many videos and many detections: memory stays near that of the arrays, and files and numbers are those of the plain way."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import TINY

from benchmarks.bench_load import make_data, run, training
from dataset.store import Files
from engine.checkpoint import as_tensors, from_tensors, load_file, save_file
from eval.table import InputError, read_predictions
from localize import Detections
from methods.base import METHODS, build_method
from options import make_config, parse_args
from test import compute_activations, detect, lost_classes, write_detections
from thumos_features import load_data

CLASSES = ("HighJump", 'a "quoted" class', "Überschlag")


def detections(videos, each):
    """Random detections, by video; every tenth video has none."""
    r = np.random.default_rng(0)
    found = {}
    for number in range(videos):
        count = each if number % 10 else 0
        found[f"vidéo {number}"] = Detections(r.integers(0, 3, count), r.random(count), 100 * r.random((count, 2)))
    return found


def content_of(found):
    """ActivityNet's format in dictionaries."""
    results = {
        name: [
            {"label": CLASSES[c], "score": s, "segment": segment}
            for c, s, segment in zip(part.classes.tolist(), part.scores.tolist(), part.segments.tolist(), strict=True)
        ]
        for name, part in found.items()
        if len(part.scores)
    }
    used = {"used": True, "details": "Features from I3D Network"}
    return {"version": "VERSION 1.3", "results": results, "external_data": used}


def peak(work):
    """The most memory that Python objects and arrays take while `work` runs, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("videos", [0, 1, 25])
def test_detections_are_written_as_json_writes_them(videos, tmp_path):
    found = detections(videos, 7)
    write_detections(tmp_path / "found.json", found, CLASSES)
    assert (tmp_path / "found.json").read_text() == json.dumps(content_of(found)) + "\n"


def test_many_detections_are_written_and_read_in_little_memory(tmp_path):
    """Writing takes less than the arrays have, reading less than three times the file."""
    found, path = detections(500, 100), tmp_path / "found.json"
    arrays = sum(array.nbytes for part in found.values() for array in vars(part).values())
    assert peak(lambda: write_detections(path, found, CLASSES)) < arrays
    assert peak(lambda: read_predictions(path)) < 3 * path.stat().st_size


def test_detections_in_a_checkpoint_are_the_same_arrays(tmp_path):
    found, path = detections(25, 7), tmp_path / "found.ckpt"
    save_file(path, as_tensors(found))
    read = from_tensors(load_file(path))
    assert list(read) == list(found)
    for part, other in zip(found.values(), read.values(), strict=True):
        for name, array in vars(part).items():
            np.testing.assert_array_equal(array, getattr(other, name), strict=True)


ROW = {"label": "x", "score": 1, "segment": [0, 2.5]}
FINE = {"label": "y", "score": 0.5, "segment": [-1, 10**30], "id": {"of": [ROW["label"]]}}


@pytest.mark.parametrize(
    "content",
    [
        {"results": {}},
        {"results": {"a": [], "b": [ROW, FINE], "c": [FINE]}},
        {"results": {"a": [ROW, FINE]}, "external_data": {"example": ROW}},
        {"results": {"a": [ROW | {"like": FINE}, FINE]}},
        {"video": ["a", "b"], "label": ["x", "y"], "start": [0, 1], "end": [1, 2], "score": [1, 0.5]},
    ],
)
def test_a_file_is_read_as_its_content(content, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content))
    read, expected = read_predictions(path), read_predictions(content)
    assert (read.videos, read.labels) == (expected.videos, expected.labels)
    for name in ("video", "label", "segments", "scores"):
        np.testing.assert_array_equal(getattr(read, name), getattr(expected, name), strict=True)


@pytest.mark.parametrize(
    "fault",
    [
        None,
        1,
        [ROW],
        {"label": "x", "segment": [0, 1]},
        {"label": "x", "score": 1, "segment": {"0": 0, "1": 1}},
        *(ROW | {"score": score} for score in (True, "1", None, 10**400, float("nan"))),
        *(ROW | {"segment": segment} for segment in ([0], [0, 1, 2], "01", [0, True], [0, float("inf")], None)),
        *(ROW | {"label": label} for label in (None, 7, ["x"])),
    ],
)
@pytest.mark.parametrize("elsewhere", [{}, {"external_data": {"example": ROW}}])
def test_a_fault_in_a_file_is_told_as_in_its_content(fault, elsewhere, tmp_path):
    path, content = tmp_path / "found.json", {"results": {"a": [ROW], "b": [FINE, fault, ROW]}} | elsewhere
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as expected:
        read_predictions(content)
    with pytest.raises(InputError) as told:
        read_predictions(path)
    assert str(told.value) == str(expected.value).replace("detections:", f"{path}:", 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("class_th", ["0.045", "0.9"])
@pytest.mark.parametrize("compat", ["official", "fixed"])
def test_localization_finds_the_same_in_the_columns_that_are_kept(method, class_th, compat, tiny):
    flags = [f"--method={method}", f"--data_path={tiny}", *TINY, f"--class_th={class_th}", f"--compat={compat}"]
    torch.manual_seed(0)
    config = make_config(parse_args([*flags, "--clicks=simulated"] if method == "backtal" else flags))
    built, videos = build_method(config), load_data(config, ["test"]).test
    kept, whole = (compute_activations(built, videos, Files(1), torch.device("cpu"), whole=whole) for whole in (False, True))
    found = detect(built, whole)
    assert class_th != "0.9" or all(arrays["cas"].shape[1] == 1 for arrays in kept.values())
    for part, other in zip(detect(built, kept).values(), found.values(), strict=True):
        for name, array in vars(part).items():
            np.testing.assert_array_equal(array, getattr(other, name), strict=True)
    assert lost_classes(built, kept, found) == lost_classes(built, whole, found)


@pytest.mark.slow
def test_fifteen_thousand_videos_of_two_hundred_classes(tmp_path):
    """Two iterations and one evaluation, in ten minutes of two cores and far less than 8 GB.

    Class activations that nothing reads would alone take 3 GB. Processor time counts, as the machine may have other work.
    """
    make_data(tmp_path / "data", 15_000)
    phases, total = run(training(tmp_path))
    record = json.loads((tmp_path / "output" / "log.jsonl").read_text())
    assert record["num_detections"] > 2_000_000 and any(phase.line.startswith("iteration 2/2") for phase in phases)
    assert total.cpu < 2 * 600 and total.mib < 2.5 * 1024
