"""The files of a run: their names, when each is written, and how files of an earlier run are preserved."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from config import Config
from engine.checkpoint import Best, TrainingState, save_file
from engine.locks import lock
from engine.model_file import SUFFIX, read_settings, write_model
from engine.provenance import provenance, with_earlier
from engine.report import brief_report, explosion, report
from engine.terminal import say
from eval.eval_detection import DetectionScore
from eval.report import averages_from
from eval.table import size
from methods.base import METHODS, folder_name
from test import Evaluation, write_detections
from utils import UserError, append_line, atomic_write, command_to_go_on, remove_halves, write_json

UNIT = "fraction"  # of all scores in JSON; what a person reads is in percent
MODEL_NAMES = {"basnet": "BaS_Net_model", "um": "model"}  # as in the official code


def record_of(evaluation: Evaluation, iteration: int, losses: dict[str, float], config: Config) -> dict[str, Any]:
    """One line of log.jsonl; the recorder adds the step of a method that has several, and whether it is the best so far."""
    scores = _scores(evaluation.score)
    return {
        "iteration": iteration,
        **losses,
        "unit": UNIT,
        "test_acc": evaluation.test_acc,
        "classification_mAP": evaluation.classification_mAP,
        "top1": evaluation.top1,
        **scores,
        "average_mAP": evaluation.average_mAP,
        "choice": config.choice_of(scores["mAP"]),
        "average_recall": evaluation.average_recall,
        "num_detections": evaluation.num_detections,
        "lost": evaluation.lost,
        "unknown_labels": evaluation.score.unmatched.labels,
        "protocol": evaluation.protocol,
        "with_features": evaluation.score_of_found and _scores(evaluation.score_of_found),
    }


def _scores(score: DetectionScore) -> dict[str, Any]:
    return {
        "ground_truth": "{} videos, {} instances, {}".format(*size(score.truth), score.ground_truth),
        "mAP": {f"{tiou:g}": value for tiou, value in zip(score.tiou, score.mAP.tolist(), strict=True)},
        "averages": score.averages,
    }


class RunFiles:
    """Files that the official code has too have its names."""

    def __init__(self, config: Config, quiet: bool, wide: bool = False):
        self.config, self.quiet, self.wide = config, quiet, wide
        self.settings: dict[str, Any] = {}  # in config_file
        models, output = Path(config.model_path), Path(config.output_path)
        seed = f"seed_{config.seed}"
        name = MODEL_NAMES.get(config.method, f"{folder_name(METHODS[config.method])}_model")
        self.checkpoint = models / f"{name}_{seed}_last.ckpt"  # moved first: without it, no run resumes with the others
        self.best_model = models / f"{name}_{seed}.pkl"
        self.best_with_settings = self.best_model.with_suffix(SUFFIX)
        self.config_file = output / f"config_{seed}.json"
        self.log = output / f"log_{seed}.jsonl"
        self.best_record = output / f"best_record_{seed}.txt"
        self.best_detections = output / f"detections_best_{seed}.json"
        self.last_detections = output / f"detections_last_{seed}.json"
        self.report = output / f"report_{seed}.md"
        self.events_suffix = f".{seed}"

    def _all(self) -> list[Path]:
        return [value for value in vars(self).values() if isinstance(value, Path)]

    def _best(self) -> list[tuple[Path, Path]]:
        """The files of the best evaluation, each with the name of its copy by `remember_before_the_end`."""
        paths = (self.best_model, self.best_with_settings, self.best_record, self.best_detections)
        return [(path, path.with_name(f".{path.name}.before_end")) for path in paths]

    def _copies(self) -> list[tuple[Path, Path]]:
        """Files of a seed with their copy, whose name is the same for all seeds: it is of the run that started last."""
        return [(path, path.with_name(name)) for path, name in ((self.config_file, "config.json"), (self.log, "log.jsonl"))]

    def start(self, state: TrainingState, resumed: bool) -> None:
        """Move files of an earlier run aside, and write the config and the log up to the checkpoint."""
        (config_file, config_copy), (log, log_copy) = self._copies()
        for path in [*self._all(), config_copy, log_copy]:
            remove_halves(path)
        before = read_settings(config_file if config_file.exists() else config_copy)  # before there were names with seeds
        moved = set_aside(self._in_the_way(resumed, resumed and before.get("run") in (None, state.run)))
        if moved:
            self.say(f"files of an earlier run were moved to {', '.join(map(str, moved))}")
        settings = self.config.as_dict() | {"run": state.run, "seed_used": state.seed, "data": state.data}
        settings |= with_earlier(provenance(self.config), before if before.get("run") == state.run else {})
        self.settings = settings
        for path in (config_file, config_copy):
            write_json(path, settings, indent=1)
        for path in (log, log_copy):
            with atomic_write(path) as stream:
                stream.writelines(json.dumps(record) + "\n" for record in state.records)

    def _in_the_way(self, resumed: bool, same_run: bool) -> list[Path]:
        """Files of other runs with this run's names, and events that TensorBoard would show as this run's."""
        events = Path(self.config.log_path).glob("events.out.tfevents.*")
        if same_run:
            return [path for path in events if path.suffix.startswith(".seed_") and path.suffix != self.events_suffix]
        paths = [*self._all(), *(kept for _, kept in self._best())]
        if resumed:  # keeps its checkpoint and best model
            paths = [path for path in paths if path.parent != self.checkpoint.parent]
        elif not self.checkpoint.exists() and not (self.log.exists() and self.log.stat().st_size):
            paths = [path for path in paths if path not in (self.config_file, self.log)]  # of a run that stopped at once
        return [*paths, *(copy for _, copy in self._copies() if not _is_kept(copy, paths)), *events]

    def remember_before_the_end(self) -> None:
        """Copy the best files, before an evaluation that takes place only because the run ends."""
        for path, kept in self._best():
            if path.exists() and not kept.exists():
                with atomic_write(kept, "wb") as stream:
                    stream.write(path.read_bytes())

    def forget_the_end(self) -> None:
        """Restore these copies: a run made longer has no evaluation at its former end."""
        for path, kept in self._best():
            if kept.exists():
                os.replace(kept, path)

    def write_best(self, best: Best, epoch: int) -> None:
        save_file(self.best_model, best.weights)
        write_model(self.best_with_settings, best.weights, best.record, self.settings)
        write_detections(self.best_detections, best.found, self.config.classes)
        with atomic_write(self.best_record) as stream:
            stream.write(self.config.record_text(best.record, epoch))

    def write_evaluation(self, record: dict[str, Any], best: bool) -> None:
        for path in (self.log, self._copies()[1][1]):
            append_line(path, json.dumps(record))
        tious, average = next(iter(averages_from(record, self.config.PAPER_AVERAGE).items()))
        self.say(
            f"iteration {record['iteration']}/{self.config.num_iters}  loss {record['loss_total']:.4f}  "
            f"video accuracy {100 * record['test_acc']:.1f}  mAP {tious} {100 * average:.2f}" + ("  best" if best else "")
        )

    def write_last(self, evaluation: Evaluation, state: TrainingState) -> None:
        """Write the last detections and the report, and print the report."""
        write_detections(self.last_detections, evaluation.found, evaluation.classes)
        assert state.best_model is not None
        records, warning = {"best": state.best_model.record, "last": state.records[-1]}, explosion(state.records, self.config)
        about = records, len(state.records), self.config, state.seed
        paths = [*self._all(), *(copy for _, copy in self._copies())]
        written = [path for path in paths if path.exists() and path != self.report]
        rest = warning + "\nWritten:\n"
        rest += "".join(f"- {path}\n" for path in [*written, self.report, Path(self.config.log_path)])
        with atomic_write(self.report) as stream:
            stream.write(report(*about) + rest)
        say("\n" + (report(*about) if self.wide else brief_report(*about)) + rest.rstrip("\n"))

    def say(self, text: str) -> None:
        if not self.quiet:
            say(text)

    def how_to_resume(self, what: str) -> str:
        where = f"saved in {self.checkpoint}" if self.checkpoint.exists() else "nothing is saved yet"
        return f"{what}; {where}. To continue: {command_to_go_on()}"


def _is_kept(copy: Path, moved: list[Path]) -> bool:
    """True if a seed's file that is not moved begins with `copy`, which can be shorter if its run was killed."""
    if not copy.exists():
        return True
    seeds = (path for path in copy.parent.glob(f"{copy.stem}_seed_*{copy.suffix}") if path not in moved)
    content = copy.read_bytes()
    return any(path.read_bytes().startswith(content) for path in seeds)


def set_aside(paths: Iterable[Path]) -> list[Path]:
    """Move files that a new run would overwrite to earlier_runs/N in their folder; returns the folders used."""
    present = [path for path in paths if path.exists()]
    folders = {path.parent / "earlier_runs" for path in present}
    number = 1
    while any((folder / str(number)).exists() for folder in folders):
        number += 1
    for path in present:
        target = path.parent / "earlier_runs" / str(number) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
    return sorted(folder / str(number) for folder in folders)


@contextlib.contextmanager
def locked(*folders: str) -> Iterator[None]:
    """Lock `folders` against a second run; the lock ends with the process."""
    with contextlib.ExitStack() as stack:
        for folder in sorted({Path(folder).resolve() for folder in folders}):
            stack.enter_context(lock(folder / ".lock", partial(_refuse, folder)))
        yield


def _refuse(folder: Path, holder: str) -> NoReturn:
    raise UserError(
        f"{folder}: another run is writing to it: {holder}. Expected a folder of its own for each run: wait for that one, or "
        "choose others (--model_path, --output_path, --log_path)."
    )
