"""Compare runs: settings and metrics that differ, and mAP with an interval of the difference over the test videos.

Each RUN is the output folder of a run, or a JSON file of detections of any code base. All are compared with the first.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas

from engine.flags import at_most
from engine.summary import Run as Logged
from eval.bootstrap import Bootstrap, Interval, bootstrap
from eval.reading import clipped
from eval.report import csv_cell, figures, table
from tools.inputs import letters, read_runs, run_parser
from tools.report.comparison import settings_that_differ
from tools.report.runs import Run
from utils import UserError, atomic_write, run_command

MOST_RESAMPLES = 100_000
MOST_RUNS = 26
MOST_CLASSES = 20  # in the terminal; --csv has all


def main() -> None:
    parser = run_parser(__doc__, "python -m tools.compare RUN RUN [RUN ...] [FLAGS]")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the first is the one to compare with")
    how = "draws of the test videos for the intervals (default: %(default)s)"
    parser.add_argument("--resamples", type=at_most(MOST_RESAMPLES), default=1000, metavar="N", help=how)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all differences to FILE")
    args = parser.parse_args()
    if not 2 <= len(args.runs) <= MOST_RUNS:
        parser.error(f"{len(args.runs)} run named; expected 2 to {MOST_RUNS}")
    run_command(lambda: compare(args), args.debug)


def compare(args: argparse.Namespace) -> None:
    runs = read_runs(args)
    names = letters(runs)
    tables, rules = [run.found for run in runs], [run.rules for run in runs]
    drawn = bootstrap(runs[0].truth, tables, runs[0].score.tiou, args.resamples, rules=rules)
    print("".join(f"{name}: {run.source} ({run.title})\n" for name, run in zip(names, runs, strict=True)), end="")
    print(f"protocol {runs[0].protocol}: {runs[0].counts}\n")
    for name, run in zip(names, runs, strict=True):
        print("".join(f"{name}: {note}\n" for note in run.score.notes), end="")
    for number in range(1, len(runs)):
        print(section(runs, names, drawn, number))
    print(
        f"mAP in %. Intervals hold 95 % of {args.resamples:,} draws of the test videos with\n"
        "replacement; `ahead` is the share of draws in which the second run is better.\n"
        "They do not say how much runs of other seeds differ (docs/seeing.md)."
    )
    if args.csv:
        write_csv(args.csv, names, drawn)
        print(f"written: {args.csv}")


def section(runs: Sequence[Run], names: list[str], drawn: Bootstrap, number: int) -> str:
    """One run beside the first, as text of at most 80 columns."""
    first, other = runs[0], runs[number]
    pair = names[0], names[number]
    text = differing(first, other, pair) + metrics(first, other, pair)
    thresholds: list[int | None] = [*range(len(drawn.tiou)), None]
    rows = [
        [
            "average" if tiou is None else f"{drawn.tiou[tiou]:g}",
            *(f"{100 * drawn.score(run, tiou).value:.2f}" for run in (0, number)),
            *cells(drawn.difference(number, tiou=tiou)),
        ]
        for tiou in thresholds
    ]
    header = [*pair, f"{pair[1]} - {pair[0]}", "95 % interval", "ahead"]
    text += table(["tIoU", *header], rows) + "\n"
    changes = drawn.class_differences(number)
    order = sorted(range(len(changes)), key=lambda label: -abs(changes[label].value))
    rows = [
        [clipped(drawn.labels[label], 20), *(f"{100 * drawn.ap[run, label].mean():.2f}" for run in (0, number))]
        + cells(changes[label])
        for label in order[:MOST_CLASSES]
    ]
    text += table(["class, mean AP", *header], rows)
    if len(order) > MOST_CLASSES:
        text += f"and {len(order) - MOST_CLASSES} classes that changed less; --csv FILE writes all\n"
    return text


def cells(interval: Interval) -> list[str]:
    low, high = 100 * interval.low, 100 * interval.high
    return [f"{100 * interval.value:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{100 * interval.above:.0f} %"]


def differing(first: Run, other: Run, pair: tuple[str, str]) -> str:
    """A table of the settings that differ."""
    if not first.settings or not other.settings:
        return ""
    rows = [
        [row["name"] or "", *(clipped("(none)" if value is None else value, 24) for value in (row["first"], row["second"]))]
        for row in settings_that_differ(first, other)
    ]
    return (table(["setting", *pair], rows) if rows else "no setting differs") + "\n"


def metrics(first: Run, other: Run, pair: tuple[str, str]) -> str:
    """A table of the logged metrics besides mAP, of the best evaluation of each run."""
    if not first.records or not other.records:
        return ""
    best = [Logged(run.settings, run.records).best for run in (first, other)]
    values = [figures(record, "0.1:0.7") for record in best]
    rows = [
        [name, *(f"{100 * value[name]:.2f}" for value in values), f"{100 * (values[1][name] - values[0][name]):+.2f}"]
        for name in values[0]
        if name in values[1] and name not in best[0]["mAP"] and not name.startswith("avg ")
    ]
    rows.insert(0, ["iteration of the best", *(str(record["iteration"]) for record in best), ""])
    return table(["metric in %", *pair, f"{pair[1]} - {pair[0]}"], rows) + "\n"


def write_csv(path: Path, names: list[str], drawn: Bootstrap) -> None:
    """One line per run, and tIoU or class: the values of both, the difference and its interval."""
    if path.is_dir():
        raise UserError(f"--csv {path}: is a folder; expected a file to write.")
    rows = []
    for number in range(1, len(names)):
        intervals = {f"{tiou:g}": drawn.difference(number, tiou=place) for place, tiou in enumerate(drawn.tiou)}
        intervals["average"] = drawn.difference(number)
        for tiou, interval in intervals.items():
            rows.append({"run": names[number], "tIoU": tiou, "class": "all"} | vars(interval))
        for label, interval in zip(drawn.labels, drawn.class_differences(number), strict=True):
            rows.append({"run": names[number], "tIoU": "average", "class": csv_cell(label)} | vars(interval))
    with atomic_write(path) as stream:
        stream.write(pandas.DataFrame(rows).to_csv(index=False))


if __name__ == "__main__":
    main()
