"""Reads ground truths and detections from files, dictionaries, data frames or arrays into columns; checks every value.

Shapes: N rows (segments), V videos, C labels.
"""

import hashlib
import itertools
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.names import spellings
from eval.reading import InputError, as_number, check_database, read_json, short, times, without_repeats

Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]
Source = str | Path | Mapping[str, Any] | NDArray[Any] | Any  # Any: a pandas DataFrame, which is not imported here


@dataclass(frozen=True)
class Table:
    """Segments in the order of their source."""

    videos: list[str]  # V names; those of a ground truth include videos without segments
    labels: list[str]  # C names, sorted in a ground truth
    video: Codes  # (N,) index into `videos`
    label: Codes  # (N,) index into `labels`
    segments: Doubles  # (N, 2) seconds
    scores: Doubles  # (N,); (0,) in a ground truth

    def __len__(self) -> int:
        return len(self.video)


@dataclass(frozen=True)
class Unmatched:
    """Numbers of detections whose video or label the ground truth lacks."""

    videos: dict[str, int] = field(default_factory=dict)  # by unlisted video, without detections of unknown labels
    labels: dict[str, int] = field(default_factory=dict)  # by unknown label


SUBSETS = ("test", "testing", "validation", "val")
UNLISTED = ("count", "ignore")  # detections in videos that the ground truth does not list are false positives, or ignored


def read_ground_truth(source: Source, subset: str | None = None, names: Sequence[str] = ()) -> Table:
    """Read an ActivityNet JSON file, its content, or a table of columns (see `columns`).

    `subset` None selects the first of `names`, test, testing, validation and val, in any capitalisation, that has annotations;
    all videos if no video names a subset.
    """
    if isinstance(source, Table):
        return source
    content, where = _load(source, "a ground truth")
    if not (isinstance(content, Mapping) and "database" in content):
        table = columns(content, where, scored=False)
    else:
        table = _annotations(content["database"], subset, where, (*names, *SUBSETS))
    if not len(table):
        lacking = f"none of its {len(table.videos)} videos has an annotation" if table.videos else "it contains no video"
        raise InputError(f"{where}: {lacking}; expected segments to score against. Name an annotated file.")
    return table


def read_predictions(source: Source, score_key: str = "score") -> Table:
    """Read detections: an ActivityNet JSON file, its content, or a table of columns with scores.

    `score_key` is the name of the score's key or column; `version` and `external_data` are optional.
    """
    if isinstance(source, Table):
        return source
    content, where = _load(source, "detections", collected := Rows(score_key))
    if (table := collected.table(content)) is not None:
        return table
    if collected.label:  # some rows are in columns, and others have a fault, which the complete content shows
        content, where = _load(source, "detections")
    if not (isinstance(content, Mapping) and "results" in content):
        return columns(content, where, scored=True, score_key=score_key)
    results = content["results"]
    if not isinstance(results, Mapping) or not all(isinstance(rows, list | tuple) for rows in results.values()):
        raise InputError(f'{where}: "results" is not an object of lists; expected {{video: [{_ONE_DETECTION}, ...]}}.')
    rows = list(itertools.chain.from_iterable(results.values()))
    try:
        labels = [row["label"] for row in rows]
        scores = [row[score_key] for row in rows]
        pairs = [row["segment"] for row in rows]
        if not _all_are(labels, str) or not _all_are(pairs, PAIR) or set(map(len, pairs)) - {2}:
            raise ValueError
        ends = list(itertools.chain.from_iterable(pairs))
        if not _all_are(scores, Real) or not _all_are(ends, Real):
            raise ValueError
        numbers, times = np.array(scores, dtype=np.float64), np.array(ends, dtype=np.float64).reshape(-1, 2)
        if not (np.isfinite(numbers).all() and np.isfinite(times).all()):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(_first_bad_detection(results, where, score_key)) from None
    names, codes = _codes(labels)
    video = np.repeat(np.arange(len(results)), [len(listed) for listed in results.values()])
    return Table(list(results), names, video, codes, times, numbers)


