"""Everything a run is made of, in one frozen object: flags, facts of the dataset, and the numbers derived from both.

Standard library only, so that a missing data set is noticed before an environment is built.

A recipe is a set of defaults for one method on one dataset; flags given on the command line win over it.
"""

import ast
import dataclasses
import math
from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataset.annotations import classes_of, read_database
from dataset.facts import KNOWN, Dataset, dataset_facts
from dataset.layouts import find_annotations, find_layout
from quirks import repaired
from utils import UserError

# Published values: the paper and the official code. A recipe of another dataset names only what differs.
PUBLISHED: dict[str, dict[str, Any]] = {
    "basnet": {
        "alpha": 1e-4,
        "class_th": 0.25,
        "lr": "[0.0001]*1500",
        "batch_size": 16,
        "weight_decay": 5e-4,
        "dropout": 0.7,
        "num_segments": 750,
        "hidden": 2048,
        "scale": 24,
        "cas_th": "0:0.25:0.025",
        "outer": 0.25,
        "class_weight": 0.2,
        "nms_th": 0.7,
        "whole_video": None,
        "topk": 0.125,
        "bce_reduction": "mean",
    },
}
# BaS-Net's authors published no setting for these data sets. BackTAL did, for the same two branches plus clicks; the lengths
# of the schedules are its epochs times the batches of the complete training set.
UNPUBLISHED: dict[tuple[str, str], dict[str, Any]] = {}
UNPUBLISHED["basnet", "activitynet1.2"] = {
    "num_segments": 100,
    "topk": 0.6,
    "lr": "[0.0002]*950",
    "batch_size": 128,
    "class_th": 0.1,
    "cas_th": "0:0.15:0.025",
    "outer": 20.0,
    "fix": "B3",
    "class_weight": 0.6,
    "nms_th": 0.7,
    "whole_video": 0.6,
    "bce_reduction": "classsum",
}
UNPUBLISHED["basnet", "activitynet1.3"] = UNPUBLISHED["basnet", "activitynet1.2"] | {"lr": "[0.0002]*1975"}
UNPUBLISHED["basnet", "hacs"] = UNPUBLISHED["basnet", "activitynet1.2"] | {
    "num_segments": 200,
    "lr": "[0.0001]*4704",
    "batch_size": 64,
    "class_th": 0.075,
    "cas_th": "0:0.2:0.025",
    "outer": 200.0,
    "nms_th": 0.71,
}
OURS: dict[tuple[str, str], dict[str, Any]] = {
    ("basnet", "demo"): {"seed": 0, "num_segments": 128, "hidden": 128, "lr": "[0.0015]*480", "alpha": 3e-4},
    ("basnet", "demo-activitynet"): UNPUBLISHED["basnet", "activitynet1.2"]
    | {"seed": 0, "hidden": 128, "lr": "[0.0015]*400", "batch_size": 32},
}


def recipe(method: str, dataset: str) -> dict[str, Any]:
    """Defaults of `method` on `dataset`."""
    place = {"data_path": KNOWN[dataset].data_path if dataset in KNOWN else None}
    return PUBLISHED[method] | UNPUBLISHED.get((method, dataset), {}) | OURS.get((method, dataset), {}) | place


def origin(flag: str, method: str, dataset: str) -> str | None:
    """Where a default comes from, if from a recipe."""
    if flag in OURS.get((method, dataset), {}):
        return f"recipe of {dataset}"
    if flag in UNPUBLISHED.get((method, dataset), {}):
        return "derived, unpublished"
    return "published" if flag in PUBLISHED[method] else None


@dataclass(frozen=True)
class Config:
    """One run. Fields are the flags of options.py under the same names, then facts of the dataset."""

    dataset: str
    method: str
    ablation: str
    data_path: str
    modal: str
    model_path: str
    output_path: str
    log_path: str
    model_file: str | None
    seed: int
    alpha: float
    lr: str
    num_iters: int
    batch_size: int
    weight_decay: float
    dropout: float
    eval_every: str
    num_segments: int
    len_feature: int
    hidden: int
    class_th: float
    scale: int
    cas_th: str
    outer: float
    class_weight: float
    nms_th: float
    whole_video: float | None
    topk: float
    bce_reduction: str
    compat: str
    fix: str
    ties: str
    device: str
    num_workers: int
    layout: str
    ground_truth: str | None
    missing: str
    cache: str
    cache_budget: float
    cache_path: str
    cache_dtype: str
    precision: str
    compile: bool
    eval_workers: int | None
    classes: tuple[str, ...]
    fps: float
    snippet_frames: int
    tiou_thresholds: tuple[float, ...]
    protocol: str

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def streams(self) -> tuple[str, ...]:
        return ("rgb", "flow") if self.modal == "all" else (self.modal,)

    @cached_property
    def learning_rates(self) -> list[float]:
        """One value per iteration."""
        return parse_schedule(self.lr, self.num_iters)

    @cached_property
    def cas_thresholds(self) -> list[float]:
        return parse_thresholds(self.cas_th)

    @cached_property
    def repaired(self) -> tuple[str, ...]:
        """Ids of the official quirks that this run repairs."""
        return repaired(self.compat, self.fix)

    @cached_property
    def facts(self) -> Dataset:
        return dataset_facts(self.dataset)

    @property
    def annotation_file(self) -> Path:
        return annotation_file(self.facts, Path(self.data_path), self.layout, self.ground_truth)

    @property
    def unpublished(self) -> list[str]:
        """Settings as this project derived them, because nobody published any."""
        derived = UNPUBLISHED.get((self.method, self.dataset), {})
        return [name for name, value in derived.items() if getattr(self, name) == value]

    def seconds(self, num_seg: int, duration: float | None = None) -> float:
        """How long a video is: as long as its `num_seg` feature rows, unless a `duration` is to be used."""
        return num_seg * self.snippet_frames / self.fps if duration is None else duration

    def eval_interval(self, num_videos: int) -> int:
        """Iterations between evaluations."""
        return math.ceil(num_videos / self.batch_size) if self.eval_every == "epoch" else int(self.eval_every)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"repaired": list(self.repaired), "derived, unpublished": self.unpublished}


