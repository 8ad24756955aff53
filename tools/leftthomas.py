"""The command line of UM's second implementation: `python train.py FLAGS` and `python test.py FLAGS` (docs/um.md).

Its flags are translated to those of main.py, which does the work; other flags of main.py (--resume, --variant, --device, ...)
are passed on. Files with its names are written to --save_path, all others to a folder of the run in it.
"""

import argparse
import contextlib
import io
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from config import Config
from dataset.facts import DEMOS, KNOWN, dataset_facts
from dataset.layouts import find_layout
from dataset.make_demo import ensure_demo
from engine.checkpoint import OTHER_NAMES, Best, TrainingState
from engine.device import choose_device, choose_precision
from engine.files import RunFiles, locked, record_of, set_aside
from engine.model_file import SUFFIX
from engine.report import brief_report, report
from main import train
from main_eval import evaluate_now
from options import edited_defaults, make_config, parse_args
from test import write_detections
from utils import UserError, run_command, say_now, write_json

SAME = {  # flag of the second implementation: flag of main.py, and default of the former
    "alpha": ("alpha", "0.0005"),
    "beta": ("beta", "1.0"),
    "magnitude": ("margin", "100"),
    "r_act": ("r_act", "9"),
    "r_bkg": ("r_bkg", "4"),
    "act_th": ("class_th", "0.2"),
    "iou_th": ("nms_th", "0.6"),
    "data_name": ("dataset", "thumos14"),
    "data_path": ("data_path", "/data"),
    "num_segments": ("num_segments", "750"),
    "scale": ("scale", "24"),
    "fps": ("snippet_frames", "16"),  # the frames of a snippet, despite its name
    "sampling_frames": ("fps", "25"),  # the frames per second
    "lr": ("lr", "0.0001"),
    "decay": ("weight_decay", "0.0005"),
    "num_iter": ("num_iters", "10000"),
    "eval_iter": ("eval_every", "100"),
    "batch_size": ("batch_size", "16"),
    "num_workers": ("num_workers", "8"),
    "seed": ("seed", "-1"),
}
THRESHOLDS = {"seg_th": ("cas_th", "np.arange(0.0, 0.25, 0.025)"), "mag_th": ("mag_th", "np.arange(0.4, 0.625, 0.025)")}
OWN_WORDS = {f"--{ours}": f"--{name}" for name, (ours, _) in (SAME | THRESHOLDS).items()}
OWN_WORDS |= {f"--{kind}_path": "--save_path" for kind in ("model", "output", "log")}
OWN_WORDS |= {"bash run.sh": "python train.py", "main.py": "train.py", "main_eval.py": "test.py"}


