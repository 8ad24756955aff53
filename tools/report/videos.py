"""The videos of a report: an index of all, and the content of each in shards that the page loads when it needs them."""

from collections.abc import Sequence
from os import fsencode
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from eval.names import spellings
from eval.table import Table
from tools.report.pack import packed
from tools.report.runs import Run, videos_of

Curves = dict[str, dict[str, Any]]  # of a run, by video (tools.report.network)
FILM = (".mp4", ".webm", ".mkv", ".mov", ".m4v", ".avi")


def contents(runs: Sequence[Run], curves: Sequence[Curves], films: dict[str, str]) -> list[dict[str, Any]]:
    """Every video with an instance or a detection: truth, and detections and curves of each run."""
    names = list(dict.fromkeys(run.found.videos[number] for run in runs for number in videos_of(run)))
    parts = [(Rows.of(run.truth), Rows.of(run.found)) for run in runs]
    shown = []
    for name in names:
        (truth, _), own = parts[0], [found for _, found in parts]
        known = [each[name] for each in curves if name in each]
        rows = truth.table
        inside = truth.rows(name)
        ends = [rows.segments[inside].max(initial=0.0)] if len(inside) else [0.0]
        ends += [part.table.segments[part.rows(name)].max(initial=0.0) for part in own]
        seconds = known[0]["seconds"] if known else runs[0].durations.get(name)
        shown.append(
            {
                "name": name,
                "seconds": float(max(seconds or 0.0, *ends)),
                "assumed": seconds is None,  # the length of the video is not known: to the last end of a segment
                "film": next((films[key] for key in spellings(name) if key in films), None),
                "truth": [
                    [int(label), *ends] for label, ends in zip(rows.label[inside], rows.segments[inside].tolist(), strict=True)
                ],
                "runs": [_of_run(part, name, each.get(name, {})) for part, each in zip(own, curves, strict=True)],
            }
        )
    return shown


def _of_run(part: "Rows", name: str, curves: dict[str, Any]) -> dict[str, Any]:
    rows, table = part.rows(name), part.table
    found = {
        "label": packed(table.label[rows], np.uint16),
        "segments": packed(table.segments[rows], np.float64),
        "score": packed(table.scores[rows], np.float64),
    }
    return {"found": found, "drawn": curves.get("drawn"), "localize": curves.get("localize")}


class Rows:
    """The rows of a table by video, in their order."""

    def __init__(self, table: Table, order: Any, bounds: Any):
        self.table, self.order, self.bounds = table, order, bounds
        self.places = {name: number for number, name in enumerate(table.videos)}

    @classmethod
    def of(cls, table: Table) -> "Rows":
        order = np.argsort(table.video, kind="stable")
        return cls(table, order, np.searchsorted(table.video[order], np.arange(len(table.videos) + 1)))

    def rows(self, name: str) -> Any:
        place = self.places.get(name)
        return self.order[:0] if place is None else self.order[self.bounds[place] : self.bounds[place + 1]]


def share_rules(videos: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    """Take out of each video the localization settings of run `number` that are equal in all videos, and return them."""
    rules = [video["runs"][number]["localize"] for video in videos if video["runs"][number]["localize"]]
    shared = {name: value for name, value in rules[0].items() if all(rule[name] == value for rule in rules)} if rules else {}
    for rule in rules:
        for name in shared:
            del rule[name]
    return shared


def films_in(folder: Path | None, page: Path) -> dict[str, str]:
    """By name of the file without its ending, the address of each film in `folder` relative to the page."""
    if folder is None:
        return {}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FILM)
    return {path.stem: quote(fsencode(relpath(path.resolve(), page.resolve().parent))) for path in files}
