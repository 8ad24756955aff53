"""Facts of each dataset: the known ones, and the user's own as described by a dataset.json (docs/own-dataset.md).

Standard library only, so that run.sh can report missing data before it builds an environment.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from eval.names import did_you_mean
from eval.reading import is_file_name, is_text, short
from utils import UserError, listing, read_json

THUMOS14_CLASSES = (
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault",
    "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
)  # fmt: skip

TIOU_THUMOS = tuple(0.1 + i * ((0.9 - 0.1) / 8) for i in range(8)) + (0.9,)  # numpy's linspace(0.1, 0.9, 9), bit for bit
TIOU_ACTIVITYNET = tuple(0.5 + i * ((0.95 - 0.5) / 9) for i in range(9)) + (0.95,)  # linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Dataset:
    """`train` and `test` are the possible names of the subsets, in annotations and folders; the first that exists is used."""

    name: str
    data_path: str
    annotations: tuple[str, ...]  # possible names of the annotation file; the first that exists is used
    train: tuple[str, ...]
    test: tuple[str, ...]
    tiou_thresholds: tuple[float, ...]
    classes: tuple[str, ...] = ()  # empty: the sorted labels of the annotations
    stream_width: int = 1024  # features per snippet of one stream
    fps: float = 25.0  # frame rate at which the features were extracted
    snippet_frames: int = 16  # video frames per snippet
    timing: str = "rows"  # length of a video: `rows` by its snippets, fps and snippet_frames; `duration`, where it is known
    protocol: str = "unnamed"  # name of a ground truth that eval/protocols.py does not know
    missing: str = "fail"  # videos without features: `fail` or `drop`
    counts: tuple[tuple[int, int], ...] = ()  # annotated videos and instances of train and test, where known
    source: str = ""  # where to get it


THUMOS_TRAIN, THUMOS_TEST = ("train", "validation", "val", "training"), ("test", "testing")
ACTIVITYNET_TRAIN, ACTIVITYNET_TEST = ("training", "train"), ("validation", "val", "test")


def _activitynet(version: str, files: tuple[str, ...], counts: tuple[tuple[int, int], ...]) -> Dataset:
    return Dataset(
        name=f"activitynet{version}",
        data_path=f"./dataset/ActivityNet{version.replace('.', '')}",
        annotations=("gt.json", f"annotations_{version}.json", *files),
        train=ACTIVITYNET_TRAIN,
        test=ACTIVITYNET_TEST,
        tiou_thresholds=TIOU_ACTIVITYNET,
        timing="duration",
        missing="drop",
        counts=counts,
        source=f"Annotations: {files[0]} from activity-net.org (Download).",
    )


KNOWN = {
    "thumos14": Dataset(
        name="thumos14",
        data_path="./dataset/THUMOS14",
        annotations=("gt.json", "annotations.json", "gt_thumos14.json"),
        train=THUMOS_TRAIN,
        test=THUMOS_TEST,
        tiou_thresholds=TIOU_THUMOS,
        classes=THUMOS14_CLASSES,
        counts=((200, 3007), (210, 3311)),
        source="Features, annotations and split files: linked from the README of Pilhyeon/BaSNet-pytorch on GitHub.",
    ),
    "activitynet1.2": _activitynet(
        "1.2", ("activity_net.v1-2.min.json", "activity_net.v1-2.json"), ((4819, 7151), (2383, 3582))
    ),
    "activitynet1.3": _activitynet(
        "1.3", ("activity_net.v1-3.min.json", "activity_net.v1-3.json"), ((10024, 15410), (4926, 7654))
    ),
    "hacs": Dataset(
        name="hacs",
        data_path="./dataset/HACS",
        annotations=("gt.json", "HACS_segments_v1.1.1.json"),
        train=ACTIVITYNET_TRAIN,
        test=ACTIVITYNET_TEST,
        tiou_thresholds=TIOU_ACTIVITYNET,
        timing="duration",
        missing="drop",
        source="Annotations: HACS_segments_v1.1.1.json from hangzhaomit/HACS-dataset on GitHub.",
    ),
    "demo": Dataset(
        name="demo",
        data_path="./dataset/demo_v1",
        annotations=("gt.json",),
        train=("train",),
        test=("test",),
        tiou_thresholds=TIOU_THUMOS,
        classes=THUMOS14_CLASSES[:8],
        stream_width=64,
        counts=((120, 466), (60, 243)),
    ),
    "demo-activitynet": Dataset(
        name="demo-activitynet",
        data_path="./dataset/demo_activitynet_v1",
        annotations=("activity_net.demo.json",),
        train=ACTIVITYNET_TRAIN,
        test=ACTIVITYNET_TEST,
        tiou_thresholds=TIOU_ACTIVITYNET,
        stream_width=64,
        timing="duration",
        missing="drop",
    ),
}
DEMOS = ("demo", "demo-activitynet")  # a run generates them


def dataset_facts(name: str) -> Dataset:
    """The facts of a known dataset, or of the one that a dataset.json describes."""
    return read_description(Path(name)) if name.endswith(".json") else KNOWN[name]


def usual_name(description: Path) -> str:
    """Name of a dataset whose description names none."""
    return description.stem if description.stem != "dataset" else description.resolve().parent.name


NAME_KEYS = ("annotations", "train", "test", "classes")  # a name or a list of names
FOLDER_KEYS = ("train", "test")  # a name is also that of a folder
NUMBER_KEYS = {"stream_width": int, "fps": float, "snippet_frames": int}
EXPECTED = (
    'expected the keys of docs/own-dataset.md, as in {"annotations": "annotations.json", "train": "train", "test": "test"}'
)


def read_description(path: Path) -> Dataset:
    """Read a dataset.json. Paths are relative to the file; missing keys are as on THUMOS'14, except the classes."""
    content = read_json(path, "the description of a dataset", EXPECTED)
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}; {EXPECTED}.")
    fields = {field.name for field in dataclasses.fields(Dataset)} - {"name", "counts", "source"}
    unknown = sorted(set(content) - fields - {"name"})
    if unknown:
        hint = did_you_mean(unknown[0], fields)
        raise UserError(f"{path}: unknown key {listing(unknown)}; expected {', '.join(sorted(fields))}.{hint}")
    values: dict[str, Any] = {
        "name": usual_name(path),
        "data_path": ".",
        "annotations": KNOWN["thumos14"].annotations,
        "train": THUMOS_TRAIN,
        "test": THUMOS_TEST,
        "tiou_thresholds": TIOU_THUMOS,
        "source": f"The dataset is described by {path}.",
    }
    for key, value in content.items():
        values[key] = _checked_value(path, key, value)
    values["data_path"] = str(path.parent / values["data_path"])
    return Dataset(**values)


