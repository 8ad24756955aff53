"""The command line of main.py and main_eval.py: one parser, grouped; parsing touches nothing on disk.

Flags and defaults depend on --dataset and --method (recipes.py), so those two are read first.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TypeVar

from dataset.clicks import ANNOTATORS, SOURCES
from dataset.facts import KNOWN
from dataset.layouts import LAYOUTS
from recipes import METHODS, origin, recipe

OFFICIAL_FLAGS = {"modal", "data_path", "model_path", "output_path", "log_path", "model_file", "num_workers", "seed", "debug"}


def parse_args(argv: Sequence[str] | None = None, folders: str = "") -> argparse.Namespace:
    """`folders` is what the names of folders to write to end in by default."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_choice_of_work(first)
    chosen, _ = first.parse_known_args(argv)
    parser = build_parser(chosen.method, chosen.dataset, folders)
    args = parser.parse_args(argv)
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
    parser = argparse.ArgumentParser(
        usage="main.py [FLAGS] (train and evaluate) or main_eval.py --model_file FILE [FLAGS] (evaluate)",
        epilog=f"Defaults are those of --method {method} --dataset {dataset}; give others with --help to see theirs. "
        "`published`: the paper and its code, `for thumos14`: there, and nobody published one for this data set; `derived, "
        "unpublished`: nobody did, so it is BackTAL's or follows from it (docs/basnet.md); `official flag`: the code's command "
        "line; `ours`: added here.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=118),
        allow_abbrev=False,
    )
    _add_choice_of_work(parser.add_argument_group("what to run"))
    _add_places(parser.add_argument_group("where things are"), METHODS[method] + folders)
    _add_training(parser.add_argument_group("training"))
    _add_network(parser.add_argument_group("network and data sizes"))
    _add_localization(parser.add_argument_group("localization"))
    ADD_OWN[method](parser.add_argument_group(f"of --method {method}"))
    _add_scoring(parser.add_argument_group("scoring (main_eval.py)"))
    _add_running(parser.add_argument_group("running"))
    parser.set_defaults(**recipe(method, dataset))
    for action in parser._actions[1:]:
        shown = "none" if action.default == "" else "%(default)s"
        action.help = f"{action.help} (default: {shown}; {_origin(action.dest, method, dataset)})"
    return parser


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
    group.add_argument(
        "--data_path", help="folder of the data, in any of the layouts of dataset/README.md (None: as dataset.json says)"
    )
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
    group.add_argument(
        "--lr",
        help="learning rate of each iteration: [0.0001]*1500, [1e-4]*1000+[1e-5]*500, or one number with --num_iters",
    )
    group.add_argument(
        "--num_iters", type=positive_integer, help="iterations, at most the length of --lr, which None stands for"
    )
    group.add_argument("--batch_size", type=positive_integer, help="videos per iteration")
    group.add_argument("--weight_decay", type=not_negative_number, help="L2 term added to the gradient by Adam")
    group.add_argument("--dropout", type=share, help="dropout before the classifier")
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
    group.add_argument(
        "--num_segments",
        type=positive_integer,
        help="rows T that every video is sampled to; 750 rows cover 8 minutes of I3D snippets of 0.64 s",
    )
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
    group.add_argument("--hidden", type=positive_integer, help="channels of the classifier; the filter has a quarter of them")


def _add_localization(group: Group) -> None:
    group.add_argument("--class_th", type=share, help="video score in 0..1 from which a class is localized")
    group.add_argument(
        "--scale",
        type=positive_integer,
        help="points per row (BackTAL: per frame) that activations are interpolated to",
    )
    group.add_argument("--cas_th", help="thresholds of the scaled activation, start:stop:step or a,b,c")
    group.add_argument("--outer", type=not_negative_number, help="contrast region on each side of a proposal, in its lengths")
    group.add_argument("--class_weight", type=not_negative_number, help="weight of the class term in a proposal's score")
    group.add_argument("--nms_th", type=share, help="temporal IoU from which a worse detection is suppressed")
    group.add_argument(
        "--compat",
        default="official",
        choices=["official", "fixed"],
        help="reproduce the official code's quirks, or repair those of docs/quirks.md",
    )
    group.add_argument("--fix", default="", metavar="IDS", help="repair chosen quirks only, such as B1,B4")


def _add_two_branches(group: Group) -> None:
    """What BaS-Net and BackTAL, which has its branches, share."""
    group.add_argument("--alpha", type=not_negative_number, help="weight of the filter's L1 norm in the loss")
    group.add_argument("--topk", type=share, help="share of a video's rows whose activations make its score")
    group.add_argument(
        "--whole_video",
        type=optional(not_negative_number),
        metavar="SCORE",
        help="score of one more proposal, the whole video, of each class that has any; none: no such proposal",
    )


def _add_basnet(group: Group) -> None:
    _add_two_branches(group)
    group.add_argument(
        "--ablation",
        default="full",
        choices=["full", "baseline", "base", "supp"],
        help="rows of the paper's ablation table: both branches; no background class and no filter; base branch "
        "only; suppression branch only",
    )
    group.add_argument(
        "--bce_reduction",
        choices=["mean", "classsum"],
        help="classification loss: mean over classes, or sum, without which many classes may not be learned (docs/basnet.md)",
    )