class Rows:
    """Collects the detections of a JSON file in columns while it is parsed: as dictionaries they take ten times the memory."""

    def __init__(self, score_key: str):
        self.score_key = score_key
        self.labels: dict[str, int] = {}
        self.label, self.scores, self.times = array("q"), array("d"), array("d")

    def __call__(self, pairs: list[tuple[str, Any]]) -> Any:
        """Parse an object: if it is a detection without fault, add it to the columns and return `self` in its place."""
        row = without_repeats(pairs)
        try:
            label, score, (start, end) = row["label"], row[self.score_key], row["segment"]
            if type(label) is str and {type(score), type(start), type(end)} <= {float, int}:
                score, start, end = float(score), float(start), float(end)
                if math.isfinite(score) and math.isfinite(start) and math.isfinite(end):
                    self.label.append(self.labels.setdefault(label, len(self.labels)))
                    self.scores.append(score)
                    self.times.extend((start, end))
                    return self
        except (KeyError, TypeError, ValueError, OverflowError):
            pass
        return row

    def table(self, content: Any) -> Table | None:
        """The detections of the parsed file; None if a row is not in the columns, or one of these is elsewhere in the file."""
        results = content.get("results") if isinstance(content, Mapping) else None
        if not isinstance(results, Mapping) or not all(isinstance(rows, list) for rows in results.values()):
            return None
        counts = [len(rows) for rows in results.values()]
        if sum(counts) != len(self.label) or any(row is not self for rows in results.values() for row in rows):
            return None
        label, scores, times = np.array(self.label, np.int64), np.array(self.scores), np.array(self.times).reshape(-1, 2)
        return Table(list(results), list(self.labels), np.repeat(np.arange(len(counts)), counts), label, times, scores)


_SCORE_KEY = "Name the key of the scores with --score_key (in Python: score_key=)."
_ONE_DETECTION = '{"label": "HighJump", "score": 0.9, "segment": [18.6, 24.8]}'


PAIR = (list, tuple, np.ndarray)


def _all_are(values: Iterable[Any], kinds: type | tuple[type, ...]) -> bool:
    """True if all values are of `kinds` and none is a bool, which Python takes for a number."""
    return all(issubclass(kind, kinds) and kind is not bool for kind in set(map(type, values)))


def _pair(segment: Sequence[Any]) -> Sequence[Any]:
    if not isinstance(segment, PAIR) or len(segment) != 2:
        raise ValueError
    return segment


def _first_bad_detection(results: Mapping[str, Any], where: str, score_key: str) -> str:
    for video, rows in results.items():
        for number, row in enumerate(rows):
            if isinstance(row, Mapping) and score_key not in row:
                return f"{where}: detection {number} of video {video} has no {score_key!r}, only {_some(row)}. {_SCORE_KEY}"
            try:
                values = [row[score_key], *_pair(row["segment"])]
                good = isinstance(row["label"], str) and _all_are(values, Real)
                good = good and all(math.isfinite(float(value)) for value in values)
            except (KeyError, TypeError, ValueError, IndexError, OverflowError):
                good = False
            if not good:
                return (
                    f"{where}: detection {number} of video {video} is {short(row)}; expected {_ONE_DETECTION} with finite "
                    "numbers. Correct or remove it."
                )
    return f"{where}: malformed detections; expected lists of {_ONE_DETECTION}."


def _annotations(database: Any, subset: str | None, where: str, names: Sequence[str]) -> Table:
    check_database(database, where)
    videos_of = Counter(str(video.get("subset")) for video in database.values())
    annotated = {str(video.get("subset")) for video in database.values() if video.get("annotations")}
    if subset is None:
        subset = _named(annotated, names)
        if subset is None and annotated - {"None"}:
            raise InputError(f"{where}: {_lacking(_named(videos_of, names), videos_of, annotated)}; {_CHOOSE}")
    elif annotated and (not isinstance(subset, str) or subset not in annotated):
        raise InputError(f"{where}: {_lacking(subset, videos_of, annotated)}; {_CHOOSE}")
    place = {name: number for number, name in enumerate(database)}
    videos, labels, ends = [], [], []
    for name, video in database.items():
        if subset is not None and video.get("subset") != subset:
            continue
        for row in video.get("annotations", []):
            videos.append(place[name])
            labels.append(row["label"])
            ends.append(times(row["segment"]))
    return _sorted_labels(list(database), np.array(videos, dtype=np.int64), labels, np.array(ends).reshape(-1, 2), np.zeros(0))


