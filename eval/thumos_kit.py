"""The official THUMOS'14 kit, TH14evalDet of 2015-09-30: its AP, its text format of detections, its annotation files.

Shapes: I tIoU thresholds, C classes, V videos, P detections and G ground truths by class and video, A ambiguous segments.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from eval.table import Codes, Floats, InputError, Table, columns, places, read_text, short

CLASS_IDS = {  # numbers of the classes in UCF-101
    "BaseballPitch": 7,
    "BasketballDunk": 9,
    "Billiards": 12,
    "CleanAndJerk": 21,
    "CliffDiving": 22,
    "CricketBowling": 23,
    "CricketShot": 24,
    "Diving": 26,
    "FrisbeeCatch": 31,
    "GolfSwing": 33,
    "HammerThrow": 36,
    "HighJump": 40,
    "JavelinThrow": 45,
    "LongJump": 51,
    "PoleVault": 68,
    "Shotput": 79,
    "SoccerPenalty": 85,
    "TennisSwing": 92,
    "ThrowDiscus": 93,
    "VolleyballSpiking": 97,
}
AMBIGUOUS = "Ambiguous"
Row = tuple[str | float, ...]  # video, label, start, end and of a detection score
HIT, MISS, DROPPED = 1, 0, -1  # what the kit makes of a detection


# ------------------------------------------------------------------------------------------------------------- AP


def kit_ap(truth: Table, found: Table, ambiguous: Table | None, tiou: Floats) -> Floats:
    """AP (C, I) of the classes of `truth`; of a class without ground truths nan.

    Detections with a label that `truth` lacks do not count; those in a video that it does not name are false positives.
    """
    videos = sorted({*truth.videos, *found.videos, *([] if ambiguous is None else ambiguous.videos)})
    label, video = places(found.labels, truth.labels)[found.label], places(found.videos, videos)[found.video]
    keep = np.flatnonzero(label >= 0)
    group = label * len(videos) + video
    order = keep[np.lexsort((-found.scores[keep], group[keep]))]  # by class, video and descending score
    groups = np.arange(len(truth.labels) * len(videos) + 1)

    truth_group = truth.label * len(videos) + places(truth.videos, videos)[truth.video]
    by_group = np.argsort(truth_group, kind="stable")
    unclear, unclear_video = np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    if ambiguous is not None:
        unclear_video = places(ambiguous.videos, videos)[ambiguous.video]
        by_video = np.argsort(unclear_video, kind="stable")
        unclear, unclear_video = ambiguous.segments[by_video], unclear_video[by_video]
    verdict = judge(
        found.segments[order],
        np.searchsorted(group[order], groups),
        truth.segments[by_group],
        np.searchsorted(truth_group[by_group], groups),
        unclear,
        np.searchsorted(unclear_video, np.arange(len(videos) + 1)),
        tiou,
    )
    pooled = np.lexsort((-found.scores[order], label[order]))  # equal scores stay in the order of the videos' names
    bounds = np.searchsorted(label[order], np.arange(len(truth.labels) + 1))
    return kit_precisions(verdict[pooled], bounds, np.bincount(truth.label, minlength=len(truth.labels)))


@inner
def overlaps(segments: Floats, others: Floats) -> Floats:
    """Intersection over the span of both, each segment with each other."""
    overlap = np.zeros((len(segments), len(others)))
    for i in range(len(segments)):
        for j in range(len(others)):
            shared = min(segments[i, 1], others[j, 1]) - max(segments[i, 0], others[j, 0])
            if shared > 0:
                overlap[i, j] = shared / (max(segments[i, 1], others[j, 1]) - min(segments[i, 0], others[j, 0]))
    return overlap


@compiled
def judge(
    segments: Floats,
    bounds: Codes,
    truths: Floats,
    truth_bounds: Codes,
    ambiguous: Floats,
    ambiguous_bounds: Codes,
    tiou: Floats,
) -> NDArray[np.int8]:
    """(P, I) hit, miss or dropped; bounds (C*V+1,) say where the rows of a class and video begin, (V+1,) those of a video."""
    verdict = np.full((len(segments), len(tiou)), MISS, dtype=np.int8)
    for group in range(len(bounds) - 1):
        begin, end = bounds[group], bounds[group + 1]
        if begin == end:
            continue
        video = group % (len(ambiguous_bounds) - 1)
        overlap = overlaps(truths[truth_bounds[group] : truth_bounds[group + 1]], segments[begin:end])
        unclear = overlaps(ambiguous[ambiguous_bounds[video] : ambiguous_bounds[video + 1]], segments[begin:end])
        ambiguity = unclear.sum(axis=0)
        for i in range(len(tiou)):
            for g in range(len(overlap)):
                best, highest = -1, -1.0
                for d in range(end - begin):
                    if overlap[g, d] > highest and verdict[begin + d, i] != HIT:
                        best, highest = d, overlap[g, d]
                if best >= 0 and highest > tiou[i]:
                    verdict[begin + best, i] = HIT
            for d in range(end - begin):
                if verdict[begin + d, i] != HIT and ambiguity[d] > 0:
                    verdict[begin + d, i] = DROPPED
    return verdict


@compiled
def kit_precisions(verdict: NDArray[np.int8], bounds: Codes, count: Codes) -> Floats:
    """(C, I) sum of the precision at each hit, per ground truth."""
    ap = np.zeros((len(count), verdict.shape[1]))
    for c in range(len(count)):
        for i in range(verdict.shape[1]):
            hits, judged, total = 0, 0, 0.0
            for p in range(bounds[c], bounds[c + 1]):
                if verdict[p, i] != DROPPED:
                    judged += 1
                if verdict[p, i] == HIT:
                    hits += 1
                    total += hits / judged
            ap[c, i] = total / count[c]
    return ap


# ---------------------------------------------------------------------------------------------------------- files


def read_kit(path: str | Path) -> Table:
    """Detections in the kit's text format: `video start end class_id score` a line."""
    expected = "video start end class_id score"
    label_of = {str(number): label for label, number in CLASS_IDS.items()}
    rows: list[Row] = []
    for where, (video, start, end, class_id, score) in _lines(path, expected):
        if class_id not in label_of:
            raise InputError(f"{where}: class id {class_id!r}; expected {expected} with one of {', '.join(label_of)}.")
        rows.append((video, label_of[class_id], *_numbers((start, end, score), where, expected)))
    return _table(rows, str(path), scored=True)


