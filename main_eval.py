"""Evaluate a checkpoint, saved activations or a detections file: python main_eval.py --model_file FILE.

Functions import what only they need, because detections are scored without torch.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Config, annotation_file
from dataset.facts import dataset_facts
from options import make_config, parse_args, tell_settings
from utils import UserError, atomic_write, run_command, say_now, write_json

if TYPE_CHECKING:
    import pandas
    import torch

    from methods.base import Method
    from test import Activations, Evaluation
    from thumos_features import Video


def main() -> None:
    run_command(lambda: evaluate(parse_args(folders="_eval", settings_of=settings_of_model)), "--debug" in sys.argv)


def settings_of_model(path: str) -> tuple[Path, Mapping[str, Any]]:
    from engine.checkpoint import settings_of

    return settings_of(path)


def evaluate(args: Namespace) -> None:
    if args.seeds:
        raise UserError("--seeds is for main.py, which trains and evaluates seeds; main_eval.py evaluates one checkpoint.")
    if args.result:
        score_file(args)
    else:
        evaluate_network(args)


def score_file(args: Namespace) -> None:
    """Print the scores of a detections file under each protocol."""
    from eval.protocols import PROTOCOLS, GroundTruths, name_of
    from eval.reading import InputError
    from eval.report import per_class, protocols_text, unmatched_text
    from eval.table import read_predictions
    from eval.thumos_kit import read_kit, write_kit

    facts = dataset_facts(args.dataset)
    is_kit = args.result.endswith(".txt")
    if is_kit and args.score_key != "score":
        raise UserError(f"{args.result}: --score_key {args.score_key} is for JSON; the kit's text has no keys. Leave it out.")
    try:
        found = read_kit(args.result) if is_kit else read_predictions(args.result, args.score_key)
        path = annotation_file(facts, Path(args.data_path or facts.data_path), args.layout, args.ground_truth)
        source = GroundTruths.read(path, args.subset, facts.test)
        names = args.protocols.split(",") if args.protocols else [name_of(source.truth)]
        scores = {}
        for name in PROTOCOLS if names == ["all"] else names:
            try:
                scores[name] = source.score(name, found, facts.tiou_thresholds, args.ties, args.unlisted)
            except InputError as error:
                if names != ["all"]:
                    raise
                print(f"not {name}: {error}")
        if not scores:
            raise UserError(
                f"{source.where}: none of the protocols can be built from it; give the ground truth with --ground_truth."
            )
        other = "ignore" if args.unlisted == "count" else "count"
        otherwise = {
            name: source.score(name, found, facts.tiou_thresholds, args.ties, other)
            for name, score in scores.items()
            if score.unmatched.videos
        }
        print(protocols_text(scores), end="")
        print(f"mAP in %, {len(found)} detections of {args.result}, ties {args.ties}")
        print(unmatched_text(scores, otherwise), end="")
        if args.save_kit:
            write_kit(args.save_kit, found)
    except InputError as error:
        raise UserError(str(error)) from None
    if args.per_class:
        write_per_class(Path(args.per_class), per_class(scores, found))


def write_per_class(path: Path, frame: "pandas.DataFrame") -> None:
    """Write the table to `path` as .csv and .md; `path` may already end in one of them."""
    from eval.report import per_class_csv, per_class_text

    name = path.stem if path.suffix in (".csv", ".md") else path.name
    for ending, text in ((".csv", per_class_csv(frame)), (".md", per_class_text(frame))):
        with atomic_write(path.with_name(name + ending)) as stream:
            stream.write(text)


def evaluate_network(args: Namespace) -> None:
    """Evaluate a checkpoint or saved activations, and write the reports."""
    from dataset.make_demo import ensure_demo
    from engine.device import choose_device, choose_precision
    from engine.files import locked, record_of, set_aside
    from engine.provenance import provenance
    from engine.report import brief_report, report
    from eval.report import per_class, per_class_csv, per_class_text
    from test import as_table, write_detections

    ensure_demo(args.dataset, args.data_path)
    config = make_config(args, training=False)
    if config.model_file is None and args.activations is None:
        raise UserError(
            "nothing to evaluate: name a checkpoint with --model_file (run_eval.sh names ./BaSNet_model_best.pkl), saved "
            "activations with --activations, or detections with --result."
        )
    tell_settings(args, lambda line: None if args.quiet else print(line))
    device = choose_device(config.device)
    config = replace(config, precision=choose_precision(config.precision, device))
    with locked(config.output_path):
        if args.save_train_activations:
            save_training(config, device, args.save_train_activations)
        evaluation = evaluate_now(config, device, args.activations, args.save_activations)
        record = record_of(evaluation, 0, {}, config)
        output = Path(config.output_path)
        names = ("report.md", "best_record.txt", "per_class.csv", "per_class.md", "detections.json", "evaluation.json")
        paths = [output / name for name in names]
        name = Path(args.activations or config.model_file or "").name
        about, written = ({name: record}, 1, config, config.seed), "\nWritten:\n" + "".join(f"- {path}\n" for path in paths)
        frame = per_class({evaluation.protocol: evaluation.score}, as_table(evaluation.found, config.classes))
        set_aside(paths)
        contents = (report(*about) + written, config.record_text(record, epoch=0), per_class_csv(frame), per_class_text(frame))
        for path, content in zip(paths, contents, strict=False):
            with atomic_write(path) as stream:
                stream.write(content)
        write_detections(paths[4], evaluation.found, evaluation.classes)
        write_json(paths[5], {"config": config.as_dict(), "record": record, "provenance": provenance(config)}, indent=1)
    print((report(*about) if args.wide else brief_report(*about)) + written, end="")


def save_training(config: Config, device: "torch.device", path: str) -> None:
    """Write the activations of the training videos, sampled as test videos are."""
    from methods.base import build_method
    from test import save_activations
    from thumos_features import load_data

    if config.model_file is None:
        raise UserError("--save_train_activations needs a network; name a checkpoint with --model_file.")
    videos = load_data(config, ["train"]).train
    save_activations(path, activations_of(build_method(config), videos, device, whole=True))


def activations_of(method: "Method", videos: "list[Video]", device: "torch.device", whole: bool) -> "Activations":
    """Load the checkpoint of the method's config, and compute the activations of `videos`."""
    from dataset.store import Files
    from engine.checkpoint import load_network
    from test import compute_activations, take_steps

    store = Files(method.config.num_workers)
    load_network(method.network, method.config.model_file or "", method.config)
    method.network.to(device)
    take_steps(method, videos, store, device)
    return compute_activations(method, videos, store, device, whole=whole)


def evaluate_now(config: Config, device: "torch.device", saved: str | None, save: str | None) -> "Evaluation":
    """The evaluation of `saved` activations or of the config's checkpoint."""
    from dataset.check import durations, first_of_each
    from methods.base import build_method
    from test import detect, read_activations, save_activations, score
    from thumos_features import load_data, load_database, multi_hot, test_truth

    method = build_method(config)
    if saved:
        database = load_database(config)
        activations = read_activations(saved, method, database)
        truth = test_truth(database, config, list(activations))
    else:
        data = load_data(config, ["test"])
        for finding in first_of_each(durations(data.test)):
            say_now(f"warning: {finding}")
        activations = activations_of(method, data.test, device, whole=save is not None)
        database, truth = {video.name: {"annotations": video.annotations} for video in data.test}, data.truth
    if save:
        save_activations(save, activations)
    labels = {name: multi_hot([row["label"] for row in database[name]["annotations"]], config.classes) for name in activations}
    return score(method, activations, detect(method, activations), labels, truth)


if __name__ == "__main__":
    main()
