"""The files of a run: which there are, when each is written, and that none of an earlier run is lost."""

import contextlib
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from checkpoint import TrainingState, save_file
from config import Config
from eval.report import best_record_text, report
from test import Evaluation
from utils import UserError, append_line, atomic_write, remove_halves, write_json


def record_of(evaluation: Evaluation, config: Config, iteration: int, losses: dict[str, float]) -> dict[str, Any]:
    """One line of log.jsonl."""
    thresholds = [f"{tiou:.2g}" for tiou in config.tiou_thresholds]
    return {
        "iteration": iteration,
        **losses,
        "test_acc": evaluation.test_acc,
        "classification_mAP": evaluation.classification_mAP,
        "mAP": dict(zip(thresholds, evaluation.mAP, strict=True)),
        "averages": evaluation.averages,
        "average_mAP": evaluation.average_mAP,
        "num_detections": evaluation.num_detections,
    }


class RunFiles:
    """Names follow the official code where it has the file."""

    def __init__(self, config: Config, quiet: bool):
        self.config, self.quiet = config, quiet
        models, output = Path(config.model_path), Path(config.output_path)
        seed = f"seed_{config.seed}"
        self.best_model = models / f"BaS_Net_model_{seed}.pkl"
        self.checkpoint = models / f"BaS_Net_model_{seed}_last.ckpt"
        self.config_file = output / "config.json"
        self.log = output / "log.jsonl"
        self.best_record = output / f"best_record_{seed}.txt"
        self.best_detections = output / f"detections_best_{seed}.json"
        self.last_detections = output / f"detections_last_{seed}.json"
        self.report = output / f"report_{seed}.md"

    def _all(self) -> list[Path]:
        return [value for value in vars(self).values() if isinstance(value, Path)]

    def start(self, state: TrainingState | None) -> None:
        """Make room for a new run (`state` None), or put back what a resumed one had written at its checkpoint."""
        for path in self._all():
            remove_halves(path)
        mine = state is not None and _seed_in(self.config_file) in (None, self.config.seed)
        in_the_way = [self.config_file, self.log] if state is not None else self._all()
        if not self.log.exists() or not self.log.stat().st_size:  # no run has got as far as an evaluation here
            in_the_way = [path for path in in_the_way if path not in (self.config_file, self.log)]
        if not mine:
            events = Path(self.config.log_path).glob("events.out.tfevents.*")
            moved = set_aside([*in_the_way, *([] if state else events)])
            if moved:
                self.say(f"files of an earlier run were moved to {', '.join(map(str, moved))}")
        write_json(self.config_file, self.config.as_dict(), indent=1)
        with atomic_write(self.log) as stream:
            stream.writelines(json.dumps(record) + "\n" for record in (state.records if state else []))

    def write_evaluation(self, evaluation: Evaluation, record: dict[str, Any], best: bool, state: TrainingState) -> None:
        if best:
            save_file(self.best_model, state.network.state_dict())
            write_json(self.best_detections, evaluation.detections)
            with atomic_write(self.best_record) as stream:
                stream.write(best_record_text(record))
        append_line(self.log, json.dumps(record))
        self.say(
            f"iteration {state.iteration}/{self.config.num_iters}  loss {state.losses['loss_total']:.4f}  "
            f"video accuracy {100 * record['test_acc']:.1f}  average mAP {100 * record['average_mAP']:.2f}"
            + ("  (best so far)" if best else "")
        )

    def write_last(self, evaluation: Evaluation, state: TrainingState) -> None:
        """What a finished run leaves, and the report on the screen."""
        write_json(self.last_detections, evaluation.detections)
        text = report({"best": state.best, "last": state.records[-1]}, len(state.records), self.config)
        written = [path for path in self._all() if path != self.report]
        text += "\nWritten:\n" + "".join(f"- {path}\n" for path in [*written, self.report, Path(self.config.log_path)])
        with atomic_write(self.report) as stream:
            stream.write(text)
        print("\n" + text, end="")

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    def say_how_to_resume(self, iteration: int) -> None:
        words = [word for word in sys.argv if word != "--resume"] + ["--resume"]
        print(
            f"stopped after iteration {iteration}, saved in {self.checkpoint}. To go on: python {shlex.join(words)}",
            file=sys.stderr,
        )


def _seed_in(config_file: Path) -> int | None:
    try:
        return json.loads(config_file.read_text(encoding="utf-8"))["seed"]
    except (OSError, ValueError, KeyError):
        return None


def set_aside(paths: Iterable[Path]) -> list[Path]:
    """Move files that a new run would overwrite to earlier_runs/N beside them; returns the folders used."""
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
def locked(folder: str | Path) -> Iterator[None]:
    """Hold `folder` so that two runs cannot write into it at once; the end of the process frees it in any case."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"{folder}: another run is writing there. Wait for it, or choose another --output_path.") from None
    except OSError:
        pass  # a file system without locks: nothing is overwritten, but nobody is warned either
    try:
        yield
    finally:
        os.close(handle)
