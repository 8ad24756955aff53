"""Runs named on the command line of a tool."""

import argparse
from collections.abc import Sequence

from dataset.facts import KNOWN
from engine.flags import Parser
from tools.report.runs import Run, read_run
from utils import UserError

RUN = "the output folder of a run, or a JSON file of detections of any code base"


def run_parser(description: str | None, usage: str) -> Parser:
    """A parser with the flags by which runs and their ground truth are found."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = usage
    names = f"{', '.join(KNOWN)}, or PATH/TO/dataset.json"
    group = parser.add_argument_group("runs and ground truth")
    group.add_argument("--seed", type=int, help="which seed, if a folder has several")
    group.add_argument("--data_path", help="folder of the data (default: the run's, or that of --dataset)")
    group.add_argument("--ground_truth", metavar="PATH", help="annotation file (default: searched in --data_path)")
    group.add_argument("--model_file", help="the checkpoint, if the run's best model has been moved")
    alone = parser.add_argument_group("for detections alone")
    alone.add_argument("--dataset", default="thumos14", help=f"{names} (default: %(default)s)")
    alone.add_argument("--subset", help="subset of the ground truth (default: the one for testing)")
    alone.add_argument("--score_key", default="score", metavar="KEY", help="JSON key of a score (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="tracebacks also for users' mistakes")
    return parser


def read_runs(args: argparse.Namespace) -> list[Run]:
    """The runs of `args.runs`, which have one ground truth."""
    if not args.dataset.endswith(".json") and args.dataset not in KNOWN:
        raise UserError(f"--dataset {args.dataset}: expected one of {', '.join(KNOWN)}, or PATH/TO/dataset.json.")
    runs = [read_run(path, args) for path in args.runs]
    for run in runs[1:]:
        if run.score.ground_truth != runs[0].score.ground_truth:
            raise UserError(
                f"{runs[0].source} is scored against {runs[0].counts}, {run.source} against {run.counts}; expected one ground "
                "truth for all. Name it with --ground_truth."
            )
    return runs


def letters(runs: Sequence[Run]) -> list[str]:
    """Short names of runs: A, B, ..."""
    return [chr(ord("A") + number) for number in range(len(runs))]
