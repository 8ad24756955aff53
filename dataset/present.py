"""Checks the flags and that the data set exists. Standard library only: run.sh calls it before it builds an environment.

`python -m dataset.present train,test FLAGS OF main.py` prints the first error and exits with code 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from config import Config, make_config, where_to_get
from dataset.facts import DEMOS
from dataset.layouts import find_layout, split_names
from options import parse_args
from utils import UserError, run_command


def check_start(subsets: list[str], argv: Sequence[str]) -> None:
    """Raise the UserError that a run would raise later, once its packages are installed; demos generate their data."""
    args = parse_args(argv)
    if args.result:  # a file of detections is scored without features
        require_file(args.result, "result")
        return
    config = make_config(args, training="train" in subsets)
    if args.dataset not in DEMOS:
        require_data(config, [] if args.activations else subsets)
    if args.activations:
        require_file(args.activations, "activations")
    elif args.model_file and not args.resume:
        require_file(args.model_file, "model_file")


def require_file(path: str, flag: str) -> None:
    if not Path(path).exists():
        raise UserError(f"{path}: no such file. Name an existing one with --{flag}.")


def require_data(config: Config, subsets: list[str]) -> None:
    """Raise UserError if the annotations or the folder of a subset are missing."""
    root, facts = Path(config.data_path), config.facts
    layout = find_layout(root, facts, config.layout)
    missing = [] if config.annotation_file.exists() else [str(config.annotation_file)]
    for subset in subsets:
        if subset not in layout.folders:
            missing.append(layout.expected(subset))
        elif layout.streams_apart:
            folders = [layout.folders[subset] / stream for stream in config.streams]
            missing += [str(folder) for folder in folders if not folder.is_dir()]
        split_names(root, layout, subset)
    if missing:
        raise UserError(f"{root}: missing {' and '.join(missing)}. {where_to_get(facts, config.data_path)}")


if __name__ == "__main__":
    run_command(lambda: check_start(sys.argv[1].split(","), sys.argv[2:]))