def read_flags(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the flags of the second implementation to the equivalent arguments of main.py."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, usage="train.py or test.py [FLAGS]")
    for name, (ours, default) in (SAME | THRESHOLDS).items():
        parser.add_argument(f"--{name}", default=default, help=f"--{ours} of main.py (default: {default})")
    parser.add_argument("--save_path", default="result", help="folder for its files (default: result)")
    parser.add_argument("--model_file", default=None, help="--model_file of main.py")
    own, others = parser.parse_known_args(argv)
    if own.data_name in DEMOS and own.data_path == parser.get_default("data_path"):
        own.data_path = KNOWN[own.data_name].data_path
    flags = [f"--{ours}={getattr(own, name)}" for name, (ours, _) in SAME.items()]
    flags += [f"--{ours}={threshold_list(name, getattr(own, name))}" for name, (ours, _) in THRESHOLDS.items()]
    flags += [
        f"--{kind}_path={Path(own.save_path) / f'{known_name(own.data_name)}_run'}" for kind in ("model", "output", "log")
    ]
    flags += [f"--model_file={own.model_file}"] if own.model_file else []
    ours_of = {ours: name for name, (ours, _) in (SAME | THRESHOLDS).items()}
    for ours, value in edited_defaults("um").items():
        if ours in ours_of:
            say_now(
                f"warning: options.py was edited: {ours} is {value}, but is ignored: --{ours_of[ours]} has a default of its own"
            )
    args = parsed(["--method=um", "--variant=leftthomas-fixed", "--timing=rows", *flags, *others])
    there = args.dataset in DEMOS or find_layout(Path(args.data_path), dataset_facts(args.dataset)).folders
    if args.layout == "auto" and not there:
        args.layout = "um"  # so that the error names the folders of the second implementation
    for name in ("seeds", "result", "protocols", "per_class", "save_kit"):
        if getattr(args, name):
            raise UserError(f"--{name} is a flag of main.py and main_eval.py only.")
    return args


def parsed(flags: list[str]) -> Namespace:
    """Parse `flags` with main.py's parser; error messages name the flags of this command line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_args(flags)
    finally:
        sys.stderr.write(own_words(said.getvalue()))


def own_words(text: str) -> str:
    """Translate the flags and commands in a message of main.py to those of this command line."""
    return re.sub(r"bash run\.sh|\bmain(_eval)?\.py|--\w+", lambda found: OWN_WORDS.get(found[0], found[0]), text)


def in_own_words(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work`; the message of a UserError is translated by `own_words`."""
    try:
        work(*arguments)
    except UserError as error:
        raise UserError(own_words(str(error))) from error


def threshold_list(flag: str, text: str) -> str:
    """Translate numpy's arange or linspace, or a list, to main.py's format of thresholds, without evaluating code."""
    call = re.fullmatch(r"\s*(?:np|numpy)\.(arange|linspace)\(([^()]*)\)\s*", text)
    if call is None:
        return text.strip("[]() ")
    numbers = call[2].split(",")
    if len(numbers) != 3:
        raise UserError(f"--{flag} {text!r}: expected three numbers, as in np.arange(0.0, 0.25, 0.025).")
    if call[1] == "arange":
        return ":".join(numbers)
    try:
        first, last, count = float(numbers[0]), float(numbers[1]), int(numbers[2])
        if not 2 <= count <= 1000:
            raise ValueError
        return ",".join(repr(first + i * ((last - first) / (count - 1))) for i in range(count - 1)) + f",{last!r}"
    except ValueError:
        raise UserError(f"--{flag} {text!r}: expected np.linspace(first, last, count).") from None


def own_file(config: Config, kind: str) -> Path:
    return Path(config.model_path).parent / f"{known_name(config.dataset)}_{kind}"


def known_name(dataset: str) -> str:
    """The data set's part of file names: the stem of a dataset.json, else the whole name, which may contain a dot."""
    return Path(dataset).stem if dataset.endswith(".json") else dataset


class LeftThomasFiles(RunFiles):
    """A run's files; those that the second implementation has too have its names."""

    def __init__(self, config: Config, quiet: bool, wide: bool = False):
        super().__init__(config, quiet, wide)
        names = {
            kind: own_file(config, kind) for kind in ("model.pth", "model.json", "pred.json", "metric.json", "record.json")
        }
        self.best_model, self.model_settings, self.best_detections, self.metric, self.record = names.values()
        self.best_with_settings = self.best_model.with_suffix(SUFFIX)

    def start(self, state: TrainingState, resumed: bool) -> None:
        super().start(state, resumed)
        self.state = state

    def write_evaluation(self, record: dict[str, Any], best: bool) -> None:
        super().write_evaluation(record, best)
        metrics = {f"Step {known['iteration']}": metric(known, self.config) for known in self.state.records}
        write_json(self.metric, metrics, indent=2)

    def write_best(self, best: Best, epoch: int) -> None:
        theirs = {ours: name for name, ours in OTHER_NAMES.items()}
        renamed = {theirs.get(key, key): weight for key, weight in best.weights.items()}
        super().write_best(replace(best, weights=renamed), epoch)
        write_json(self.record, metric(best.record, self.config), indent=2)
        write_json(self.model_settings, self.config.as_dict(), indent=2)


def metric(record: dict[str, Any], config: Config) -> dict[str, float]:
    """A record in the second implementation's format: percent to one decimal, at the thresholds of model selection."""
    chosen = {f"mAP@{float(tiou):.2f}": value for tiou, value in config.chosen(record["mAP"]).items()}
    values = {"Test ACC": record["test_acc"], "mAP@AVG": record["choice"], **chosen}
    return {name: round(100 * value, 1) for name, value in values.items()}


def test(args: Namespace) -> None:
    """Evaluate the checkpoint --model_file."""
    ensure_demo(args.dataset, args.data_path)
    config = make_config(args, training=False)
    if config.model_file is None:
        raise UserError(f"name a checkpoint with --model_file, for example result/{config.dataset}_model.pth.")
    device = choose_device(config.device)
    config = replace(config, precision=choose_precision(config.precision, device))
    with locked(config.model_path):
        evaluation = evaluate_now(config, device, args.activations, args.save_activations)
        record = record_of(evaluation, 0, {}, config)
        paths = [own_file(config, kind) for kind in ("record.json", "pred.json")]
        set_aside(paths)
        write_json(paths[0], metric(record, config), indent=2)
        write_detections(paths[1], evaluation.found, evaluation.classes)
    show = report if args.wide else brief_report
    print(show({Path(config.model_file or "").name: record}, 1, config, config.seed), end="")
    print("\nWritten:\n" + "".join(f"- {path}\n" for path in paths), end="")


def run_train() -> None:
    run_command(lambda: in_own_words(train, read_flags(), LeftThomasFiles), "--debug" in sys.argv)


def run_test() -> None:
    run_command(lambda: in_own_words(test, read_flags()), "--debug" in sys.argv)
