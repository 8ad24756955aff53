"""The demo data: the same every time, THUMOS-shaped, and with statistics near those of real I3D features."""

import dataclasses
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, one_thread

import dataset.make_demo as make_demo_module
from dataset.facts import KNOWN
from dataset.make_demo import KINDS, SECONDS_PER_SNIPPET, SURROUNDINGS, draw_timeline, ensure_demo, make_demo
from options import make_config, parse_args
from thumos_features import load_data
from utils import UserError, say_now


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo"
    ensure_demo("demo", str(folder))
    return folder


@pytest.fixture(scope="module")
def videos(demo):
    data = load_data(make_config(parse_args(["--dataset", "demo", f"--data_path={demo}"])))
    return {"train": data.train, "test": data.test}


def test_it_is_the_same_every_time(demo, tmp_path):
    make_demo(tmp_path / "again")
    files = sorted(path.relative_to(demo) for path in demo.rglob("*") if path.is_file())
    assert len(files) == 2 * 180 + 3
    assert all((demo / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_what_is_there_is_left_alone(demo):
    before = (demo / "gt.json").stat().st_mtime_ns
    ensure_demo("demo", str(demo))
    assert (demo / "gt.json").stat().st_mtime_ns == before


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(KINDS, "demo", dataclasses.replace(KINDS["demo"], videos={"train": 2, "test": 1}))


def test_of_two_first_runs_one_makes_it_and_the_other_waits(small, tmp_path, monkeypatch, capfd):
    folder, real, first_is_at_it, second_waits = tmp_path / "demo", make_demo_module._make, threading.Event(), threading.Event()

    def made(*args):
        first_is_at_it.set()
        assert second_waits.wait(10)
        return real(*args)

    def told(text):
        say_now(text)
        second_waits.set()

    monkeypatch.setattr(make_demo_module, "_make", made)
    monkeypatch.setattr(make_demo_module, "say_now", told)
    first = threading.Thread(target=ensure_demo, args=("demo", str(folder)))
    first.start()
    assert first_is_at_it.wait(10)
    ensure_demo("demo", str(folder))
    assert (folder / "gt.json").exists(), "it is there when the second goes on"
    first.join(10)
    out, err = capfd.readouterr()
    assert out.count("making the demo data") == 1
    assert err.count("\n") == 1 and f"waiting for the demo data in {folder}, which another process makes: process " in err
    assert os.listdir(tmp_path) == ["demo"]


def test_a_folder_that_another_program_makes_meanwhile_is_left_as_it_is(small, tmp_path, monkeypatch, capfd):
    folder, real = tmp_path / "demo", make_demo_module._write_thumos

    def made_meanwhile(part, kind):
        real(part, kind)
        folder.mkdir()
        (folder / "gt.json").write_text("theirs")

    monkeypatch.setattr(make_demo_module, "_write_thumos", made_meanwhile)
    ensure_demo("demo", str(folder))
    assert "made by another program meanwhile" in capfd.readouterr().out
    with pytest.raises(UserError, match="is there already; expected a new folder"):
        make_demo(folder)
    assert (folder / "gt.json").read_text() == "theirs" and os.listdir(tmp_path) == ["demo"]


@pytest.mark.whole
def test_two_first_runs_at_once(places, tmp_path):
    folder = tmp_path / "data" / "demo"
    line = [sys.executable, "-W", "ignore", "-m", "dataset.check", "--dataset=demo", f"--data_path={folder}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": one_thread()}
    processes = [subprocess.Popen(line, **pipes) for _ in range(3)]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sum(out.count("making the demo data") for out, _ in said) == 1
    assert os.listdir(folder.parent) == ["demo"]


def test_labels_are_those_of_the_problem(videos):
    assert "BaseballPitch" in KNOWN["demo"].classes
    for subset, count in (("train", 120), ("test", 60)):
        label_vc = np.stack([video.label_c for video in videos[subset]])
        assert len(label_vc) == count and set(label_vc.sum(axis=1)) == {1, 2} and label_vc.any(axis=0).all()
        assert 0.1 < np.mean(label_vc.sum(axis=1) == 2) < 0.3
        assert any(row[0] == 1 and row.sum() == 1 for row in label_vc), "BaseballPitch alone, for quirk B1"


def test_videos_are_untrimmed_and_instances_short(demo, videos):
    lengths = [video.num_seg for subset in videos.values() for video in subset]
    assert min(lengths) >= 60 and max(lengths) > 4 * min(lengths)
    database = json.loads((demo / "gt.json").read_text())["database"]
    lengths = {video.name: video.num_seg for subset in videos.values() for video in subset}
    covered = []
    for name, video in database.items():
        segments = [tuple(map(float, row["segment"])) for row in video["annotations"]]
        assert all(0 <= start < end <= lengths[name] * SECONDS_PER_SNIPPET + 0.01 for start, end in segments)
        assert max(end - start for start, end in segments) < 30
        covered.append(sum(end - start for start, end in segments) / (lengths[name] * SECONDS_PER_SNIPPET))
    assert 0.1 < np.mean(covered) < 0.5
    assert np.mean([len(video["annotations"]) for video in database.values()]) > 3


@pytest.mark.parametrize(("stream", "mean", "zero"), [("rgb", 0.27, 0.03), ("flow", 0.18, 0.11)])
def test_statistics_are_near_those_of_real_features(videos, stream, mean, zero):
    half = slice(0, 64) if stream == "rgb" else slice(64, 128)
    features = np.concatenate([video.read()[:, half] for video in videos["train"]])
    assert features.min() == 0
    assert np.mean(features) == pytest.approx(mean, rel=0.3)
    assert np.mean(features < 1e-3) == pytest.approx(zero, abs=0.04)
    assert np.std(features) > np.mean(features), "heavy tail"


def test_context_goes_with_the_class_and_never_with_the_action():
    random = np.random.default_rng(0)
    for number in range(40):
        timeline = draw_timeline(random, number, KINDS["demo"])
        acting, context = timeline.action_lc > 0, timeline.context_lc > 0
        assert not (acting & context).any() and not (timeline.surroundings_ls[acting.any(axis=1)] > 0).any()
        assert set(np.flatnonzero(context.any(axis=0))) <= {label for label, _, _ in timeline.instances}
        assert timeline.surroundings_ls.shape[1] == SURROUNDINGS and 0 <= acting.sum() < len(acting)
