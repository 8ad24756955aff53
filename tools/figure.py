"""Figures for papers, from runs or from detections of any code base, as PDF and PNG.

strip    one video: its instances, the detections of each run and, of a run whose checkpoint is there, its activations
classes  AP of each class, with 95 % intervals over the test videos
pr       precision by recall at one tIoU
errors   gain in mAP from mending each kind of error
seeds    learning curves and last values of the seeds of each run (RUN: a folder with seed_* folders, or of one run)
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from config import Config
from engine import charts
from engine.charts import Lane, Strip
from engine.files import RunFiles
from engine.summary import Run as Logged
from engine.summary import finished_run
from eval.bootstrap import Interval, bootstrap
from eval.diagnosis import diagnose
from eval.names import did_you_mean
from eval.report import averages_from
from tools.inputs import read_runs, run_parser
from tools.plot import sequences_of_video
from tools.report.runs import Run
from utils import UserError, listing, run_command, say_now

KINDS = ("strip", "classes", "pr", "errors", "seeds")


def main() -> None:
    parser = run_parser(__doc__, f"python -m tools.figure {{{','.join(KINDS)}}} RUN [RUN ...] [FLAGS]")
    parser.add_argument("kind", choices=KINDS, help="which figure")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or a JSON file of detections")
    where = "file, ending in .pdf, .png or .svg; without an ending both a PDF and a PNG (default: the kind of figure)"
    parser.add_argument("--figure", type=Path, metavar="FILE", help=where)
    parser.add_argument("--names", metavar="A,B", help="names of the runs in legends (default: method and data set)")
    parser.add_argument("--video", help="with strip: a test video (default: the first that is annotated)")
    parser.add_argument("--tiou", type=float, default=0.5, help="with pr and errors (default: %(default)s)")
    args = parser.parse_args()
    run_command(lambda: draw(args), args.debug)


def draw(args: argparse.Namespace) -> None:
    if not 0 < args.tiou <= 1:
        raise UserError(f"--tiou {args.tiou:g}: expected a number above 0, at most 1.")
    drawn = seeds(args) if args.kind == "seeds" else of_runs(args)
    for path in charts.save(drawn, args.figure or Path(args.kind)):
        print(path)


def of_runs(args: argparse.Namespace) -> Figure:
    runs = read_runs(args)
    names = names_of(args, [run.title for run in runs])
    if args.kind == "strip":
        return charts.strip(strip_of(args.video, runs, names))
    if args.kind == "classes":
        return classes(runs, names)
    found = [diagnose(run.found, run.truth, args.tiou, ties=run.ties, durations=run.durations) for run in runs]
    if args.kind == "pr":
        curves = [[(report.recall, report.precision) for report in own.classes] for own in found]
        return charts.precision_recall(dict(zip(names, curves, strict=True)), args.tiou)
    shown = [name for name in found[0].gains if any(own.gains[name] > 0 for own in found) and name != "everything"]
    gains = [[Interval(own.gains[name], np.nan, np.nan, np.nan) for name in shown] for own in found]
    label = f"gain in mAP at tIoU {args.tiou:g} if mended, in points of %"
    return charts.bars(shown, dict(zip(names, gains, strict=True)), label)


def names_of(args: argparse.Namespace, titles: Sequence[str]) -> list[str]:
    """A different name for each run."""
    given = args.names.split(",") if args.names else list(titles)
    if len(given) != len(titles):
        raise UserError(f"--names {args.names}: {len(given)} names for {len(titles)} runs; expected one for each.")
    return [name if given.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(given, 1)]


def strip_of(name: str | None, runs: Sequence[Run], names: Sequence[str]) -> Strip:
    truth = runs[0].truth
    annotated = [truth.videos[number] for number in np.unique(truth.video)]
    name = name or annotated[0]
    if name not in truth.videos:
        raise UserError(
            f"--video {name}: is not in the ground truth; expected one such as {annotated[0]}.{did_you_mean(name, annotated)}"
        )
    number = truth.videos.index(name)
    own = np.flatnonzero(truth.video == number)
    instances = [(truth.labels[truth.label[row]], *truth.segments[row].tolist()) for row in own]
    lanes = []
    for run, title in zip(runs, names, strict=True):
        rows = np.flatnonzero(run.found.video == number)
        labels = [run.found.labels[code] for code in run.found.label[rows]]
        lanes.append(Lane(title, labels, run.found.segments[rows], run.found.scores[rows]))
    ends = [*truth.segments[own, 1], *(end for lane in lanes for end in lane.segments[:, 1])]
    known = [run.durations[name] for run in runs if name in run.durations]
    video = Strip(name, known[0] if known else max(ends, default=1.0), instances, lanes)
    for run, title in zip(runs, names, strict=True):
        if run.config is None:
            continue
        try:
            seconds, curves = sequences_of_video(replace(run.config, model_file=checkpoint_of(run.config)), name)
        except UserError as error:
            say_now(f"warning: {run.source}: drawn without activations: {error}")
            continue
        video.seconds = seconds
        video.columns = run.config.classes
        prefix = f"{title}\n" if len(runs) > 1 else ""
        video.curves |= {prefix + key: curve for key, curve in curves.items()}
    return video


def checkpoint_of(config: Config) -> str:
    """The checkpoint that an evaluation was of, or the best model of a training run."""
    return config.model_file or str(RunFiles(config, quiet=True).best_model)


def classes(runs: Sequence[Run], names: Sequence[str]) -> Figure:
    tables, rules = [run.found for run in runs], [run.rules for run in runs]
    drawn = bootstrap(runs[0].truth, tables, runs[0].score.tiou, rules=rules)
    order = np.argsort(-drawn.ap[0].mean(axis=1), kind="stable")
    intervals = [[drawn.class_scores(run)[label] for label in order] for run in range(len(runs))]
    first, last = runs[0].score.tiou[[0, -1]]
    label = f"AP in %, averaged over tIoU {first:g}:{last:g}" if first < last else f"AP in % at tIoU {first:g}"
    return charts.bars([drawn.labels[label] for label in order], dict(zip(names, intervals, strict=True)), label)


def seeds(args: argparse.Namespace) -> Figure:
    """From the logs of finished runs."""
    logged: list[list[Logged]] = []
    for folder in args.runs:
        inner = sorted(path for path in folder.glob("seed_*") if path.is_dir()) or [folder]
        found = [run for path in inner if (run := finished_run(path)) is not None]
        if not found:
            looked = listing([str(path) for path in inner])
            raise UserError(
                f"{folder}: has no finished run in {looked}; expected the --output_path of main.py with or without --seeds."
            )
        logged.append(found)
    names = names_of(args, [f"{own[0].config['method']} {own[0].config.get('described', '')}".strip() for own in logged])
    average = next(iter(averages_from(logged[0][0].last, logged[0][0].paper_average)))
    curves = [
        [
            (
                np.array([record["iteration"] for record in run.records]),
                np.array([averages_from(record, average)[average] for record in run.records]),
            )
            for run in own
        ]
        for own in logged
    ]
    return charts.seeds(dict(zip(names, curves, strict=True)), f"mAP in %, average over {average}")


if __name__ == "__main__":
    main()
