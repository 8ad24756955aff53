"""The command line is an interface: names, defaults and refusals are pinned."""

import pytest

from options import build_parser, flags_of, parse_args

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
    "per_class": None,
    "save_kit": None,
    "activations": None,
    "save_activations": None,
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
    assert activitynet.count("; derived, unpublished)") == 12 and "(default: 20.0; derived, unpublished)" in activitynet


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
