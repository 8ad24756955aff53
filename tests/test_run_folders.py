"""Where a run's files lie: seeds, data sets and earlier versions in one folder keep their own."""

import json
from pathlib import Path

import pytest

from engine import files
from engine.provenance import with_earlier
from options import parse_args

RUN = ["--lr=[0.01]*4", "--eval_every=2"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "BaSNet"),
        (["--method=um"], "UM"),
        (["--dataset=demo"], "BaSNet_demo"),
        (["--method=asm_loc", "--dataset=activitynet1.3"], "ASM_Loc_activitynet1.3"),
        (["--dataset=data/kitchen/dataset.json"], "BaSNet_kitchen"),
        (["--dataset=data/other.json"], "BaSNet_other"),
    ],
)
def test_default_folders_end_in_the_data_set(flags, name):
    args = parse_args(flags)
    assert [args.model_path, args.output_path, args.log_path] == [f"./{kind}/{name}" for kind in ("models", "outputs", "logs")]
    assert parse_args([*flags, "--output_path=mine"]).output_path == "mine"
    method = name.split("_")[0] if not name.startswith("ASM") else "ASM_Loc"
    assert parse_args(flags, folders="_eval").output_path == f"./outputs/{method}_eval{name.removeprefix(method)}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def config_in(output: Path, name: str = "config.json") -> dict:
    return json.loads((output / name).read_text())


def test_seeds_in_one_folder_keep_their_files(cli, tmp_path):
    cli("main.py", *RUN, "--seed=0")
    output, model = tmp_path / "output", tmp_path / "model"
    first = contents(output) | contents(model)
    assert first["config.json"] == first["config_seed_0.json"] and first["log.jsonl"] == first["log_seed_0.jsonl"]
    cli("main.py", *RUN, "--seed=1")
    second = contents(output) | contents(model)
    copies = ("config.json", "log.jsonl")
    assert {name: second[name] for name in first if name not in copies} == {n: b for n, b in first.items() if n not in copies}
    assert second["config.json"] == second["config_seed_1.json"] != first["config.json"]
    assert second["log.jsonl"] == second["log_seed_1.jsonl"] != first["log.jsonl"]
    assert not (output / "earlier_runs").exists() and not (model / "earlier_runs").exists()
    assert [path.suffix for path in (tmp_path / "log").glob("events*")] == [".seed_1"]
    assert [path.suffix for path in (tmp_path / "log" / "earlier_runs" / "1").iterdir()] == [".seed_0"]

    cli("main.py", *RUN, "--seed=0", "--resume", "--lr=[0.01]*6")
    assert config_in(output)["num_iters"] == config_in(output, "config_seed_0.json")["num_iters"] == 6
    assert config_in(output, "config_seed_1.json")["num_iters"] == 4 and not (output / "earlier_runs").exists()
    assert [path.suffix for path in (tmp_path / "log").glob("events*")] == [".seed_0"]
    assert len((output / "log.jsonl").read_text().splitlines()) == 3


def test_the_same_seed_again_moves_the_earlier_run(cli, tmp_path):
    cli("main.py", *RUN, "--seed=0")
    first = contents(tmp_path / "output")
    cli("main.py", *RUN, "--seed=0", "--dropout=0.1")
    assert contents(tmp_path / "output" / "earlier_runs" / "1") == first
    assert config_in(tmp_path / "output")["dropout"] == 0.1


def test_files_of_an_earlier_version_are_moved(cli, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    old = {"config.json": b'{"seed": 7, "run": "x"}', "log.jsonl": b'{"iteration": 3}\n'}
    for name, content in old.items():
        (output / name).write_bytes(content)
    cli("main.py", *RUN, "--seed=0")
    assert contents(output / "earlier_runs" / "1") == old


def test_a_run_of_an_earlier_version_goes_on(cli, tmp_path):
    output = tmp_path / "output"
    cli("main.py", *RUN, "--seed=0")
    whole = contents(output)
    for name in ("config_seed_0.json", "log_seed_0.jsonl"):
        (output / name).unlink()
    cli("main.py", *RUN, "--seed=0", "--resume")
    assert not (output / "earlier_runs").exists()
    assert {n: b for n, b in contents(output).items() if n.startswith("log")} == {
        n: b for n, b in whole.items() if n.startswith("log")
    }


@pytest.mark.parametrize("content", ["", "[]", "{", '{"run": 3}', '{"provenance": 5, "earlier_provenance": 7}'])
def test_a_damaged_config_stops_no_run(cli, tmp_path, content):
    cli("main.py", *RUN, "--seed=0")
    (tmp_path / "output" / "config_seed_0.json").write_text(content)
    cli("main.py", *RUN, "--seed=0", "--resume")
    assert config_in(tmp_path / "output")["seed"] == 0


def test_a_copy_that_a_killed_run_left_shorter_is_overwritten(tmp_path):
    kept, copy = tmp_path / "log_seed_0.jsonl", tmp_path / "log.jsonl"
    kept.write_text("one\ntwo\n")
    for content, expected in (("", True), ("one\ntw", True), ("one\ntwo\n", True), ("one\ntwo\nthree", False), ("x", False)):
        copy.write_text(content)
        assert files._is_kept(copy, []) == expected and not files._is_kept(copy, [kept])


def test_the_config_says_where_its_numbers_come_from(cli, tmp_path, monkeypatch):
    cli("main.py", *RUN, "--seed=0")
    output = tmp_path / "output"
    known = config_in(output)["provenance"]
    assert "--seed=0" in known["command"] and known["device"].startswith("cpu") and len(known["git_revision"]) >= 7
    cli("main.py", *RUN, "--seed=0", "--resume")
    assert "earlier_provenance" not in config_in(output), "the same code, versions and device"
    real = files.provenance
    monkeypatch.setattr(files, "provenance", lambda config: real(config) | {"torch": "9.9"})
    cli("main.py", *RUN, "--seed=0", "--resume")
    settings = config_in(output)
    assert settings["provenance"]["torch"] == "9.9" and settings["earlier_provenance"][0]["torch"] == known["torch"]
    cli("main_eval.py", f"--model_file={tmp_path}/model/BaS_Net_model_seed_0_last.ckpt")
    assert json.loads((output / "evaluation.json").read_text())["provenance"]["python"] == known["python"]


def test_json_says_that_scores_are_fractions(cli, tmp_path):
    cli("main.py", *RUN, "--seed=0")
    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    assert {record["unit"] for record in records} == {"fraction"}
    cli("main_eval.py", f"--model_file={tmp_path}/model/BaS_Net_model_seed_0_last.ckpt")
    assert json.loads((tmp_path / "output" / "evaluation.json").read_text())["record"]["unit"] == "fraction"


def test_the_parts_of_a_run():
    here, there = {"torch": "2", "command": "a"}, {"torch": "1", "command": "b"}
    assert with_earlier(here, {}) == {"provenance": here}
    assert with_earlier(here, {"provenance": here | {"command": "c"}}) == {"provenance": here}
    both = with_earlier(here, {"provenance": there})
    assert both == {"provenance": here, "earlier_provenance": [there]}
    assert with_earlier(there, both)["earlier_provenance"] == [there, here]
