"""TensorBoard's tags, texts, tables and pictures; other loggers through fakes."""

import io
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from engine import recorder
from engine.charts import MOST_CLASSES, Lane, Strip
from engine.figure import draw
from localize import Detections
from options import make_config, parse_args

RUN = ["--lr=[0.01]*2+[0.005]*2", "--eval_every=2", "--seed=0", "--class_th=0.01"]


def events(tmp_path):
    return EventAccumulator(str(tmp_path / "log"), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


def records(tmp_path):
    return [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]


def test_groups_beside_the_official_tags(cli, tmp_path):
    cli("main.py", *RUN)
    found = events(tmp_path)
    for one in ("base", "supp", "norm", "total"):
        assert [e.value for e in found.Scalars(f"loss/{one}")] == [e.value for e in found.Scalars(f"loss_{one}")]
    assert [e.value for e in found.Scalars("train/learning_rate")] == pytest.approx([0.01, 0.01, 0.005, 0.005])
    assert [e.step for e in found.Scalars("train/seconds_per_step")] == [1, 2, 3, 4]
    assert all(0 < e.value < 60 for e in found.Scalars("train/seconds_per_step"))
    for number, record in enumerate(records(tmp_path)):
        for tag, fraction in (
            ("mAP/0.5", record["mAP"]["0.5"]),
            ("mAP/average_0.1-0.7", record["averages"]["0.1:0.7"]),
            ("accuracy/video", record["test_acc"]),
            ("accuracy/classification_mAP", record["classification_mAP"]),
            ("recall/AR_10", record["average_recall"]["AR@10"]),
        ):
            event = found.Scalars(tag)[number]
            assert event.step == record["iteration"] and event.value == pytest.approx(100 * fraction)
        assert found.Scalars("mAP@0.5")[number].value == pytest.approx(record["mAP"]["0.5"]), "the official tag: a fraction"


def test_config_and_table_of_runs(cli, tmp_path):
    cli("main.py", *RUN, "--alpha=0.5")
    found = events(tmp_path)
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text) == json.loads((tmp_path / "output" / "config_seed_0.json").read_text())
    assert all(line.startswith("    ") for line in text.splitlines()), "shown as it is"
    start = plugin_data_pb2.HParamsPluginData.FromString(
        found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info
    assert start.hparams["alpha"].number_value == 0.5 and start.hparams["modal"].string_value == "all"
    last = records(tmp_path)[-1]
    assert found.Scalars("final_last/average_0.1-0.7")[0].value == pytest.approx(100 * last["averages"]["0.1:0.7"])
    assert found.Scalars("final_last/video")[0].value == pytest.approx(100 * last["test_acc"])


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("method", ["basnet", "um", "backtal", "asm_loc", "cola"])
def test_two_test_videos_are_drawn(cli, tmp_path, method):
    steps = ["--steps=1", "--step_iters=2"] if method == "asm_loc" else []
    cli("main.py", f"--method={method}", *RUN, *steps)
    found = events(tmp_path)
    best = [record["iteration"] for record in records(tmp_path) if record["best"]]
    drawn = [tag for tag in found.Tags()["images"] if tag.startswith("best/")]
    assert drawn == ["best/test video 1", "best/test video 2"]
    for tag in drawn:
        images = found.Images(tag)
        assert {image.step for image in images} <= set(best) and images[-1].step == best[-1]
        pixels = imread(io.BytesIO(images[-1].encoded_image_string), format="png")
        assert pixels.shape[:2] == (images[-1].height, images[-1].width) and len(np.unique(pixels)) > 20


@pytest.mark.usefixtures("pictures")
def test_pictures_take_a_share_of_the_time(cli, tmp_path, monkeypatch):
    """Each best is drawn if that is quick, else the first and the last."""
    flags = ["--lr=[0.01]*16", "--eval_every=1", "--seed=0", "--class_th=0.01"]
    monkeypatch.setattr(recorder, "FIGURES_SHARE", 1e9)
    cli("main.py", *flags)
    best = [record["iteration"] for record in records(tmp_path) if record["best"]]
    assert len(best) > 2 and [image.step for image in events(tmp_path).Images("best/test video 1")] == best
    monkeypatch.setattr(recorder, "FIGURES_SHARE", 1e-9)
    cli("main.py", *flags)
    assert [image.step for image in events(tmp_path).Images("best/test video 1")] == [best[0], best[-1]]


def test_off(cli, tmp_path):
    cli("main.py", *RUN)
    with_events = (tmp_path / "output" / "log.jsonl").read_bytes()
    for path in (tmp_path / "log").iterdir():
        path.unlink()
    cli("main.py", *RUN, "--tensorboard=off")
    assert list((tmp_path / "log").iterdir()) == [] and (tmp_path / "output" / "log.jsonl").read_bytes() == with_events


def test_odd_names_in_a_picture():
    config = make_config(parse_args([]), training=False)
    video = SimpleNamespace(
        name="a $\\x$ b",
        seconds=10.0,
        annotations=[{"label": "?", "segment": [0, 1]}, {"label": config.classes[3], "segment": [2, 3]}],
    )
    found = Detections(np.arange(8), np.linspace(0, 1, 8), np.tile([1.0, 4.0], (8, 1)))
    lane = Lane("run", [str(number) for number in found.classes], found.segments, found.scores)
    classes = Strip("v", 10.0, [("3", 2, 3)], [lane]).classes
    assert classes[0] == "3" and len(classes) == MOST_CLASSES and {"7", "6", "5", "4"} == set(classes[1:])
    buffer = io.BytesIO()
    draw(config, video, found, {"one": np.random.rand(16, 20), "two": np.random.rand(16)}).savefig(buffer, format="png")
    assert buffer.tell() > 1000


# ------------------------------------------------------------------------------------------------------ other loggers


class Calls:
    """Takes any call, and keeps it."""

    def __init__(self, kept, name=""):
        self.kept, self.name = kept, name

    def __getattr__(self, name):
        return Calls(self.kept, f"{self.name}.{name}".strip("."))

    def __call__(self, *args, **kwargs):
        self.kept.append((self.name, args, kwargs))
        return Calls(self.kept, "run")


@pytest.fixture
def fake(monkeypatch):
    """Makes a package of this name that keeps all calls of its functions."""

    def make(name, **own):
        kept = []
        package = ModuleType(name)
        package.__file__ = f"{name}.py"  # inspect looks at that of every module
        package.__getattr__ = lambda attribute: Calls(kept, attribute)
        for attribute, value in own.items():
            setattr(package, attribute, value)
        monkeypatch.setitem(sys.modules, name, package)
        return kept

    return make


@pytest.mark.usefixtures("pictures")
def test_wandb(cli, tmp_path, fake, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    kept = fake("wandb")
    cli("main.py", *RUN, "--logger=wandb")
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert kept[0][0] == "init" and kept[0][2] == {
        "project": "basnet",
        "name": "output_seed_0",
        "id": config["run"],
        "resume": "allow",
        "dir": str(tmp_path / "log"),
    }
    assert ("run.define_metric", ("*",), {"step_metric": "iteration"}) in kept
    logged = [args[0] for name, args, _ in kept if name == "run.log"]
    assert [one["iteration"] for one in logged if "loss/total" in one] == [1, 2, 3, 4]
    maps = {one["iteration"]: one["mAP/0.5"] for one in logged if "mAP/0.5" in one}
    assert maps == {record["iteration"]: pytest.approx(100 * record["mAP"]["0.5"]) for record in records(tmp_path)}
    assert any("best/test video 2" in one for one in logged) and not any("mAP@0.5" in one for one in logged)
    assert kept[-1][0] == "run.finish"
    settings = next(args[0] for name, args, _ in kept if name == "run.config.update")
    assert settings["alpha"] == config["alpha"] and settings["provenance"] == config["provenance"]
    assert list((tmp_path / "log").glob("events*")), "beside TensorBoard"


@pytest.mark.usefixtures("pictures")
def test_mlflow(cli, tmp_path, fake):
    kept = fake("mlflow")
    cli("main.py", *RUN, "--logger=mlflow", "--tensorboard=off")
    names = [name for name, _, _ in kept]
    assert names[0] == "start_run" and names[-1] == "end_run" and {"log_params", "log_dict", "log_figure"} < set(names)
    steps = [kwargs["step"] for name, args, kwargs in kept if name == "log_metrics" and "loss/total" in args[0]]
    assert steps == [1, 2, 3, 4]
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /")
    tags = {tag for name, args, _ in kept if name == "log_metrics" for tag in args[0]}
    assert all(set(tag) <= allowed for tag in tags), "the names that MLflow takes"
    assert not list((tmp_path / "log").glob("events*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_there(cli, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    error = cli("main.py", *RUN, f"--logger={name}", expect=2).stderr
    assert f"--logger {name} needs a package" in error and f"pip install {name}" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "output").exists(), "before anything is begun"


def test_a_logger_that_cannot_begin(cli, tmp_path, fake):
    def init(**_):
        raise RuntimeError("no API key\nsecond line")

    fake("wandb", init=init)
    error = cli("main.py", *RUN, "--logger=wandb", expect=2).stderr
    assert "--logger wandb: no run could be begun there: no API key. Correct it" in error


def test_a_logger_that_fails_later_stops_nothing(cli, tmp_path, fake, capfd):
    def log_metrics(*_, **__):
        raise ConnectionError("the server is gone")

    kept = fake("mlflow", log_metrics=log_metrics)
    cli("main.py", *RUN, "--logger=mlflow")
    assert capfd.readouterr().err.count("warning: --logger mlflow ends here, the run goes on: the server is gone") == 1
    assert len(records(tmp_path)) == 2 and "end_run" not in [name for name, _, _ in kept]


def test_unknown_logger(cli):
    assert "'comet' is none of none, wandb, mlflow" in cli("main.py", *RUN, "--logger=comet", expect=2).stderr
