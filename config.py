"""The settings of a run in one frozen object: flags, facts of the data set, and values derived from both.

A subclass in the method's file adds the method's own settings. Standard library only.
"""

import ast
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, SupportsFloat

from dataset.annotations import Database
from dataset.facts import Dataset, dataset_facts
from dataset.layouts import Layout, find_annotations, find_layout
from eval.reading import clipped
from utils import UserError

Settings = dict[str, Any]  # values by flag


class Quirk(NamedTuple):
    """A defect of an official code that runs can reproduce (docs/quirks.md)."""

    text: str
    loses: bool = False  # can leave a predicted class without detections


class Recipe(NamedTuple):
    """The settings of a method on a data set that differ from the defaults of its flags."""

    origin: str  # published, derived (by this project, because none are published) or ours (for the demos)
    settings: Settings


def published(base: Mapping[str, Any] | None = None, /, **settings: Any) -> Recipe:
    """A recipe of the settings `base`, updated with `settings`."""
    return Recipe("published", {**(base or {}), **settings})


def derived(base: Mapping[str, Any] | None = None, /, **settings: Any) -> Recipe:
    return published(base, **settings)._replace(origin="derived")


def ours(base: Mapping[str, Any] | None = None, /, **settings: Any) -> Recipe:
    return published(base, **settings)._replace(origin="ours")


ANY = ""  # key of the recipe for all data sets, which the recipe for a data set overrides


