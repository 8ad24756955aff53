"""The interface of a method, and the registry: a method is one file and one line here (docs/new-method.md).

A method has a `config`, a `network` and
  sample(video, random) -> the T snippets of a video for the network; `random` draws them in training and is None in tests;
  loss(batch) -> dict of named scalar terms, with their weighted sum as `loss_total`;
  activations(snippets) -> dict of the arrays (B, ...) that localization needs;
  activation_shapes() -> dict of their shapes for one video, with None for a dimension of any size;
  predicted(score_c) -> (C,) bool, True for the classes predicted in the video;
  sequences(snippets) -> dict of arrays (B, T) or (B, T, C) that tools.plot draws;
  curves(arrays) -> localize.Curves of one video, from its activations, `num_seg` and, if known, `duration`, `frames` and the
    `warp` of its time axis;
  narrow (optional) -> True if `curves` reads the array `cas` (T, C) with localize.columns_of, which needs the columns of
    predicted classes alone: an evaluation then keeps no others.
`settings` is the subclass of Config with the method's flags, recipes and quirks.

A method whose training has steps, each of which learns from the previous step's activations of all videos, also has
  step_of(iteration) -> the step that trains in this iteration;
  refine(activations, trained_on) -> input of the next step, in tensors and plain values, so that checkpoints can hold it;
  begin_step(step, known) -> None, begins a step with the value that `refine` returned after the previous step;
  last_step -> the step of the network's weights;
  known_rule(videos) -> optional: the rule (engine/schema.py) for the value of `refine` in a checkpoint, for these videos.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from config import Config
from utils import UserError

if TYPE_CHECKING:  # reading flags needs no torch
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
    """`module:class` of each method, by its name for --method."""

    def __setitem__(self, name: str, place: str) -> None:
        taken = [known for known, other in self.items() if known == name or folder_name(other) == folder_name(place)]
        if taken:
            raise ValueError(
                f"methods/base.py: {name} = {place}: --method {taken[0]} has this name or this class; choose another"
            )
        super().__setitem__(name, place)


def folder_name(place: str) -> str:
    """Name of the folders of a method's runs: its class name."""
    return place.partition(":")[2]


METHODS = Registry()
METHODS["basnet"] = "methods.basnet:BaSNet"
METHODS["um"] = "methods.um:UM"
METHODS["backtal"] = "methods.backtal:BackTAL"
METHODS["asm_loc"] = "methods.asm_loc.method:ASM_Loc"
METHODS["cola"] = "methods.cola:CoLA"


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
    """A newly initialized method; seed torch just before this call to get the official initial weights."""
    method: Any = method_class(config.method)
    return method(config)
