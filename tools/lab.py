"""Find localization settings: localize and score saved activations under a grid of settings, or a random part of one.

`python -m tools.lab ACTIVATIONS.npz --grid nms_th=0.3:0.9:0.05 outer=0.1,0.25,0.5`, and flags of main_eval.py (docs/seeing.md).
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import itertools
import math
import shlex
from argparse import Namespace
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from tqdm import tqdm

from config import Config
from engine import charts
from engine.files import locked, set_aside
from engine.flags import at_most
from engine.search import Part, Search, Setting, Trial, settings_read, timed
from eval.names import did_you_mean
from eval.report import table
from eval.table import Table, read_ground_truth, rows_of
from methods.base import Method
from options import build_parser, flags_of, make_config, parse_args
from test import Activations, read_activations, without_memory
from thumos_features import load_database, test_truth
from utils import UserError, as_user_error, atomic_write, cores, run_command

USAGE = "python -m tools.lab ACTIVATIONS.npz --grid FLAG=VALUES [FLAG=VALUES ...] [FLAGS]"
MOST_SETTINGS = 100_000
MOST_VALUES = 1_000  # of one flag
MOST_ROWS = 12  # of the printed table
FIXED = {"compat", "fix", "classes", "fps", "snippet_frames", "variant", "um_loss"}  # settings of the run or the data
HOW = (
    "Expected FLAG=0.1,0.25,0.5 or FLAG=START:STOP:STEP, both ends included; with --random also FLAG=LOW:HIGH. A flag whose "
    "value is a text, such as cas_th=0:0.25:0.025, is given once for each value."
)


def main() -> None:
    args = parse_args(folders="_lab", extend=add_flags)
    run_command(lambda: explore(args), args.debug)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.usage = USAGE
    own = parser.add_argument_group("tools.lab (output in --output_path)")
    own.add_argument("file", metavar="ACTIVATIONS.npz", help="a file of main_eval.py --save_activations")
    own.add_argument("--grid", nargs="+", required=True, metavar="FLAG=VALUES", help=f"settings to try. {HOW}")
    own.add_argument("--random", type=at_most(MOST_SETTINGS), metavar="N", help="try N settings, drawn with --seed (None: all)")
    how = "videos to choose on: test, train (with --train_activations), or split:SHARE of the test videos, drawn with --seed"
    own.add_argument("--select", default="test", metavar="VIDEOS", help=how)
    own.add_argument("--train_activations", metavar="FILE", help="a file of main_eval.py --save_train_activations")
    own.add_argument("--per_video", action="store_true", help="also score the best setting of each video, an oracle")


def explore(args: Namespace) -> None:
    config = make_config(args, training=False)
    random = np.random.default_rng(max(0, args.seed))
    activations, parts = read_parts(args, config, random)
    axes = parse_grid(args, config, settings_read(config, next(iter(activations.values()))) - FIXED)
    settings = draw(axes, args.random, random) if args.random else product(axes)
    search = Search(config, activations, parts, args.per_video)
    usual = {axis.flag: getattr(config, axis.flag) for axis in axes}
    with locked(config.output_path):
        given, *trials = run_all(search, [usual, *settings], args)
        trials.sort(key=lambda trial: -choice(config, trial, "choose"))
        text = report(args, config, axes, given, trials)
        if args.per_video:
            text += per_video(search, config, trials)
        text += f"\n{command(args, trials[0].setting)}\n"
        write(args, config, axes, trials, text)
    print(text, end="")


# ------------------------------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Axis:
    """The values of one flag: a list, or all numbers from `low` to `high`."""

    flag: str
    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan

    def draw(self, random: np.random.Generator) -> Any:
        if self.values:
            return self.values[random.integers(len(self.values))]
        return float(f"{random.uniform(self.low, self.high):.4g}")


def parse_grid(args: Namespace, config: Config, allowed: set[str]) -> list[Axis]:
    """One axis per flag of `allowed`; values of a flag that is given several times are joined."""
    axes: dict[str, Axis] = {}
    for word in args.grid:
        axis = parse_axis(word, args, config, allowed)
        known = axes.get(axis.flag, axis)
        if axis.values and known.values:
            axis = replace(axis, values=tuple(dict.fromkeys((*known.values, *axis.values))))
        elif axis.flag in axes:
            raise UserError(f"--grid {word[:80]}: {axis.flag} is given twice; expected one range LOW:HIGH, or values.")
        axes[axis.flag] = axis
    return list(axes.values())


def parse_axis(word: str, args: Namespace, config: Config, allowed: set[str]) -> Axis:
    """One word of --grid; every value is read as on the command line of main_eval.py."""
    flag, _, text = word.partition("=")
    if flag not in allowed:
        names = ", ".join(sorted(allowed))
        raise UserError(
            f"--grid {word[:80]}: localization by --method {args.method} reads no such setting; expected one of {names}."
            f"{did_you_mean(flag, allowed)} {HOW}"
        )
    if isinstance(getattr(config, flag), str):
        return Axis(flag, (read_flag(flag, text, args),))
    if ":" not in text:
        return Axis(flag, tuple(dict.fromkeys(read_flag(flag, value, args) for value in text.split(","))))
    numbers = _numbers(word, text.split(":"))
    if len(numbers) == 2 and args.random and numbers[0] < numbers[1]:
        low, high = (read_flag(flag, f"{value:.10g}", args) for value in numbers)
        return Axis(flag, (), low, high)
    if len(numbers) != 3 or numbers[2] <= 0 or not 0 <= numbers[1] - numbers[0] < MOST_VALUES * numbers[2]:
        raise UserError(f"--grid {word[:80]}: no range. {HOW}")
    start, stop, step = numbers
    count = math.floor((stop - start) / step + 1e-9) + 1
    return Axis(flag, tuple(read_flag(flag, f"{start + place * step:.10g}", args) for place in range(count)))


def _numbers(word: str, parts: list[str]) -> list[float]:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"--grid {word[:80]}: not numbers. {HOW}")
    return numbers


def read_flag(flag: str, text: str, args: Namespace) -> Any:
    parser = flag_parser(args.method, args.dataset)
    return getattr(parser.parse_args([f"--{flag}={text}"]), flag)


@cache
def flag_parser(method: str, dataset: str) -> argparse.ArgumentParser:
    parser = build_parser(method, dataset)
    parser.usage = USAGE
    return parser


def product(axes: list[Axis]) -> list[Setting]:
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_SETTINGS:
        raise UserError(f"--grid: {count:,} settings; expected at most {MOST_SETTINGS:,}. Try some of them with --random.")
    names = [axis.flag for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def draw(axes: list[Axis], count: int, random: np.random.Generator) -> list[Setting]:
    """`count` different settings, or all if there are not so many."""
    if all(axis.values for axis in axes) and math.prod(len(axis.values) for axis in axes) <= count:
        return product(axes)
    found: dict[str, Setting] = {}
    for _ in range(100 * count):
        setting = {axis.flag: axis.draw(random) for axis in axes}
        found[repr(setting)] = setting
        if len(found) == count:
            break
    return list(found.values())


# -------------------------------------------------------------------------------------------------------------- videos


def read_parts(args: Namespace, config: Config, random: np.random.Generator) -> tuple[Activations, dict[str, Part]]:
    """The activations, and the videos to choose on ("choose") and to test on ("test")."""
    kind, _, share = args.select.partition(":")
    database, method = load_database(config), without_memory(config)
    activations = read_activations(args.file, method, database)
    truth = test_truth(database, config, list(activations))
    names = [truth.videos[number] for number in np.unique(truth.video)]
    if args.select == "test":
        whole = Part(truth, frozenset(names))
        return activations, {"choose": whole, "test": whole}
    if args.select == "train":
        return with_training(args, config, database, method, activations, Part(truth, frozenset(names)))
    try:
        count = round(float(share) * len(names))
    except (ValueError, OverflowError):
        count = 0
    if kind != "split" or not 0 < count < len(names):
        raise UserError(f"--select {args.select}: expected test, train, or split:SHARE with a share between 0 and 1.")
    chosen = set(random.permutation(names)[:count].tolist())
    return activations, {"choose": part_of(truth, chosen), "test": part_of(truth, set(names) - chosen)}


def with_training(
    args: Namespace, config: Config, database: dict[str, Any], method: Method, activations: Activations, test: Part
) -> tuple[Activations, dict[str, Part]]:
    if args.train_activations is None:
        raise UserError(
            "--select train: needs the activations of the training videos; name them with --train_activations. "
            "main_eval.py --model_file FILE --save_train_activations FILE.npz writes them."
        )
    training = read_activations(args.train_activations, method, database)
    if both := sorted(training.keys() & activations.keys()):
        raise UserError(f"{args.train_activations}: also has {both[0]}, a test video; expected training videos alone.")
    marked = {name: video | {"subset": "train" if name in training else "other"} for name, video in database.items()}
    with as_user_error():
        truth = read_ground_truth({"database": marked}, "train")
    return activations | training, {"choose": Part(truth, frozenset(training)), "test": test}


def part_of(truth: Table, names: set[str]) -> Part:
    inside = np.array([name in names for name in truth.videos])
    return Part(rows_of(truth, inside[truth.video]), frozenset(names))


# -------------------------------------------------------------------------------------------------------------- results


def run_all(search: Search, settings: list[Setting], args: Namespace) -> list[Trial]:
    """The trials in the order of `settings`."""
    shown = tqdm(search.run(settings, cores()), total=len(settings), unit="setting", disable=args.quiet or None, leave=False)
    trials, seconds = timed(iter(shown))
    if not args.quiet:
        rate = 60 * len(trials) / seconds
        print(f"{len(trials)} settings in {seconds:.1f} s: {rate:,.0f} a minute on {cores()} cores")
    by_setting = {repr(trial.setting): trial for trial in trials}
    return [by_setting[repr(setting)] for setting in settings]


def choice(config: Config, trial: Trial, part: str) -> float:
    """The mAP by which settings are compared: that of --choose_by."""
    return config.choice_of(dict(zip((f"{tiou:g}" for tiou in config.tiou_thresholds), trial.mAP[part].tolist(), strict=True)))


def report(args: Namespace, config: Config, axes: list[Axis], given: Trial, trials: list[Trial]) -> str:
    flags = [axis.flag for axis in axes]
    header = ["", *flags, "chosen on", "test"]

    def row(name: str, trial: Trial) -> list[str]:
        numbers = [f"{100 * choice(config, trial, part):.2f}" for part in ("choose", "test")]
        return [name, *(shown(trial.setting[flag]) for flag in flags), *numbers]

    best, top = trials[0], max(trials, key=lambda trial: choice(config, trial, "test"))
    rows = [row(str(place), trial) for place, trial in enumerate(trials[:MOST_ROWS], 1)]
    text = table(header, [*rows, row("best on test", top), row("as given", given)])
    average = f"mAP in %, {'averaged over all tIoUs' if config.choose_by == 'all' else f'at tIoU {config.choose_by}'}"
    where = {"test": "the test videos", "train": "the training videos"}.get(
        args.select, f"a part of the test videos ({args.select})"
    )
    text += f"{average}. Settings are chosen on {where}"
    text += ", and tested on the others.\n" if args.select.startswith("split") else ".\n"
    chosen, most, usual = (100 * choice(config, trial, "test") for trial in (best, top, given))
    text += f"The chosen setting is {chosen - usual:+.2f} against the flags as given"
    if args.select == "test":
        text += ".\nIt was chosen on the videos that it is tested on, so this is no estimate for others: see --select.\n"
    else:
        text += f", and {most - chosen:.2f} below the best choice on the tested videos.\n"
    return text


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def command(args: Namespace, setting: Setting) -> str:
    """The command line that evaluates the chosen setting."""
    usual = vars(parse_args([f"--method={args.method}", f"--dataset={args.dataset}"]))
    values = {name: getattr(args, name) for name in usual} | setting
    values |= {name: usual[name] for name in ("output_path", "model_path", "log_path", "seed", "quiet")}
    return shlex.join(["python", "main_eval.py", *flags_of(Namespace(**values)), f"--activations={args.file}"])


def per_video(search: Search, config: Config, trials: list[Trial]) -> str:
    """The score of the best setting of each test video."""
    mean = search.score("test", search.best_of_each_video(trials))
    value = choice(config, Trial({}, {"test": mean}, np.zeros(0)), "test")
    return f"With the best of these settings for each test video, an oracle: {100 * value:.2f}\n"


def write(args: Namespace, config: Config, axes: list[Axis], trials: list[Trial], text: str) -> None:
    folder = Path(config.output_path)
    paths = [folder / name for name in ("lab.md", "settings.csv", "settings.png")]
    set_aside(paths)
    flags = [axis.flag for axis in axes]
    rows = [
        trial.setting
        | {part: choice(config, trial, part) for part in trial.mAP}
        | {
            f"{part} mAP@{tiou:g}": value
            for part, maps in trial.mAP.items()
            for tiou, value in zip(config.tiou_thresholds, maps.tolist(), strict=True)
        }
        for trial in trials
    ]
    with atomic_write(paths[0]) as stream:
        stream.write(text)
    with atomic_write(paths[1]) as stream:
        stream.write(pandas.DataFrame(rows).to_csv(index=False))
    figure = charts.settings(flags, rows, "choose", title=f"{config.title}: mAP on the videos to choose on, in %")
    with atomic_write(paths[2], "wb") as stream:
        figure.savefig(stream, format="png", dpi=100)
    if not args.quiet:
        print(f"written: {', '.join(map(str, paths))}")


if __name__ == "__main__":
    main()
