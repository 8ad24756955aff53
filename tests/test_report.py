"""The report of a run: what it reads, what it writes, how it treats names and mistakes."""

import base64
import json
import os
import re
from argparse import Namespace

import numpy as np
import pytest
from conftest import make_tiny

from eval.eval_detection import TIOU_THUMOS, detection_map
from eval.table import read_ground_truth
from tools.report import page
from tools.report.__main__ import make, parse
from tools.report.pack import as_script, packed
from tools.report.runs import config_of, read_run
from utils import UserError

HOSTILE = "</script><script>alert(1)</script>\"&'<!--"


@pytest.fixture
def detections(tmp_path):
    """A file of detections of the tiny data, and its ground truth."""
    data = make_tiny(tmp_path / "data")
    rows = [{"label": "HighJump", "segment": [1.4 + k, 4.5 + k], "score": 0.9 - 0.1 * k} for k in range(3)]
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"results": {f"video_test_{v}": rows for v in range(4)}}))
    return path, data / "gt.json"


def report(tmp_path, *runs, **flags):
    words = [str(run) for run in runs] + [f"--{name}={value}" for name, value in flags.items()]
    args = parse([f"--output={tmp_path / 'page' / 'report.html'}", *words])
    make(args)
    return tmp_path / "page" / "report.html"


def numbers_in(html):
    return json.loads(re.search(r'id="numbers">(.*?)</script>', html.read_text(), re.S)[1])