_CHOOSE = "say which one to score with --subset (in Python: subset=)."


def _named(subsets: Iterable[str], names: Sequence[str]) -> str | None:
    """The first of `names` that is among `subsets`, in any capitalisation."""
    return next((own for wanted in names for own in sorted(subsets) if own.lower() == wanted.lower()), None)


def _lacking(subset: Any, videos_of: Mapping[str, int], annotated: set[str]) -> str:
    """Why `subset` cannot be scored: its videos have no annotation, or it does not exist."""
    if isinstance(subset, str) and subset in videos_of:
        bare = f"none of its {videos_of[subset]} videos of subset {subset!r} has an annotation"
        return f"{bare}; annotated subsets are {_some(annotated)}"
    return (f"no subset {subset!r}; " if subset is not None else "") + f"its subsets are {_some(videos_of)}"


def columns(content: Any, where: str, scored: bool, score_key: str = "score") -> Table:
    """Read a data frame or a dictionary of columns, or an array with the columns in this order.

    The columns are `video` (or `video-id`), `label`, `start`, `end` (or `t-start`, `t-end`) and, for detections, `score`.
    """
    expected = "columns video, label, start, end" + (f", {score_key}" if scored else "")
    if isinstance(content, np.ndarray):
        if content.ndim != 2 or content.shape[1] != 4 + scored:
            raise InputError(f"{where}: an array of shape {content.shape}; expected (N, {4 + scored}): {expected}.")
        found = dict(zip(("video", "label", "start", "end", "score"), content.T, strict=False))
    else:
        try:
            present = set(content.keys())
        except AttributeError:
            raise InputError(f"{where}: a {type(content).__name__}; expected ActivityNet's JSON or {expected}.") from None
        found = {}
        for name in ("video", "label", "start", "end", "score")[: 4 + scored]:
            own = score_key if name == "score" else name
            other = {"video": "video-id", "start": "t-start", "end": "t-end"}.get(name, own)
            if not present & {own, other}:
                raise InputError(
                    f"{where}: no {own!r} among {sorted(map(str, present))[:8]}; expected ActivityNet's JSON or {expected}."
                    + (f" {_SCORE_KEY}" if name == "score" else "")
                )
            try:
                found[name] = np.asarray(content[own if own in present else other])
            except ValueError:
                found[name] = np.zeros((0, 0))
    if any(column.ndim != 1 for column in found.values()) or len(set(map(len, found.values()))) > 1:
        shapes = ", ".join(f"{name} {column.shape}" for name, column in found.items())
        raise InputError(f"{where}: columns of shapes {shapes}; expected {expected}, one row per segment.")
    try:
        spans = np.stack([_doubles(found["start"]), _doubles(found["end"])], axis=1)
        scores = _doubles(found["score"]) if scored else np.zeros(0)
    except ValueError:
        raise InputError(f"{where}: start, end or score is not a number; expected {expected}.") from None
    for name, values in (("start or end", spans), ("score", scores)):
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise InputError(f"{where}: {name} of row {row} is not finite; expected finite numbers. Correct or remove the row.")
    return _sorted_labels(*_codes(_strings(found["video"])), _strings(found["label"]), spans, scores)


def _doubles(column: NDArray[Any]) -> Doubles:
    """A column as numbers; raises a ValueError for anything else, such as truth values."""
    if column.dtype.kind in "fiu":
        return column.astype(np.float64)
    return np.array([as_number(value) for value in column.tolist()], dtype=np.float64)


def _codes(names: Sequence[str]) -> tuple[list[str], Codes]:
    """Distinct names in order of appearance, and the index of each name among them."""
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return list(place), np.fromiter(map(place.__getitem__, names), dtype=np.int64, count=len(names))


def _strings(column: NDArray[Any]) -> list[str]:
    """Names as text. 1.0 becomes "1", since numeric names may be read as floats."""
    names = column.tolist()
    if set(map(type, names)) <= {str}:
        return names
    return [str(int(name)) if isinstance(name, float) and name.is_integer() else str(name) for name in names]