def flag(
    default: Any,
    help: str,
    type: Callable[[str], Any] | None = None,
    choices: list[str] | None = None,
    metavar: str | None = None,
    ours: bool = False,
) -> Any:
    """A Config field that is a flag of a method; `ours` if the method's authors have no such setting."""
    parsing = {"type": type, "choices": choices, "metavar": metavar}
    given = {name: value for name, value in parsing.items() if value is not None}
    return dataclasses.field(default=default, metadata={"help": help, "parsing": given, "ours": ours})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one run: the flags of options.py, then facts of the data set; subclasses add those of a method."""

    dataset: str
    method: str
    data_path: str
    modal: str
    model_path: str
    output_path: str
    log_path: str
    model_file: str | None
    seed: int
    draws: str
    lr: str
    num_iters: int
    batch_size: int
    weight_decay: float
    dropout: float
    eval_every: str
    choose_by: str
    num_segments: int
    len_feature: int
    hidden: int
    class_th: float
    scale: int
    cas_th: str
    outer: float
    class_weight: float
    nms_th: float
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
    timing: str
    fps: float
    snippet_frames: int
    tiou_thresholds: tuple[float, ...]
    protocol: str

    QUIRKS: ClassVar[Mapping[str, Quirk]] = {}  # quirks of the official code that --fix can repair, by id
    RECIPES: ClassVar[Mapping[str, Recipe]] = {}  # by data set, or for ANY
    MUST_AGREE: ClassVar[tuple[str, ...]] = ("method", "modal", "dataset")  # checkpoint and run differ here: error
    SHOULD_AGREE: ClassVar[tuple[str, ...]] = ("num_segments", "scale")  # differ here: warning
    RECORD_AVERAGE: ClassVar[str] = "all"  # tIoU range of the average in the authors' record and log
    PAPER_AVERAGE: ClassVar[str] = "0.1:0.7"  # tIoU range of the average that the paper puts first

    @property
    def described(self) -> str:
        """Variant of the method, for reports."""
        return ""

    @property
    def title(self) -> str:
        """Method and data set, for reports."""
        return f"{self.method}{f' ({self.described})' if self.described else ''} on {self.dataset}"

    @property
    def first_batch_again(self) -> bool:
        """True if every batch after the first pass is the first batch of a new shuffle."""
        return False

    @property
    def single_overlaps(self) -> bool:
        """True if scoring rounds overlaps to single precision."""
        return False

    @property
    def best_of_each_step(self) -> bool:
        """True if each step of a stepwise method selects its own best model."""
        return False

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def streams(self) -> tuple[str, ...]:
        return streams_of(self.modal)

    @cached_property
    def learning_rates(self) -> list[float]:
        """One value per iteration."""
        return parse_schedule(self.lr, self.num_iters)

    @cached_property
    def cas_thresholds(self) -> list[float]:
        return parse_thresholds("--cas_th", self.cas_th)

    @cached_property
    def repaired(self) -> tuple[str, ...]:
        """Ids of the official quirks that this run repairs: all with --compat fixed, else those of --fix."""
        ids = re.sub(r"[\s'\"\[\]()]", "", self.fix).split(",")  # options.py may hold a list
        wanted = [name.upper() for name in ids if name]
        unknown = [name for name in wanted if name not in self.QUIRKS]
        if unknown:
            raise UserError(
                f"--fix {self.fix}: {', '.join(unknown)} cannot be chosen; expected ids among {', '.join(self.QUIRKS)} "
                "separated by commas (docs/quirks.md says what each one is)."
            )
        return tuple(name for name in self.QUIRKS if name in wanted or self.compat == "fixed")

    @classmethod
    def notes_on(cls, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """One sentence per quirk that left classes without a detection in the named `records`."""
        lost = {name: record["lost"] for name, record in records.items() if record.get("lost")}
        notes = []
        for quirk, (text, loses) in cls.QUIRKS.items():
            counts = ", ".join(f"{counts[quirk]} (`{name}`)" for name, counts in lost.items() if quirk in counts)
            if loses and counts:
                notes.append(
                    f"Quirk {quirk} of the official code ({text}) leaves classes of test videos without a detection: {counts}. "
                    f"--fix {quirk} keeps them."
                )
        return notes

    @cached_property
    def facts(self) -> Dataset:
        return dataset_facts(self.dataset)

    @property
    def annotation_file(self) -> Path:
        return annotation_file(self.facts, Path(self.data_path), self.layout, self.ground_truth)

    @property
    def unpublished(self) -> list[str]:
        """Settings that this project derived because none are published."""
        origin, settings = self.RECIPES.get(self.dataset, published())
        return [name for name, value in settings.items() if origin == "derived" and getattr(self, name) == value]

    def seconds_per_point(self, num_seg: int, points: int, duration: SupportsFloat | None = None) -> float:
        """Seconds per point for `points` over a video, multiplied in the official order because the last bit can matter."""
        return num_seg * self.snippet_frames / (self.fps * points) if duration is None else float(duration) / points

    def seconds(self, num_seg: int, duration: float | None = None) -> float:
        """Length of a video: that of its `num_seg` snippets, or its `duration` if given."""
        return num_seg * self.snippet_frames / self.fps if duration is None else duration

    def chosen(self, map_by_tiou: dict[str, float]) -> dict[str, float]:
        """The mAPs, by threshold, whose mean selects the best model."""
        if self.choose_by == "all":
            return map_by_tiou
        first, _, last = self.choose_by.partition(":")
        names = list(map_by_tiou)
        if not {first, last or first} <= set(names) or names.index(first) > names.index(last or first):
            raise UserError(
                f"--choose_by {_short(self.choose_by)}: expected all, or one or a range of the thresholds {', '.join(names)}."
            )
        return {name: map_by_tiou[name] for name in names[names.index(first) : names.index(last or first) + 1]}

    def choice_of(self, map_by_tiou: dict[str, float]) -> float:
        """The mAP that selects the best model."""
        values = self.chosen(map_by_tiou).values()
        return math.fsum(values) / len(values)

    @property
    def uniform_losses(self) -> dict[str, float]:
        """Classification losses of a network that finds all classes equally likely: far above them, a loss has exploded."""
        return {}

    def settled(self) -> "Config":
        """Copy of the config with file-dependent settings resolved."""
        return self

    def prepare_training(self, videos: list[Any], layout: Layout, database: Database) -> tuple[list[Any], list[str]]:
        """The training videos with a method's additions, and lines to print about them."""
        return videos, []

    def record_average(self, record: Mapping[str, Any]) -> float:
        """The average over RECORD_AVERAGE, or over all thresholds if these do not cover it."""
        average: float = record["averages"].get(self.RECORD_AVERAGE, record["average_mAP"])
        return average

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        """The authors' record of an evaluation. `epoch` is the number of completed passes over the training videos."""
        heading = f"Step: {record['iteration']}\nTest_acc: {record['test_acc']:.2f}\n"
        return heading + average_and_maps(self.record_average(record), record["mAP"])

    def batches_per_pass(self, num_videos: int) -> int:
        return math.ceil(num_videos / self.batch_size)

    def eval_interval(self, num_videos: int) -> int:
        """Iterations between evaluations."""
        return self.batches_per_pass(num_videos) if self.eval_every == "epoch" else int(self.eval_every)

    def check(self) -> None:
        """Raise UserError for flags that do not fit together."""
        if self.draws == "official" and (self.method != "basnet" or self.compile):
            raise UserError(
                f"--draws official with --method {self.method}{' --compile' * self.compile}: reproduces the official program "
                "of BaS-Net, which is not compiled. Leave out --draws, or use --method basnet without --compile."
            )
        if self.len_feature % len(self.streams):
            raise UserError(f"--len_feature {self.len_feature} does not divide into the streams {', '.join(self.streams)}.")
        _ = self.cas_thresholds, self.repaired, self.chosen({f"{tiou:g}": 0.0 for tiou in self.tiou_thresholds})

    def as_dict(self) -> dict[str, Any]:
        derived = {"described": self.described, "repaired": list(self.repaired), "derived, unpublished": self.unpublished}
        return dataclasses.asdict(self) | derived


