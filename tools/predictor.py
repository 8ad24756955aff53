"""Localizes actions in videos that nothing is known of but their features (docs/predict.md).

    from tools.predictor import Predictor

    predictor = Predictor("models/BaSNet/BaS_Net_model_seed_0.safetensors")
    for action in predictor(features):
        print(action.start, action.end, action.label, action.score)

Shapes: L snippets, F features of all streams.
"""

import contextlib
import io
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import Config
from dataset.feature_files import MOST_SNIPPETS, FileFacts
from dataset.store import Files
from dataset.video import Floats, Video
from engine.checkpoint import load_network, settings_of
from engine.device import choose_device, choose_precision
from localize import Detections
from methods.base import build_method
from options import make_config_without_data, parse_args
from test import compute_activations, detect, sequences_of, take_steps
from tools.timelines import Action
from utils import UserError


@dataclass(frozen=True)
class Prediction:
    """The actions of one video; iterates over them by their start."""

    video: str
    seconds: float
    found: Detections
    classes: tuple[str, ...]

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions())

    def __len__(self) -> int:
        return len(self.found.scores)

    def actions(self, most: int | None = None, min_score: float = -np.inf) -> list[Action]:
        """The `most` best actions of at least this score (None: all), by their start."""
        order = np.argsort(-self.found.scores, kind="stable")
        order = order[self.found.scores[order] >= min_score][:most]
        labels = [self.classes[number] for number in self.found.classes[order].tolist()]
        rows = zip(self.found.segments[order].tolist(), labels, self.found.scores[order].tolist(), strict=True)
        return sorted(Action(start, end, label, score) for (start, end), label, score in rows)


class Predictor:
    """A model and the settings of its training. `settings` are flags of main_eval.py, such as nms_th=0.5 or device="cpu".

    A model whose settings are not known needs those that differ from the defaults, such as method="um".
    """

    def __init__(self, model_file: Any, **settings: Any):
        self._open(_parsed([f"--model_file={model_file}", *(f"--{name}={value}" for name, value in settings.items())]))

    @classmethod
    def of(cls, args: Namespace) -> "Predictor":
        """The predictor of a parsed command line."""
        predictor = cls.__new__(cls)
        predictor._open(args)
        return predictor

    def _open(self, args: Namespace) -> None:
        config = make_config_without_data(args)
        if config.model_file is None:
            raise UserError("no model: name a checkpoint with --model_file.")
        self.device = choose_device(config.device)
        self.config: Config = replace(config, precision=choose_precision(config.precision, self.device))
        self.method = build_method(self.config)
        load_network(self.method.network, config.model_file, self.config)
        self.method.network.to(self.device).eval()

    def __call__(
        self, features: NDArray[Any] | Sequence[NDArray[Any]], duration: float | None = None, video: str = "video"
    ) -> Prediction:
        """The actions of one video of features (L, F), or of one array (L, W) per stream, RGB first.

        A video lasts as long as its snippets, at the `fps` and `snippet_frames` of the settings, unless its `duration` in
        seconds is given.
        """
        joined = self._checked(features, video)
        [prediction] = self.predict([self.video(video, joined, FileFacts(duration))])
        return prediction

    def _checked(self, features: NDArray[Any] | Sequence[NDArray[Any]], name: str) -> Floats:
        arrays = [np.asarray(array) for array in (features if isinstance(features, list | tuple) else [features])]
        width = self.config.len_feature
        shapes = " and ".join(str(array.shape) for array in arrays)
        fits = all(array.ndim == 2 and array.dtype.kind in "fiu" and len(array) == len(arrays[0]) for array in arrays)
        if not fits or sum(array.shape[1] for array in arrays) != width or not 0 < len(arrays[0]) <= MOST_SNIPPETS:
            streams = " and ".join(self.config.streams)
            raise UserError(
                f"{name}: features of shape {shapes}; expected real numbers (L, {width}), or one array of {streams}."
            )
        with np.errstate(over="ignore"):
            joined = np.concatenate(arrays, axis=1).astype(np.float32)
        if not np.isfinite(joined).all():
            raise UserError(f"{name}: the features are not all finite. Extract them again.")
        return joined

    def video(self, name: str, features: Floats, stated: FileFacts) -> Video:
        """The record of a video that no annotation names."""
        if stated.duration is not None and not 0 < stated.duration < 1e6:
            raise UserError(f"{name}: a duration of {stated.duration}; expected a positive number of seconds.")
        return Video(
            name=name,
            num_seg=len(features),
            label_c=np.zeros(self.config.num_classes, dtype=np.float32),
            annotations=[],
            fps=self.config.fps,
            snippet_frames=self.config.snippet_frames,
            duration=stated.duration,
            timed=stated.duration is not None,
            width=features.shape[1] // len(self.config.streams),
            files=(),
            read=lambda: features,
            frames=stated.frames,
        )

    def predict(self, videos: list[Video]) -> list[Prediction]:
        """The actions of several videos."""
        store = Files(1)
        take_steps(self.method, videos, store, self.device)
        found = detect(self.method, compute_activations(self.method, videos, store, self.device), threads=1)
        return [Prediction(video.name, video.seconds, found[video.name], self.config.classes) for video in videos]

    def sequences(self, video: Video) -> tuple[Mapping[str, NDArray[Any]], NDArray[np.floating] | None]:
        """What the network sees over time in a video of the last `predict`, by name, and the `warp` of its time axis."""
        return sequences_of(self.method, video, Files(1), self.device)


def _parsed(flags: list[str]) -> Namespace:
    """Parse flags as on a command line; what is wrong with them is a UserError."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_args(flags, settings_of=settings_of)
    except SystemExit:
        raise UserError(said.getvalue().rpartition("error: ")[2].strip()) from None
