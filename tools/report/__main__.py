"""One page on a run: `python -m tools.report RUN [RUN2]` writes report.html (docs/seeing.md).

RUN is the output folder of a run, or a JSON file of detections of any code base.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
from pathlib import Path
from typing import Any

from tools.inputs import RUN, read_runs, run_parser
from tools.report.comparison import compare
from tools.report.numbers import diagnoses_of, numbers_of
from tools.report.page import write_page
from tools.report.runs import Run
from tools.report.videos import Curves, contents, films_in, share_rules
from utils import UserError, run_command, say_now


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = run_parser(__doc__, "python -m tools.report RUN [RUN2] [FLAGS]")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=f"{RUN}; a second one is compared with it")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="folder of the films, to be played in step with the timeline"
    )
    args = parser.parse_args(argv)
    if len(args.runs) > 2:
        parser.error(f"{len(args.runs)} runs were named; expected one, or two to compare")
    return args


def make(args: argparse.Namespace) -> None:
    if args.videos is not None and not args.videos.is_dir():
        raise UserError(f"--videos {args.videos}: is no folder; expected the folder of the videos' films.")
    if args.output.is_dir():
        raise UserError(f"--output {args.output}: is a folder; expected the HTML file to write.")
    runs = read_runs(args)
    curves = [curves_or_reason(run) for run in runs]
    page = gather(runs, curves, films_in(args.videos, args.output))
    for path in write_page(args.output, *page):
        print(path)


def gather(runs: list[Run], curves: list[Curves], films: dict[str, str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The numbers and the videos of a page."""
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
        curves, run.tuned = curves_of_run(run.config, run.classes, run.truth)
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
