"""The command line is an interface: names, defaults and refusals are pinned."""

import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from dataset.facts import KNOWN
from methods.base import METHODS
from methods.recipes import PUBLISHED_DEFAULTS, recipe
from options import build_parser, flags_of, make_config, parse_args, say_settings
from utils import UserError

OFFICIAL = {
    "data_path": "./dataset/THUMOS14",
    "model_path": "./models/BaSNet",
    "output_path": "./outputs/BaSNet",
    "log_path": "./logs/BaSNet",
    "modal": "all",
    "alpha": 0.0001,
    "class_th": 0.25,
    "lr": "[0.0001]*1500",
    "batch_size": 16,
    "num_workers": 8,
    "seed": -1,
    "model_file": None,
    "debug": False,
}
OURS = {
    "dataset": "thumos14",
    "method": "basnet",
    "ablation": "full",
    "device": "auto",
    "draws": "ours",
    "eval_every": "epoch",
    "num_iters": None,
    "resume": False,
    "compat": "official",
    "fix": "",
    "quiet": False,
    "wide": False,
    "tensorboard": "on",
    "logger": "none",
    "num_segments": 750,
    "len_feature": None,
    "hidden": 2048,
    "dropout": 0.7,
    "weight_decay": 5e-4,
    "scale": 24,
    "cas_th": "0:0.25:0.025",
    "outer": 0.25,
    "class_weight": 0.2,
    "nms_th": 0.7,
    "result": None,
    "protocols": None,
    "ground_truth": None,
    "subset": None,
    "ties": "official",
    "unlisted": "count",
    "score_key": "score",
    "per_class": None,
    "save_kit": None,
    "activations": None,
    "save_activations": None,
    "save_train_activations": None,
    "layout": "auto",
    "missing": None,
    "bce_reduction": "mean",
    "topk": 0.125,
    "whole_video": None,
    "cache": "auto",
    "cache_budget": 16.0,
    "cache_path": "auto",
    "cache_dtype": "float32",
    "precision": "auto",
    "compile": False,
    "choose_by": "all",
    "timing": None,
    "fps": None,
    "snippet_frames": None,
    "eval_workers": None,
    "seeds": None,
    "backend": "local",
    "jobs": None,
}


def test_flags_and_defaults_are_pinned():
    assert vars(parse_args([])) == OFFICIAL | OURS


def test_a_dataset_brings_its_own_defaults_and_flags_win():
    demo = parse_args(["--dataset", "demo", "--hidden", "7"])
    assert demo.data_path == "./dataset/demo_v1" and demo.num_segments != 750 and demo.hidden == 7
    assert parse_args(["--hidden", "7", "--dataset", "demo"]) == demo


def test_the_users_command():
    line = "--model_path ./models/BaSNet_6 --output_path ./outputs/BaSNet_6 --log_path ./logs/BaSNet_6 --seed -1 --modal rgb"
    args = parse_args(line.split())
    assert (args.model_path, args.seed, args.modal) == ("./models/BaSNet_6", -1, "rgb")


def test_zero_workers_are_fine_as_officially():
    assert parse_args(["--num_workers", "0"]).num_workers == 0


def test_help_says_default_and_origin_of_every_flag():
    text = " ".join(build_parser().format_help().split())
    for flag in OFFICIAL | OURS:
        assert f"--{flag}" in text
    assert text.count("(default: ") == len(OFFICIAL | OURS)
    assert "(default: 0.0001; published)" in text and "(default: none; ours)" in text
    assert "recipe of demo" in build_parser(dataset="demo").format_help()
    for method, dataset, said in (("um", "hacs", True), ("um", "activitynet1.2", False), ("backtal", "hacs", False)):
        assert ("published for thumos14" in " ".join(build_parser(method, dataset).format_help().split())) == said
    activitynet = " ".join(build_parser(dataset="activitynet1.3").format_help().split())
    assert "(default: fixed; no official number to reproduce)" in activitynet
    assert activitynet.count("; derived, unpublished)") == 11 and "(default: 20.0; derived, unpublished)" in activitynet


