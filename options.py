"""The command line of main.py and main_eval.py: one parser, grouped; parsing touches nothing on disk.

The defaults below are what runs: edit them here. They are BaS-Net's published values for THUMOS'14. The flags of another method
stand in its file, and so do the recipes: what differs for a --method on a --dataset. A default that was edited here wins over a
recipe, and the run says so.
"""

import argparse
import dataclasses
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from config import MOST_ITERATIONS, Config, Settings, annotation_file, parse_schedule, where_to_get
from dataset.annotations import classes_of, read_database
from dataset.facts import DEMOS, KNOWN, Dataset, dataset_facts
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
from eval.reading import is_text
from methods.base import METHODS, folder_name, settings_class
from methods.recipes import origin, recipe, recipe_name, shipped
from utils import UserError, check_file, say_now

OFFICIAL_FLAGS = {"modal", "data_path", "model_path", "output_path", "log_path", "model_file", "num_workers", "seed", "debug"}
NAME_MODEL = "Name another with --model_file."


def parse_args(argv: Sequence[str] | None = None, folders: str = "") -> Namespace:
    """`folders` is what the names of folders to write to end in by default."""
    chosen = _choice_of_work(argv)
    parser = build_parser(chosen.method, chosen.dataset, folders)
    args = parser.parse_args(argv, Namespace(compat=None))
    if args.compat is None:  # quirks that are chosen are all that is repaired
        args.compat = "official" if args.fix else parser.get_default("compat")
    if args.seeds and args.seed != parser.get_default("seed"):
        parser.error("argument --seeds: --seed names one seed, --seeds many; give one of the two")
    return args


def parse_shared_args(argv: Sequence[str]) -> Namespace:
    """The flags of this file alone, those of another method unread; needs no package, and knows no recipe."""
    chosen = _choice_of_work(argv)
    parser = _parser_as_written("basnet", chosen.dataset, "")
    parser.set_defaults(data_path=_data_path(parser, chosen.dataset))
    return parser.parse_args(argv) if chosen.method == "basnet" else parser.parse_known_args(argv)[0]


def _choice_of_work(argv: Sequence[str] | None) -> Namespace:
    """--method and --dataset, which say what flags there are and what their defaults are."""
    parser = Parser(add_help=False)
    _add_choice_of_work(parser)
    for action in parser._actions:
        parser.check_default(action, "options.py")
    return parser.parse_known_args(argv)[0]


def flags_of(args: Namespace) -> list[str]:
    """The command line that parse_args reads as `args`, without what is so by default."""
    choice = [f"--method={args.method}", f"--dataset={args.dataset}"]
    default = vars(parse_args(choice))
    others = {name: value for name, value in vars(args).items() if value != default[name]}
    return choice + [
        f"--{name}" if value is True else f"--{name}={'none' if value is None else value}" for name, value in others.items()
    ]


def build_parser(method: str = "basnet", dataset: str = "thumos14", folders: str = "") -> argparse.ArgumentParser:
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
    """The default of --data_path; the place that stands in this file is THUMOS'14's."""
    if dataset == "thumos14":
        return parser.get_default("data_path")
    return KNOWN[dataset].data_path if dataset in KNOWN else None


def _parser_as_written(method: str, dataset: str, folders: str) -> Parser:
    """With the defaults that stand in this file, whoever wrote them."""
    parser = Parser(
        methods_with,
        epilog=f"Defaults are those of --method {method} --dataset {dataset}; give others with --help to see theirs. "
        "`published`: the paper and its code, `for thumos14`: there, and nobody published one for this data set; `derived, "
        "unpublished`: nobody did, so it is BackTAL's or follows from it (docs/basnet.md); `official flag`: the code's command "
        "line; `ours`: added here.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=118),
    )
    _add_choice_of_work(parser.add_argument_group("what to run"))
    _add_places(parser.add_argument_group("where things are"), folder_name(METHODS[method]) + folders)
    _add_training(parser.add_argument_group("training"))
    _add_network(parser.add_argument_group("network and data sizes"))
    _add_localization(parser.add_argument_group("localization"))
    own = parser.add_argument_group(f"of --method {method}")
    if method == "basnet":
        _add_basnet(own)
    else:
        add_own_flags(own, settings_class(method))
    _add_scoring(parser.add_argument_group("scoring (main_eval.py)"))
    _add_running(parser.add_argument_group("running"))
    files = {} if method == "basnet" else dict.fromkeys(own_flags(settings_class(method)), METHODS[method].partition(":")[0])
    for action in parser._actions:
        parser.check_default(action, files.get(action.dest, "options.py"))
    for flag, usual in shipped(method).items():
        if parser.get_default(flag) is None and usual is not None:
            parser.error(f"options.py: the default None of --{flag}; expected a value such as {usual!r}")
    return parser


