"""tools.compare: settings, metrics and mAP of runs, with intervals of the differences."""

import csv
import json
import re

import numpy as np
import pytest
from conftest import run_here

LABELS = ["x|y", "=1+1", "a label that is too long for the terminal"]


@pytest.fixture
def files(tmp_path):
    """A ground truth and two detections files, of which the second is nearer to it."""
    r = np.random.default_rng(0)
    database, results = {}, ({}, {})
    for number in range(30):
        rows = [{"label": LABELS[r.integers(3)], "segment": [40.0 * i, 40.0 * i + r.uniform(5, 30)]} for i in range(4)]
        database[f"v{number}"] = {"subset": "test", "annotations": rows}
        for found, noise in zip(results, (8, 3), strict=True):
            found[f"v{number}"] = [
                row | {"segment": (np.array(row["segment"]) + noise * r.standard_normal(2)).tolist(), "score": r.random()}
                for row in rows
            ]
    paths = [tmp_path / name for name in ("gt.json", "far.json", "near.json")]
    for path, content in zip(paths, ({"database": database}, *({"results": found} for found in results)), strict=True):
        path.write_text(json.dumps(content))
    return paths


def compare(*words: object, expect: int = 0):
    done = run_here(["tools.compare", *map(str, words)])
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


def test_detections_of_other_code(files, tmp_path):
    truth, far, near = files
    out = compare(far, near, f"--ground_truth={truth}", "--resamples=200", f"--csv={tmp_path}/all.csv")
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80 and f"A: {far}" in out
    average = next(line for line in out.splitlines() if "average" in line).split("|")
    first, second, difference = map(float, average[2:5])
    assert difference == pytest.approx(second - first, abs=0.011) and difference > 5
    assert average[6].split() == ["100", "%"]
    with open(tmp_path / "all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["class"] for row in rows} == {"all", "x|y", "'=1+1", LABELS[2]}
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    again = compare(far, near, f"--ground_truth={truth}", "--resamples=200")
    assert again == "\n".join(out.splitlines()[:-1]) + "\n"  # the draws are the same


def test_three_runs(files):
    truth, far, near = files
    out = compare(far, near, far, f"--ground_truth={truth}", "--resamples=20")
    assert "B - A" in out and "C - A" in out
    last = [line for line in out.splitlines() if "average" in line][-1]
    assert last.split("|")[4:7] == [" +0.00 ", " +0.00 to +0.00 ", "  50 % "]


def test_runs_of_this_code(cli, tmp_path):
    folders = []
    for name, flags in (("one", []), ("two", ["--ablation=baseline", "--nms_th=0.5"])):
        folder = tmp_path / name
        paths = [f"--{kind}_path={folder}/{kind}" for kind in ("model", "log")] + [f"--output_path={folder}"]
        cli("main.py", "--lr=0.01", "--num_iters=2", "--seed=0", "--class_th=0.05", *paths, *flags)
        folders.append(folder)
    out = compare(*folders, "--resamples=20")
    assert re.search(r"nms_th \| +0.7 \| +0.5 \|", out) and re.search(r"ablation \| +full \| +baseline \|", out)
    assert "described" not in out  # a text made of settings that are rows already
    assert "AR@100" in out and "iteration of the best" in out
    assert "no setting differs" in compare(folders[0], folders[0], "--resamples=2")


def test_mistakes(files, tmp_path):
    truth, far, near = files
    assert "expected 2 to 26" in compare(far, expect=2)
    assert "no such file" in compare(far, tmp_path / "none.json", f"--ground_truth={truth}", expect=2)
    assert "is a folder" in compare(far, near, f"--ground_truth={truth}", f"--csv={tmp_path}", expect=2)
    assert "--dataset nothing" in compare(far, near, "--dataset=nothing", expect=2)
