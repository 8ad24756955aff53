"""The command line of main.py and main_eval.py. Parsing touches nothing on disk.

The defaults below are what runs: edit them here. They are BaS-Net's published values for THUMOS'14. A method's file holds its
other flags and its recipes, the settings that differ for a --method on a --dataset. A default that is edited here overrides
recipes, and the run prints it. An evaluation takes the settings of its model's training, where these are known.
"""

import argparse
import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from config import MOST_ITERATIONS, Config, Settings, annotation_file, full_name, parse_schedule, where_to_get
from dataset.annotations import classes_of, read_database
from dataset.facts import DEMOS, KNOWN, Dataset, dataset_facts, usual_name
from dataset.layouts import LAYOUTS
from engine.flags import (
    MOST_SEEDS,
    MOST_THREADS,
    Group,
    Parser,
    add_own_flags,
    at_most,
    device,
    file_name,
    interval,
    not_negative_integer,
    not_negative_number,
    optional,
    own_flags,
    positive_integer,
    positive_number,
    seed,
    seed_list,
    share,
)
from eval.names import did_you_mean
from eval.reading import clipped, is_text, short
from methods.base import METHODS, folder_name, settings_class
from methods.recipes import OF_THE_FOLDER, Trained, of_training, origin, recipe, recipe_name, shipped
from utils import UserError, as_user_error, check_file, listing, say_now

OFFICIAL_FLAGS = {"modal", "data_path", "model_path", "output_path", "log_path", "model_file", "num_workers", "seed", "debug"}
NAME_MODEL = "Name another with --model_file."


