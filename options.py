"""The command line of main.py and main_eval.py: one parser, grouped; parsing touches nothing on disk.

The defaults below are what runs: edit them here. They are the published values for THUMOS'14, BaS-Net's for the flags that all
methods share. What differs for another --method or --dataset is in recipes.py, so those two flags are read first. A default
that was edited here wins over a recipe, and the run says so.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NoReturn, TypeVar

from config import parse_schedule
from dataset.clicks import ANNOTATORS, SOURCES
from dataset.facts import KNOWN
from dataset.layouts import LAYOUTS
from eval.names import did_you_mean
from recipes import METHODS, Settings, origin, recipe, recipe_name, shipped
from utils import UserError, say_now

OFFICIAL_FLAGS = {"modal", "data_path", "model_path", "output_path", "log_path", "model_file", "num_workers", "seed", "debug"}


class Parser(argparse.ArgumentParser):
    """A parser whose refusals name what was probably meant."""

    def __init__(self, **settings: Any):
        usage = "main.py [FLAGS] (train and evaluate) or main_eval.py --model_file FILE [FLAGS] (evaluate)"
        super().__init__(usage=usage, allow_abbrev=False, **settings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            text = f"{value!r} is none of {', '.join(names)}.{did_you_mean(str(value), names)}"
            raise argparse.ArgumentError(action, text)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
            message = f"{message}." + "".join(f" {flag}:{hint}" for flag in flags if (hint := self._hint(flag)))
        super().error(message)

    def _hint(self, flag: str) -> str:
        """What an unknown flag may be: one of another method, or one that is spelt differently."""
        owners = [method for method, add in ADD_OWN.items() if flag in flags_added_by(add)]
        if owners:
            return f" a flag of --method {' or '.join(owners)}."
        near = did_you_mean(flag.lstrip("-"), [name.lstrip("-") for name in self._option_string_actions])
        return near.replace("mean ", "mean --")


def flags_added_by(add: "Callable[[Group], None]") -> dict[str, argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    return parser._option_string_actions


def parse_args(argv: Sequence[str] | None = None, folders: str = "") -> argparse.Namespace:
    """`folders` is what the names of folders to write to end in by default."""
    first = Parser(add_help=False)
    _add_choice_of_work(first)
    for action in first._actions:
        _check_default(first, action)
    chosen, _ = first.parse_known_args(argv)
    parser = build_parser(chosen.method, chosen.dataset, folders)
    args = parser.parse_args(argv, argparse.Namespace(compat=None))
    if args.compat is None:  # quirks that are chosen are all that is repaired
        args.compat = "official" if args.fix else parser.get_default("compat")
    if args.seeds and args.seed != parser.get_default("seed"):
        parser.error("argument --seeds: --seed names one seed, --seeds many; give one of the two")
    return args


def flags_of(args: argparse.Namespace) -> list[str]:
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
    if dataset != "thumos14":  # the place that options.py names is THUMOS'14's
        parser.set_defaults(data_path=KNOWN[dataset].data_path if dataset in KNOWN else None)
    for action in parser._actions[1:]:
        shown = "none" if action.default == "" else "%(default)s"
        source = "edited in options.py" if action.dest in edited else _origin(action.dest, method, dataset)
        action.help = f"{action.help} (default: {shown}; {source})"
    return parser


def _parser_as_written(method: str, dataset: str, folders: str) -> Parser:
    """With the defaults that stand in this file, whoever wrote them."""
    parser = Parser(
        epilog=f"Defaults are those of --method {method} --dataset {dataset}; give others with --help to see theirs. "
        "`published`: the paper and its code, `for thumos14`: there, and nobody published one for this data set; `derived, "
        "unpublished`: nobody did, so it is BackTAL's or follows from it (docs/basnet.md); `official flag`: the code's command "
        "line; `ours`: added here.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=118),
    )
    _add_choice_of_work(parser.add_argument_group("what to run"))
    _add_places(parser.add_argument_group("where things are"), METHODS[method] + folders)
    _add_training(parser.add_argument_group("training"))
    _add_network(parser.add_argument_group("network and data sizes"))
    _add_localization(parser.add_argument_group("localization"))
    ADD_OWN[method](parser.add_argument_group(f"of --method {method}"))
    _add_scoring(parser.add_argument_group("scoring (main_eval.py)"))
    _add_running(parser.add_argument_group("running"))
    for action in parser._actions:
        _check_default(parser, action)
    for flag, usual in shipped(method).items():
        if parser.get_default(flag) is None and usual is not None:
            parser.error(f"options.py: the default None of --{flag}; expected a value such as {usual!r}")
    return parser


def _check_default(parser: Parser, action: argparse.Action) -> None:
    """A default is read as if it were given on the command line: it may have been edited."""
    if action.default in (None, argparse.SUPPRESS) or action.nargs == 0:
        return
    text = str(list(action.default)) if isinstance(action.default, list | tuple) else str(action.default)
    try:
        action.default = action.type(text) if callable(action.type) else text if action.choices is None else action.default
        parser._check_value(action, action.default)
    except (ValueError, argparse.ArgumentTypeError, argparse.ArgumentError) as error:
        reason = error.message if isinstance(error, argparse.ArgumentError) else error
        parser.error(f"options.py: the default {action.default!r} of {action.option_strings[0]}: {reason}")


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


def say_settings(args: argparse.Namespace) -> list[str]:
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


def tell_settings(args: argparse.Namespace, say: Callable[[str], object]) -> None:
    """`say` these lines; with --quiet the warnings among them go to stderr."""
    for line in say_settings(args):
        (say_now if args.quiet and line.startswith("warning: ") else say)(line)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _origin(flag: str, method: str, dataset: str) -> str:
    """Where a default comes from."""
    return origin(flag, method, dataset) or ("official flag" if flag in OFFICIAL_FLAGS else "ours")


Group = argparse.ArgumentParser | argparse._ArgumentGroup


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
        "--num_iters", type=positive_integer, help="iterations, at most the length of --lr, which None stands for"
    )
    group.add_argument("--batch_size", type=positive_integer, default=16, help="videos per iteration")
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
    group.add_argument("--num_segments", type=positive_integer, default=750, help=length)
    group.add_argument(
        "--len_feature",
        type=positive_integer,
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
    group.add_argument("--hidden", type=positive_integer, default=2048, help=channels)


def _add_localization(group: Group) -> None:
    group.add_argument("--class_th", type=share, default=0.25, help="video score in 0..1 from which a class is localized")
    points = "points per row (BackTAL: per frame) that activations are interpolated to"
    group.add_argument("--scale", type=positive_integer, default=24, help=points)
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


def _add_two_branches(group: Group) -> None:
    """What BaS-Net and BackTAL, which has its branches, share."""
    group.add_argument("--alpha", type=not_negative_number, default=0.0001, help="weight of the filter's L1 norm in the loss")
    group.add_argument("--topk", type=share, default=0.125, help="share of a video's rows whose activations make its score")
    whole = "score of one more proposal, the whole video, of each class that has any; none: no such proposal"
    group.add_argument("--whole_video", type=optional(not_negative_number), default=None, metavar="SCORE", help=whole)


def _add_basnet(group: Group) -> None:
    _add_two_branches(group)
    group.add_argument(
        "--ablation",
        default="full",
        choices=["full", "baseline", "base", "supp"],
        help="rows of the paper's ablation table: both branches; no background class and no filter; base branch "
        "only; suppression branch only",
    )
    reduction = "classification loss: mean over classes, or sum, without which many classes may not be learned (docs/basnet.md)"
    group.add_argument("--bce_reduction", default="mean", choices=["mean", "classsum"], help=reduction)


def _add_um(group: Group) -> None:
    group.add_argument(
        "--variant",
        default="official",
        choices=["official", "leftthomas-fixed", "leftthomas-exact"],
        help="whose code: the authors' (official, the default but on ActivityNet); leftthomas/UM with its loss mended "
        "(leftthomas-fixed, the default on ActivityNet), or as it is (leftthomas-exact); docs/um.md",
    )
    group.add_argument("--alpha", type=not_negative_number, default=0.0005, help="weight of the uncertainty loss")
    group.add_argument("--beta", type=not_negative_number, default=1.0, help="weight of the background entropy loss")
    magnitude = "magnitude that features of actions are to reach"
    group.add_argument("--margin", type=not_negative_number, default=100.0, help=magnitude)
    group.add_argument("--r_act", type=positive_integer, default=9, help="one in so many rows is taken for action")
    group.add_argument("--r_bkg", type=positive_integer, default=4, help="one in so many rows is taken for background")
    thresholds = "thresholds of the scaled feature magnitude, start:stop:step"
    group.add_argument("--mag_th", default="0.4:0.625:0.025", help=thresholds)
    reduction = "both classification losses: mean over classes, or sum, without which many may not be learned (docs/um.md)"
    group.add_argument("--bce_reduction", default="mean", choices=["mean", "classsum"], help=reduction)
    loss = "uncertainty loss of either code (None: the variant's)"
    group.add_argument("--um_loss", default=None, choices=["official", "leftthomas"], help=loss)


def _add_backtal(group: Group) -> None:
    _add_two_branches(group)
    group.add_argument(
        "--affinity_layout",
        default="official",
        choices=["official", "paper"],
        help="which terms of a convolution a gate weighs: a third of the channels each, as the code and its checkpoints have "
        "it, or one tap each, as the paper describes it (docs/backtal.md, section 2)",
    )
    group.add_argument(
        "--clicks",
        default="auto",
        type=click_source,
        metavar="SOURCE",
        help="background clicks of the training videos: npz (in the feature files), human (the annotators' files in "
        "human_anns/ of --data_path), simulated (from the ground truth, as every report then says), or a file with the "
        "columns video,second; auto: the first of these three that is there",
    )
    group.add_argument(
        "--annotator", default=None, choices=[*ANNOTATORS, "all"], help="whose clicks to take (None: with --clicks human A1)"
    )
    group.add_argument("--click_seed", type=not_negative_integer, default=0, help="seed of simulated clicks")
    group.add_argument(
        "--clicks_per_gap", type=positive_integer, default=1, help="simulated clicks between two actions, and at the ends"
    )
    group.add_argument(
        "--click_noise", type=not_negative_number, default=0.0, metavar="SECONDS", help="deviation of a simulated click"
    )
    group.add_argument("--click_miss", type=share, default=0.0, help="share of gaps without a simulated click")
    separation = "weight of the separation of scores in the loss"
    group.add_argument("--sep_weight", type=not_negative_number, default=1.0, help=separation)
    embeddings = "weight of the separation of embeddings in the loss"
    group.add_argument("--emb_weight", type=not_negative_number, default=0.8, help=embeddings)
    group.add_argument("--sep_topk", type=share, default=0.125, help="--topk of the separation of scores")
    similar = "cosine that embeddings of one kind are to have at least"
    group.add_argument("--similar_min", type=share, default=0.5, help=similar)
    different = "cosine that those of action and background are to have at most"
    group.add_argument("--different_max", type=share, default=0.1, help=different)
    group.add_argument(
        "--mag_th",
        type=optional(str),
        default="0.3,0.375,0.45,0.525,0.6,0.675,0.75",
        metavar="START:STOP:STEP",
        help="thresholds of the features' magnitude, whose runs are proposals too; none: no such proposals",
    )
    group.add_argument("--shrink", type=share, default=0.0, help="share of its length that a proposal loses at each end")


def _add_asm_loc(group: Group) -> None:
    group.add_argument("--steps", type=not_negative_integer, default=3, help="refinement steps after the base network")
    iterations = "iterations of every step but the last, which has the rest"
    group.add_argument("--step_iters", type=positive_integer, default=1300, metavar="N", help=iterations)
    group.add_argument(
        "--dropout_on",
        default="classifier",
        choices=["classifier", "everything"],
        help="what --dropout comes before: the classifier, or the embedding, attention and uncertainty too",
    )
    foreground = "one in so many of a video's rows makes its foreground score"
    group.add_argument("--r_fg", type=positive_integer, default=8, help=foreground)
    group.add_argument("--r_bg", type=positive_integer, default=3, help="one in so many makes its background score")
    weight = "weight of the foreground score's loss"
    group.add_argument("--lambda_fg", type=not_negative_number, default=1.0, help=weight)
    weight = "weight of the background score's loss, as background"
    group.add_argument("--lambda_bg", type=not_negative_number, default=0.5, help=weight)
    weight = "weight of the background score's loss, as the action"
    group.add_argument("--lambda_ab", type=not_negative_number, default=0.5, help=weight)
    group.add_argument("--beta", type=not_negative_number, default=0.2, help="weight of the mean uncertainty in the loss")
    widening = "lengths by which a proposal is widened at each end to attend and stretch"
    group.add_argument("--delta", type=not_negative_number, default=0.5, help=widening)
    stretching = "rows that a short proposal is stretched to, before widening"
    group.add_argument("--gamma", type=not_negative_number, default=6.0, help=stretching)
    best = "share of a class's summed scores whose best proposals stretch time (alpha)"
    group.add_argument("--proposal_share", type=share, default=0.7, help=best)
    whose = "classes whose proposals stretch a training video (quirk Q4)"
    group.add_argument("--stretch_by", default="annotated", choices=["annotated", "detected"], help=whose)
    thresholds = "thresholds of the attention, start:stop:step; those of the activation are --cas_th"
    group.add_argument("--att_th", default="0.1:0.925:0.025", help=thresholds)
    mixture = "of the attention in the curve that scores a proposal"
    group.add_argument("--attention_share", type=share, default=0.0, help=mixture)
    source = "what is thresholded for the proposals that the next step has"
    group.add_argument("--pseudo_by", default="attention", choices=["attention", "activation"], help=source)
    group.add_argument("--pseudo_th", default="0.4:0.925:0.025", help="the thresholds, start:stop:step")


ADD_OWN = {"basnet": _add_basnet, "um": _add_um, "backtal": _add_backtal, "asm_loc": _add_asm_loc}


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
        type=not_negative_integer,
        default=None,
        metavar="N",
        help="processes that evaluate beside the training (None: on a GPU two less than the cores, at most 8; else 0)",
    )
    group.add_argument("--num_workers", type=int, default=8, help="threads that read feature files, at least one")
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
        type=optional(positive_integer),
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


def click_source(text: str) -> str:
    if text in SOURCES or PurePath(text).suffix:
        return text
    hint = did_you_mean(text, SOURCES)
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SOURCES)}, and no file such as clicks.csv.{hint}")


T = TypeVar("T")


def optional(kind: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text == "none" else kind(text)


def positive_integer(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1000000, or is 0")
    return value


def not_negative_integer(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def not_negative_number(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1000000")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def seed(text: str) -> int:
    value = int(text)
    if not -1 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not in -1..4294967295")
    return value


MOST_SEEDS = 10_000


def seed_list(text: str) -> tuple[int, ...]:
    """`0-9`, `0,3,7-9`."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part, re.ASCII)
        if match is None:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a seed nor a range of seeds such as 0-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < min(2**32, first + MOST_SEEDS):
            raise argparse.ArgumentTypeError(f"{part} is not in order, not in 0..4294967295, or more than {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice")
    return tuple(seeds)


def interval(text: str) -> str:
    if text != "epoch" and not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither epoch nor a number of iterations")
    return text if text == "epoch" else str(int(text))


def device(text: str) -> str:
    kind, _, number = text.partition(":")
    if text in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isascii() and number.isdigit()):
        return text
    hint = did_you_mean(text, ("auto", "cpu", "cuda"))
    raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N.{hint}")


def file_name(text: str) -> str:
    if not PurePath(text).name:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    return text


if __name__ == "__main__":
    parse_args()