def test_detections_alone(detections, tmp_path, capsys):
    path, truth = detections
    html = report(tmp_path, path, ground_truth=truth)
    assert capsys.readouterr().out == f"{html}\n"
    numbers = numbers_in(html)
    run = numbers["runs"][0]
    assert any("detections alone" in sentence for sentence in run["missing"])
    assert run["scores"][0]["mAP"] == {f"{t:g}": pytest.approx(v) for t, v in zip(*score_of(path, truth), strict=True)}
    assert list(run["diagnoses"]) == ["0.3", "0.5", "0.7"]
    assert [video["name"] for video in numbers["videos"]] == [f"video_test_{v}" for v in range(4)]
    text = html.read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(http|fetch\(""", text)


def score_of(found, truth):
    score = detection_map(truth, found, TIOU_THUMOS)
    return score.tiou, score.mAP


@pytest.mark.parametrize("text", [HOSTILE, "a\u2028b", "=1+1", "x|y", "ü"])
def test_no_name_ends_a_script(text):
    script = as_script({"name": text})
    assert not set("<>&") & set(script) and json.loads(script) == {"name": text}


def test_hostile_classes_and_videos(tmp_path):
    video = HOSTILE.replace("/", "")  # a file may not be called so
    truth = tmp_path / "gt.json"
    truth.write_text(
        json.dumps({"database": {video: {"subset": "test", "annotations": [{"label": HOSTILE, "segment": [1, 2]}]}}})
    )
    found = tmp_path / "found <b>.json"
    found.write_text(json.dumps({"results": {video: [{"label": HOSTILE, "segment": [1, 2], "score": 1}]}}))
    text = report(tmp_path, found, ground_truth=truth).read_text()
    assert "alert(1)</script>" not in text and "<b>" not in text
    assert len(re.findall("<script", text)) == len(re.findall("</script>", text)) == 3


def test_large_sets_are_in_files_beside_the_page(detections, tmp_path, monkeypatch):
    path, truth = detections
    monkeypatch.setattr(page, "MOST_INSIDE", 0)
    monkeypatch.setattr(page, "SHARD", 1)
    html = report(tmp_path, path, ground_truth=truth)
    numbers = numbers_in(html)
    assert numbers["shards"] == [f"report_files/videos_{n}.js" for n in range(4)]
    assert [video["shard"] for video in numbers["videos"]] == [0, 1, 2, 3]
    for number, address in enumerate(numbers["shards"]):
        text = (html.parent / address).read_text()
        own = json.loads(text.removeprefix(f"receiveVideos({number}, ").removesuffix(");\n"))
        assert [video["name"] for video in own] == [f"video_test_{number}"]
    assert 'id="videos-0"' not in html.read_text()


def test_numbers_are_packed_exactly_and_what_half_precision_cannot_hold_is_not():
    values = np.array([1.5, -2.25, 1e-3])
    assert np.frombuffer(base64.b64decode(packed(values, np.float64)["f8"]), "<f8").tolist() == values.tolist()
    assert list(packed(values, np.float16)) == ["f2"] and list(packed(values * 1e8, np.float16)) == ["f4"]
    assert json.loads(as_script({"a": [1.0, float("nan"), float("inf")]})) == {"a": [1.0, None, None]}


def test_two_runs(detections, tmp_path):
    path, truth = detections
    better = tmp_path / "better.json"
    rows = read_ground_truth(truth, "test")
    results = {}
    for video, label, segment in zip(rows.video, rows.label, rows.segments.tolist(), strict=True):
        results.setdefault(rows.videos[video], []).append({"label": rows.labels[label], "segment": segment, "score": 1})
    better.write_text(json.dumps({"results": results}))
    comparison = numbers_in(report(tmp_path, path, better, ground_truth=truth))["comparison"]
    average = comparison["intervals"][0]
    assert average["value"] == pytest.approx(1 - score_of(path, truth)[1].mean()) and average["low"] <= average["value"]
    assert all(row["second"] == 1 for row in comparison["classes"]) and not comparison["settings"]
    assert all(video["change"] <= 0 for video in comparison["videos"]["0.5"])


def args_for(**values):
    return Namespace(**{"seed": None, "data_path": None, "model_file": None, "ground_truth": None, "subset": None} | values)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"detections_best_seed_\*\.json.*Name the output folder"):
        read_run(tmp_path, args_for())
    (tmp_path / "seed_3").mkdir()
    with pytest.raises(UserError, match="several seeds: name one of seed_3"):
        read_run(tmp_path, args_for())


def test_a_folder_of_several_seeds(tmp_path):
    for seed in (1, 12):
        (tmp_path / f"detections_best_seed_{seed}.json").write_text('{"results": {}}')
    with pytest.raises(UserError, match="seeds 1, 12; choose one with --seed"):
        read_run(tmp_path, args_for())
    with pytest.raises(UserError, match=r"config\.json"):
        read_run(tmp_path, args_for(seed=12))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.json", "[]", "holds no settings"),
        ("config.json", '{"method": "basnet"}', "dataset of its config is missing"),
        ("config.json", '{"method": "another"}', "has the method 'another'; expected one of basnet"),
        ("log.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("log.jsonl", '{"iteration": 1, "ground_truth": "", "mAP": {"0.5": NaN}, "averages": {"all": 1}}', "no record of"),
        ("log.jsonl", '{"iteration": 1', "line 1 is not JSON"),
        ("log.jsonl", '{"iteration": 1}', "no record of an evaluation"),
        ("log.jsonl", '{"iteration": 1, "ground_truth": "", "mAP": {"0.5": 0}, "averages": {"all": 1}}', "no record of"),
    ],
)
def test_damaged_files(cli, tmp_path, name, text, said):
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0")
    output = tmp_path / "output"
    own = next(path for path in (output / name.replace(".", "_seed_0."), output / name) if path.exists())
    own.write_text(text)
    with pytest.raises(UserError, match=said):
        read_run(output, args_for())


@pytest.mark.parametrize("value", [None, [], "x", -1.5, True, {}])
def test_settings_of_another_type(cli, tmp_path, value):
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0")
    path = max((tmp_path / "output").glob("config*.json"), key=lambda each: len(each.name))
    settings = json.loads(path.read_text())
    config_of(settings, path)
    for name in ("num_segments", "cas_th", "classes", "nms_th", "compile"):
        if (
            isinstance(value, type(settings[name]))
            or (name == "cas_th" and value == "x")
            or (name == "nms_th" and value == -1.5)
        ):
            continue
        with pytest.raises(UserError, match=f"{name} of its config is"):
            config_of(settings | {name: value}, path)
    if value and not isinstance(value, dict):
        with pytest.raises(UserError, match="provenance of its config is"):
            config_of(settings | {"provenance": value}, path)


def test_a_number_that_no_float_holds(cli, tmp_path):
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0")
    log = tmp_path / "output" / "log_seed_0.jsonl"
    record = json.loads(log.read_text().splitlines()[0])
    log.write_text(json.dumps(record | {"top1": 10**400}))
    with pytest.raises(UserError, match="line 1 is no record"):
        read_run(tmp_path / "output", args_for())


def test_settings_without_sense(cli, tmp_path):
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0")
    path = tmp_path / "output" / "config_seed_0.json"
    settings = json.loads(path.read_text())
    for name, value in (
        ("len_feature", 1),
        ("layout", "x"),
        ("choose_by", "1_0"),
        ("ties", "x"),
        ("tiou_thresholds", [2.0]),
        ("dataset", "1_0"),
    ):
        path.write_text(json.dumps(settings | {name: value}))
        with pytest.raises(UserError, match=rf"output: its .*{name.replace('_', '.')}"):
            read_run(tmp_path / "output", args_for())


def test_an_evaluation(cli, tmp_path):
    """The output folder of main_eval.py is that of a run with one evaluation."""
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0")
    cli("main_eval.py", f"--model_file={next((tmp_path / 'model').glob('*.pkl'))}", f"--output_path={tmp_path / 'evaluated'}")
    run = numbers_in(report(tmp_path, tmp_path / "evaluated"))["runs"][0]
    assert not run["missing"] and [row["name"] for row in run["scores"]] == ["detections of this page", "last, iteration 0"]


def test_a_trained_run(cli, tmp_path):
    """The page has the scores of the log, curves of every test video, and says so when they cannot be computed."""
    cli("main.py", "--lr", "[0.01]*4", "--seed", "0", "--eval_every", "2")
    html = report(tmp_path, tmp_path / "output")
    numbers = numbers_in(html)
    run = numbers["runs"][0]
    assert not run["missing"] and numbers["rules"][0]["points"] > 0
    assert [row["name"].split(",")[0] for row in run["scores"]] == ["detections of this page", "best", "last"]
    assert run["scores"][0]["mAP"] == pytest.approx(run["scores"][1]["mAP"])
    oracles = [[step["name"] for step in found["ladder"]] for found in run["diagnoses"].values()]
    assert all(names[1] == "best thresholds of each video" for names in oracles)
    assert run["learning"]["iteration"] == [2, 4] and "loss_total" in run["learning"]["losses"]
    videos = json.loads(re.search(r'id="videos-0">(.*?)</script>', html.read_text(), re.S)[1])
    assert all(video["runs"][0]["localize"] and not video["assumed"] for video in videos)
    titles = {line["title"] for line in videos[0]["runs"][0]["drawn"]["lines"]}
    assert titles == {"base branch", "suppressed branch", "foreground weight"}

    next((tmp_path / "model").glob("*.pkl")).rename(tmp_path / "elsewhere.pkl")
    run = numbers_in(report(tmp_path, tmp_path / "output"))["runs"][0]
    assert "Name it with --model_file" in run["missing"][0] and len(run["diagnoses"]["0.5"]["ladder"]) == 4
    assert not numbers_in(report(tmp_path, tmp_path / "output", model_file=tmp_path / "elsewhere.pkl"))["runs"][0]["missing"]


def test_mistakes_on_the_command_line(detections, tmp_path, capsys):
    path, truth = detections
    with pytest.raises(UserError, match="nobody"):
        report(tmp_path, tmp_path / "nobody", ground_truth=truth)
    with pytest.raises(UserError, match="is no folder"):
        report(tmp_path, path, ground_truth=truth, videos=tmp_path / "none")
    with pytest.raises(UserError, match="is a folder; expected the HTML file"):
        report(tmp_path, path, ground_truth=truth, output=tmp_path)
    with pytest.raises(UserError, match="thumos15"):
        report(tmp_path, path, dataset="thumos15")
    with pytest.raises(SystemExit):
        parse(["a", "b", "c"])
    assert "expected one, or two" in capsys.readouterr().err


def test_films_are_named_relative_to_the_page(detections, tmp_path):
    path, truth = detections
    films = tmp_path / "films of mine"
    films.mkdir()
    (films / "video_test_1.mp4").write_bytes(b"")
    (films / os.fsdecode(b"\xff.mp4")).write_bytes(b"")  # not text
    text = report(tmp_path, path, ground_truth=truth, videos=films).read_text()
    videos = json.loads(re.search(r'id="videos-0">(.*?)</script>', text, re.S)[1])
    assert [video["film"] for video in videos] == [None, "../films%20of%20mine/video_test_1.mp4", None, None]
