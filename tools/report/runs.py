"""Reads what a report shows of a run: its folder, or a file of detections alone."""

import json
from argparse import Namespace
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from config import Config, annotation_file
from dataset.annotations import duration_of, read_database
from dataset.facts import KNOWN, Dataset, dataset_facts
from eval.eval_detection import TIES, DetectionScore, score_tables
from eval.protocols import GroundTruths, name_of
from eval.reading import check_file, read_text, short
from eval.table import Table, known, read_predictions, size
from methods.base import METHODS, settings_class
from utils import UserError, as_user_error, listing, read_json

NAME_RUN = "Name the output folder of a run (it has a config and a log), or a JSON file of detections."


@dataclass
class Run:
    """One run, as far as its files tell it; `missing` says in sentences what the report cannot show, and why."""

    source: str
    dataset: str
    settings: dict[str, Any]  # of its config file; empty for detections alone
    config: Config | None
    records: list[dict[str, Any]]  # of its log
    truth: Table
    found: Table  # with the labels of `truth`, and its videos first
    score: DetectionScore
    durations: dict[str, float]
    missing: list[str] = field(default_factory=list)
    tuned: Table | None = None  # detections with the best thresholds of each video, if its activations are known

    @property
    def title(self) -> str:
        return self.config.title if self.config else Path(self.source).name

    @property
    def classes(self) -> list[str]:
        """Those of the ground truth, which number its labels, then others that the method knows."""
        others = self.config.classes if self.config else ()
        return self.truth.labels + [name for name in others if name not in self.truth.labels]

    @property
    def protocol(self) -> str:
        named = name_of(self.truth)
        return named if named != "unnamed" or self.config is None else self.config.protocol

    @property
    def ties(self) -> str:
        return self.rules[0]

    @property
    def rules(self) -> tuple[str, bool]:
        return rules_of(self.config)

    @property
    def counts(self) -> str:
        return "{} videos, {} instances, hash {}".format(*size(self.truth), self.score.ground_truth)


def rules_of(config: Config | None) -> tuple[str, bool]:
    """How detections are matched: the order of ties, and whether overlaps are in single precision."""
    return (config.ties, config.single_overlaps) if config else ("official", False)


def read_run(path: Path, args: Namespace) -> Run:
    return read_folder(path, args) if path.is_dir() else read_detections(path, args)


# ------------------------------------------------------------------------------------------------- a run's folder


def read_folder(folder: Path, args: Namespace) -> Run:
    settings, records, detections = find_files(folder, args.seed)
    config = config_of(settings, folder)
    if args.data_path:
        config = replace(config, data_path=args.data_path)
    if args.model_file:
        config = replace(config, model_file=args.model_file)
    with as_user_error():
        found = read_predictions(detections)
    try:
        truth_file = args.ground_truth or config.annotation_file
    except UserError as error:
        raise UserError(f"{folder}: its annotations are not found: {error} Name them with --ground_truth.") from None
    facts = replace(config.facts, tiou_thresholds=config.tiou_thresholds)
    run = assemble(str(folder), facts, truth_file, found, args, (settings, config, records))
    scored = records[-1]["ground_truth"].rpartition(", ")[2] if records else run.score.ground_truth
    if scored != run.score.ground_truth:
        run.missing.append(
            f"The run was scored against a ground truth of hash {scored}; {truth_file} has {run.score.ground_truth}. "
            "Numbers of the log and those of this page differ."
        )
    return run


def find_files(folder: Path, seed: int | None) -> tuple[dict[str, Any], list[dict[str, Any]], Path]:
    """The settings, the log and the detections file of a training run or of an evaluation by main_eval.py."""
    if (folder / "evaluation.json").exists() and (folder / "detections.json").exists():
        content = read_json(folder / "evaluation.json", "the evaluation of a checkpoint", NAME_RUN)
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise UserError(f"{folder}/evaluation.json: has no config. {NAME_RUN}")
        records = [content["record"]] if is_record(content.get("record")) else []
        settings = content["config"] | {"provenance": content.get("provenance")}
        return settings, records, folder / "detections.json"
    files = sorted(folder.glob("detections_best_seed_*.json"), key=lambda path: (len(path.name), path.name))
    seeds = [path.stem.rpartition("_")[2] for path in files]
    if seed is not None:
        files = [path for path, own in zip(files, seeds, strict=True) if own == str(seed)]
    if not files:
        inner = sorted(path.name for path in folder.glob("seed_*") if path.is_dir())
        hint = f" It has the runs of several seeds: name one of {listing(inner)}." if inner else ""
        wanted = f"detections_best_seed_{'*' if seed is None else seed}.json"
        raise UserError(f"{folder}: has no {wanted}, which a run writes at its first evaluation. {NAME_RUN}{hint}")
    if len(files) > 1:
        raise UserError(f"{folder}: has runs of the seeds {listing(seeds)}; choose one with --seed.")
    own = files[0].stem.removeprefix("detections_best_")
    config_file, log = (
        next((path for path in (folder / name, folder / older) if path.exists()), folder / older)
        for name, older in ((f"config_{own}.json", "config.json"), (f"log_{own}.jsonl", "log.jsonl"))
    )
    settings = read_json(config_file, "the settings of a run", NAME_RUN)
    if not isinstance(settings, dict):
        raise UserError(f"{config_file}: holds no settings. {NAME_RUN}")
    return settings, read_log(log), files[0]