def _add_um(group: Group) -> None:
    group.add_argument(
        "--variant",
        choices=["official", "leftthomas-fixed", "leftthomas-exact"],
        help="whose code: the authors' (official, the default but on ActivityNet); leftthomas/UM with its loss mended "
        "(leftthomas-fixed, the default on ActivityNet), or as it is (leftthomas-exact); docs/um.md",
    )
    group.add_argument("--alpha", type=not_negative_number, help="weight of the uncertainty loss")
    group.add_argument("--beta", type=not_negative_number, help="weight of the background entropy loss")
    group.add_argument("--margin", type=not_negative_number, help="magnitude that features of actions are to reach")
    group.add_argument("--r_act", type=positive_integer, help="one in so many rows is taken for action")
    group.add_argument("--r_bkg", type=positive_integer, help="one in so many rows is taken for background")
    group.add_argument("--mag_th", help="thresholds of the scaled feature magnitude, start:stop:step")
    group.add_argument(
        "--bce_reduction",
        choices=["mean", "classsum"],
        help="both classification losses: mean over classes, or sum, without which many may not be learned (docs/um.md)",
    )
    group.add_argument(
        "--um_loss", choices=["official", "leftthomas"], help="uncertainty loss of either code (None: the variant's)"
    )


def _add_backtal(group: Group) -> None:
    _add_two_branches(group)
    group.add_argument(
        "--affinity_layout",
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
    group.add_argument("--sep_weight", type=not_negative_number, help="weight of the separation of scores in the loss")
    group.add_argument("--emb_weight", type=not_negative_number, help="weight of the separation of embeddings in the loss")
    group.add_argument("--sep_topk", type=share, help="the same for the separation of scores")
    group.add_argument("--similar_min", type=share, help="cosine that embeddings of one kind are to have at least")
    group.add_argument("--different_max", type=share, help="cosine that those of action and background are to have at most")
    group.add_argument(
        "--mag_th",
        type=optional(str),
        metavar="START:STOP:STEP",
        help="thresholds of the features' magnitude, whose runs are proposals too; none: no such proposals",
    )
    group.add_argument("--shrink", type=share, help="share of its length that a proposal loses at each end")


def _add_asm_loc(group: Group) -> None:
    group.add_argument("--steps", type=not_negative_integer, help="refinement steps after the base network")
    group.add_argument(
        "--step_iters", type=positive_integer, metavar="N", help="iterations of every step but the last, which has the rest"
    )
    group.add_argument(
        "--dropout_on",
        choices=["classifier", "everything"],
        help="what --dropout comes before: the classifier, or the embedding, attention and uncertainty too",
    )
    group.add_argument("--r_fg", type=positive_integer, help="one in so many of a video's rows makes its foreground score")
    group.add_argument("--r_bg", type=positive_integer, help="one in so many makes its background score")
    group.add_argument("--lambda_fg", type=not_negative_number, help="weight of the foreground score's loss")
    group.add_argument("--lambda_bg", type=not_negative_number, help="weight of the background score's loss, as background")
    group.add_argument("--lambda_ab", type=not_negative_number, help="weight of the background score's loss, as the action")
    group.add_argument("--beta", type=not_negative_number, help="weight of the mean uncertainty in the loss")
    group.add_argument(
        "--delta", type=not_negative_number, help="lengths by which a proposal is widened at each end to attend and stretch"
    )
    group.add_argument("--gamma", type=not_negative_number, help="rows that a short proposal is stretched to, before widening")
    group.add_argument(
        "--proposal_share", type=share, help="share of a class's summed scores whose best proposals stretch time (alpha)"
    )
    group.add_argument(
        "--stretch_by", choices=["annotated", "detected"], help="classes whose proposals stretch a training video (quirk Q4)"
    )
    group.add_argument("--att_th", help="thresholds of the attention, start:stop:step; those of the activation are --cas_th")
    group.add_argument("--attention_share", type=share, help="of the attention in the curve that scores a proposal")
    group.add_argument(
        "--pseudo_by", choices=["attention", "activation"], help="what is thresholded for the proposals that the next step has"
    )
    group.add_argument("--pseudo_th", help="the thresholds, start:stop:step")


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
        "--per_class",
        default=None,
        type=file_name,
        metavar="FILE",
        help="with --result: write AP by class to FILE.csv and FILE.md",
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
        type=seed_list,
        default=None,
        metavar="LIST",
        help="run many seeds, such as 0-9 or 0,3,7-9, each in folders of its own, and sum them up (docs/running.md)",
    )
    group.add_argument(
        "--backend",
        default="local",
        choices=["local", "dask", "ray"],
        help="with --seeds: where they run; this machine, or those of a Dask or Ray cluster",
    )
    group.add_argument(
        "--jobs",
        type=positive_integer,
        default=None,
        metavar="N",
        help="with --seeds: how many run at once (None: one per GPU, or else per two cores; on a cluster all it takes)",
    )
    group.add_argument("--quiet", action="store_true", help="print the final report only")
    group.add_argument("--debug", action="store_true", help="full tracebacks and torch's anomaly detection")


def dataset(text: str) -> str:
    if text in KNOWN or text.endswith(".json"):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(KNOWN)}, and no dataset.json")


def click_source(text: str) -> str:
    if text in SOURCES or PurePath(text).suffix:
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SOURCES)}, and no file such as clicks.csv")


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
    return text if text == "epoch" else str(positive_integer(text))


def device(text: str) -> str:
    kind, _, number = text.partition(":")
    if text in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isascii() and number.isdigit()):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N")


def file_name(text: str) -> str:
    if not PurePath(text).name:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    return text


if __name__ == "__main__":
    parse_args()
