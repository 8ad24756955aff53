"""Reads text, JSON, numbers and annotations that a user supplied; checks every value. Standard library only.

The project reads its own files with these functions too, so it accepts what the scorer accepts.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

MOST_BYTES = 2**31  # of a text file: 2 GiB; ActivityNet's annotations have 9 MB
MOST_NAME = 200  # bytes of a video's name, which is also that of its files: file systems allow 255 with the suffix
MOST_CHARACTERS = 100  # of a number that is written as text


class InputError(ValueError):
    """Malformed input; the message says where it is, what was expected and what to do."""


# ------------------------------------------------------------------------------------------------------------ files


def check_file(path: str | Path, expected: str, remedy: str = "Check the path.") -> os.stat_result:
    """Raise an InputError unless `path` is a regular file: reading a pipe or a device may never end."""
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; expected {expected}. {remedy}".rstrip()) from None
    except (OSError, ValueError) as error:  # ValueError: an invalid file name
        raise InputError(f"{str(path)[:300]!r}: cannot be read ({error}); expected {expected}. {remedy}".rstrip()) from None
    if not stat.S_ISREG(state.st_mode):
        kind = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe, socket or device"
        raise InputError(f"{path}: is {kind}, not a file; expected {expected}. {remedy}".rstrip())
    return state


def read_text(path: str | Path, expected: str, remedy: str = "Check the path.") -> str:
    """Read a UTF-8 text file; a byte-order mark is accepted."""
    size = check_file(path, expected, remedy).st_size
    if size > MOST_BYTES:
        raise InputError(f"{path}: has {size:,} bytes; expected {expected} of at most {MOST_BYTES:,}. {remedy}".rstrip())
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); expected {expected}. {remedy}".rstrip()) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {expected}. {remedy}".rstrip()) from None


Hook = Callable[[list[tuple[str, Any]]], Any]


def read_json(path: str | Path, expected: str, remedy: str = "Check the path.", hook: Hook | None = None) -> Any:
    """Read a JSON file; a key that occurs twice in one object is an error. `hook` makes the objects of the file."""
    text = read_text(path, expected, remedy)
    try:
        return json.loads(text, object_pairs_hook=hook or without_repeats)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not JSON ({error}); expected {expected}. {remedy}".rstrip()) from None


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(
            f"{short(repeated)} occurs more than once in one object; expected every video and key once. Remove one of the two."
        )
    return content


# ----------------------------------------------------------------------------------------------------------- values


def as_number(value: Any) -> float:
    """A finite number, from a number or from text, as in THUMOS'14's gt.json; a ValueError for anything else."""
    if isinstance(value, str):
        good = "_" not in value and len(value) <= MOST_CHARACTERS  # Python reads 1_0 as ten
    else:
        good = isinstance(value, Real) and not isinstance(value, bool)
    try:
        result = float(value) if good else math.nan
    except (ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise ValueError(f"{short(value)} is not a finite number")
    return result


def is_text(value: Any) -> bool:
    """True for text that UTF-8 can write: JSON's escapes, and file names, may hold halves of characters."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def is_file_name(name: Any) -> bool:
    """True if `name` may be that of a file in a folder, and not outside of it."""
    if not is_text(name) or name in (".", "..") or re.search(r"[\x00-\x1f\x7f/\\]", name):
        return False
    return 0 < len(name.encode()) <= MOST_NAME


def check_video_name(name: Any, where: str) -> None:
    if not is_file_name(name):
        raise InputError(
            f"{where}: a video is called {short(name)}; expected a name that a file may have: 1 to {MOST_NAME} bytes without "
            "slash, backslash or control character. Rename the video."
        )


def short(value: Any) -> str:
    """`repr` of a value, cut to 90 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return clipped(text, 90)


def clipped(text: str, most: int) -> str:
    """A text of at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


# ------------------------------------------------------------------------------------------------------ annotations


def check_database(database: Any, where: str) -> None:
    """Raise an InputError unless `database` is {video: {"subset", "annotations": [{"segment", "label"}], "duration"?}}.

    `subset` may be missing everywhere, `annotations` from any video. A duration of 0 or None is unknown.
    """
    if not isinstance(database, Mapping):
        raise InputError(f'{where}: "database" is not an object; expected {{"database": {{video: {{"annotations": ...}}}}}}.')
    subsets = any(isinstance(video, Mapping) and "subset" in video for video in database.values())
    for name, video in database.items():
        check_video_name(name, where)
        if not isinstance(video, Mapping) or not isinstance(video.get("annotations", []), list | tuple):
            raise InputError(f'{where}: video {name} is {short(video)}; expected {{"subset": ..., "annotations": [...]}}.')
        if subsets and not is_text(video.get("subset")):
            raise InputError(
                f"{where}: video {name} has the subset {short(video.get('subset'))}; expected a name, such as "
                '"subset": "test", for every video or for none.'
            )
        if not _is_duration(video.get("duration")):
            raise InputError(
                f"{where}: video {name} has the duration {short(video['duration'])}; expected a positive number of seconds, "
                "or none if it is unknown."
            )
        for row in video.get("annotations", []):
            if not _is_annotation(row):
                raise InputError(
                    f"{where}: video {name} has the annotation {short(row)}; expected "
                    '{"label": "HighJump", "segment": [18.6, 24.8]} with finite times.'
                )


def _is_duration(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and as_number(value or 1) > 0
    except ValueError:
        return False


def _is_annotation(row: Any) -> bool:
    try:
        times(row["segment"])
        return is_text(row["label"])
    except (KeyError, TypeError, ValueError):
        return False


def times(segment: Any) -> tuple[float, float]:
    """Start and end of a segment in seconds."""
    pair = segment.tolist() if hasattr(segment, "tolist") else segment  # an array of numpy
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"{short(segment)} is not a pair of times")
    return as_number(pair[0]), as_number(pair[1])
