"""The official THUMOS'14 kit, TH14evalDet of 2015-09-30: AP, text format of detections, annotation files.

Shapes: I tIoU thresholds, C classes, V videos, P detections and G ground truths by class and video, A ambiguous segments.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.compiled import compiled, inner
from eval.files import atomic_write
from eval.reading import InputError, as_number, check_video_name, read_text, short
from eval.table import Codes, Doubles, Table, columns, places

CLASS_IDS = {  # class numbers of UCF-101
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
Row = tuple[str | float, ...]  # video, label, start, end and, for a detection, score
HIT, MISS, DROPPED = 1, 0, -1  # verdicts on a detection; a dropped one does not count


# ------------------------------------------------------------------------------------------------------------- AP


def kit_ap(truth: Table, found: Table, ambiguous: Table | None, tiou: Doubles) -> Doubles:
    """AP (C, I) of the classes of `truth`; nan for a class without ground truths.

    Detections with a label that `truth` lacks are ignored; those in a video that it does not name are false positives.
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
        Grouped(found.segments[order], np.searchsorted(group[order], groups)),
        Grouped(truth.segments[by_group], np.searchsorted(truth_group[by_group], groups)),
        Grouped(unclear, np.searchsorted(unclear_video, np.arange(len(videos) + 1))),
        tiou,
    )
    pooled = np.lexsort((-found.scores[order], label[order]))  # on equal scores, ordered by video name
    bounds = np.searchsorted(label[order], np.arange(len(truth.labels) + 1))
    return kit_precisions(verdict[pooled], bounds, np.bincount(truth.label, minlength=len(truth.labels)))


class Grouped(NamedTuple):
    """Segments sorted by group: a group is a class and video, or a video."""

    segments: Doubles  # (P, 2), (G, 2) or (A, 2)
    bounds: Codes  # (C*V+1,) or (V+1,) where each group begins


@inner
def overlaps(segments: Doubles, others: Doubles) -> Doubles:
    """(N, M) overlap of each segment with each other one: intersection divided by the span of both."""
    overlap = np.zeros((len(segments), len(others)))
    for i in range(len(segments)):
        for j in range(len(others)):
            shared = min(segments[i, 1], others[j, 1]) - max(segments[i, 0], others[j, 0])
            if shared > 0:
                overlap[i, j] = shared / (max(segments[i, 1], others[j, 1]) - min(segments[i, 0], others[j, 0]))
    return overlap


@compiled
def judge(found: Grouped, truth: Grouped, ambiguous: Grouped, tiou: Doubles) -> NDArray[np.int8]:
    """(P, I) HIT, MISS or DROPPED. `found` and `truth` are grouped by class and video, `ambiguous` by video."""
    (segments, bounds), (truths, truth_bounds), (unclear, unclear_bounds) = found, truth, ambiguous
    verdict = np.full((len(segments), len(tiou)), MISS, dtype=np.int8)
    for group in range(len(bounds) - 1):
        begin, end = bounds[group], bounds[group + 1]
        if begin == end:
            continue
        video = group % (len(unclear_bounds) - 1)
        overlap = overlaps(truths[truth_bounds[group] : truth_bounds[group + 1]], segments[begin:end])
        ambiguity = overlaps(unclear[unclear_bounds[video] : unclear_bounds[video + 1]], segments[begin:end]).sum(axis=0)
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
def kit_precisions(verdict: NDArray[np.int8], bounds: Codes, count: Codes) -> Doubles:
    """(C, I) sum of the precisions at all hits, divided by the number of ground truths."""
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
    """Read detections in the kit's text format, lines of `video start end class_id score`."""
    expected = "video start end class_id score"
    label_of = {str(number): label for label, number in CLASS_IDS.items()}
    rows: list[Row] = []
    for where, (video, start, end, class_id, score) in _lines(path, expected):
        if class_id not in label_of:
            raise InputError(f"{where}: class id {class_id!r}; expected {expected} with one of {', '.join(label_of)}.")
        rows.append((video, label_of[class_id], *_numbers((start, end, score), where, expected)))
    return _table(rows, str(path), scored=True)


def write_kit(path: str | Path, table: Table) -> None:
    """Write detections so that `read_kit` returns the same rows; the file is replaced as a whole or not at all."""
    unknown = sorted({table.labels[code] for code in np.unique(table.label)} - set(CLASS_IDS))
    if unknown:
        raise InputError(f"{path}: the kit has no class {unknown[0]!r}; expected labels of {', '.join(CLASS_IDS)}.")
    spaced = [name for name in table.videos if name.split() != [name]]
    if spaced:
        raise InputError(f"{path}: the video name {spaced[0]!r} is empty or has spaces; the kit splits lines at spaces.")
    if len(table.scores) != len(table) or not (np.isfinite(table.scores).all() and np.isfinite(table.segments).all()):
        raise InputError(f"{path}: scores are missing, or a score or time is not finite; expected detections, all finite.")
    values = (table.video.tolist(), table.label.tolist(), table.segments.tolist(), table.scores.tolist())
    with atomic_write(path) as stream:
        for v, c, (start, end), score in zip(*values, strict=True):
            stream.write(f"{table.videos[v]} {start!r} {end!r} {CLASS_IDS[table.labels[c]]} {score!r}\n")


def read_annotations(folder: str | Path) -> tuple[Table, Table]:
    """Read the official text files `<Class>_test.txt` or `<Class>_val.txt`: the 20 classes, and the ambiguous segments.

    `folder` contains them, or contains the folder temporal_annotations_test.
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
    rows: list[Row] = []
    for where, (video, *times) in _lines(path, expected):
        check_video_name(video, where)  # it becomes that of files
        rows.append((video, label, *_numbers(times, where, expected)))
    return rows


def _lines(path: str | Path, expected: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the location and the words of each line that is not blank; checks the number of words."""
    text = read_text(path, f"lines of {expected}")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words:
            if len(words) != len(expected.split()):
                raise InputError(f"{path}, line {number}: {short(line)} has {len(words)} words; expected {expected}.")
            if "\0" in line:  # numpy drops it from the end of a name
                raise InputError(f"{path}, line {number}: {short(line)} has a NUL character; expected {expected} as text.")
            yield f"{path}, line {number}", words


def _numbers(words: Sequence[str], where: str, expected: str) -> list[float]:
    try:
        return [as_number(word) for word in words]
    except ValueError:
        raise InputError(f"{where}: {short(' '.join(words))}; expected {expected} with finite numbers.") from None


def _table(rows: list[Row], where: str, scored: bool) -> Table:
    names = ("video", "label", "start", "end", "score")[: 4 + scored]
    return columns({name: [row[place] for row in rows] for place, name in enumerate(names)}, where, scored)
