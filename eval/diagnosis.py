"""What is wrong with detections, and what it costs: `diagnose(detections, annotations)` (docs/seeing.md).

It needs nothing but the detections and the ground truth, as scoring does, and matches them as scoring does.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.eval_detection import checked_thresholds
from eval.kinds import HIT, IGNORED, KINDS, STATES
from eval.mending import Scored, Step, ladder
from eval.reading import InputError, as_number, read_json
from eval.report import csv_cell
from eval.sensitivity import Part, Shift, confusion, sensitivity, shifts
from eval.table import Codes, Doubles, Source, Table, Unmatched, known, read_ground_truth, read_predictions


@dataclass(frozen=True)
class ClassReport:
    """The detections and instances of one class."""

    name: str
    ap: float
    instances: int
    hits: int
    detections: int
    kinds: dict[str, int]  # detections by kind
    recall: list[float]  # at each hit, by descending score
    precision: list[float]  # at each hit: the monotone envelope whose area is the AP


@dataclass(frozen=True)
class VideoReport:
    """The detections and instances of one video of the ground truth."""

    name: str
    gain: float  # in mAP, if everything in this video were mended
    instances: int
    hits: int
    kinds: dict[str, int]  # detections by kind
    states: dict[str, int]  # instances by state


@dataclass(frozen=True)
class Diagnosis:
    """Every detection has one kind of KINDS, every instance one state of STATES. Gains and APs are shares of 1.

    Shapes: N detections as given, G instances, C classes.
    """

    tiou: float
    truth: Table
    found: Table  # as given, with ignored detections
    kind: Codes  # (N,) index into KINDS
    instance: Codes  # (N,) the row of `truth` that a detection concerns, or -1
    overlap: Doubles  # (N,) tIoU with that instance, or 0
    state: Codes  # (G,) index into STATES: the kind of the best detection that finds the instance, or missed
    ap: Doubles  # (C,) at `tiou`
    gains: dict[str, float]  # gain in mAP from mending one kind, "missed", groups of kinds, or "everything"
    ladder: list[Step]  # mAP with oracles
    classes: list[ClassReport]
    videos: list[VideoReport]  # by descending gain
    confusion: Codes  # (C, C + 1) detections by class and by class of their instance; the last column is background
    shifts: dict[str, list[Shift]]  # medians of boundary errors by "class" and by "length"
    sensitivity: dict[str, list[Part]]  # recall and normalized mAP of the parts of the ground truth, by property
    unmatched: Unmatched

    @property
    def mAP(self) -> float:
        return float(self.ap.mean())

    @property
    def kinds(self) -> dict[str, int]:
        """Number of detections of each kind."""
        return _named(KINDS, self.kind)

    @property
    def states(self) -> dict[str, int]:
        """Number of instances in each state that an instance can have."""
        return {name: number for name, number in _named(STATES, self.state).items() if name not in NO_STATE}

    def errors_of(self, row: int) -> tuple[float, float]:
        """Seconds by which a detection that concerns an instance starts and ends late."""
        start, end = self.found.segments[row] - self.truth.segments[self.instance[row]]
        return float(start), float(end)

    def as_dict(self) -> dict[str, Any]:
        """All numbers as plain values for JSON; detections and instances are in `detections_csv` and `instances_csv`."""
        return {
            "tiou": self.tiou,
            "mAP": self.mAP,
            "detections": len(self.found),
            "instances": len(self.truth),
            "kinds": self.kinds,
            "states": self.states,
            "gains": self.gains,
            "ladder": [dataclasses.asdict(step) for step in self.ladder],
            "classes": [dataclasses.asdict(report) for report in self.classes],
            "videos": [dataclasses.asdict(report) for report in self.videos],
            "labels": self.truth.labels,
            "confusion": self.confusion.tolist(),
            "shifts": {name: [dataclasses.asdict(shift) for shift in rows] for name, rows in self.shifts.items()},
            "sensitivity": {name: [dataclasses.asdict(part) for part in rows] for name, rows in self.sensitivity.items()},
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), indent=1) + "\n"

    def detections_csv(self) -> str:
        """One line per detection, in their order."""
        header = ["video", "class", "start", "end", "score", "kind", "tIoU", "instance start", "instance end", "instance class"]
        rows: list[list[Any]] = []
        for row, instance in enumerate(self.instance.tolist()):
            found = self.found
            concerns: list[Any] = ["", "", ""]
            if instance >= 0:
                label = self.truth.labels[self.truth.label[instance]]
                concerns = [*self.truth.segments[instance].tolist(), csv_cell(label)]
            name, label = found.videos[found.video[row]], found.labels[found.label[row]]
            values = [*found.segments[row].tolist(), float(found.scores[row]), KINDS[self.kind[row]], float(self.overlap[row])]
            rows.append([csv_cell(name), csv_cell(label), *values, *concerns])
        return _csv(header, rows)

    def instances_csv(self) -> str:
        """One line per instance, in their order."""
        truth = self.truth
        rows = [
            [csv_cell(truth.videos[truth.video[row]]), csv_cell(truth.labels[truth.label[row]])]
            + [*truth.segments[row].tolist(), STATES[self.state[row]]]
            for row in range(len(truth))
        ]
        return _csv(["video", "class", "start", "end", "state"], rows)


NO_STATE = {"duplicate", "background", "ignored"}  # kinds of detections that leave their instance found or untouched


def diagnose(
    detections: Source,
    annotations: Source,
    tiou: float = 0.5,
    subset: str | None = None,
    ties: str = "official",
    unlisted: str = "count",
    durations: Mapping[str, float] | None = None,
    tuned: Table | None = None,
) -> Diagnosis:
    """Say what is wrong with `detections` at one tIoU. eval/table.py lists the accepted sources.

    `tuned` are detections with the best thresholds of each video, for an oracle.
    `durations` of videos in seconds are read from the annotations if None; without them, coverage is unknown.
    """
    threshold = float(checked_thresholds(tiou)[0])
    if not 0 < threshold <= 1:
        raise InputError(f"tiou is {tiou}; expected a number above 0, at most 1.")
    truth, given = read_ground_truth(annotations, subset), read_predictions(detections)
    numbered = dataclasses.replace(given, scores=np.arange(len(given), dtype=np.float64))
    rows = known(numbered, truth, unlisted)[0].scores.astype(np.int64)  # rows of `given` that scoring takes
    found, unmatched = known(given, truth, unlisted)
    scored = Scored.of(truth, found, threshold, ties)
    kind, instance, overlap = np.full(len(given), IGNORED), np.full(len(given), -1), np.zeros(len(given))
    order = rows[scored.judged.ranking.order]
    kind[order], instance[order], overlap[order] = scored.judged.kind, scored.judged.instance, scored.judged.overlap
    return Diagnosis(
        tiou=threshold,
        truth=truth,
        found=given,
        kind=kind,
        instance=instance,
        overlap=overlap,
        state=scored.judged.state,
        ap=scored.ap,
        gains=scored.gains(),
        ladder=ladder(truth, found, threshold, ties, None if tuned is None else known(tuned, truth, unlisted)[0]),
        classes=class_reports(scored),
        videos=_videos(scored),
        confusion=confusion(scored),
        shifts=shifts(scored, found),
        sensitivity=sensitivity(scored, read_durations(annotations) if durations is None else durations),
        unmatched=unmatched,
    )


def read_durations(annotations: Source) -> dict[str, float]:
    """Seconds of each video whose annotations say them, in ActivityNet's JSON or its content."""
    content = read_json(annotations, "a ground truth as JSON") if isinstance(annotations, str | Path) else annotations
    database = content.get("database") if isinstance(content, Mapping) else None
    if not isinstance(database, Mapping):
        return {}
    return {name: as_number(video["duration"]) for name, video in database.items() if video.get("duration")}


