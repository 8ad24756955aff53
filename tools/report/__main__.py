"""One page on a run: `python -m tools.report RUN [RUN2]` writes report.html (docs/seeing.md).

RUN is the output folder of a run, or a JSON file of detections of any code base.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
from pathlib import Path
from typing import Any

from dataset.facts import KNOWN
from engine.flags import Parser
from tools.report.comparison import compare
from tools.report.numbers import diagnoses_of, numbers_of
from tools.report.page import write_page
from tools.report.runs import Run, read_run
from tools.report.videos import Curves, contents, films_in, share_rules
from utils import UserError, run_command, say_now


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.usage = "python -m tools.report RUN [RUN2] [FLAGS]"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="one run, or two to compare")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="folder of the films, to be played in step with the timeline"
    )
    parser.add_argument("--seed", type=int, help="which seed, if a folder has several")
    parser.add_argument("--model_file", help="the checkpoint, if the run's best model has been moved")
    parser.add_argument("--data_path", help="folder of the data (default: the run's, or that of --dataset)")
    group = parser.add_argument_group("for detections alone")
    names = f"{', '.join(KNOWN)}, or PATH/TO/dataset.json"
    group.add_argument("--dataset", default="thumos14", help=f"{names} (default: %(default)s)")
    group.add_argument("--ground_truth", metavar="PATH", help="annotation file (default: searched in --data_path)")
    group.add_argument("--subset", help="subset of the ground truth (default: the one for testing)")
    group.add_argument("--score_key", default="score", metavar="KEY", help="JSON key of a score (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="tracebacks also for users' mistakes")
    args = parser.parse_args(argv)
    if len(args.runs) > 2:
        parser.error(f"{len(args.runs)} runs were named; expected one, or two to compare")
    if not args.dataset.endswith(".json") and args.dataset not in KNOWN:
        parser.error(f"argument --dataset: {args.dataset!r} is none of {names}")
    return args


def make(args: argparse.Namespace) -> None:
    runs = [read_run(path, args) for path in args.runs]
    if args.videos is not None and not args.videos.is_dir():
        raise UserError(f"--videos {args.videos}: is no folder; expected the folder of the videos' films.")
    curves = [curves_or_reason(run) for run in runs]
    page = gather(runs, curves, films_in(args.videos, args.output))
    for path in write_page(args.output, *page):
        print(path)


def gather(runs: list[Run], curves: list[Curves], films: dict[str, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The numbers and the videos of a page."""
    if len(runs) == 2 and runs[0].score.ground_truth != runs[1].score.ground_truth:
        raise UserError(
            f"{runs[0].source} is scored against {runs[0].counts}, {runs[1].source} against {runs[1].counts}; expected one "
            "ground truth for both. Name it with --ground_truth."
        )
    diagnoses = [diagnoses_of(run) for run in runs]
    videos = contents(runs, curves, films)
    numbers: dict[str, Any] = {
        "title": " and ".join(run.title for run in runs),
        "classes": max((run.classes for run in runs), key=len),
        "runs": [numbers_of(run, found) for run, found in zip(runs, diagnoses, strict=True)],
        "rules": [share_rules(videos, number) for number in range(len(runs))],
    }
    if len(runs) == 2:
        numbers["comparison"] = compare(runs, diagnoses)
    return numbers, videos


def curves_or_reason(run: Run) -> Curves:
    """The curves of a run, or nothing and a reason in `run.missing`: detections and scores are shown without them."""
    if run.config is None:
        return {}
    from tools.report.network import curves_of_run  # torch is needed for this alone

    try:
        curves = curves_of_run(run.config, run.classes)
        run.durations |= {name: video["seconds"] for name, video in curves.items()}
        return curves
    except UserError as error:
        run.missing.append(f"Activations are not shown, because they cannot be computed: {error}")
        say_now(f"warning: {run.missing[-1]}")
        return {}


def main() -> None:
    args = parse()
    run_command(lambda: make(args), args.debug)


if __name__ == "__main__":
    main()
