"""Model files carry their settings: a model is evaluated as it was trained, whatever flags are forgotten."""

import json
import shutil
import struct
import subprocess
import sys

import pytest
import safetensors
import torch
from conftest import METHOD_RUNS, ROOT, best, make_tiny, run_here

from engine.checkpoint import load_file, settings_of
from engine.model_file import BLANK, OF_ONE_START, sealed
from utils import UserError

told = []  # warnings of the evaluation that runs


@pytest.fixture(autouse=True)
def hear(monkeypatch):
    for module in ("engine.checkpoint", "options"):
        monkeypatch.setattr(f"{module}.say_now", told.append)


def detections(path):
    return json.loads(path.read_text())["results"]


def found_in(folder, which="best"):
    """The detections that a run wrote."""
    return detections(folder / "outputs" / "mine" / f"detections_{which}_seed_0.json")


def evaluate(folder, model, *flags, expect=0):
    """Warnings or the error, and the detections of an evaluation."""
    output = folder / "evaluated"
    told.clear()
    done = run_here(["main_eval.py", f"--model_file={model}", f"--output_path={output}", "--device=cpu", *flags])
    assert done.returncode == expect and "Traceback" not in done.stderr, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("warning")]
    return done.stderr + "\n".join(told + warnings), detections(output / "detections.json") if expect == 0 else {}


@pytest.fixture
def run(runs, tmp_path):
    """A copy of BaS-Net's run, to change."""
    shutil.copytree(runs["basnet"], tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("method", METHOD_RUNS)
@pytest.mark.parametrize("suffix", [".pkl", ".safetensors", "_last.ckpt"])
def test_a_model_needs_no_other_flag(runs, method, suffix):
    which = "last" if suffix == "_last.ckpt" else "best"
    said, found = evaluate(runs[method], best(runs[method], method, suffix))
    assert said == ""
    assert found and found == found_in(runs[method], which)


def test_a_model_file_has_all_that_is_known_of_its_training(runs):
    path = best(runs["basnet"], suffix=".safetensors")
    plain = torch.load(best(runs["basnet"]), weights_only=True)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(plain) and all(torch.equal(file.get_tensor(key), plain[key]) for key in plain)
    output = runs["basnet"] / "outputs" / "mine"
    config = json.loads(metadata["config"])
    written = json.loads((output / "config_seed_0.json").read_text())
    assert config == {name: value for name, value in written.items() if name not in OF_ONE_START}
    assert config["ablation"] == "base" and json.loads(metadata["classes"]) == config["classes"]
    records = [json.loads(line) for line in (output / "log_seed_0.jsonl").read_text().splitlines()]
    assert json.loads(metadata["record"]) == next(record for record in reversed(records) if record["best"])
    assert metadata["seed"] == "0" and metadata["protocol"] == "unnamed" and metadata["format"] == "pt"
    facts = json.loads(metadata["dataset"])
    assert facts["dataset"] == "thumos14" and facts["fps"] == 25 and facts["snippet_frames"] == 16 and facts["modal"] == "all"
    assert json.loads(metadata["versions"])["torch"] == torch.__version__
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert metadata["revision"] == written["provenance"]["git_revision"] and (not revision or metadata["revision"] == revision)


@pytest.mark.parametrize("name", ["config_seed_0.json", "config.json"])
@pytest.mark.parametrize("place", ["models", "outputs"])
def test_the_settings_of_a_plain_model_are_those_of_its_run(run, place, name):
    best(run, suffix=".safetensors").unlink()
    outputs = run / "outputs" / "mine"
    config = shutil.move(outputs / name, best(run).parent / name) if place == "models" else outputs / name
    for other in outputs.glob("config*.json"):
        if other != config:
            other.unlink()
    assert settings_of(best(run))[0] == config
    said, found = evaluate(run, best(run))
    assert said == "" and found == found_in(run)


@pytest.mark.parametrize("name, value", [("seed", 1), ("model_path", "models/other"), ("model_path", None)])
def test_the_config_of_another_run_is_not_taken(run, name, value):
    best(run, suffix=".safetensors").unlink()
    for config in (run / "outputs" / "mine").glob("config*.json"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {name: value}))
    assert settings_of(best(run))[1] == {}
    message, _ = evaluate(run, best(run), f"--data_path={run / 'data'}", "--hidden=8", "--len_feature=12", expect=2)
    assert "--ablation" in message


def test_flags_that_disagree_are_named_and_taken(runs):
    folder = runs["basnet"]
    said, found = evaluate(folder, best(folder), "--num_segments=20", "--class_th=0.9", "--outer=2")
    model = best(folder)
    assert f"warning: {model}: was trained with --num_segments 16; this run has 20." in said
    assert f"warning: {model}: was trained with --class_th 0.02; this run has 0.9." in said
    assert f"warning: {model}: was trained with --outer 0.25; this run has 2.0." in said and said.count("warning") == 3
    assert found != evaluate(folder, best(folder))[1]
    message, _ = evaluate(folder, best(folder), "--ablation=full", expect=2)
    assert "--ablation base there, full here" in message


def test_quirks_that_are_repaired_otherwise_are_named(runs):
    said, _ = evaluate(runs["basnet"], best(runs["basnet"]), "--fix=B4")
    assert "quirks repaired: none; this run repairs: B4" in said


