"""Where a run's numbers and pictures go besides its own files: TensorBoard, and Weights & Biases or MLflow if asked.

Tags are grouped: `loss/...`, `train/...`, and in percent `mAP/...`, `accuracy/...`, `recall/...`. A logger of one's own is a
class with the methods of `Logger` and a line in LOGGERS.
"""

import importlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from config import Config
from engine.checkpoint import TrainingState
from engine.files import RunFiles
from engine.terminal import warn
from eval.report import averages_from
from utils import UserError, naming

Values = Mapping[str, float]
Settings = Mapping[str, Any]


class Logger(Protocol):
    """One run's log; it is made with the run's files and state when training begins or resumes."""

    def settings(self, settings: Settings) -> None: ...
    def scalars(self, values: Values, iteration: int, official: Values) -> None:
        """`official` has the same values by the official code's tags."""

    def figure(self, name: str, figure: Figure, iteration: int) -> None: ...
    def results(self, settings: Settings, values: Values) -> None: ...
    def close(self) -> None: ...


def step_values(losses: Values, rate: float, seconds: float | None) -> dict[str, float]:
    """The tags of one training step."""
    values = {f"loss/{name.removeprefix('loss_')}": value for name, value in losses.items()} | {"train/learning_rate": rate}
    return values if seconds is None else values | {"train/seconds_per_step": seconds}


def official_evaluation(record: Mapping[str, Any], config: Config) -> dict[str, float]:
    """The official code's tags of an evaluation, as fractions."""
    maps = {f"mAP@{tiou}": value for tiou, value in record["mAP"].items()}
    return {"Test accuracy": record["test_acc"], **maps, "Average mAP": config.record_average(record)}


def evaluation_values(record: Mapping[str, Any], config: Config) -> dict[str, float]:
    """The tags of an evaluation, in percent."""
    values = {f"mAP/{tiou}": value for tiou, value in record["mAP"].items()} | average_values(record, config)
    values |= {"accuracy/video": record["test_acc"], "accuracy/top1": record["top1"]}
    values |= {"accuracy/classification_mAP": record["classification_mAP"]}
    values |= {f"recall/{name.replace('@', '_')}": value for name, value in record["average_recall"].items()}
    return {tag: 100 * value for tag, value in values.items()}


def average_values(record: Mapping[str, Any], config: Config) -> dict[str, float]:
    averages = averages_from(record, config.PAPER_AVERAGE)
    return {f"mAP/average_{name.replace(':', '-')}": value for name, value in averages.items()}


def final_values(best: Mapping[str, Any], last: Mapping[str, Any], config: Config) -> dict[str, float]:
    """Average mAPs and accuracy of the best and the last model, in percent."""
    return {
        f"final_{name}/{tag.rpartition('/')[2]}": value if tag.startswith("accuracy") else 100 * value
        for name, record in (("best", best), ("last", last))
        for tag, value in (average_values(record, config) | {"accuracy/video": 100 * record["test_acc"]}).items()
    }


class TensorBoard:
    """Events in --log_path. The official code's tags stand beside the grouped ones."""

    def __init__(self, files: RunFiles, state: TrainingState):
        self.place = files.config.log_path
        self.writer: Any = SummaryWriter(self.place, purge_step=state.iteration, filename_suffix=files.events_suffix)

    def add(self, values: list[Summary.Value], iteration: int) -> None:
        """One event for many values: it costs as much as one for each of them."""
        with naming(self.place):
            self.writer.file_writer.add_summary(Summary(value=values), iteration)

    def settings(self, settings: Settings) -> None:
        text = json.dumps(settings, indent=1)
        with naming(self.place):
            self.writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def scalars(self, values: Values, iteration: int, official: Values) -> None:
        both = {**official, **values}
        self.add([Summary.Value(tag=tag, simple_value=value) for tag, value in both.items()], iteration)

    def figure(self, name: str, figure: Figure, iteration: int) -> None:
        buffer, (width, height) = io.BytesIO(), figure.canvas.get_width_height()
        figure.savefig(buffer, format="png", dpi=figure.dpi)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
        self.add([Summary.Value(tag=name, image=image)], iteration)

    def results(self, settings: Settings, values: Values) -> None:
        with naming(self.place):
            for summary in hparams(plain_settings(settings), dict(values)):
                self.writer.file_writer.add_summary(summary)
        self.scalars(values, 0, {})

    def close(self) -> None:
        self.writer.close()