def annotation_file(facts: Dataset, root: Path, layout: str, forced: str | None) -> Path:
    return find_annotations(root, find_layout(root, facts, layout), facts, forced)


def where_to_get(facts: Dataset, data_path: str) -> str:
    return (
        f"Put the data of --dataset {facts.name} in {data_path} as dataset/README.md shows, name their place "
        f"with --data_path, or try the built-in data: bash run.sh --dataset demo. {facts.source}".strip()
    )


def make_config(args: Namespace) -> Config:
    """The run that `args` (options.parse_args) asks for."""
    facts = dataset_facts(args.dataset)
    values: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(Config)}
    if args.len_feature is None:
        values["len_feature"] = facts.stream_width * (2 if args.modal == "all" else 1)
    for name in ("fps", "snippet_frames", "tiou_thresholds", "protocol"):
        values[name] = getattr(facts, name)
    values["data_path"] = args.data_path or facts.data_path
    if args.dataset.endswith(".json"):
        values["dataset"] = str(Path(args.dataset).resolve())  # one data set, however its description is spelt
    values["missing"] = args.missing or facts.missing
    values["classes"] = facts.classes or _annotated_classes(facts, values)
    values["num_iters"] = len(parse_schedule(args.lr, args.num_iters))
    config = Config(**values)
    if config.len_feature % len(config.streams):
        raise UserError(f"--len_feature {config.len_feature} cannot be shared by the streams {config.streams}.")
    _ = config.cas_thresholds, config.repaired  # a mistake in either is told now, not after an hour
    return config


def _annotated_classes(facts: Dataset, values: dict[str, Any]) -> tuple[str, ...]:
    path = annotation_file(facts, Path(values["data_path"]), values["layout"], values["ground_truth"])
    return classes_of(read_database(path, where_to_get(facts, values["data_path"])))


MOST_ITERATIONS = 10_000_000


def parse_schedule(text: str, num_iters: int | None = None) -> list[float]:
    """Learning rate per iteration from `[0.0001]*1500`, `[1e-4]*1000+[1e-5]*500`, `[1e-4,1e-4]`, or `1e-4` with a count.

    The text is read as a small language of its own; nothing in it is ever executed.
    """
    how = "Expected a list such as [0.0001]*1500 or [1e-4]*1000+[1e-5]*500, or a number together with --num_iters."
    try:
        rates = _schedule_value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        raise UserError(f"--lr {_short(text)} is not a schedule of learning rates. {how}") from None
    if isinstance(rates, float):
        if num_iters is None:
            raise UserError(f"--lr {_short(text)} is one number, and nothing says for how many iterations. {how}")
        rates = [rates] * num_iters
    if not rates or not all(0 < rate <= 1e30 for rate in rates):
        raise UserError(f"--lr {_short(text)}: a schedule holds at least one value, all positive and at most 1e30. {how}")
    if num_iters is not None and num_iters > len(rates):
        raise UserError(
            f"--num_iters {num_iters} is more than the {len(rates)} values of --lr {_short(text)}; "
            f"write --lr {rates[-1]:g} --num_iters {num_iters}, or a longer list."
        )
    return rates[:num_iters]


def _schedule_value(node: ast.expr) -> float | list[float]:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.List(elts=items):
            numbers = [value for value in map(_schedule_value, items) if isinstance(value, float)]
            if len(numbers) == len(items):
                return numbers
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _schedule_value(left), _schedule_value(right)
            if isinstance(first, list) and isinstance(second, list):
                return first + second
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int() as times)):
            values = _schedule_value(left)
            if isinstance(values, list) and times is not True and 0 < times * max(1, len(values)) <= MOST_ITERATIONS:
                return values * times
    raise ValueError


def parse_thresholds(text: str) -> list[float]:
    """`start:stop:step`, stop left out, as start + i*step."""
    try:
        start, stop, step = (float(part) for part in text.split(":"))
        count = math.ceil(round((stop - start) / step, 9))
        if not 0 < count <= 1000 or step <= 0:
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UserError(f"--cas_th {_short(text)}: expected start:stop:step, such as 0:0.25:0.025.") from None
    return [start + i * step for i in range(count)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