@pytest.mark.parametrize(
    "flags",
    ["--modal depth", "--device tpu", "--device cuda:x", "--eval_every 0", "--eval_every often", "--batch_size -1", "--seed -2"]
    + [
        "--dropout 1.5",
        "--draws theirs",
        "--alpha nan",
        "--alpha -1",
        "--class_th x",
        "--dataset kinetics",
        "--hid 3",
        "--num_iters 0",
        "--outer 1e300",
        "--device cuda:²",
        "--backend slurm",
        "--jobs 0",
        "--precision fp8",
        "--eval_workers -1",
        "--unlisted drop",
    ]
    + [f"--seeds {text}" for text in ("9-0", "0,0", "0-3,2", "1.5", "-1", "²", "0,", "0--2", "4294967296", "0-99999999")]
    + ["--seeds 0-9 --seed 3"],
)
def test_refusals(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(flags.split())
    assert stop.value.code == 2 and flags.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seeds"), [("7", (7,)), ("0-3", (0, 1, 2, 3)), ("5,0-1", (5, 0, 1)), ("4294967295", (4294967295,)), ("8-8", (8,))]
)
def test_lists_of_seeds(text, seeds):
    assert parse_args(["--seeds", text]).seeds == seeds


def test_many_seeds_go_with_the_seed_of_a_recipe():
    assert parse_args(["--dataset", "demo", "--seeds", "4,5"]).seeds == (4, 5)


@pytest.mark.parametrize(
    "line",
    ["", "--dataset demo --seed 3 --resume", "--dataset activitynet1.2 --whole_video none --outer 0.1", "--whole_video 0.25"]
    + ["--lr [1e-4]*10+[0.00001]*5 --data_path=-odd --fix B1,B3 --debug", "--alpha 1e-07 --dataset a/b.json --cache_budget 0"],
)
def test_flags_of_what_was_parsed_are_parsed_to_the_same(line):
    args = parse_args(line.split())
    assert parse_args(flags_of(args)) == args


# ------------------------------------------------------------------------------------------------ what a user edits


EDITS = {  # flag: what its line says as shipped, and after an edit
    "class_th": ("default=0.25", "default=0.9"),
    "lr": ('default="[0.0001]*1500"', 'default="[0.002]*2+[0.001]*1"'),
    "cas_th": ('default="0:0.25:0.025"', 'default="0.1,0.2"'),
    "seed": ("default=-1", "default=5"),
}
EDITED = {"class_th": 0.9, "lr": "[0.002]*2+[0.001]*1", "cas_th": "0.1,0.2", "seed": 5}


