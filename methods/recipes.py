"""Default values of flags, from options.py, a method's file and its recipes.

In order of precedence: a flag on the command line; in an evaluation, the settings of the model's training; an edited default
in options.py; the method's recipe for the data set; its recipe for all data sets; the shipped options.py and the defaults in
the method's file. Imports only the standard library and, if needed, the method's file.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from config import ANY, Recipe, Settings, full_name, published
from dataset.facts import KNOWN
from engine.flags import own_flags
from methods.base import settings_class

# Defaults of the shipped options.py for the flags that a recipe may set; a default that differs was edited.
PUBLISHED_DEFAULTS: Settings = {
    "class_th": 0.25,
    "lr": "[0.0001]*1500",
    "batch_size": 16,
    "weight_decay": 5e-4,
    "dropout": 0.7,
    "num_segments": 750,
    "hidden": 2048,
    "scale": 24,
    "cas_th": "0:0.25:0.025",
    "outer": 0.25,
    "class_weight": 0.2,
    "nms_th": 0.7,
}
BASNET_DEFAULTS: Settings = {"alpha": 1e-4, "topk": 0.125, "whole_video": None, "ablation": "full", "bce_reduction": "mean"}
OTHER_DEFAULTS: Settings = {
    "seed": -1,
    "num_iters": None,
    "eval_every": "epoch",
    "choose_by": "all",
    "timing": None,
    "compat": "official",
    "fix": "",
}


class Trained(NamedTuple):
    """The settings of a model's training, the file that has them, and those that an evaluation took as defaults."""

    source: Path
    settings: Mapping[str, Any]
    taken: Mapping[str, Any] = MappingProxyType({})


# Settings of a training that say nothing about its model: folders, and how the machine computed.
OF_THE_MACHINE = {"model_path", "output_path", "log_path", "model_file", "device", "num_workers", "precision", "compile"}
OF_THE_MACHINE |= {"cache", "cache_budget", "cache_path", "cache_dtype", "eval_workers"}
OF_ONE_START = ("run", "provenance", "earlier_provenance")  # in a config file, but of one start and no settings
OF_THE_FOLDER = {"data_path", "layout", "ground_truth", "missing"}
OF_THE_FEATURES = {"timing", "fps", "snippet_frames"}


def of_training(trained: Trained, dataset: str | None, data_path: str | None) -> Settings:
    """The settings of a model's training that its evaluation takes; `dataset` and `data_path` are those that it is given."""
    own, root = {"method"} | OF_THE_MACHINE, trained.settings.get("data_path")
    if dataset is not None and full_name(dataset) != trained.settings.get("dataset"):
        own |= {"dataset"} | OF_THE_FOLDER | OF_THE_FEATURES
    elif data_path is not None or not (isinstance(root, str) and Path(root).exists()):
        own |= OF_THE_FOLDER
    return {name: value for name, value in trained.settings.items() if name not in own}


def shipped(method: str) -> Settings:
    """Defaults of the shipped options.py for the flags that a recipe may set."""
    return PUBLISHED_DEFAULTS | OTHER_DEFAULTS | (BASNET_DEFAULTS if method == "basnet" else {})


def recipe(method: str, dataset: str) -> Settings:
    """The flags of `method` whose value on `dataset` differs from the default of the flag."""
    if (method, dataset) == ("basnet", "thumos14"):  # options.py itself; needs no import
        return {}
    kind = settings_class(method)
    compat = {} if is_published(method, dataset) else {"compat": "fixed"}  # without a published number, repair quirks
    settings = _recipe(method, ANY).settings | compat | _recipe(method, dataset).settings
    usual = shipped(method) | {name: field.default for name, field in own_flags(kind).items()}
    return {flag: value for flag, value in settings.items() if value != usual[flag]}


def _recipe(method: str, dataset: str) -> Recipe:
    return settings_class(method).RECIPES.get(dataset, published())


def is_published(method: str, dataset: str) -> bool:
    """True if `method` has a published recipe for `dataset`, and thus an official number to reproduce."""
    recipes = settings_class(method).RECIPES
    return dataset in recipes and recipes[dataset].origin == "published"


def recipe_name(method: str, dataset: str) -> str:
    """The name of a recipe: `demo`, `um`, `um on demo`."""
    place = dataset if dataset in KNOWN else "your own data"
    names = [method] * (method != "basnet") + [place] * (dataset != "thumos14")
    return " on ".join(names)


def origin(flag: str, method: str, dataset: str) -> str | None:
    """Origin of a default for --help; None for a flag that neither a paper nor a recipe sets."""
    if (method, dataset) == ("basnet", "thumos14"):
        return "published" if flag in PUBLISHED_DEFAULTS | BASNET_DEFAULTS else None
    own = _recipe(method, dataset)
    if flag in own.settings and own.origin != "published":
        return f"recipe of {dataset}" if own.origin == "ours" else "derived, unpublished"
    if flag == "compat" and not is_published(method, dataset):
        return "no official number to reproduce"
    of_method = {name for name, field in own_flags(settings_class(method)).items() if not field.metadata["ours"]}
    of_method |= BASNET_DEFAULTS.keys() if method == "basnet" else set()
    if flag not in PUBLISHED_DEFAULTS.keys() | of_method | _recipe(method, ANY).settings.keys():
        return None
    return "published" if dataset == "thumos14" or is_published(method, dataset) else "published for thumos14"