def plain_settings(settings: Settings) -> dict[str, bool | int | float | str]:
    """Numbers and short texts, as tables of runs show them."""
    plain = {}
    for name, value in settings.items():
        if not isinstance(value, bool | int | float | str):
            value = json.dumps(value)
        if not isinstance(value, str) or len(value) <= 250:
            plain[name] = value
    return plain


class WeightsAndBiases:
    """A run in the project WANDB_PROJECT, or basnet; a resumed run goes on in the same one."""

    def __init__(self, files: RunFiles, state: TrainingState):
        self.wandb, config = importlib.import_module("wandb"), files.config
        project, name = os.environ.get("WANDB_PROJECT", "basnet"), f"{Path(config.output_path).name}_seed_{config.seed}"
        self.run = self.wandb.init(project=project, name=name, id=state.run, resume="allow", dir=config.log_path)
        self.run.define_metric("*", step_metric="iteration")  # an evaluation can be logged after later steps

    def settings(self, settings: Settings) -> None:
        self.run.config.update(dict(settings), allow_val_change=True)

    def scalars(self, values: Values, iteration: int, official: Values) -> None:
        self.run.log({**values, "iteration": iteration})

    def figure(self, name: str, figure: Figure, iteration: int) -> None:
        self.run.log({name: self.wandb.Image(figure), "iteration": iteration})

    def results(self, settings: Settings, values: Values) -> None:
        self.run.summary.update(dict(values))

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME on the server MLFLOW_TRACKING_URI; a resumed run is another one."""

    def __init__(self, files: RunFiles, state: TrainingState):
        self.mlflow, config = importlib.import_module("mlflow"), files.config
        name = f"{Path(config.output_path).name}_seed_{config.seed}"
        self.mlflow.start_run(run_name=name, tags={"run": state.run})

    def settings(self, settings: Settings) -> None:
        self.mlflow.log_params(plain_settings(settings))
        self.mlflow.log_dict(dict(settings), "config.json")

    def scalars(self, values: Values, iteration: int, official: Values) -> None:
        self.mlflow.log_metrics(dict(values), step=iteration, synchronous=False)

    def figure(self, name: str, figure: Figure, iteration: int) -> None:
        self.mlflow.log_figure(figure, f"{name}/{iteration}.png")

    def results(self, settings: Settings, values: Values) -> None:
        self.mlflow.log_metrics(dict(values))

    def close(self) -> None:
        self.mlflow.end_run()


class Unsure:
    """A logger that ends with a warning where it fails: the numbers are in the run's own files, and the run goes on."""

    def __init__(self, name: str, logger: Logger):
        self.name, self.logger = name, logger

    def _try(self, work: Callable[[Logger], None]) -> None:
        if self.name:
            try:
                work(self.logger)
            except Exception as error:
                warn(f"warning: --logger {self.name} ends here, the run goes on: {_line(error)}")
                self.name = ""

    def settings(self, settings: Settings) -> None:
        self._try(lambda logger: logger.settings(settings))

    def scalars(self, values: Values, iteration: int, official: Values) -> None:
        self._try(lambda logger: logger.scalars(values, iteration, official))

    def figure(self, name: str, figure: Figure, iteration: int) -> None:
        self._try(lambda logger: logger.figure(name, figure, iteration))

    def results(self, settings: Settings, values: Values) -> None:
        self._try(lambda logger: logger.results(settings, values))

    def close(self) -> None:
        self._try(lambda logger: logger.close())


Maker = Callable[[RunFiles, TrainingState], Logger]
LOGGERS: dict[str, Maker] = {"wandb": WeightsAndBiases, "mlflow": MLflow}  # by name of the package and of --logger


def chosen_loggers(tensorboard: str, logger: str) -> list[Maker]:
    """Makers of the loggers that the flags name; the package of --logger is imported, so that a mistake costs no time."""
    makers: list[Maker] = [TensorBoard] if tensorboard == "on" else []
    if logger == "none":
        return makers
    try:
        importlib.import_module(logger)
    except ImportError as error:
        raise UserError(
            f"--logger {logger} needs a package that cannot be imported here ({_line(error)}); expected the package {logger}. "
            f"pip install {logger}, or leave --logger out: TensorBoard needs none."
        ) from None

    def make(files: RunFiles, state: TrainingState) -> Logger:
        try:
            return Unsure(logger, LOGGERS[logger](files, state))
        except Exception as error:
            why = f"--logger {logger}: no run could be begun there: {_line(error)}"
            raise UserError(f"{why}. Correct it, or leave --logger out.") from None

    return [*makers, make]


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