def class_reports(scored: Scored) -> list[ClassReport]:
    bounds, kind = scored.judged.ranking.bounds, scored.judged.kind
    reports = []
    for number, (name, ap, count) in enumerate(zip(scored.truth.labels, scored.ap, scored.counts, strict=True)):
        own = kind[bounds[number] : bounds[number + 1]]
        places = np.flatnonzero(own == HIT)
        hits = np.arange(1, len(places) + 1)
        precision = np.maximum.accumulate((hits / (places + 1))[::-1])[::-1]
        curve = (hits / count).tolist(), precision.tolist()
        reports.append(ClassReport(name, float(ap), int(count), len(hits), len(own), _present(KINDS, own), *curve))
    return reports


def _videos(scored: Scored) -> list[VideoReport]:
    truth, judged, gains = scored.truth, scored.judged, scored.gains_of_videos()
    by_kind = np.bincount(scored.video * len(KINDS) + judged.kind, minlength=len(truth.videos) * len(KINDS))
    by_state = np.bincount(truth.video * len(STATES) + judged.state, minlength=len(truth.videos) * len(STATES))
    by_kind = by_kind[: len(truth.videos) * len(KINDS)].reshape(-1, len(KINDS))
    by_state = by_state.reshape(-1, len(STATES))
    reports = []
    for number, name in enumerate(truth.videos):
        states, kinds = by_state[number], by_kind[number]
        if states.any() or kinds.any():
            parts = int(states.sum()), int(states[HIT]), _some(KINDS, kinds), _some(STATES, states)
            reports.append(VideoReport(name, float(gains[number]), *parts))
    return sorted(reports, key=lambda report: -report.gain)


def _named(names: tuple[str, ...], codes: Codes) -> dict[str, int]:
    return dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))


def _present(names: tuple[str, ...], codes: Codes) -> dict[str, int]:
    return _some(names, np.bincount(codes, minlength=len(names)))


def _some(names: tuple[str, ...], counts: Codes) -> dict[str, int]:
    return {name: number for name, number in zip(names, counts.tolist(), strict=True) if number}


def _csv(header: list[str], rows: list[list[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()
