"""What a method offers, and the registry of methods: each is one file and one line here (docs/new-method.md).

A method holds its `config` and `network` and offers
  sample(video, random) -> the T snippets of a video that make the input: drawn by `random` in training, without it in tests;
  loss(batch) -> dict of named scalar terms, `loss_total` among them;
  activations(snippets) -> dict of arrays (B, ...), all that localization needs;
  activation_shapes() -> dict of their shapes for one video, None where any length will do;
  predicted(score_c) -> (C,) bool, the classes that the video is predicted to contain;
  sequences(snippets) -> dict of arrays (B, T) or (B, T, C), the curves in a picture of a video;
  curves(arrays) -> localize.Curves of one video, from its activations with `num_seg` and, where known, `duration` and `frames`,
    and the `warp` of its time axis;
  narrow (optional) -> True if `curves` takes of the array `cas` (T, C) the columns of predicted classes alone (of the best one
    if none is predicted), by localize.columns_of: an evaluation then keeps no others.
`settings` is its subclass of Config, with its flags, recipes and quirks.

A method that trains in steps, each taught by what the one before found in all videos, offers besides
  step_of(iteration) -> the step in which an iteration is trained;
  refine(activations, trained_on) -> what the next step needs, in tensors and plain values, for checkpoints too;
  begin_step(step, known) -> None, begins a step with what `refine` returned at the end of the one before;
  last_step -> the step of the weights that its network has.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from config import Config
from utils import UserError

if TYPE_CHECKING:  # flags are read without torch
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fast.snippets import Snippets
    from localize import Arrays, Curves
    from thumos_features import Batch, Sample, Video


class Method(Protocol):
    @property
    def settings(self) -> type[Config]: ...
    @property
    def config(self) -> Config: ...
    @property
    def network(self) -> nn.Module: ...
    def sample(self, video: Video, random: np.random.RandomState | None) -> Sample: ...
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
    def step_of(self, iteration: int) -> int: ...
    def refine(self, activations: Mapping[str, Arrays], trained_on: list[Video]) -> dict[str, Any]: ...
    def begin_step(self, step: int, known: Mapping[str, Any]) -> None: ...


class Registry(dict[str, str]):
    """Where the class of each method is, as module:class, by the name for --method."""

    def __setitem__(self, name: str, place: str) -> None:
        taken = [known for known, other in self.items() if known == name or folder_name(other) == folder_name(place)]
        if taken:
            raise ValueError(
                f"methods/base.py: {name} = {place}: --method {taken[0]} has this name or this class; choose others"
            )
        super().__setitem__(name, place)


def folder_name(place: str) -> str:
    """What the folders of a method's runs are called: as its class."""
    return place.partition(":")[2]


METHODS = Registry()
METHODS["basnet"] = "methods.basnet:BaSNet"
METHODS["um"] = "methods.um:UM"
METHODS["backtal"] = "methods.backtal:BackTAL"
METHODS["asm_loc"] = "methods.asm_loc.method:ASM_Loc"


def method_class(name: str) -> type[Method]:
    module, _, class_name = METHODS[name].partition(":")
    method: Any = getattr(importlib.import_module(module), class_name, None)
    settings = getattr(method, "settings", None)
    own = ".".join(module.split(".")[:2])  # the file or package of the method
    if not (isinstance(settings, type) and issubclass(settings, Config) and settings.__module__.startswith(own)):
        raise UserError(
            f"methods/base.py: --method {name} is {METHODS[name]}, which has no settings of its own; expected a class with "
            f"`settings =` a subclass of Config that {own} defines."
        )
    return method


def settings_class(name: str) -> type[Config]:
    settings: Any = method_class(name).settings
    return settings


def build_method(config: Config) -> Method:
    """A freshly initialised method; seed torch just before to get the official initial weights."""
    method: Any = method_class(config.method)
    return method(config)
