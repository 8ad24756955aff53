"""The command line of UM's second implementation: train.py and test.py as programs, beside what main.py does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, one_thread

from config import parse_thresholds
from options import make_config
from tools.leftthomas import read_flags, threshold_list
from utils import UserError

pytestmark = pytest.mark.whole

RUN = ["--num_iter=4", "--eval_iter=2", "--seed=0", "--lr=0.01"]


@pytest.fixture
def program(tiny, tmp_path):
    """Run train.py or test.py on the tiny data."""

    def run(script, *flags, expect=0):
        line = [sys.executable, script, f"--data_path={tiny}", f"--save_path={tmp_path / 'result'}", "--cache_path=none"]
        done = subprocess.run([*line, *TINY, *flags], capture_output=True, text=True, cwd=ROOT, env=one_thread())
        assert done.returncode == expect and "Traceback" not in done.stderr, f"{done.stdout}\n{done.stderr}"
        return done

    return run


def read(path):
    return json.loads(path.read_text())


def test_trains_as_main_does_and_writes_its_files(program, cli, tmp_path):
    program("train.py", *RUN)
    same = ["--method=um", "--variant=leftthomas-fixed", "--timing=rows", "--num_iters=4", "--eval_every=2", "--seed=0"]
    cli("main.py", *same, "--lr=0.01", "--scale=24")
    result = tmp_path / "result"
    [ours] = (tmp_path / "model").glob("*.pkl")
    expected = {key.replace("classifier.0.weight", "classifier.weight"): value for key, value in torch.load(ours).items()}
    found = torch.load(result / "thumos14_model.pth")
    assert "cas_module.classifier.weight" in found and set(found) == set(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)

    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    metrics = read(result / "thumos14_metric.json")
    assert list(metrics) == ["Step 2", "Step 4"]
    for record, values in zip(records, metrics.values(), strict=True):
        assert list(values) == ["Test ACC", "mAP@AVG", *(f"mAP@0.{tenth}0" for tenth in range(1, 8))]
        assert values["mAP@AVG"] == round(100 * record["averages"]["0.1:0.7"], 1)
        assert values["Test ACC"] == round(100 * record["test_acc"], 1)
    assert read(result / "thumos14_record.json") == max(metrics.values(), key=lambda values: values["mAP@AVG"])


def test_tests_the_model_and_says_when_settings_differ(program, tmp_path):
    program("train.py", *RUN)
    result = tmp_path / "result"
    record, detections = read(result / "thumos14_record.json"), read(result / "thumos14_pred.json")
    model = f"--model_file={result / 'thumos14_model.pth'}"
    assert "warning" not in program("test.py", model).stderr
    assert read(result / "thumos14_record.json") == record and read(result / "thumos14_pred.json") == detections
    assert read(result / "earlier_runs" / "1" / "thumos14_record.json") == record
    warning = program("test.py", model, "--num_segments=20", "--scale=8").stderr
    assert "trained with --num_segments 16; this run has 20" in warning
    assert "trained with --scale 24; this run has 8" in warning


def test_a_second_run_keeps_the_files_of_the_first(program, tmp_path):
    program("train.py", *RUN)
    first = (tmp_path / "result" / "thumos14_metric.json").read_bytes()
    program("train.py", *RUN, "--seed=1")
    assert (tmp_path / "result" / "earlier_runs" / "1" / "thumos14_metric.json").read_bytes() == first


def test_goes_on_where_it_stopped(program, tmp_path):
    program("train.py", *RUN)
    whole = read(tmp_path / "result" / "thumos14_metric.json")
    program("train.py", *RUN, "--num_iter=2")
    program("train.py", *RUN, "--resume")
    assert read(tmp_path / "result" / "thumos14_metric.json") == whole


def test_mistakes(program):
    assert "--model_file" in program("test.py", expect=2).stderr
    assert "--seg_th" in program("train.py", "--seg_th=np.linspace(0, 1)", expect=2).stderr
    assert "--seg_th" in program("train.py", "--seg_th=__import__('os').getcwd()", expect=2).stderr
    assert "--seeds" in program("train.py", "--seeds=0-1", expect=2).stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fps=0"], "argument --fps: 0 is not positive"),  # --snippet_frames of main.py
        (["--sampling_frames=0"], "argument --sampling_frames: 0 is not in"),  # --fps of main.py
        (["--num_iter=9", "--lr=[0.1]"], "--num_iter 9 is more than the 1 values of --lr"),
    ],
)
def test_errors_name_its_own_flags(program, flags, message):
    assert message in program("train.py", *flags, expect=2).stderr


def test_errors_name_its_own_annotation_file(program, tiny, tmp_path):
    """The file that was read; or, where there is none, the place and the name that it has there."""
    (tiny / "gt.json").rename(tiny / "annotations.json")
    saved = tmp_path / "saved.npz"
    np.savez(saved, **{"elsewhere/num_seg": np.int64(3)})
    message = program("test.py", "--model_file=none.pth", f"--activations={saved}", expect=2).stderr
    assert f"'elsewhere' is not annotated in {tiny}/annotations.json" in message and "with test.py --model_file" in message
    (tiny / "split_train.txt").write_text("video_train_0\nvideo_train_9\n")
    assert f"1 of 2 videos have no annotation in {tiny}/annotations.json" in program("train.py", expect=2).stderr
    empty = tmp_path / "empty"
    for name, file in (("thumos14", "thumos14/annotations.json"), ("activitynet1.2", "activitynet/annotations_1.2.json")):
        message = program("train.py", f"--data_path={empty}", f"--data_name={name}", expect=2).stderr
        assert message.startswith(f"error: {empty}/{file}: no such file") and f"--data_name {name}" in message
        assert "python train.py --data_name demo" in message and "gt.json" not in message


def test_defaults_are_its_own():
    config = make_config(read_flags([]))
    assert (config.method, config.variant, config.dataset, config.data_path) == ("um", "leftthomas-fixed", "thumos14", "/data")
    assert (config.num_iters, config.eval_every, config.batch_size, config.seed) == (10_000, "100", 16, -1)
    assert (config.num_segments, config.scale, config.class_th, config.nms_th) == (750, 24, 0.2, 0.6)
    assert config.learning_rates == [1e-4] * 10_000 and config.weight_decay == 5e-4
    assert config.seconds(50) == 50 * 16 / 25 and config.choose_by == "0.1:0.7"
    halved = make_config(read_flags(["--fps=8", "--sampling_frames=50"]))  # named the other way round
    assert halved.seconds(50) == 50 * 8 / 50


@pytest.mark.parametrize(
    "text, expected",
    [
        ("np.arange(0.4, 0.625, 0.025)", np.arange(0.4, 0.625, 0.025)),
        ("numpy.linspace(0.1, 0.9, 9)", np.linspace(0.1, 0.9, 9)),
        ("[0.1, 0.25]", [0.1, 0.25]),
        ("0.1,0.25", [0.1, 0.25]),
    ],
)
def test_thresholds(text, expected):
    np.testing.assert_array_equal(parse_thresholds("--cas_th", threshold_list("seg_th", text)), expected)


@pytest.mark.parametrize("text", ["np.arange(1)", "np.arange(0, 1, 0)", "open('x')", "np.linspace(a, b, c)", ""])
def test_bad_thresholds(text):
    with pytest.raises(UserError):
        parse_thresholds("--cas_th", threshold_list("seg_th", text))