def read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with as_user_error():
        lines = read_text(path, "a run log").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: line {number} is not JSON ({error}); expected one record a line. Restore the log."
            ) from None
        if not is_record(records[-1]):
            raise UserError(f"{path}: line {number} is no record of an evaluation; expected {RECORD}. Restore the log.")
    return records


RECORD = '{"iteration": 10, "ground_truth": "...", "mAP": {"0.5": 0.3}, "averages": {"0.1:0.7": 0.3}, ...} with finite numbers'

MOST = 1e300  # no number of a record is larger; an integer may be, and is no float then


def is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("ground_truth"), str):
        return False
    tables = [table for name in ("mAP", "averages", "average_recall") if isinstance(table := record.get(name), dict) and table]
    if len(tables) < 3:
        return False
    numbers: list[Any] = [record.get(name) for name in ("iteration", "average_mAP", "test_acc", "top1", "classification_mAP")]
    numbers += [value for table in tables for value in table.values()]
    return all(type(value) in (int, float) and abs(value) <= MOST for value in numbers)


def config_of(settings: dict[str, Any], where: Path) -> Config:
    """The Config that wrote `settings`."""
    method = str(settings.get("method"))
    if method not in METHODS:
        raise UserError(f"{where}: its config has the method {short(method)}; expected one of {', '.join(METHODS)}. {NAME_RUN}")
    kind: Any = settings_class(method)
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name in (each.name for each in fields(kind)):
        value = settings.get("seed_used", settings.get("seed")) if name == "seed" else settings.get(name)
        if name not in settings or not fits(value, types[name]):
            found = short(value) if name in settings else "missing"
            raise UserError(f"{where}: {name} of its config is {found}; it is of another version of this code. {NAME_RUN}")
        values[name] = tuple(value) if isinstance(value, list) else value
    if not isinstance(settings.get("provenance") or {}, dict):
        raise UserError(f"{where}: provenance of its config is {short(settings['provenance'])}; expected an object. {NAME_RUN}")
    config: Config = kind(**values)
    if config.dataset not in KNOWN and not config.dataset.endswith(".json"):
        expected = f"{', '.join(KNOWN)} or the path of a dataset.json"
        raise UserError(f"{where}: its config has the dataset {short(config.dataset)}; expected {expected}. {NAME_RUN}")
    if config.ties not in TIES or not all(0 < tiou <= 1 for tiou in config.tiou_thresholds):
        found = f"ties {short(config.ties)} and tiou_thresholds {short(config.tiou_thresholds)}"
        raise UserError(f"{where}: its config has {found}; expected {' or '.join(TIES)}, and numbers up to 1. {NAME_RUN}")
    try:
        config.check()
    except UserError as error:
        raise UserError(f"{where}: its config cannot be used: {error}") from None
    return config


def fits(value: Any, kind: Any) -> bool:
    """True if a JSON value may be that of a field of this type."""
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(fits(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):
        return any(fits(value, one) for one in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


# ------------------------------------------------------------------------------------------------- detections alone


def read_detections(path: Path, args: Namespace) -> Run:
    with as_user_error():
        check_file(path, "a run's folder or detections", NAME_RUN)
        found = read_predictions(path, args.score_key)
    facts = dataset_facts(args.dataset)
    truth_file = args.ground_truth or annotation_file(facts, Path(args.data_path or facts.data_path), "auto", None)
    run = assemble(str(path), facts, truth_file, found, args, ({}, None, []))
    run.missing += [
        "These are detections alone: settings, versions, the log and learning curves are not known.",
        "Activations are not known, so no curves are drawn and nothing can be localized anew.",
    ]
    return run


def assemble(
    source: str, facts: Dataset, truth_file: str | Path, found: Table, args: Namespace, known_of: tuple[Any, Any, Any]
) -> Run:
    """Score the detections; `known_of` are settings, config and records."""
    settings, config, records = known_of
    with as_user_error():
        truths = GroundTruths.read(truth_file, args.subset, facts.test)
        score = score_tables(truths.truth, found, facts.tiou_thresholds, *rules_of(config))
        fitted, _ = known(found, truths.truth)
    run = Run(source, facts.name, settings, config, records, truths.truth, fitted, score, durations_in(truth_file))
    run.missing += score.notes
    return run


def durations_in(truth_file: str | Path) -> dict[str, float]:
    """Lengths of videos in seconds, where the annotations state them."""
    path = Path(truth_file)
    if path.is_dir():
        return {}
    database = read_database(path, NAME_RUN)
    return {name: seconds for name, video in database.items() if (seconds := duration_of(video)) is not None}


def videos_of(run: Run) -> list[int]:
    """Numbers of the videos with annotations or detections, in the order of the ground truth."""
    return np.union1d(run.truth.video, run.found.video).tolist()
