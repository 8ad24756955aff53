"""What the page says of a run besides its videos: facts, scores, learning curves, the diagnosis, classes."""

import dataclasses
import platform
import shlex
from importlib.metadata import version
from typing import Any

import numpy as np

from eval.diagnosis import Diagnosis, diagnose
from eval.eval_detection import DetectionScore
from eval.kinds import HIT
from eval.report import averages_from
from options import flags_of, parse_args
from tools.report.published import published
from tools.report.runs import Run

TIOUS = (0.3, 0.5, 0.7)  # at which errors are analysed, where the run is scored at them
SHOWN = 5  # best and worst videos of a class
POINTS = 300  # of a precision-recall curve
FIRST = ["command", "project", "git_revision", "tree_changed", "python", "torch", "numpy", "device"]  # facts in a config file
NOT_LOSSES = {"iteration", "test_acc", "classification_mAP", "top1", "average_mAP", "choice", "num_detections", "step"}


def tious_of(run: Run) -> list[float]:
    """The tIoUs of TIOUS, or the first, the middle and the last one of the run if it is scored at none of them."""
    own = run.score.tiou
    near = [float(own[np.abs(own - tiou).argmin()]) for tiou in TIOUS if np.abs(own - tiou).min() < 1e-6]
    return near or sorted({float(own[0]), float(own[len(own) // 2]), float(own[-1])})


def numbers_of(run: Run, diagnoses: dict[str, Diagnosis]) -> dict[str, Any]:
    return {
        "title": run.title,
        "source": run.source,
        "missing": run.missing,
        "facts": facts(run),
        "settings": {name: value for name, value in run.settings.items() if name not in ("classes", "provenance")},
        "tiou": [f"{tiou:g}" for tiou in run.score.tiou],
        "scores": scores(run),
        "published": published(run),
        "learning": learning(run.records),
        "diagnoses": {tiou: as_numbers(found) for tiou, found in diagnoses.items()},
        "ap": [dict(zip([f"{tiou:g}" for tiou in run.score.tiou], row, strict=True)) for row in run.score.ap.tolist()],
    }


def diagnoses_of(run: Run) -> dict[str, Diagnosis]:
    found = {}
    for tiou in tious_of(run):
        found[f"{tiou:g}"] = diagnose(run.found, run.truth, tiou, ties=run.ties, durations=run.durations, tuned=run.tuned)
    return found


# ------------------------------------------------------------------------------------------------------ first screen


def facts(run: Run) -> list[tuple[str, str]]:
    """Names and values of the first screen."""
    known = run.settings.get("provenance") or run.settings
    rows = [("source", run.source), ("data set", run.dataset), ("protocol", f"{run.protocol} ({run.counts})")]
    rows.append(("detections", f"{len(run.found):,}, ties {run.ties}"))
    if run.config is not None:
        rows.append(("method", run.config.title))
        rows.append(("seed", str(run.config.seed)))
        rows += [(name.replace("_", " "), str(known[name])) for name in FIRST if known.get(name) is not None]
        if "command" not in known:
            rows.append(("command of the same settings", command_of(run)))
        rows.append(("quirks repaired", ", ".join(run.config.repaired) or "none"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    rows.append(("report made with", f"Python {platform.python_version()}, {versions}"))
    return rows


def command_of(run: Run) -> str:
    """The flags that differ from the defaults of the run's method and data set."""
    assert run.config is not None
    args = parse_args([f"--method={run.config.method}", f"--dataset={run.config.dataset}"])
    given = {name: value for name, value in dataclasses.asdict(run.config).items() if name in vars(args) and value is not None}
    for name, value in given.items():
        setattr(args, name, value)
    for name in ("timing", "fps", "snippet_frames", "missing", "len_feature"):
        if name in vars(args) and getattr(run.config.facts, name, None) == getattr(run.config, name):
            setattr(args, name, None)
    return f"python main.py {shlex.join(flags_of(args))}"


def scores(run: Run) -> list[dict[str, Any]]:
    """mAP by tIoU and averages: of the detections shown, and of the best and the last evaluation in the log."""
    first = run.config.PAPER_AVERAGE if run.config else "0.1:0.7"
    rows = [_row("detections of this page", _as_record(run.score), first)]
    best = [record for record in run.records if record.get("best")]
    for name, records in (("best", best), ("last", run.records)):
        if records:
            rows.append(_row(f"{name}, iteration {records[-1]['iteration']}", records[-1], first))
    return rows


def _as_record(score: DetectionScore) -> dict[str, Any]:
    maps = {f"{tiou:g}": value for tiou, value in zip(score.tiou, score.mAP.tolist(), strict=True)}
    return {"mAP": maps, "averages": score.averages}


def _row(name: str, record: dict[str, Any], first: str) -> dict[str, Any]:
    return {"name": name, "mAP": record["mAP"], "averages": averages_from(record, first)}


def learning(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Values by evaluation: losses, mAP at each tIoU, video accuracy."""
    if not records:
        return {}
    losses = [name for name, value in records[0].items() if isinstance(value, float) and name not in NOT_LOSSES]
    return {
        "iteration": [record["iteration"] for record in records],
        "losses": {name: [record.get(name) for record in records] for name in losses},
        "mAP": {tiou: [record["mAP"].get(tiou) for record in records] for tiou in records[0]["mAP"]},
        "video accuracy": [record.get("test_acc") for record in records],
    }


# --------------------------------------------------------------------------------------------------------- diagnosis


def as_numbers(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain values, with short precision-recall curves, and the best and the worst videos of each class."""
    values = found.as_dict()
    for report, extremes in zip(values["classes"], videos_by_class(found), strict=True):
        step = -(-len(report["recall"]) // POINTS) or 1
        for name in ("recall", "precision"):
            report[name] = [round(value, 5) for value in report[name][::step]]
        report |= extremes
    return values


def videos_by_class(found: Diagnosis) -> list[dict[str, list[dict[str, Any]]]]:
    """By class, the videos with the largest and the smallest share of its instances found; of equal ones, the fewest errors."""
    truth, count = found.truth, len(found.truth.labels)
    videos = {name: number for number, name in enumerate(truth.videos)}
    place = np.array([videos.get(name, len(videos)) for name in found.found.videos])  # `known` puts unlisted videos last
    names = {name: number for number, name in enumerate(truth.labels)}
    label = np.array([names.get(name, count) for name in found.found.labels], dtype=int)
    shape = (count + 1, len(videos) + 1)
    instances, hits, wrong = (np.zeros(shape, dtype=int) for _ in range(3))
    np.add.at(instances, (truth.label, truth.video), 1)
    own = found.kind == HIT
    np.add.at(hits, (label[found.found.label[own]], place[found.found.video[own]]), 1)
    np.add.at(wrong, (label[found.found.label[~own]], place[found.found.video[~own]]), 1)
    parts = []
    for number in range(count):
        having = np.flatnonzero(instances[number, : len(videos)])
        order = having[np.lexsort((wrong[number, having], -hits[number, having] / instances[number, having]))]
        rows = [
            {
                "video": truth.videos[video],
                "instances": int(instances[number, video]),
                "hits": int(hits[number, video]),
                "wrong": int(wrong[number, video]),
            }
            for video in order
        ]
        parts.append({"best": rows[:SHOWN], "worst": rows[: -SHOWN - 1 : -1]})
    return parts
