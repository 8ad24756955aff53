"""Everything a run is made of, in one frozen object: flags, facts of the dataset, and the numbers derived from both.

Standard library only, so that a missing data set is noticed before an environment is built.
"""

import ast
import dataclasses
import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, SupportsFloat

from dataset.annotations import Database, classes_of, read_database
from dataset.clicks import ANNOTATORS, find_source, read_clicks
from dataset.facts import DEMOS, Dataset, dataset_facts
from dataset.layouts import Layout, find_annotations, find_layout
from quirks import notes_on_lost, repaired
from recipes import UNPUBLISHED
from utils import UserError


@dataclass(frozen=True)
class Config:
    """One run. Fields are the flags of options.py under the same names, then facts of the dataset; a method adds its own."""

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

    RECORD_AVERAGE: ClassVar[str] = "all"  # tIoU range of the average in the authors' record and log
    PAPER_AVERAGE: ClassVar[str] = "0.1:0.7"  # tIoU range of the average that the paper puts first

    @property
    def described(self) -> str:
        """Which form of the method, for reports."""
        return "published"

    @property
    def first_batch_again(self) -> bool:
        """Whether every batch after the first pass is the first of a new shuffle."""
        return False

    @property
    def single_overlaps(self) -> bool:
        """Whether scoring rounds overlaps to single precision."""
        return False

    @property
    def best_of_each_step(self) -> bool:
        """Whether the best model is chosen anew when a step begins."""
        return False

    def step_of(self, iteration: int) -> int:
        """Which step of a method that trains in several an iteration is of."""
        return 0

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
        return parse_thresholds("--cas_th", self.cas_th)

    @cached_property
    def repaired(self) -> tuple[str, ...]:
        """Ids of the official quirks that this run repairs."""
        return repaired(self.method, self.compat, self.fix)

    def notes_on(self, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What quirks took from the results of `records`, by their names."""
        return notes_on_lost(self.method, records)

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

    def seconds_per_point(self, num_seg: int, points: int, duration: SupportsFloat | None = None) -> float:
        """Of so many points over a video, in the official codes' order of multiplying: the last bit may decide."""
        return num_seg * self.snippet_frames / (self.fps * points) if duration is None else float(duration) / points

    def seconds(self, num_seg: int, duration: float | None = None) -> float:
        """How long a video is: as long as its `num_seg` feature rows, unless a `duration` is to be used."""
        return num_seg * self.snippet_frames / self.fps if duration is None else duration

    def chosen(self, map_by_tiou: dict[str, float]) -> dict[str, float]:
        """The mAPs whose mean chooses the best model."""
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
        values = self.chosen(map_by_tiou).values()
        return math.fsum(values) / len(values)

    def settled(self) -> "Config":
        """Copy of the config with file-dependent settings resolved."""
        return self

    def prepare_training(self, videos: list[Any], layout: Layout, database: Database) -> tuple[list[Any], list[str]]:
        """What a method adds to the training videos, and lines that say so."""
        return videos, []

    def record_average(self, record: Mapping[str, Any]) -> float:
        """The average in the authors' record; over all thresholds where these do not cover RECORD_AVERAGE."""
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
        """A mistake in the flags is told now, not after an hour."""
        if self.draws == "official" and (self.method != "basnet" or self.compile):
            raise UserError(
                f"--draws official with --method {self.method}{' --compile' * self.compile}: follows the official program of "
                "BaS-Net, which is not compiled. Leave out --draws, or use --method basnet without --compile."
            )
        if self.len_feature % len(self.streams):
            raise UserError(f"--len_feature {self.len_feature} cannot be shared by the streams {self.streams}.")
        _ = self.cas_thresholds, self.repaired, self.chosen({f"{tiou:g}": 0.0 for tiou in self.tiou_thresholds})

    def as_dict(self) -> dict[str, Any]:
        derived = {"described": self.described, "repaired": list(self.repaired), "derived, unpublished": self.unpublished}
        return dataclasses.asdict(self) | derived


@dataclass(frozen=True)
class BaSNetConfig(Config):
    ablation: str
    alpha: float
    topk: float
    bce_reduction: str
    whole_video: float | None

    @property
    def described(self) -> str:
        return self.ablation

    @property
    def first_batch_again(self) -> bool:
        return "B6" not in self.repaired


@dataclass(frozen=True)
class UMConfig(Config):
    alpha: float
    beta: float
    margin: float
    r_act: int
    r_bkg: int
    mag_th: str
    bce_reduction: str
    um_loss: str | None
    variant: str

    RECORD_AVERAGE: ClassVar[str] = "0.1:0.7"
    QUIRKS: ClassVar = {  # that each variant reproduces
        "official": {"O2"},
        "leftthomas-fixed": set[str](),
        "leftthomas-exact": {"L1", "L2", "L8"},
    }

    @property
    def described(self) -> str:
        return self.variant

    @cached_property
    def mag_thresholds(self) -> list[float]:
        return parse_thresholds("--mag_th", self.mag_th)

    @cached_property
    def quirks(self) -> set[str]:
        """Ids of the official quirks that this run reproduces."""
        quirks = self.QUIRKS[self.variant] - set(self.repaired)
        return quirks if self.um_loss is None else quirks - {"L1"} | ({"L1"} if self.um_loss == "leftthomas" else set())

    @property
    def single_overlaps(self) -> bool:
        return "L8" in self.quirks

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        maps, seven = record["mAP"], [f"0.{tenths}" for tenths in range(1, 8)]
        if set(seven) <= set(maps):
            maps = {tiou: maps[tiou] for tiou in seven}
        heading = f"Step: {record['iteration']}\nTest_acc: {record['test_acc']:.4f}\n"
        return heading + average_and_maps(self.record_average(record), maps)

    def check(self) -> None:
        super().check()
        _ = self.mag_thresholds
        if self.variant == "leftthomas-exact" and self.compat == "fixed":
            raise UserError(
                "--variant leftthomas-exact reproduces quirks, and --compat fixed repairs them. Give --compat official, or "
                "--variant leftthomas-fixed."
            )

    def counts(self, times: int) -> tuple[int, int]:
        """How many of the network's `times` are taken for action and for background, one at least (quirk B1)."""
        return max(1, times // self.r_act), max(1, times // self.r_bkg)


@dataclass(frozen=True)
class BackTALConfig(Config):
    affinity_layout: Literal["official", "paper"]
    alpha: float
    sep_weight: float
    emb_weight: float
    topk: float
    sep_topk: float
    similar_min: float
    different_max: float
    mag_th: str | None
    shrink: float
    whole_video: float | None
    clicks: str
    annotator: str | None
    click_seed: int
    clicks_per_gap: int
    click_noise: float
    click_miss: float

    PAPER_AVERAGE: ClassVar[str] = "0.3:0.7"

    @property
    def described(self) -> str:
        return f"{self.affinity_layout} affinity layout, clicks {self.clicks_described}"

    @property
    def clicks_described(self) -> str:
        if self.clicks == "simulated":
            each = f"seed {self.click_seed}, {self.clicks_per_gap} a gap"
            noise = f", {100 * self.click_miss:g} % of gaps missed, {self.click_noise:g} s of noise"
            return f"simulated from the ground truth ({each}{noise if self.click_miss or self.click_noise else ''})"
        human = f"of human annotators ({self.annotator or ANNOTATORS[0]})"
        named = {"human": human, "npz": "of the feature files", "auto": "of its training"}
        return named.get(self.clicks, f"of {self.clicks}")

    @cached_property
    def mag_thresholds(self) -> list[float]:
        return parse_thresholds("--mag_th", self.mag_th) if self.mag_th else []

    def check(self) -> None:
        super().check()
        _ = self.mag_thresholds

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        maps = {f"{float(tiou):.2f}": value for tiou, value in record["mAP"].items()}
        return f"Epoch: {epoch}\n" + average_and_maps(self.record_average(record), maps)

    def prepare_training(self, videos: list[Any], layout: Layout, database: Database) -> tuple[list[Any], list[str]]:
        clicks, said = read_clicks(videos, layout, self, database)
        return [dataclasses.replace(video, clicks=clicks[video.name]) for video in videos], [said]

    def settled(self) -> "BackTALConfig":
        root = Path(self.data_path)
        return dataclasses.replace(
            self, clicks=find_source(self.clicks, root, find_layout(root, self.facts, self.layout), self.annotator)
        )


@dataclass(frozen=True)
class ASMLocConfig(Config):
    steps: int
    step_iters: int
    dropout_on: str
    r_fg: int
    r_bg: int
    lambda_fg: float
    lambda_bg: float
    lambda_ab: float
    beta: float
    delta: float
    gamma: float
    proposal_share: float
    stretch_by: str
    att_th: str
    attention_share: float
    pseudo_by: str
    pseudo_th: str

    RECORD_AVERAGE: ClassVar[str] = "0.1:0.7"

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        """What the authors' evaluator writes to log.txt: a table between rules, then an empty line."""
        thresholds, maps = ("||".join(f"{float(x):.3f}" for x in column) for column in zip(*record["mAP"].items(), strict=True))
        lines = [f"|t-IoU |{thresholds}|", f"|mAP   |{maps}|", f"|Average-mAP: {self.record_average(record):.4f}"]
        rule = "-" * 79 + "\n"
        return rule + "".join(f"{line}\n{rule}" for line in lines) + "\n"

    @property
    def best_of_each_step(self) -> bool:
        return "Q2" in self.repaired

    def step_of(self, iteration: int) -> int:
        return min(iteration // self.step_iters, self.steps)

    @property
    def described(self) -> str:
        taken = self.step_of(self.num_iters - 1)
        return f"{self.steps} refinement steps" + (f", of which {taken} are reached" if taken < self.steps else "")

    @property
    def rows_per_second(self) -> float:
        return self.fps / self.snippet_frames

    @property
    def stretches_annotated(self) -> bool:
        """Whether training videos are stretched by proposals of their own classes alone."""
        return self.stretch_by == "annotated" or "Q4" in self.repaired

    @cached_property
    def att_thresholds(self) -> list[float]:
        return parse_thresholds("--att_th", self.att_th)

    @cached_property
    def pseudo_thresholds(self) -> list[float]:
        return parse_thresholds("--pseudo_th", self.pseudo_th)

    def check(self) -> None:
        super().check()
        _ = self.att_thresholds, self.pseudo_thresholds
        if self.num_segments < 2:
            raise UserError(f"--num_segments {self.num_segments}: batch norms need two rows at least.")


CONFIGS: dict[str, type[Config]] = {
    "basnet": BaSNetConfig,
    "um": UMConfig,
    "backtal": BackTALConfig,
    "asm_loc": ASMLocConfig,
}


def average_and_maps(average: float, maps: Mapping[str, float]) -> str:
    """The lines of a record that BaS-Net, UM and BackTAL write alike."""
    return f"average_mAP: {average:.4f}\n" + "".join(f"mAP@{tiou}: {value:.4f}\n" for tiou, value in maps.items())


def annotation_file(facts: Dataset, root: Path, layout: str, forced: str | None) -> Path:
    return find_annotations(root, find_layout(root, facts, layout), facts, forced)


def where_to_get(facts: Dataset, data_path: str) -> str:
    return (
        f"Put the data of --dataset {facts.name} in {data_path} as dataset/README.md shows, name their place "
        f"with --data_path, or try the built-in data: bash run.sh --dataset demo. {facts.source}".strip()
    )


def make_config(args: Namespace, training: bool = True) -> Config:
    """The run that `args` (options.parse_args) asks for; what concerns `training` alone is looked for only then."""
    facts = dataset_facts(args.dataset)
    kind = CONFIGS[args.method]
    values: dict[str, Any] = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(kind)}
    if args.len_feature is None:
        values["len_feature"] = facts.stream_width * (2 if args.modal == "all" else 1)
    values["tiou_thresholds"], values["protocol"] = facts.tiou_thresholds, facts.protocol
    for name in ("data_path", "missing", "timing", "fps", "snippet_frames"):
        values[name] = getattr(args, name) or getattr(facts, name)
    if args.dataset.endswith(".json"):
        values["dataset"] = str(Path(args.dataset).resolve())  # one data set, however its description is spelt
    values["classes"] = facts.classes or _annotated_classes(facts, values)
    values["num_iters"] = len(parse_schedule(args.lr, args.num_iters))
    config = kind(**values)
    config.check()
    return config.settled() if training else config


def _annotated_classes(facts: Dataset, values: dict[str, Any]) -> tuple[str, ...]:
    if facts.name in DEMOS and not Path(values["data_path"]).exists():
        return ()  # it makes itself before it is read
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


def parse_thresholds(flag: str, text: str) -> list[float]:
    """`start:stop:step`, stop left out, with the roundings of numpy.arange; or ascending numbers between commas."""
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
    return repr(text if len(text) <= 60 else text[:57] + "...")