def _checked_value(path: Path, key: str, value: Any) -> Any:
    if key in NAME_KEYS:
        names = [value] if isinstance(value, str) else value
        good = isinstance(names, list) and names and all(is_text(name) and name and "\0" not in name for name in names)
        if good and len(set(names)) == len(names) and (key not in FOLDER_KEYS or all(map(_stays_inside, names))):
            return tuple(names)
        expected = "a name or a list of different names" + (", none outside of data_path" if key in FOLDER_KEYS else "")
    elif key == "name":
        if isinstance(value, str) and re.fullmatch(r"[\w+-][\w.+ -]{0,99}", value) and is_file_name(value):
            return value
        expected = "1 to 100 letters, digits, `_`, `-`, `+`, dots and spaces, beginning with neither dot nor space"
    elif key in NUMBER_KEYS:
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and 0 < value < 1e6
            and NUMBER_KEYS[key](value) == value
        ):
            return NUMBER_KEYS[key](value)
        expected = "a positive number"
    elif key == "tiou_thresholds":
        if isinstance(value, list) and value and all(type(x) in (int, float) and 0 < x <= 1 for x in value):
            return tuple(float(x) for x in value)
        expected = "a list of numbers in 0..1"
    else:
        choices = {"timing": ("rows", "duration"), "missing": ("fail", "drop")}.get(key)
        if is_text(value) and value and "\0" not in value and (choices is None or value in choices):
            return value
        expected = " or ".join(choices) if choices else "text"
    raise UserError(f"{path}: {key} is {short(value)}; expected {expected}.")


def _stays_inside(name: str) -> bool:
    """True if a folder of this name lies in the folder of the data, where files are written, too."""
    return not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
