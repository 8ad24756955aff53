"""Annotation files in ActivityNet's format, official or of any code base, checked on reading.

Standard library only. `database` is {video: {"subset", "annotations": [{"segment", "label"}], "duration"?}}.
"""

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from eval.names import did_you_mean
from eval.reading import as_number, check_database
from utils import UserError, as_user_error, listing, read_json

Database = dict[str, Any]


def read_database(path: Path, remedy: str) -> Database:
    """The `database` of an annotation file. The result is cached: do not modify it."""
    try:
        state = path.stat()
        return _read(path, remedy, state.st_size, state.st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return _read(path, remedy, 0, 0)


@lru_cache(maxsize=2)  # the configuration reads the classes, then a run reads the videos
def _read(path: Path, remedy: str, _size: int, _time: int) -> Database:
    content = read_json(path, "the annotations of all videos", remedy)
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise UserError(
            f'{path}: has no "database" object; expected {{"database": {{video: ...}}}}, as dataset/README.md shows.'
        )
    database = content["database"]
    with as_user_error():
        check_database(database, str(path))
    for video in database.values():
        video.setdefault("annotations", [])
    return database


def classes_of(database: Database) -> tuple[str, ...]:
    """The labels of all annotations, sorted; every code base of the family numbers classes in this order."""
    return tuple(sorted({row["label"] for video in database.values() for row in video["annotations"]}))


def subset_name(database: Database, names: tuple[str, ...], path: Path) -> str | None:
    """The annotated subset that is called one of `names`, in any capitalisation; None if the file names no subsets."""
    if not any(video["annotations"] for video in database.values()):
        lacking = f"none of its {len(database)} videos has an annotation" if database else "it contains no video"
        raise UserError(f'{path}: {lacking}; expected videos with "annotations" of actions. {WRONG_FILE}')
    videos_of = Counter(video["subset"] for video in database.values() if "subset" in video)
    annotated = sorted({video["subset"] for video in database.values() if video["annotations"] and "subset" in video})
    own, bare = (
        next((name for wanted in names for name in sorted(subsets) if name.lower() == wanted.lower()), None)
        for subsets in (annotated, videos_of)
    )
    if annotated and own is None:
        if bare is not None:
            raise UserError(
                f"{path}: none of its {videos_of[bare]} videos of subset {bare} has an annotation; expected the annotations of "
                f"this subset. Annotated subsets are {listing(annotated)}. {WRONG_FILE}"
            )
        raise UserError(
            f"{path}: no annotated video of subset {' or '.join(names)}; its subsets are {listing(annotated)}. Choose the "
            "dataset of this file, or name the subsets in a dataset.json (docs/own-dataset.md)."
        )
    return own


WRONG_FILE = "Add them to the file, or name another with --ground_truth."


def check_labels(database: Database, path: Path, classes: tuple[str, ...], dataset: str) -> None:
    known = set(classes)
    for name, video in database.items():
        unknown = sorted({row["label"] for row in video["annotations"]} - known)
        if unknown:
            raise UserError(
                f"{path}: video {name} has the unknown label {listing(unknown)}; the {len(classes)} classes of "
                f"--dataset {dataset} are {listing(list(classes), 20)}. Correct the label or the dataset."
                f"{did_you_mean(unknown[0], classes)}"
            )


def duration_of(video: dict[str, Any]) -> float | None:
    return as_number(video["duration"]) if video.get("duration") else None