def average_and_maps(average: float, maps: Mapping[str, float]) -> str:
    """Lines that the records of BaS-Net, UM and BackTAL have in common."""
    return f"average_mAP: {average:.4f}\n" + "".join(f"mAP@{tiou}: {value:.4f}\n" for tiou, value in maps.items())


def record_over_seven(config: Config, record: Mapping[str, Any]) -> str:
    """The record of UM's and CoLA's authors, whose thresholds are 0.1 to 0.7."""
    maps, seven = record["mAP"], [f"0.{tenths}" for tenths in range(1, 8)]
    if set(seven) <= set(maps):
        maps = {tiou: maps[tiou] for tiou in seven}
    heading = f"Step: {record['iteration']}\nTest_acc: {record['test_acc']:.4f}\n"
    return heading + average_and_maps(config.record_average(record), maps)


def full_name(dataset: str) -> str:
    """The name of a data set in a config: that of a dataset.json is the same for every spelling of its path."""
    return str(Path(dataset).resolve()) if dataset.endswith(".json") else dataset


def streams_of(modal: str) -> tuple[str, ...]:
    return ("rgb", "flow") if modal == "all" else (modal,)


def annotation_file(facts: Dataset, root: Path, layout: str, forced: str | None) -> Path:
    return find_annotations(root, find_layout(root, facts, layout), facts, forced)


def where_to_get(facts: Dataset, data_path: str) -> str:
    return (
        f"Put the data of --dataset {facts.name} in {data_path} as dataset/README.md shows, name their folder "
        f"with --data_path, or try the built-in data: bash run.sh --dataset demo. {facts.source}".strip()
    )


MOST_ITERATIONS = 10_000_000


def parse_schedule(text: str, num_iters: int | None = None) -> list[float]:
    """Learning rate per iteration from `[0.0001]*1500`, `[1e-4]*1000+[1e-5]*500`, `[1e-4,1e-4]`, or `1e-4` with a count.

    The text is parsed, never executed.
    """
    how = "Expected a list such as [0.0001]*1500 or [1e-4]*1000+[1e-5]*500, or a number together with --num_iters."
    try:
        rates = _schedule_value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        raise UserError(f"--lr {_short(text)} is not a schedule of learning rates. {how}") from None
    if num_iters is not None and num_iters > MOST_ITERATIONS:
        raise UserError(f"--num_iters {num_iters}: expected at most {MOST_ITERATIONS} iterations.")
    if isinstance(rates, float):
        if num_iters is None:
            raise UserError(f"--lr {_short(text)} is one number without a number of iterations. {how}")
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
            if isinstance(first, list) and isinstance(second, list) and len(first) + len(second) <= MOST_ITERATIONS:
                return first + second
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int() as times)):
            values = _schedule_value(left)
            if isinstance(values, list) and times is not True and 0 < times * max(1, len(values)) <= MOST_ITERATIONS:
                return values * times
    raise ValueError


def parse_thresholds(flag: str, text: str) -> list[float]:
    """Thresholds from `start:stop:step`, without stop and rounded as by numpy.arange, or from `a,b,c` in ascending order."""
    try:
        numbers = [float(part) for part in text.strip(" []()").split(":" if ":" in text else ",")]
        if ":" in text:
            start, stop, step = numbers
            count = math.ceil((stop - start) / step)
            if not 0 < count <= 1000 or step <= 0:
                raise ValueError
            numbers = [start + i * ((start + step) - start) for i in range(count)]
        if sorted(numbers) != numbers or not all(map(math.isfinite, numbers)):
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        how = "start:stop:step, such as 0:0.25:0.025, or ascending numbers, such as 0.1,0.2,0.4"
        raise UserError(f"{flag} {_short(text)}: expected {how}.") from None
    return numbers


def _short(text: str) -> str:
    return repr(clipped(text, 60))