def test_an_edited_default_gives_way_to_the_training(runs, monkeypatch):
    import options

    monkeypatch.setattr(options, "_edited", lambda parser, method: {"nms_th": 0.3})
    said, found = evaluate(runs["basnet"], best(runs["basnet"]))
    assert found == found_in(runs["basnet"])
    assert "options.py was edited: nms_th is 0.3, and 0.7 of the model's training is used" in said


@pytest.mark.parametrize("suffix", ["_last.ckpt", ".safetensors", ".pkl"])
def test_another_data_set_of_the_same_classes(runs, tmp_path, suffix):
    """A checkpoint is evaluated on it; its annotations may lack some of the classes, and have no others."""
    data = make_tiny(tmp_path / "other")
    described = {"annotations": "gt.json", "stream_width": 6, "classes": ["BaseballPitch", "Billiards", "HighJump"], "fps": 10}
    (data / "dataset.json").write_text(json.dumps(described))
    model = best(runs["basnet"], suffix=suffix)
    said, found = evaluate(tmp_path, model, f"--dataset={data / 'dataset.json'}")
    assert said == "" and found
    written = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())["config"]
    assert written["fps"] == 10 and written["data_path"] == str(data) and written["hidden"] == 8 and written["class_th"] == 0.02
    assert len(written["classes"]) == 20
    (data / "dataset.json").write_text(json.dumps(described | {"classes": ["Billiards", "Chess"]}))
    message, _ = evaluate(tmp_path, model, f"--dataset={data / 'dataset.json'}", expect=2)
    assert "is of a model of 20 classes" in message and "also has Chess" in message


def test_data_elsewhere(runs, tmp_path):
    data = make_tiny(tmp_path / "moved")
    said, found = evaluate(tmp_path, best(runs["basnet"]), f"--data_path={data}")
    assert said == "" and found == found_in(runs["basnet"])


def test_an_official_model_is_evaluated_as_before(run, tmp_path):
    (tmp_path / "official").mkdir()
    model = shutil.copy(best(run), tmp_path / "official" / "BaSNet_model_best.pkl")
    flags = ["--dataset=thumos14", f"--data_path={run / 'data'}", "--ablation=base", "--class_th=0.02"]
    flags += ["--hidden=8", "--num_segments=16", "--len_feature=12"]
    said, found = evaluate(tmp_path, model, *flags)
    assert said == "" and found == found_in(run)


def test_weights_of_others_in_the_same_format(run, tmp_path):
    from safetensors.torch import save_file

    weights = torch.load(best(run), weights_only=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "plain.safetensors")
    flags = [f"--data_path={run / 'data'}", "--ablation=base", "--class_th=0.02", "--hidden=8", "--num_segments=16"]
    said, found = evaluate(tmp_path, tmp_path / "plain.safetensors", *flags, "--len_feature=12")
    assert said == "" and found == found_in(run)


# ------------------------------------------------------------------------------------------------------- damaged files


def header_of(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_header(path, header, rest):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join(sealed(struct.pack("<Q", len(text)) + text, rest)))


def test_every_changed_byte_is_noticed(run):
    path = best(run, suffix=".safetensors")
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 97)):
        changed = bytearray(data)
        changed[place] ^= 4
        path.write_bytes(bytes(changed))
        with pytest.raises(UserError, match=r"seed_0\.safetensors: is not a readable checkpoint"):
            load_file(path)
    path.write_bytes(data.replace(b"checksum", b"Checksum"))
    with pytest.raises(UserError, match="its checksum is missing"):
        load_file(path)
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"not a readable checkpoint"):
        load_file(path)


def with_settings(path, settings):
    header, rest = header_of(path)
    header["__metadata__"]["config"] = settings if isinstance(settings, str) else json.dumps(settings)
    header["__metadata__"]["checksum"] = BLANK.decode()
    write_header(path, header, rest)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"num_segments": "many"}, "the setting num_segments is 'many'"),
        ({"num_segments": None}, "the setting num_segments is None"),
        ({"num_segments": 10**9}, "1000000000 is more than 100000"),
        ({"ablation": "whole"}, "'whole' is none of full"),
        ({"hidden": [8]}, "the setting hidden is [8]"),
        ({"method": "nobody"}, "method is 'nobody'; expected one of basnet"),
        ({"classes": ["a", "a"]}, "its classes are ['a', 'a']"),
        ({"classes": 5}, "its classes are 5"),
        ({"nms_th": {"a": 1}}, "nms_th is a dict"),
        ("[1, 2]", "readable"),
        ("{", "readable"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pkl"])
def test_damaged_settings_are_named(run, change, expected, suffix):
    twin = best(run, suffix=".safetensors")
    own = json.loads(header_of(twin)[0]["__metadata__"]["config"])
    with_settings(twin, change if isinstance(change, str) else own | change)
    message, _ = evaluate(run, best(run, suffix=suffix), expect=2)
    assert str(twin) in message and (expected in message or (expected == "readable" and "cannot be read" in message))


def test_the_scripts_check_finds_no_data_for_a_model_with_settings(runs, tmp_path):
    """run_eval.sh leaves the data to the model's settings."""
    line = [sys.executable, "-m", "dataset.present", "test", f"--model_file={best(runs['basnet'])}"]
    assert subprocess.run(line, cwd=ROOT, capture_output=True).returncode == 0
    lone = shutil.copy(best(runs["basnet"]), tmp_path / "lone.pkl")
    done = subprocess.run([*line, f"--model_file={lone}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "missing" in done.stderr
