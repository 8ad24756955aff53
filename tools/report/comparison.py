"""Two runs side by side: settings that differ, the interval of the difference, classes and videos by change."""

from dataclasses import asdict
from typing import Any

import numpy as np

from eval.bootstrap import Interval, bootstrap
from eval.diagnosis import Diagnosis
from methods.recipes import OF_ONE_START
from tools.report.runs import Run

# keys of a config file that are no settings, repeat others, or do not change numbers
NO_SETTINGS = {"classes", "described", "command", "seed_used", "model_path", "output_path", "log_path", *OF_ONE_START}


def compare(runs: list[Run], diagnoses: list[dict[str, Diagnosis]]) -> dict[str, Any]:
    """The second run minus the first."""
    first, second = runs
    drawn = bootstrap(first.truth, [run.found for run in runs], first.score.tiou, rules=[run.rules for run in runs])
    thresholds = [f"{tiou:g}" for tiou in first.score.tiou]
    rows = [("average", drawn.difference(1))]
    rows += [(tiou, drawn.difference(1, tiou=number)) for number, tiou in enumerate(thresholds)]
    return {
        "settings": settings_that_differ(first, second),
        "intervals": [{"tiou": name} | _plain(interval) for name, interval in rows],
        "resamples": drawn.resampled.shape[1],
        "confidence": drawn.confidence,
        "classes": [
            {"name": name, "first": a, "second": b} | _plain(interval)
            for name, a, b, interval in zip(
                drawn.labels, *drawn.ap.mean(axis=2).tolist(), drawn.class_differences(1), strict=True
            )
        ],
        "videos": {tiou: videos_by_change(found, diagnoses[1][tiou]) for tiou, found in diagnoses[0].items()},
    }


def _plain(interval: Interval) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in asdict(interval).items()}


def settings_that_differ(first: Run, second: Run) -> list[dict[str, str | None]]:
    names = dict.fromkeys([*first.settings, *second.settings])
    missing = object()
    rows = []
    for name in names:
        values = [run.settings.get(name, missing) for run in (first, second)]
        if name not in NO_SETTINGS and values[0] != values[1]:
            shown = [None if value is missing else str(value) for value in values]
            rows.append({"name": name, "first": shown[0], "second": shown[1]})
    return rows


def videos_by_change(first: Diagnosis, second: Diagnosis) -> list[dict[str, Any]]:
    """Videos by what their errors cost in each run (the gain in mAP if they were mended), largest change first."""
    reports = [{report.name: report for report in found.videos} for found in (first, second)]
    rows = []
    for name in dict.fromkeys([*reports[0], *reports[1]]):
        own = [report.get(name) for report in reports]
        costs = [report.gain if report else 0.0 for report in own]
        hits = [report.hits if report else 0 for report in own]
        instances = max(report.instances for report in own if report)
        rows.append({"name": name, "costs": costs, "change": costs[1] - costs[0], "hits": hits, "instances": instances})
    return sorted(rows, key=lambda row: -abs(row["change"]))