def methods_with(flag: str) -> list[str]:
    """The methods that have a flag of their own of this name."""
    try:
        return [method for method in METHODS if method != "basnet" and flag in own_flags(settings_class(method))] or (
            ["basnet"] if flag in shipped("basnet").keys() - shipped("").keys() else []
        )
    except ImportError:  # without the packages, no method's file can be read
        return []


def edited_defaults(method: str) -> Settings:
    """The flags, of those that a recipe may set, whose default in this file is not the one that was shipped."""
    return _edited(_parser_as_written(method, "thumos14", ""), method)


def _edited(parser: argparse.ArgumentParser, method: str) -> Settings:
    written = {flag: parser.get_default(flag) for flag in shipped(method)}
    return {flag: value for flag, value in written.items() if not _same(flag, value, shipped(method)[flag])}


def _same(flag: str, value: Any, other: Any) -> bool:
    """Whether two defaults mean the same; a schedule may be written in several ways."""
    if flag != "lr" or value == other:
        return value == other
    try:
        return parse_schedule(value) == parse_schedule(other)
    except UserError:
        return False


def say_settings(args: Namespace) -> list[str]:
    """A line on every default that was edited in this file and is in use, and one on the flags that a recipe set."""
    parser = _parser_as_written(args.method, args.dataset, "")
    edited, usual = _edited(parser, args.method), shipped(args.method)
    settings, title = recipe(args.method, args.dataset), recipe_name(args.method, args.dataset)
    lines = []
    for flag, value in edited.items():
        if getattr(args, flag) != value:
            continue  # another was given on the command line
        if flag in settings and not _same(flag, value, settings[flag]):
            lines.append(
                f"warning: options.py was edited: {flag} is {_brief(value)}, not {settings[flag]} as in recipe {title}"
            )
        else:
            lines.append(f"options.py was edited: {flag} is {_brief(value)}, shipped with {usual[flag]}")
    place = parser.get_default("data_path")
    if args.dataset != "thumos14" and place not in (None, KNOWN["thumos14"].data_path):
        lines.append(f"warning: options.py was edited: data_path {place} is where THUMOS'14 is, and not used for {title}")
    of_recipe = [flag for flag, value in settings.items() if flag not in edited and getattr(args, flag) == value]
    return [*lines, f"recipe {title}: {', '.join(of_recipe)}"] if of_recipe else lines


def tell_settings(args: Namespace, say: Callable[[str], object]) -> None:
    """`say` these lines; with --quiet the warnings among them go to stderr."""
    for line in say_settings(args):
        (say_now if args.quiet and line.startswith("warning: ") else say)(line)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _origin(flag: str, method: str, dataset: str) -> str:
    """Where a default comes from."""
    return origin(flag, method, dataset) or ("official flag" if flag in OFFICIAL_FLAGS else "ours")


def make_config(args: Namespace, training: bool = True) -> Config:
    """The run that `args` (parse_args) asks for; what concerns `training` alone is looked for only then."""
    facts = dataset_facts(args.dataset)
    kind = settings_class(args.method)
    values: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    if args.len_feature is None:
        values["len_feature"] = facts.stream_width * (2 if args.modal == "all" else 1)
    values["tiou_thresholds"], values["protocol"] = facts.tiou_thresholds, facts.protocol
    for name in ("data_path", "missing", "timing", "fps", "snippet_frames"):
        values[name] = getattr(args, name) or getattr(facts, name)
    if args.dataset.endswith(".json"):
        values["dataset"] = str(Path(args.dataset).resolve())  # one data set, however its description is spelt
        if not is_text(values["dataset"]):
            raise UserError(f"{values['dataset']!a}: is not UTF-8; expected a path in UTF-8. Rename the folder.")
    values["classes"] = facts.classes or _annotated_classes(facts, values)
    values["num_iters"] = len(parse_schedule(args.lr, args.num_iters))
    if args.model_file and Path(args.model_file).exists() and not Path(args.model_file).is_dir():
        check_file(args.model_file, "a checkpoint", NAME_MODEL)
    config = kind(**values)
    config.check()
    return config.settled() if training else config


def _annotated_classes(facts: Dataset, values: dict[str, Any]) -> tuple[str, ...]:
    if facts.name in DEMOS and not Path(values["data_path"]).exists():
        return ()  # it makes itself before it is read
    path = annotation_file(facts, Path(values["data_path"]), values["layout"], values["ground_truth"])
    return classes_of(read_database(path, where_to_get(facts, values["data_path"])))