def edited(folder: Path, edits: dict[str, tuple[str, str]]) -> Path:
    """A copy of options.py in which defaults are changed as a user changes them: on the line of the flag."""
    lines = (ROOT / "options.py").read_text().splitlines(keepends=True)
    for flag, (old, new) in edits.items():
        (number,) = (n for n, line in enumerate(lines) if f'"--{flag}"' in line and old in line)
        lines[number] = lines[number].replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "options.py").write_text("".join(lines))
    return folder / "options.py"


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location("edited_options", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_options_as_shipped_are_known_to_recipes(method):
    """Otherwise every run prints that options.py was edited."""
    for dataset in (*KNOWN, "own.json"):
        args = parse_args([f"--method={method}", f"--dataset={dataset}"])
        assert recipe(method, dataset).items() <= vars(args).items()
        said = say_settings(args)
        assert not any("edited" in line for line in said)
        assert (said == []) == ((method, dataset) == ("basnet", "thumos14"))


def test_published_values_stand_on_the_line_of_their_flag():
    lines = (ROOT / "options.py").read_text().splitlines()
    for flag, value in (PUBLISHED_DEFAULTS | {"alpha": 0.0001, "topk": 0.125, "bce_reduction": "mean", "seed": -1}).items():
        written = f'"{value}"' if isinstance(value, str) else str(value)
        assert any(f'"--{flag}", ' in line and f"default={written}," in line for line in lines), flag


def test_an_edited_default_is_what_runs_everywhere(tmp_path):
    module = module_of(edited(tmp_path, EDITS))
    for line in ([], ["--dataset=demo"], ["--method=um"], ["--method=backtal", "--dataset=demo"], ["--dataset=own.json"]):
        args = module.parse_args(line)
        assert {flag: getattr(args, flag) for flag in EDITED} == EDITED, line
        said = module.say_settings(args)
        for flag, value in EDITED.items():
            (told,) = (one for one in said if f"options.py was edited: {flag} is {value}" in one)
            assert told.startswith("warning: ") == (flag in recipe(args.method, args.dataset))
            assert not any(one.startswith("recipe") and f" {flag}" in one for one in said)
    assert module.parse_args(["--class_th=0.3"]).class_th == 0.3
    assert not any("class_th" in line for line in module.say_settings(module.parse_args(["--class_th=0.3"])))
    text = " ".join(module.build_parser().format_help().split())
    assert "(default: 0.9; edited in options.py)" in text and "(default: 0.7; published)" in text


@pytest.mark.parametrize(
    ("flag", "new", "value"),
    [
        ("lr", "default=[0.1, 0.01]", [0.1, 0.01]),
        ("class_th", "default='0.4'", 0.4),
        ("cas_th", "default=[0.1, 0.2]", [0.1, 0.2]),
    ],
)
def test_an_edited_default_may_be_a_list_or_a_text(tmp_path, flag, new, value):
    config = make_config(module_of(edited(tmp_path, {flag: (EDITS[flag][0], new)})).parse_args([]))
    assert getattr(config, {"lr": "learning_rates", "cas_th": "cas_thresholds"}.get(flag, flag)) == value


@pytest.mark.parametrize("new", ["default=[0.0001]*1500", "default='[1e-4]*1000+[1e-4]*500'"])
def test_the_same_default_in_other_words_is_no_edit(tmp_path, new):
    module = module_of(edited(tmp_path, {"lr": (EDITS["lr"][0], new)}))
    assert module.say_settings(module.parse_args([])) == []
    assert module.parse_args(["--dataset=demo"]).lr == "[0.0015]*480"


def test_a_quiet_run_warns_all_the_same(tmp_path, capfd):
    module = module_of(edited(tmp_path, EDITS))
    said = []
    module.tell_settings(module.parse_args(["--dataset=demo", "--quiet"]), said.append)
    warned = capfd.readouterr().err.splitlines()
    assert [line.split()[4] for line in warned] == ["lr", "seed"] and not any("warning" in line for line in said)


def test_an_edit_that_says_what_the_recipe_says_is_no_conflict(tmp_path):
    module = module_of(edited(tmp_path, {"seed": ("default=-1", "default=0")}))
    said = module.say_settings(module.parse_args(["--dataset=demo"]))
    assert "options.py was edited: seed is 0, shipped with -1" in said and not any("warning" in line for line in said)


def test_processes_of_many_seeds_run_one_each_whatever_was_edited(tmp_path):
    text = (ROOT / "options.py").read_text()
    start = text.index('"--seeds"')
    text = text[:start] + text[start:].replace("default=None", 'default="3-4"', 1)
    start = text.index('"--jobs"')
    (tmp_path / "options.py").write_text(text[:start] + text[start:].replace("default=None", "default=1", 1))
    module = module_of(tmp_path / "options.py")
    args = module.parse_args([])
    assert args.seeds == (3, 4) and args.jobs == 1
    child = module.parse_args(module.flags_of(Namespace(**(vars(args) | {"seed": 3, "seeds": None, "jobs": None}))))
    assert (child.seed, child.seeds, child.jobs) == (3, None, None)


@pytest.mark.parametrize(
    "edits, told",
    [
        ({"class_th": ("default=0.25", "default=1.5")}, "--class_th: 1.5 is not in 0..1"),
        ({"batch_size": ("default=16", "default=2.5")}, "--batch_size: "),
        ({"compat": ('default="official"', 'default="fixd"')}, "Did you mean fixed?"),
        ({"method": ('default="basnet"', 'default="basnett"')}, "Did you mean basnet?"),
        ({"seed": ("default=-1", "default=None")}, "the default None of --seed; expected a value such as -1"),
        ({"class_th": ("default=0.25", "default=None")}, "the default None of --class_th"),
    ],
)
def test_a_wrong_edit_is_refused_by_name(tmp_path, capsys, edits, told):
    with pytest.raises(SystemExit) as stop:
        module_of(edited(tmp_path, edits)).parse_args([])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and "options.py: the default" in shown and told in shown


def test_the_place_of_thumos14_is_not_where_another_data_set_is(tmp_path):
    module = module_of(edited(tmp_path, {"data_path": ('default="./dataset/THUMOS14"', 'default="/data/THUMOS14"')}))
    assert module.parse_args([]).data_path == "/data/THUMOS14"
    args = module.parse_args(["--dataset=demo"])
    assert args.data_path == KNOWN["demo"].data_path
    assert any("data_path /data/THUMOS14" in line and line.startswith("warning") for line in module.say_settings(args))


@pytest.mark.parametrize("dataset", ["thumos14", "demo"])
def test_a_run_does_what_an_edited_default_says(tiny, tmp_path, places, dataset):
    path = edited(tmp_path / "edited", EDITS)
    flags = [f"--data_path={tiny}", *TINY] if dataset == "thumos14" else [f"--data_path={tmp_path / 'demo'}", "--hidden=8"]
    arguments = ["main.py", f"--dataset={dataset}", "--batch_size=4", "--cache_path=none", *flags, *places]
    start = "import runpy, sys; sys.path[:0], sys.argv = {!r}, {!r}; runpy.run_path('main.py', run_name='__main__')"
    code = start.format([str(path.parent), str(ROOT)], arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "output" / "config.json").read_text())
    assert {flag: config[flag] for flag in EDITED} == EDITED and config["num_iters"] == 3 and config["seed_used"] == 5
    warned = [line for line in done.stdout.splitlines() if line.startswith("warning: options.py was edited")]
    assert len(warned) == (2 if dataset == "demo" else 0)
    assert ("recipe demo: compat, num_segments, alpha" in done.stdout) == (dataset == "demo")


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "line, told",
    [
        ("--datset demo", "--datset: Did you mean --dataset?"),
        ("--class_ht=0.3", "--class_ht: Did you mean --class_th?"),
        ("--margin 3", "--margin: a flag of --method um."),
        ("--dataset dmo", "Did you mean demo?"),
        ("--method basnett", "Did you mean basnet?"),
        ("--compat fixd", "Did you mean fixed?"),
        ("--method BaSNet", "Did you mean basnet?"),
        ("--lrs 3 --margin 3", "arguments: --lrs 3 --margin 3. --lrs: Did you mean --lr? --margin: a flag of --method um."),
        ("--wholly_unknown", "unrecognized arguments: --wholly_unknown"),
    ],
)
def test_a_misspelt_flag_or_name_is_guessed(line, told, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(line.split())
    assert stop.value.code == 2 and told in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    "flag", ["output_path", "data_path", "model_path", "log_path", "dataset", "save_activations", "result"]
)
def test_a_path_that_is_not_utf8_is_refused_at_start(cli, tmp_path, flag):
    """A report names the folders of its run, and is written last."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    said = cli("main.py", f"--{flag}={folder}/x.json", "--num_iters=1", expect=2).stderr
    assert r"caf\udce9/x.json: is not UTF-8; expected names in UTF-8" in said
    assert os.listdir(tmp_path) == ["data", folder.name] or os.listdir(tmp_path) == [folder.name, "data"]


def test_a_working_folder_that_is_not_utf8_is_refused_at_start(tmp_path, monkeypatch, capsys):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        parse_args([])
    assert stop.value.code == 2 and "is not UTF-8" in capsys.readouterr().err


def test_a_description_behind_a_link_is_refused_by_its_own_path(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    (tmp_path / "dataset.json").symlink_to(folder / "dataset.json")
    with pytest.raises(UserError, match="is not UTF-8"):
        make_config(parse_args([f"--dataset={tmp_path}/dataset.json"]))
