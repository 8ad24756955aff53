"""Check flags and data before an environment is made: run.sh asks this module, which needs the standard library only.

`python -m dataset.present train,test FLAGS OF main.py` prints what is wrong or missing and exits with code 2. It reads the
flags of options.py; a run reads all of them, and the files themselves.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from config import annotation_file, parse_schedule, parse_thresholds, streams_of, where_to_get
from dataset.facts import DEMOS, dataset_facts
from dataset.layouts import find_layout, split_names
from options import NAME_MODEL, parse_shared_args
from utils import UserError, check_file, run_command


def check_start(subsets: list[str], argv: Sequence[str]) -> None:
    """Raise the errors of a run that are known without its packages; a demo makes its data itself."""
    args = parse_shared_args(argv)
    if args.lr != parse_shared_args([]).lr:  # else it may be that of a recipe
        parse_schedule(args.lr, args.num_iters)
    parse_thresholds("--cas_th", args.cas_th)
    if args.result:  # a file of detections is scored without features
        check_file(args.result, "detections", "Name others with --result.")
        return
    if args.dataset not in DEMOS and not (subsets == ["test"] and has_settings(args.model_file)):
        require_data(args, [] if args.activations else subsets)
    if args.activations:
        check_file(args.activations, "saved activations", "Name others with --activations.")
    elif args.model_file and not args.resume and not Path(args.model_file).is_dir():
        check_file(args.model_file, "a checkpoint", NAME_MODEL)


def has_settings(model: str | None) -> bool:
    """True for a model to be evaluated with the data of its training, unless other data is named (engine.checkpoint)."""
    return model is not None and (model.endswith(".ckpt") or Path(model).with_suffix(".safetensors").is_file())


def require_data(args: Namespace, subsets: list[str]) -> None:
    """Raise an error for a folder that lacks annotations, or a whole subset."""
    facts = dataset_facts(args.dataset)
    root = Path(args.data_path or facts.data_path)
    layout = find_layout(root, facts, args.layout)
    annotations = annotation_file(facts, root, args.layout, args.ground_truth)
    missing = [] if annotations.exists() else [str(annotations)]
    for subset in subsets:
        if subset not in layout.folders:
            missing.append(layout.expected(subset))
        elif layout.streams_apart:
            folders = [layout.folders[subset] / stream for stream in streams_of(args.modal)]
            missing += [str(folder) for folder in folders if not folder.is_dir()]
        split_names(root, layout, subset)
    if missing:
        raise UserError(f"{root}: missing {' and '.join(missing)}. {where_to_get(facts, str(root))}")


if __name__ == "__main__":
    run_command(lambda: check_start(sys.argv[1].split(","), sys.argv[2:]))