# ------------------------------------------------------------------------------------------------------- the flags


def _add_choice_of_work(group: Group) -> None:
    group.add_argument(
        "--dataset",
        default="thumos14",
        type=dataset,
        help=f"{', '.join(KNOWN)} (the demos make themselves), or PATH/TO/dataset.json that describes your own",
    )
    group.add_argument("--method", default="basnet", choices=list(METHODS), help="method")
    group.add_argument("--modal", default="all", choices=["rgb", "flow", "all"], help="feature streams")


def _add_places(group: Group, name: str) -> None:
    where = "folder of the data, in any of the layouts of dataset/README.md (None: as dataset.json says)"
    group.add_argument("--data_path", default="./dataset/THUMOS14", help=where)
    group.add_argument(
        "--layout", default="auto", choices=["auto", *LAYOUTS], help="whose arrangement of the features; auto looks for it"
    )
    group.add_argument(
        "--ground_truth",
        default=None,
        metavar="PATH",
        help="annotation file (None: looked for in --data_path); with --result also the folder of the official annotations",
    )
    group.add_argument(
        "--missing",
        default=None,
        choices=["fail", "drop"],
        help="what to do about annotated videos without features (None: drop on ActivityNet and HACS, else fail)",
    )
    group.add_argument("--model_path", default=f"./models/{name}", help="folder for checkpoints")
    group.add_argument("--output_path", default=f"./outputs/{name}", help="folder for records, detections and logs")
    group.add_argument("--log_path", default=f"./logs/{name}", help="folder for TensorBoard")
    group.add_argument("--model_file", default=None, help="checkpoint to start from (main.py) or to evaluate (main_eval.py)")


def _add_training(group: Group) -> None:
    schedule = "learning rate of each iteration: a list such as [1e-4]*1000+[1e-5]*500, or one number with --num_iters"
    group.add_argument("--lr", default="[0.0001]*1500", help=schedule)
    group.add_argument(
        "--num_iters", type=at_most(MOST_ITERATIONS), help="iterations, at most the length of --lr, which None stands for"
    )
    group.add_argument("--batch_size", type=at_most(10_000), default=16, help="videos per iteration")
    decay = "L2 term added to the gradient by Adam"
    group.add_argument("--weight_decay", type=not_negative_number, default=0.0005, help=decay)
    group.add_argument("--dropout", type=share, default=0.7, help="dropout before the classifier")
    group.add_argument("--seed", type=seed, default=-1, help="seed of everything random; -1 draws one and reports it")
    group.add_argument(
        "--draws",
        default="ours",
        choices=["ours", "official"],
        help="batches, rows and dropout of a seed: from our generators, or as BaS-Net's official code with --num_workers 0 "
        "draws them (docs/basnet.md, section 9)",
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
        help="mAP that chooses the best model: all, the mean over all thresholds; a range such as 0.1:0.7; or one such as 0.5",
    )
    group.add_argument("--resume", action="store_true", help="continue the run of this seed from its last checkpoint")


def _add_network(group: Group) -> None:
    length = "rows T that every video is sampled to; 750 rows cover 8 minutes of I3D snippets of 0.64 s"
    group.add_argument("--num_segments", type=at_most(100_000), default=750, help=length)
    group.add_argument(
        "--len_feature",
        type=at_most(100_000),
        default=None,
        help="features per row, all streams together (None: the dataset's width, 1024 a stream for I3D)",
    )
    group.add_argument(
        "--timing",
        default=None,
        choices=["rows", "duration"],
        help="how long a video is: as its rows last, or its annotated duration (None: as the dataset says)",
    )
    group.add_argument(
        "--fps", type=positive_number, default=None, help="of the videos that features were taken from (None: the dataset's)"
    )
    group.add_argument(
        "--snippet_frames", type=positive_integer, default=None, help="video frames per feature row (None: the dataset's)"
    )
    channels = "channels of the classifier; the filter has a quarter of them"
    group.add_argument("--hidden", type=at_most(16_384), default=2048, help=channels)