def _sorted_labels(videos: list[str], video: Codes, labels: list[str], segments: Doubles, scores: Doubles) -> Table:
    names, codes = _codes(labels)
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.argsort(order) if order else np.zeros(0, dtype=np.int64)
    return Table(videos, [names[number] for number in order], video, rank[codes], segments, scores)


def _load(source: Source, what: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> tuple[Any, str]:
    """The content of a JSON file, or `source` itself, and its name for messages; `hook` parses the objects of the file."""
    if not isinstance(source, str | Path):
        return source, what
    return read_json(source, f"{what} as JSON", "Check the path, or write or copy the file again.", hook), str(source)


def places(names: Sequence[str], among: Sequence[str]) -> Codes:
    """The index of each name in `among`, or -1."""
    place = {name: number for number, name in enumerate(among)}
    return np.array([place.get(name, -1) for name in names], dtype=np.int64)


def video_places(names: Sequence[str], among: Sequence[str]) -> Codes:
    """`places` for videos: names match with or without ActivityNet's prefix `v_`."""
    place = {name: number for number, name in enumerate(among)}
    numbers = [next((place[other] for other in spellings(name) if other in place), -1) for name in names]
    return np.array(numbers, dtype=np.int64)


def known(found: Table, truth: Table, unlisted: str = "count") -> tuple[Table, Unmatched]:
    """`found` with the videos and labels of `truth`, and the numbers of unmatched detections.

    Detections with an unknown label are removed. Unlisted videos are appended to those of `truth` (`count`), or their
    detections are removed too (`ignore`).
    """
    if unlisted not in UNLISTED:
        raise InputError(f"unlisted is {unlisted!r}; expected one of {', '.join(UNLISTED)}.")
    place = video_places(found.videos, truth.videos)
    strange = np.flatnonzero(place < 0)
    bare = [found.videos[number].removeprefix("v_") for number in strange]
    spelt = {name: found.videos[number] for name, number in zip(reversed(bare), reversed(strange.tolist()), strict=True)}
    place[strange] = len(truth.videos) + places(bare, list(spelt))
    videos = [*truth.videos, *spelt.values()]

    label, video = places(found.labels, truth.labels)[found.label], place[found.video]
    keep, listed = label >= 0, video < len(truth.videos)
    unmatched = Unmatched(_count(video[keep & ~listed], videos), _count(found.label[~keep], found.labels))
    if unlisted == "ignore":
        keep &= listed
    return Table(videos, truth.labels, video[keep], label[keep], found.segments[keep], found.scores[keep]), unmatched


def _count(codes: Codes, names: Sequence[str]) -> dict[str, int]:
    return {names[code]: number for code, number in enumerate(np.bincount(codes).tolist()) if number}


def unlisted_text(videos: Mapping[str, int], unlisted: str) -> str:
    counted = "They count as false positives, as in the official evaluators."
    ignored = "They are ignored; the official evaluators count them as false positives."
    return (
        f"{sum(videos.values())} detections lie in {len(videos)} videos that the ground truth does not list ({_some(videos)}). "
        + (counted if unlisted == "count" else ignored)
    )


def unknown_text(labels: Mapping[str, int]) -> str:
    return (
        f"{sum(labels.values())} detections have labels that the ground truth lacks ({_some(labels)}). They are ignored; "
        "ActivityNet's toolkit stops at such a label."
    )


def _some(names: Iterable[str]) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def rows_of(truth: Table, keep: NDArray[np.bool_]) -> Table:
    """The rows `keep` of a ground truth, with all its videos and the labels still in use."""
    labels, label = np.unique(truth.label[keep], return_inverse=True)
    names = [truth.labels[code] for code in labels]
    return Table(truth.videos, names, truth.video[keep], label, truth.segments[keep], np.zeros(0))


def digest(*truths: Table) -> str:
    """Hash of ground truths in twelve hexadecimal digits; it does not depend on the order of rows."""
    lines = [
        f"{truth.videos[video]}\t{truth.labels[label]}\t{start!r}\t{end!r}\n"
        for truth in truths
        for video, label, (start, end) in zip(truth.video.tolist(), truth.label.tolist(), truth.segments.tolist(), strict=True)
    ]
    return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogatepass")).hexdigest()[:12]


def size(truth: Table) -> tuple[int, int]:
    """Numbers of annotated videos and of segments."""
    return len(np.unique(truth.video)), len(truth)
