"""What a method offers, and the methods by name: each is one module with one class, and `build_method` makes it.

A method holds its `config` and `network` and offers
  shown(video, random) -> what of a video its network is shown: drawn by `random` for training, for tests without it;
  loss(batch) -> dict of named scalar terms, `loss_total` among them;
  activations(snippets) -> dict of arrays (B, ...), all that localization needs;
  activation_shapes() -> dict of their shapes for one video, None where any length will do;
  predicted(score_c) -> (C,) bool, the classes that the video is said to contain;
  sequences(snippets) -> dict of arrays (B, T) or (B, T, C), what a picture of a video shows;
  curves(arrays) -> localize.Curves of one video, from its activations with `num_seg` and, where known, `duration` and `frames`,
    and the `warp` of what it was shown.

A method that trains in steps, each taught by what the one before found in all videos, offers besides
  refine(activations, trained_on) -> what the next step is to know, in tensors and plain values, for checkpoints too;
  begin_step(step, known) brings it to a step, `known` what `refine` gave at the end of the one before;
  last_step, up to which its network has been trained.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from config import Config
from fast.snippets import Snippets
from localize import Curves
from thumos_features import Batch, Shown, Video

Arrays = dict[str, NDArray[Any]]


class Method(Protocol):
    @property
    def config(self) -> Config: ...
    @property
    def network(self) -> nn.Module: ...
    def shown(self, video: Video, random: np.random.RandomState | None) -> Shown: ...
    def loss(self, batch: Batch) -> dict[str, Tensor]: ...
    def activations(self, snippets: Snippets) -> Arrays: ...
    def activation_shapes(self) -> dict[str, tuple[int | None, ...]]: ...
    def sequences(self, snippets: Snippets) -> Arrays: ...
    def predicted(self, score_c: NDArray[np.floating]) -> NDArray[np.bool_]: ...
    def curves(self, arrays: Arrays) -> Curves: ...


@runtime_checkable
class Stepwise(Method, Protocol):
    @property
    def last_step(self) -> int: ...
    def refine(self, activations: Mapping[str, Arrays], trained_on: list[Video]) -> dict[str, Any]: ...
    def begin_step(self, step: int, known: Mapping[str, Any]) -> None: ...


METHODS = {
    "basnet": "methods.basnet:BaSNet",
    "um": "methods.um:UM",
    "backtal": "methods.backtal:BackTAL",
    "asm_loc": "methods.asm_loc:ASMLoc",
}


def build_method(config: Config) -> Method:
    """A freshly initialised method; seed torch just before to get the official initial weights."""
    module, name = METHODS[config.method].split(":")
    return getattr(importlib.import_module(module), name)(config)