def _add_localization(group: Group) -> None:
    group.add_argument("--class_th", type=share, default=0.25, help="video score in 0..1 from which a class is localized")
    points = "points per row (BackTAL: per frame) that activations are interpolated to"
    group.add_argument("--scale", type=at_most(1_000), default=24, help=points)
    group.add_argument("--cas_th", default="0:0.25:0.025", help="thresholds of the scaled activation, start:stop:step or a,b,c")
    surroundings = "contrast region on each side of a proposal, in its lengths"
    group.add_argument("--outer", type=not_negative_number, default=0.25, help=surroundings)
    term = "weight of the class term in a proposal's score"
    group.add_argument("--class_weight", type=not_negative_number, default=0.2, help=term)
    group.add_argument("--nms_th", type=share, default=0.7, help="temporal IoU from which a worse detection is suppressed")
    quirks = "reproduce the official code's quirks, or repair those of docs/quirks.md"
    group.add_argument("--compat", default="official", choices=["official", "fixed"], help=quirks)
    chosen = "repair these quirks only, such as B1,B4; without --compat the others are reproduced"
    group.add_argument("--fix", default="", metavar="IDS", help=chosen)


def _add_basnet(group: Group) -> None:
    group.add_argument("--alpha", type=not_negative_number, default=0.0001, help="weight of the filter's L1 norm in the loss")
    group.add_argument("--topk", type=share, default=0.125, help="share of a video's rows whose activations make its score")
    whole = "score of one more proposal, the whole video, of each class that has any; none: no such proposal"
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
        "--result", default=None, metavar="FILE", help="detections to score: ActivityNet's JSON or the kit's .txt"
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
        help="with --result: detections in videos that the ground truth does not list are false positives, as officially, or "
        "ignored",
    )
    group.add_argument(
        "--score_key", default="score", metavar="KEY", help="with --result: what the JSON calls the score of a detection"
    )
    group.add_argument(
        "--per_class",
        default=None,
        type=file_name,
        metavar="NAME",
        help="with --result: write AP by class to NAME.csv and NAME.md",
    )
    group.add_argument("--save_kit", default=None, metavar="FILE", help="with --result: write the detections as the kit's text")
    group.add_argument(
        "--activations", default=None, metavar="FILE", help="saved activations to evaluate, instead of a checkpoint"
    )
    group.add_argument("--save_activations", default=None, metavar="FILE", help="write what localization needs to FILE.npz")


def _add_running(group: Group) -> None:
    group.add_argument("--device", default="auto", type=device, help="auto, cpu, cuda or cuda:N")
    group.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "tf32", "bf16", "fp16"],
        help="of large products; weights, scores and losses are in single precision. auto: tf32 on GPUs, else fp32",
    )
    group.add_argument("--compile", action="store_true", help="let torch compile the network")
    group.add_argument(
        "--eval_workers",
        type=at_most(MOST_THREADS, not_negative_integer),
        default=None,
        metavar="N",
        help="processes that evaluate beside the training (None: on a GPU two less than the cores, at most 8; else 0)",
    )
    group.add_argument(
        "--num_workers", type=at_most(MOST_THREADS, int), default=8, help="threads that read feature files, at least one"
    )
    group.add_argument(
        "--cache",
        default="auto",
        choices=["auto", "ram", "device", "off"],
        help="where features are during a run: in memory, on the GPU, or read from their files at each use; auto: the "
        "fastest of these that fits",
    )
    group.add_argument(
        "--cache_budget", type=not_negative_number, default=16.0, metavar="GIB", help="what auto may take for features"
    )
    group.add_argument(
        "--cache_path",
        default="auto",
        metavar="FOLDER",
        help="folder of one packed copy of the features, which makes the next start fast; auto: packed/ in --data_path; none",
    )
    group.add_argument(
        "--cache_dtype", default="float32", choices=["float32", "float16"], help="numbers in memory; float16 takes half"
    )
    group.add_argument(
        "--seeds",
        type=optional(seed_list),
        default=None,
        metavar="LIST",
        help="run many seeds, such as 0-9 or 0,3,7-9, each in folders of its own, and sum them up (docs/running.md)",
    )
    group.add_argument(
        "--backend",
        default="local",
        choices=["local", "dask"],
        help="with --seeds: where they run; this machine, or those of a Dask cluster",
    )
    group.add_argument(
        "--jobs",
        type=optional(at_most(MOST_SEEDS)),
        default=None,
        metavar="N",
        help="with --seeds: how many run at once (None: one per GPU, or else per two cores; on a cluster all it takes)",
    )
    group.add_argument("--quiet", action="store_true", help="print the final report only")
    group.add_argument("--debug", action="store_true", help="full tracebacks and torch's anomaly detection")


def dataset(text: str) -> str:
    if text in KNOWN or text.endswith(".json"):
        return text
    hint = did_you_mean(text, KNOWN)
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(KNOWN)}, and no PATH/TO/dataset.json.{hint}")


if __name__ == "__main__":
    parse_args()
