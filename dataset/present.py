"""Are the flags right, and is the data set there at all? Standard library only: run.sh asks before it builds an environment.

`python -m dataset.present train,test FLAGS OF main.py` says what is wrong or missing and exits with 2.
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
    """Refuse what a run would refuse once its packages are there; a demo makes its data itself."""
    args = parse_args(argv)
    for flag in ("result", "activations", "model_file"):
        path = getattr(args, flag)
        if path and not Path(path).exists() and not args.resume:
            if flag == "model_file" and (args.activations or args.result):
                continue  # run_eval.sh names one that is not read then
            raise UserError(f"{path}: no such file. Name an existing one with --{flag}.")
    if args.result:
        return  # a file of detections is scored without features
    config = make_config(args, training="train" in subsets)
    if args.dataset not in DEMOS:
        require_data(config, [] if args.activations else subsets)


def require_data(config: Config, subsets: list[str]) -> None:
    """Refuse a folder that lacks annotations, or the folder of a subset altogether."""
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
