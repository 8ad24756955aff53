"""tools.figure and tools.diagnose: files, names that matplotlib would read as formulas, runs and detections alone."""

import csv
import json

import numpy as np
import pytest
from conftest import command, run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine import charts

LABELS = ["$\\frac$ is no formula", "$", "<b>|a\nb"]


@pytest.fixture
def files(tmp_path):
    r = np.random.default_rng(0)
    database, results = {}, {}
    for number in range(8):
        rows = [{"label": LABELS[r.integers(3)], "segment": [40.0 * i, 40.0 * i + r.uniform(5, 30)]} for i in range(4)]
        database[f"v${number}"] = {"subset": "test", "duration": 170, "annotations": rows}
        shifted = [(np.array(row["segment"]) + 4 * r.standard_normal(2)).tolist() for row in rows]
        results[f"v${number}"] = [row | {"segment": own, "score": r.random()} for row, own in zip(rows, shifted, strict=True)]
    paths = tmp_path / "gt.json", tmp_path / "found.json"
    for path, content in zip(paths, ({"database": database}, {"results": results}), strict=True):
        path.write_text(json.dumps(content))
    return paths


def run(tool: str, *words: object, expect: int = 0):
    done = run_here([f"tools.{tool}", *map(str, words)])
    assert done.returncode == expect, done.stderr
    return done.stdout if expect == 0 else done.stderr


@pytest.mark.parametrize("kind", ["strip", "classes", "pr", "errors"])
@pytest.mark.parametrize("count", [1, 3])
def test_figures_of_detections_of_other_code(files, tmp_path, kind, count):
    truth, found = files
    target = tmp_path / "figures" / "v1.2 of mine"
    names = [] if count == 1 else ["--names=$a,b_$,c"]
    for _ in range(2):
        out = run("figure", kind, *[found] * count, f"--ground_truth={truth}", f"--figure={target}.png", *names)
    assert out == f"{target}.png\n"
    first = (target.parent / "v1.2 of mine.png").read_bytes()
    assert first.startswith(b"\x89PNG") and 5_000 < len(first) < 100_000
    run("figure", kind, *[found] * count, f"--ground_truth={truth}", f"--figure={target}.png", *names)
    assert (target.parent / "v1.2 of mine.png").read_bytes() == first


def test_a_pdf_and_a_png_whose_text_is_text(files, tmp_path):
    truth, found = files
    out = run("figure", "classes", found, f"--ground_truth={truth}", f"--figure={tmp_path}/bars")
    assert out.split() == [f"{tmp_path}/bars.pdf", f"{tmp_path}/bars.png"]
    assert (tmp_path / "bars.pdf").read_bytes().startswith(b"%PDF")
    run("figure", "classes", found, f"--ground_truth={truth}", f"--figure={tmp_path}/bars.svg")
    assert "<svg" in (tmp_path / "bars.svg").read_text()


def test_figures_of_runs(cli, tmp_path):
    cli("main.py", "--lr=[0.01]*3", "--seed=0", "--class_th=0.05", "--eval_every=1")
    folder = tmp_path / "output"
    for kind in ("strip", "seeds"):
        out = run("figure", kind, folder, f"--figure={tmp_path}/{kind}.png")
        assert out == f"{tmp_path}/{kind}.png\n"
    plain = run(
        "figure",
        "strip",
        folder / "detections_best_seed_0.json",
        f"--ground_truth={tmp_path}/data/gt.json",
        f"--figure={tmp_path}/d.png",
    )
    assert (tmp_path / "strip.png").stat().st_size > 2 * (tmp_path / "d.png").stat().st_size, plain  # it has curves
    # tools.plot draws the same from the checkpoint
    flags = [f"--model_file={tmp_path}/model/BaS_Net_model_seed_0.pkl", f"--figure={tmp_path}/plot.png", "--class_th=0.05"]
    cli("tools.plot", *flags)
    assert (tmp_path / "plot.png").read_bytes() == (tmp_path / "strip.png").read_bytes()
    # without the checkpoint, the detections are drawn all the same
    (tmp_path / "model" / "BaS_Net_model_seed_0.pkl").rename(tmp_path / "moved.pkl")
    done = run_here(["tools.figure", "strip", str(folder), f"--figure={tmp_path}/without.png"])
    assert done.returncode == 0 and (tmp_path / "without.png").exists()


@pytest.mark.usefixtures("pictures")
def test_a_run_ends_with_figures_in_tensorboard(tiny, places, tmp_path):
    line = command("main.py", tiny, places, "--lr=[0.01]*2", "--seed=0", "--class_th=0.05")[1:]
    assert run_here(line).returncode == 0
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    names = {"last/AP of each class", "last/Gain in mAP if mended", "last/Precision by recall"}
    assert {name for name in events.Tags()["images"] if name.startswith("last/")} == names
    assert all(events.Images(name)[0].step == 2 and events.Images(name)[0].width > 300 for name in names)


def test_mistakes(files, tmp_path):
    truth, found = files
    given = [found, f"--ground_truth={truth}"]
    assert "Did you mean v$3" in run("figure", "strip", *given, "--video=v$33", expect=2)
    assert "figures end in" in run("figure", "pr", *given, "--figure=a.doc", expect=2)
    assert "2 names for 1 runs" in run("figure", "pr", *given, "--names=a,b", expect=2)
    assert "--tiou 2" in run("figure", "pr", *given, "--tiou=2", expect=2)
    assert "--tiou 0" in run("diagnose", *given, "--tiou=0", expect=2)
    assert "no finished run" in run("figure", "seeds", tmp_path, expect=2)
    assert "no such file" in run("diagnose", tmp_path / "none.json", expect=2)


def test_the_diagnosis_in_the_terminal(files, tmp_path):
    truth, found = files
    out = run("diagnose", found, f"--ground_truth={truth}", f"--output={tmp_path}/out")
    assert "true positive" in out and "coverage of the video" in out
    content = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    with open(tmp_path / "out" / "instances.csv", newline="") as stream:
        assert sum(content["kinds"].values()) == 32 == len(list(csv.DictReader(stream)))
    assert max(map(len, out.splitlines()[1:-1])) <= 80
    rows = [line for line in out.splitlines() if "everything" in line]
    assert float(rows[0].split("|")[4]) / 100 + content["mAP"] == pytest.approx(1, abs=1e-4)


def test_precision_at_recalls():
    """The steps of the curve: the precision at a recall is that of the next hit."""
    values = charts.at_recalls(np.array([0, 0.2, 0.5, 0.51, 1]), [0.5, 0.75], [1.0, 0.6])
    assert values.tolist() == [1, 1, 1, 0.6, 0]
    assert charts.at_recalls(np.array([0.0, 1]), [], []).tolist() == [0, 0]


def test_scores_of_settings_fit_a_page():
    """A grid has cells; settings that are drawn at random are points, or the grid would have as many rows as settings."""
    r = np.random.default_rng(0)
    grid = [{"a": a, "b": b, "v": 0.5} for a in (0.1, 0.2, 0.3) for b in ("0:1:0.1", "$x$")]
    random = [{"a": a, "b": b, "v": v} for a, b, v in r.random((200, 3)).tolist()]
    one = [{"a": None, "b": 1, "v": 0.5}, {"a": 0.5, "b": 1, "v": 0.4}]
    for rows in (grid, random, one):
        drawn = charts.settings(["a", "b"], rows, "v", "title")
        assert max(drawn.get_size_inches()) < 10
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == ["None", "0.5"]
    assert len(charts.settings(["a", "b"], grid, "v", "").axes[0].images) == 1
    assert not charts.settings(["a", "b"], random, "v", "").axes[0].images
