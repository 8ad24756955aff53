"""The ground truths that papers call THUMOS'14, and scores against each (docs/evaluation.md).

One detections file has a different mAP under each protocol, so a number is always printed with its protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval.eval_detection import DetectionScore, checked_thresholds, score_tables
from eval.names import did_you_mean
from eval.table import Doubles, InputError, Table, digest, known, read_ground_truth, rows_of, size
from eval.thumos_kit import kit_ap, read_annotations


@dataclass(frozen=True)
class Protocol:
    """How a ground truth is made from the official annotations of the test videos."""

    without: tuple[str, ...]  # numbers of excluded videos
    digest: str  # of the ground truth
    on_grid: bool = False  # times are rounded to 16-frame snippets at 25 frames per second
    kit: bool = False  # scored by the challenge's kit, which ignores ambiguous segments


PROTOCOLS = {
    "thumos-210": Protocol(("0000270", "0001292", "0001496"), "92092d3dd752"),
    "thumos-211": Protocol(("0000270", "0001292"), "a032a6b386b1"),
    "thumos-212": Protocol((), "bf00f0d3a18f"),
    "thumos-grid": Protocol((), "c74190999974", on_grid=True),
    "thumos-kit": Protocol((), "3291eb549604", kit=True),
}
DEMO = {"539eb93b037b": "demo-v1", "65f6fb186894": "demo-activitynet-v1"}
BY_SIZE = {  # by number of classes, annotated videos and segments, since no digest of the official files is known
    (100, 2383, 3582): "activitynet1.2-validation",
    (200, 4926, 7654): "activitynet1.3-validation",
}


_REMEDY = "name the folder of the official annotation files with --ground_truth."


def name_of(truth: Table) -> str:
    """The protocol name of a ground truth, identified by its content."""
    names = {protocol.digest: name for name, protocol in PROTOCOLS.items()} | DEMO
    return names.get(digest(truth)) or BY_SIZE.get((len(truth.labels), *size(truth)), "unnamed")


@dataclass(frozen=True)
class GroundTruths:
    """The source of protocols: a ground truth, and ambiguous segments if the source has them."""

    where: str
    truth: Table
    ambiguous: Table | None

    @classmethod
    def read(cls, source: str | Path, subset: str | None = None, names: Sequence[str] = ()) -> "GroundTruths":
        """Read a gt.json or the folder of the official annotation files; for `names` see `read_ground_truth`."""
        if Path(source).is_dir():
            return cls(str(source), *read_annotations(source))
        truth = read_ground_truth(source, subset, names)
        is_ambiguous = np.array([label.lower() == "ambiguous" for label in truth.labels])[truth.label]
        if is_ambiguous.all():
            raise InputError(f"{source}: has Ambiguous segments only; expected segments of classes to score against.")
        ambiguous = rows_of(truth, is_ambiguous) if is_ambiguous.any() else None
        return cls(str(source), rows_of(truth, ~is_ambiguous), ambiguous)

    def build(self, name: str) -> Table:
        """The ground truth of a protocol; an InputError if the source does not have exactly its videos and segments."""
        if name not in PROTOCOLS:
            hint = did_you_mean(name, PROTOCOLS)
            raise InputError(f"no protocol is called {name!r}; expected one of {', '.join(PROTOCOLS)}, or all.{hint}")
        protocol = PROTOCOLS[name]
        if protocol.kit and self.ambiguous is None:
            raise InputError(f"{self.where}: has no Ambiguous segments, which {name} needs; {_REMEDY}")
        truth = _without(self.truth, protocol.without)
        if protocol.on_grid:
            truth = replace(truth, segments=np.round(truth.segments * 25 / 16) * 16 / 25)
        if digest(truth) != (PROTOCOLS["thumos-212"] if protocol.kit else protocol).digest:
            videos, instances = size(truth)
            raise InputError(f"{self.where}: its {videos} videos and {instances} segments are not those of {name}; {_REMEDY}")
        return truth

    def score(
        self, name: str, found: Table, tiou: Doubles | Sequence[float], ties: str, unlisted: str = "count"
    ) -> DetectionScore:
        """Score `found` under the protocol `name`, or against the whole source if `name` is the source's own."""
        truth = self.truth if name not in PROTOCOLS and name == name_of(self.truth) else self.build(name)
        if name not in PROTOCOLS or not PROTOCOLS[name].kit:
            return score_tables(truth, found, tiou, ties, unlisted=unlisted)
        assert self.ambiguous is not None  # `build` has checked it
        thresholds = checked_thresholds(tiou)
        everywhere = _more_videos(truth, self.ambiguous.videos)
        fitted, unmatched = known(found, everywhere, unlisted)
        ap = kit_ap(everywhere, fitted, self.ambiguous, thresholds)
        return DetectionScore(thresholds, ap, truth, self.ambiguous, unmatched, unlisted)


def _more_videos(truth: Table, names: list[str]) -> Table:
    return replace(truth, videos=truth.videos + [name for name in names if name not in set(truth.videos)])


def _without(truth: Table, endings: tuple[str, ...]) -> Table:
    """The ground truth without the videos whose names have these endings, and without their segments."""
    stays = [not video.endswith(endings) if endings else True for video in truth.videos]
    number = np.cumsum(stays) - 1
    kept = rows_of(truth, np.array(stays)[truth.video])
    videos = [video for video, stay in zip(truth.videos, stays, strict=True) if stay]
    return replace(kept, videos=videos, video=number[kept.video])