def write_kit(path: str | Path, table: Table) -> None:
    """Write detections so that `read_kit` gives the same rows; a file of this name is replaced whole or not at all."""
    unknown = sorted({table.labels[code] for code in np.unique(table.label)} - set(CLASS_IDS))
    if unknown:
        raise InputError(f"{path}: the kit has no class {unknown[0]!r}; expected labels of {', '.join(CLASS_IDS)}.")
    spaced = [name for name in table.videos if name.split() != [name]]
    if spaced:
        raise InputError(f"{path}: the video name {spaced[0]!r} is empty or has spaces; the kit's lines are cut at spaces.")
    if len(table.scores) != len(table) or not (np.isfinite(table.scores).all() and np.isfinite(table.segments).all()):
        raise InputError(f"{path}: scores are missing, or a score or time is not finite; expected detections, all finite.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")  # so that `path` is whole or not there
    try:
        with open(half, "w", encoding="utf-8") as stream:
            for v, c, (start, end), score in zip(
                table.video.tolist(), table.label.tolist(), table.segments.tolist(), table.scores.tolist(), strict=True
            ):
                stream.write(f"{table.videos[v]} {start!r} {end!r} {CLASS_IDS[table.labels[c]]} {score!r}\n")
            stream.flush()
            os.fsync(stream.fileno())
        half.replace(path)
    except OSError as error:
        error.filename = str(path)  # that of a full disk has none
        raise
    finally:
        half.unlink(missing_ok=True)


def read_annotations(folder: str | Path) -> tuple[Table, Table]:
    """The 20 classes and the ambiguous segments of official text files, `<Class>_test.txt` or `<Class>_val.txt`.

    `folder` holds them, or holds the folder temporal_annotations_test.
    """
    folder = Path(folder)
    if (folder / "temporal_annotations_test").is_dir():
        folder = folder / "temporal_annotations_test"
    names = [*CLASS_IDS, AMBIGUOUS]
    lacking = {kind: [n for n in names if not (folder / f"{n}_{kind}.txt").is_file()] for kind in ("test", "val")}
    kind = min(lacking, key=lambda kind: len(lacking[kind]))
    if lacking[kind]:
        raise InputError(
            f"{folder}: no {lacking[kind][0]}_{kind}.txt; expected the official annotations, <Class>_test.txt or "
            f"<Class>_val.txt of {len(CLASS_IDS)} classes and {AMBIGUOUS}. Check the path."
        )
    rows = {name: _annotated(folder / f"{name}_{kind}.txt", name) for name in names}
    unclear = rows.pop(AMBIGUOUS)
    empty = [name for name in rows if not rows[name]]
    if empty:
        raise InputError(f"{folder / f'{empty[0]}_{kind}.txt'}: no annotation; expected lines of video start end.")
    classes = [row for group in rows.values() for row in group]
    return _table(classes, str(folder), scored=False), _table(unclear, str(folder), scored=False)


def _annotated(path: Path, label: str) -> list[Row]:
    expected = "video start end"
    return [(video, label, *_numbers(times, where, expected)) for where, (video, *times) in _lines(path, expected)]


def _lines(path: str | Path, expected: str) -> Iterator[tuple[str, list[str]]]:
    """Each line that is not blank: where it is, and as many words as are `expected`."""
    text = read_text(path, f"lines of {expected}")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words:
            if len(words) != len(expected.split()):
                raise InputError(f"{path}, line {number}: {short(line)} has {len(words)} words; expected {expected}.")
            yield f"{path}, line {number}", words


def _numbers(words: Sequence[str], where: str, expected: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
        if not all(map(math.isfinite, numbers)) or "_" in "".join(words):  # Python reads 1_0 as ten
            raise ValueError
    except ValueError:
        raise InputError(f"{where}: {short(' '.join(words))}; expected {expected} with finite numbers.") from None
    return numbers


def _table(rows: list[Row], where: str, scored: bool) -> Table:
    names = ("video", "label", "start", "end", "score")[: 4 + scored]
    return columns({name: [row[place] for row in rows] for place, name in enumerate(names)}, where, scored)