def parse_args(
    argv: Sequence[str] | None = None,
    folders: str = "",
    settings_of: Callable[[str], tuple[Path, Mapping[str, Any]]] | None = None,
    extend: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> Namespace:
    """Parse the command line; `folders` is the ending of the default output folders, `extend` adds a program's own flags.

    The settings of the training of --model_file, which `settings_of` finds, are the defaults of an evaluation.
    """
    given, usual = _first_flags(argv)
    trained = None
    if settings_of and given.model_file and not given.result and (found := settings_of(given.model_file))[1]:
        trained = Trained(*found)
        usual = Namespace(**vars(usual) | {name: trained.settings[name] for name in vars(usual) if name in trained.settings})
    parser = build_parser(given.method or usual.method, given.dataset or usual.dataset, folders)
    extend(parser)
    if trained:
        parser.set_defaults(**vars(usual))
        with as_user_error():
            taken = parser.take(of_training(trained, given.dataset, given.data_path), trained.source)
        trained = trained._replace(taken=taken)
    args = parser.parse_args(argv, Namespace(compat=None, **({"trained": trained} if trained else {})))
    if args.compat is None:  # --fix without --compat reproduces all other quirks
        chosen = args.fix and not (trained and args.fix == parser.get_default("fix"))
        args.compat = "official" if chosen else parser.get_default("compat")
    if args.seeds and args.seed != parser.get_default("seed"):
        parser.error("argument --seeds: not allowed with --seed; give one of the two")
    return args


def parse_shared_args(argv: Sequence[str]) -> Namespace:
    """Parse the flags of this file and ignore those of other methods' files; needs no package and applies no recipe."""
    given, usual = _first_flags(argv)
    dataset = given.dataset or usual.dataset
    parser = _parser_as_written("basnet", dataset, "")
    parser.set_defaults(data_path=_data_path(parser, dataset))
    return parser.parse_args(argv) if (given.method or usual.method) == "basnet" else parser.parse_known_args(argv)[0]


def _first_flags(argv: Sequence[str] | None) -> tuple[Namespace, Namespace]:
    """The flags on which the defaults of others depend, None if not given, and the defaults of --method and --dataset."""
    parser = Parser(add_help=False)
    _add_method_and_dataset(parser)
    for name in ("data_path", "model_file", "result"):
        parser.add_argument(f"--{name}")
    for action in parser._actions:
        parser.check_default(action, "options.py")
    usual = Namespace(**{name: parser.get_default(name) for name in ("method", "dataset")})
    parser.set_defaults(method=None, dataset=None)
    return parser.parse_known_args(argv)[0], usual


def flags_of(args: Namespace) -> list[str]:
    """The command line that parse_args parses to `args`, without defaults."""
    choice = [f"--method={args.method}", f"--dataset={args.dataset}"]
    default = vars(parse_args(choice))
    others = {name: value for name, value in vars(args).items() if value != default[name]}
    return choice + [
        f"--{name}" if value is True else f"--{name}={'none' if value is None else value}" for name, value in others.items()
    ]


def build_parser(method: str = "basnet", dataset: str = "thumos14", folders: str = "") -> Parser:
    parser = _parser_as_written(method, dataset, folders)
    edited = _edited(parser, method)
    parser.set_defaults(**{flag: value for flag, value in recipe(method, dataset).items() if flag not in edited})
    parser.set_defaults(data_path=_data_path(parser, dataset))
    for action in parser._actions[1:]:
        shown = "none" if action.default == "" else "%(default)s"
        source = "edited in options.py" if action.dest in edited else _origin(action.dest, method, dataset)
        action.help = f"{action.help} (default: {shown}; {source})"
    return parser


def _data_path(parser: argparse.ArgumentParser, dataset: str) -> str | None:
    """The default of --data_path; that in this file is for THUMOS'14."""
    if dataset == "thumos14":
        return parser.get_default("data_path")
    return KNOWN[dataset].data_path if dataset in KNOWN else None


def _parser_as_written(method: str, dataset: str, folders: str) -> Parser:
    """A parser with the defaults of this file, edited or not, without recipes."""
    parser = Parser(
        methods_with,
        epilog=f"Defaults are those of --method {method} --dataset {dataset}; give others with --help to see theirs. "
        "`published`: in the paper and its code; `for thumos14`: but not for this data set; `derived, unpublished`: not "
        "published, but taken or derived from BackTAL's (docs/basnet.md); `official flag`: on the official code's command "
        "line; `ours`: added here.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=118),
    )
    _add_method_and_dataset(parser.add_argument_group("what to run"))
    _add_places(parser.add_argument_group("files and folders"), run_name(method, dataset, folders))
    _add_training(parser.add_argument_group("training"))
    _add_network(parser.add_argument_group("network and data sizes"))
    _add_localization(parser.add_argument_group("localization"))
    own = parser.add_argument_group(f"flags of --method {method}")
    if method == "basnet":
        _add_basnet(own)
    else:
        add_own_flags(own, settings_class(method))
    _add_scoring(parser.add_argument_group("scoring (main_eval.py)"))
    _add_running(parser.add_argument_group("running"))
    _add_seeds(parser.add_argument_group("many seeds"))
    _add_output(parser.add_argument_group("terminal and logs"))
    files = {} if method == "basnet" else dict.fromkeys(own_flags(settings_class(method)), METHODS[method].partition(":")[0])
    for action in parser._actions:
        parser.check_default(action, files.get(action.dest, "options.py"))
    for flag, usual in shipped(method).items():
        if parser.get_default(flag) is None and usual is not None:
            parser.error(f"options.py: the default None of --{flag}; expected a value such as {usual!r}")
    return parser


def run_name(method: str, dataset: str, ending: str = "") -> str:
    """Name of the default folders of runs: those of the official code on THUMOS'14; elsewhere it ends in the data set."""
    data = usual_name(Path(dataset)) if dataset.endswith(".json") else dataset
    return folder_name(METHODS[method]) + ending + (f"_{data}" if dataset != "thumos14" else "")


def methods_with(flag: str) -> list[str]:
    """The methods whose own flags include `flag`."""
    try:
        return [method for method in METHODS if method != "basnet" and flag in own_flags(settings_class(method))] or (
            ["basnet"] if flag in shipped("basnet").keys() - shipped("").keys() else []
        )
    except ImportError:  # a method's file cannot be imported without the packages
        return []


def edited_defaults(method: str) -> Settings:
    """Flags that a recipe may set and whose default in this file differs from the shipped one."""
    return _edited(_parser_as_written(method, "thumos14", ""), method)


def _edited(parser: argparse.ArgumentParser, method: str) -> Settings:
    written = {flag: parser.get_default(flag) for flag in shipped(method)}
    return {flag: value for flag, value in written.items() if not _same(flag, value, shipped(method)[flag])}


def _same(flag: str, value: Any, other: Any) -> bool:
    """True if two defaults are equal; a schedule can be written in several ways."""
    if flag != "lr" or value == other:
        return value == other
    try:
        return parse_schedule(value) == parse_schedule(other)
    except UserError:
        return False


def say_settings(args: Namespace) -> list[str]:
    """Lines to print: one per default that is edited in this file and in use, and one with the flags that a recipe set."""
    parser = _parser_as_written(args.method, args.dataset, "")
    edited, usual = _edited(parser, args.method), shipped(args.method)
    settings, title = recipe(args.method, args.dataset), recipe_name(args.method, args.dataset)
    trained = getattr(args, "trained", None)
    lines = [f"settings of {trained.source}"] if trained else []
    for flag, value in edited.items():
        if trained and flag in trained.taken and getattr(args, flag) == trained.taken[flag] != value:
            there = f"{_brief(trained.taken[flag])} of the model's training is used"
            lines.append(f"warning: options.py was edited: {flag} is {_brief(value)}, and {there}")
        if getattr(args, flag) != value:
            continue  # given on the command line
        if flag in settings and not _same(flag, value, settings[flag]):
            lines.append(
                f"warning: options.py was edited: {flag} is {_brief(value)}, not {settings[flag]} as in recipe {title}"
            )
        else:
            lines.append(f"options.py was edited: {flag} is {_brief(value)}, shipped with {usual[flag]}")
    place = parser.get_default("data_path")
    if args.dataset != "thumos14" and place not in (None, KNOWN["thumos14"].data_path):
        lines.append(f"warning: options.py was edited: data_path {place} applies to THUMOS'14 and is not used for {title}")
    if trained:
        return lines + _differences(args, trained)
    of_recipe = [flag for flag, value in settings.items() if flag not in edited and getattr(args, flag) == value]
    return [*lines, f"recipe {title}: {', '.join(of_recipe)}"] if of_recipe else lines


def _differences(args: Namespace, trained: Trained) -> list[str]:
    """A warning for each flag that differs from the model's training, but those that load_network compares."""
    kind = settings_class(args.method)
    compared = {*kind.MUST_AGREE, *kind.SHOULD_AGREE, "compat", "fix", *OF_THE_FOLDER}
    return [
        f"warning: {args.model_file}: was trained with --{flag} {_brief(value)}; this run has {_brief(getattr(args, flag))}."
        for flag, value in trained.taken.items()
        if flag not in compared and getattr(args, flag) != value
    ]


def tell_settings(args: Namespace, say: Callable[[str], object]) -> None:
    """Pass the lines of say_settings to `say`; with --quiet, warnings go to stderr instead."""
    for line in say_settings(args):
        (say_now if args.quiet and line.startswith("warning: ") else say)(line)


def _brief(value: Any) -> str:
    return clipped(str(value), 60)


def _origin(flag: str, method: str, dataset: str) -> str:
    """Origin of a default, for --help."""
    return origin(flag, method, dataset) or ("official flag" if flag in OFFICIAL_FLAGS else "ours")


def make_config(args: Namespace, training: bool = True) -> Config:
    """The config of `args` (parse_args); file-dependent settings of training are resolved only if `training`."""
    facts = dataset_facts(args.dataset)
    kind = settings_class(args.method)
    values: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    if args.len_feature is None:
        values["len_feature"] = facts.stream_width * (2 if args.modal == "all" else 1)
    values["tiou_thresholds"], values["protocol"] = facts.tiou_thresholds, facts.protocol
    for name in ("data_path", "missing", "timing", "fps", "snippet_frames"):
        values[name] = getattr(args, name) or getattr(facts, name)
    values["dataset"] = full_name(args.dataset)
    if not is_text(values["dataset"]):
        raise UserError(f"{values['dataset']!a}: is not UTF-8; expected a path in UTF-8. Rename the folder.")
    values["classes"] = facts.classes or _annotated_classes(facts, values)
    if trained := getattr(args, "trained", None):
        values["classes"] = _trained_classes(trained, values["classes"], args.dataset)
    values["num_iters"] = len(parse_schedule(args.lr, args.num_iters))
    if args.model_file and Path(args.model_file).exists() and not Path(args.model_file).is_dir():
        check_file(args.model_file, "a checkpoint", NAME_MODEL)
    config = kind(**values)
    config.check()
    return config.settled() if training else config


def make_config_without_data(args: Namespace) -> Config:
    """The config for videos without annotations: where the settings of a model's training are known, no data set is read."""
    trained = getattr(args, "trained", None)
    if not trained or "classes" not in trained.settings or full_name(args.dataset) != trained.settings.get("dataset"):
        return make_config(args, training=False)
    kind, settings = settings_class(args.method), trained.settings
    values: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    values["dataset"], values["classes"] = full_name(args.dataset), _trained_classes(trained, (), args.dataset)
    values["num_iters"] = len(parse_schedule(args.lr, args.num_iters))
    tious = settings.get("tiou_thresholds")
    known = isinstance(tious, list | tuple) and tious and all(type(tiou) in (int, float) for tiou in tious)
    values["tiou_thresholds"] = tuple(map(float, tious)) if known else KNOWN["thumos14"].tiou_thresholds
    values["protocol"] = str(settings.get("protocol", "unnamed"))
    for name in ("data_path", "missing", "timing", "fps", "snippet_frames"):
        values[name] = values[name] or getattr(KNOWN["thumos14"], name)
    if args.len_feature is None:
        raise UserError(f"{trained.source}: has no len_feature; give --len_feature, the width of all streams together.")
    config = kind(**values)
    config.check()
    return config


def _annotated_classes(facts: Dataset, values: dict[str, Any]) -> tuple[str, ...]:
    if facts.name in DEMOS and not Path(values["data_path"]).exists():
        return ()  # created before it is read
    path = annotation_file(facts, Path(values["data_path"]), values["layout"], values["ground_truth"])
    return classes_of(read_database(path, where_to_get(facts, values["data_path"])))


def _trained_classes(trained: Trained, classes: tuple[str, ...], dataset: str) -> tuple[str, ...]:
    """The classes of a model, in its order; a data set that it is evaluated on may have fewer, but no others."""
    own = trained.settings.get("classes")
    if own is None:
        return classes
    if not (isinstance(own, list | tuple) and own and all(map(is_text, own)) and len(set(own)) == len(own)):
        raise UserError(f"{trained.source}: its classes are {short(own)}; expected different names. Name another --model_file.")
    if foreign := [name for name in classes if name not in own]:
        raise UserError(
            f"{trained.source}: is of a model of {len(own)} classes ({listing(list(own), 20)}); --dataset {dataset} also has "
            f"{listing(foreign, 20)}. Evaluate it on a data set of its classes."
        )
    return tuple(own)


# ----------------------------------------------------------------------------------------------------------- flags


def _add_method_and_dataset(group: Group) -> None:
    group.add_argument(
        "--dataset",
        default="thumos14",
        type=dataset,
        help=f"{', '.join(KNOWN)} (demos are created at first use), or PATH/TO/dataset.json for your own data",
    )
    group.add_argument("--method", default="basnet", choices=list(METHODS), help="method")
    group.add_argument("--modal", default="all", choices=["rgb", "flow", "all"], help="feature streams")


def _add_places(group: Group, name: str) -> None:
    where = "folder of the data, in any layout of dataset/README.md (None: that in dataset.json)"
    group.add_argument("--data_path", default="./dataset/THUMOS14", help=where)
    group.add_argument(
        "--layout", default="auto", choices=["auto", *LAYOUTS], help="layout of the feature files; auto detects it"
    )
    group.add_argument(
        "--ground_truth",
        default=None,
        metavar="PATH",
        help="annotation file (None: searched in --data_path); with --result also the folder of the official annotations",
    )
    group.add_argument(
        "--missing",
        default=None,
        choices=["fail", "drop"],
        help="action on annotated videos without features (None: drop on ActivityNet and HACS, else fail)",
    )
    group.add_argument("--model_path", default=f"./models/{name}", help="folder for checkpoints")
    group.add_argument("--output_path", default=f"./outputs/{name}", help="folder for records, detections and logs")
    group.add_argument("--log_path", default=f"./logs/{name}", help="folder for TensorBoard")
    group.add_argument("--model_file", default=None, help="checkpoint to start from (main.py) or to evaluate (main_eval.py)")


def _add_training(group: Group) -> None:
    schedule = "learning rate of each iteration: a list such as [1e-4]*1000+[1e-5]*500, or one number with --num_iters"
    group.add_argument("--lr", default="[0.0001]*1500", help=schedule)
    group.add_argument(
        "--num_iters", type=at_most(MOST_ITERATIONS), help="iterations, at most the length of --lr (None: all of it)"
    )
    group.add_argument("--batch_size", type=at_most(10_000), default=16, help="videos per iteration")
    decay = "L2 term added to the gradient by Adam"
    group.add_argument("--weight_decay", type=not_negative_number, default=0.0005, help=decay)
    group.add_argument("--dropout", type=share, default=0.7, help="dropout before the classifier")
    group.add_argument("--seed", type=seed, default=-1, help="seed of all random numbers; -1 draws one and prints it")
    group.add_argument(
        "--draws",
        default="ours",
        choices=["ours", "official"],
        help="random batches, snippets and dropout: from our generators, or identical to BaS-Net's official code with "
        "--num_workers 0 (docs/basnet.md, section 9)",
    )
    group.add_argument(
        "--eval_every",
        type=interval,
        default="epoch",
        help="iterations between evaluations, or epoch: one pass over the training videos; 1 is the official protocol",
    )
    group.add_argument(
        "--choose_by",
        default="all",
        metavar="TIOU",
        help="mAP that selects the best model: all, the mean over all thresholds; a range such as 0.1:0.7; or one such as 0.5",
    )
    group.add_argument("--resume", action="store_true", help="continue the run of this seed from its last checkpoint")


def _add_network(group: Group) -> None:
    length = "snippets T that every video is sampled to; 750 I3D snippets of 0.64 s cover 8 minutes"
    group.add_argument("--num_segments", type=at_most(100_000), default=750, help=length)
    group.add_argument(
        "--len_feature",
        type=at_most(100_000),
        default=None,
        help="features per snippet, all streams together (None: the dataset's width, 1024 a stream for I3D)",
    )
    group.add_argument(
        "--timing",
        default=None,
        choices=["rows", "duration"],
        help="length of a video: that of its snippets (rows), or its annotated duration (None: the dataset's)",
    )
    group.add_argument(
        "--fps", type=positive_number, default=None, help="frame rate at which features were extracted (None: the dataset's)"
    )
    group.add_argument(
        "--snippet_frames", type=positive_integer, default=None, help="video frames per snippet (None: the dataset's)"
    )
    channels = "hidden channels of the classifier; the filter has a quarter of them"
    group.add_argument("--hidden", type=at_most(16_384), default=2048, help=channels)


def _add_localization(group: Group) -> None:
    group.add_argument("--class_th", type=share, default=0.25, help="lowest video score, in 0..1, of a class to localize")
    points = "points per snippet (BackTAL: per frame) that activations are interpolated to"
    group.add_argument("--scale", type=at_most(1_000), default=24, help=points)
    group.add_argument("--cas_th", default="0:0.25:0.025", help="thresholds of the scaled activation, start:stop:step or a,b,c")
    surroundings = "width of the contrast region on each side of a proposal, in its lengths"
    group.add_argument("--outer", type=not_negative_number, default=0.25, help=surroundings)
    term = "weight of the class term in a proposal's score"
    group.add_argument("--class_weight", type=not_negative_number, default=0.2, help=term)
    group.add_argument("--nms_th", type=share, default=0.7, help="temporal IoU from which a worse detection is suppressed")
    quirks = "reproduce the official code's quirks, or repair those listed in docs/quirks.md"
    group.add_argument("--compat", default="official", choices=["official", "fixed"], help=quirks)
    chosen = "repair these quirks, such as B1,B4; without --compat, reproduce all others"
    group.add_argument("--fix", default="", metavar="IDS", help=chosen)


def _add_basnet(group: Group) -> None:
    group.add_argument("--alpha", type=not_negative_number, default=0.0001, help="weight of the filter's L1 norm in the loss")
    group.add_argument("--topk", type=share, default=0.125, help="share of a video's snippets that is averaged to its score")
    whole = "score of the whole video as a further proposal of each class that has proposals; none: no such proposal"
    group.add_argument("--whole_video", type=optional(not_negative_number), default=None, metavar="SCORE", help=whole)
    group.add_argument(
        "--ablation",
        default="full",
        choices=["full", "baseline", "base", "supp"],
        help="rows of the paper's ablation table: both branches; no background class and no filter; base branch "
        "only; suppression branch only",
    )
    reduction = "classification loss: mean over classes, or sum, without which many classes may not be learned (docs/basnet.md)"
    group.add_argument("--bce_reduction", default="mean", choices=["mean", "classsum"], help=reduction)


def _add_scoring(group: Group) -> None:
    group.add_argument(
        "--result", default=None, metavar="FILE", help="detections to score: ActivityNet's JSON or the THUMOS kit's .txt"
    )
    group.add_argument(
        "--protocols",
        default=None,
        metavar="NAMES",
        help="with --result: ground truths to score against, such as thumos-210,thumos-kit, or all (docs/evaluation.md)",
    )
    group.add_argument("--subset", default=None, help="with --result: subset of the ground truth (None: the one for testing)")
    group.add_argument("--ties", default="official", choices=["official", "stable"], help="order of equal scores and overlaps")
    group.add_argument(
        "--unlisted",
        default="count",
        choices=["count", "ignore"],
        help="with --result: count detections in videos that the ground truth does not list as false positives, as officially, "
        "or ignore them",
    )
    group.add_argument("--score_key", default="score", metavar="KEY", help="with --result: the JSON key of a detection's score")
    group.add_argument(
        "--per_class",
        default=None,
        type=file_name,
        metavar="NAME",
        help="with --result: write AP by class to NAME.csv and NAME.md",
    )
    group.add_argument(
        "--save_kit", default=None, metavar="FILE", help="with --result: write the detections in the kit's .txt form"
    )
    group.add_argument(
        "--activations", default=None, metavar="FILE", help="saved activations to evaluate, instead of a checkpoint"
    )
    group.add_argument(
        "--save_activations", default=None, metavar="FILE", help="write the activations for localization to FILE.npz"
    )
    group.add_argument(
        "--save_train_activations",
        default=None,
        metavar="FILE",
        help="write those of the training videos to FILE.npz, on which tools.lab can choose settings",
    )


def _add_running(group: Group) -> None:
    group.add_argument("--device", default="auto", type=device, help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "tf32", "bf16", "fp16"],
        help="precision of large matrix products; weights, scores and losses are in single precision. auto: tf32 on GPUs, "
        "else fp32",
    )
    group.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    group.add_argument(
        "--eval_workers",
        type=at_most(MOST_THREADS, not_negative_integer),
        default=None,
        metavar="N",
        help="processes that evaluate during training (None: on a GPU the cores minus 2, from 1 to 8; else 0)",
    )
    group.add_argument(
        "--num_workers", type=at_most(MOST_THREADS, int), default=8, help="threads that read feature files, at least one"
    )
    group.add_argument(
        "--cache",
        default="auto",
        choices=["auto", "ram", "device", "off"],
        help="place of the features during a run: in memory, on the GPU, or in their files, which are read at each use; auto: "
        "the fastest that fits",
    )
    group.add_argument(
        "--cache_budget", type=not_negative_number, default=16.0, metavar="GIB", help="limit of --cache auto for features"
    )
    group.add_argument(
        "--cache_path",
        default="auto",
        metavar="FOLDER",
        help="folder of a packed copy of the features, for a fast start; auto: packed/ in --data_path; none: no copy",
    )
    group.add_argument(
        "--cache_dtype",
        default="float32",
        choices=["float32", "float16"],
        help="type of features in memory; float16 takes half",
    )


def _add_seeds(group: Group) -> None:
    group.add_argument(
        "--seeds",
        type=optional(seed_list),
        default=None,
        metavar="LIST",
        help="run many seeds, such as 0-9 or 0,3,7-9, each in its own folders, and summarize them (docs/running.md)",
    )
    group.add_argument(
        "--backend",
        default="local",
        choices=["local", "dask"],
        help="with --seeds: run on this machine, or on a Dask cluster",
    )
    group.add_argument(
        "--jobs",
        type=optional(at_most(MOST_SEEDS)),
        default=None,
        metavar="N",
        help="with --seeds: runs at a time (None: one per GPU, else one per two cores; on a cluster as many as it can run)",
    )


def _add_output(group: Group) -> None:
    group.add_argument(
        "--tensorboard", default="on", choices=["on", "off"], help="write losses, scores and pictures to --log_path"
    )
    group.add_argument(
        "--logger",
        default="none",
        choices=["none", "wandb", "mlflow"],
        help="also log to Weights & Biases or MLflow, if that package is installed",
    )
    group.add_argument("--quiet", action="store_true", help="print the final report only")
    group.add_argument("--wide", action="store_true", help="print all figures of a report, in as many columns as it takes")
    group.add_argument("--debug", action="store_true", help="full tracebacks and torch's anomaly detection")


def dataset(text: str) -> str:
    if text in KNOWN or text.endswith(".json"):
        return text
    hint = did_you_mean(text, KNOWN)
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(KNOWN)}, and no PATH/TO/dataset.json.{hint}")


if __name__ == "__main__":
    parse_args()
