"""Imports between files: no circle, one direction between folders, and none from eval/ to the project."""

import ast
from collections.abc import Iterator

from conftest import ROOT

FOLDERS = ["dataset", "engine", "eval", "fast", "methods", "tools"]
ON_TOP = {"main", "main_eval", "options", "config", "model", "train", "test", "thumos_features", "utils", "localize"}
# What each may import besides its own folder. Commands, and what flags are made of, stand apart from their folders.
COMMANDS = {"dataset.check", "dataset.prepare", "dataset.present"}
SEEDS = {"engine.seeds", "engine.summary"}
REGISTRY = {"methods.base", "methods.recipes"}
APART = {"engine.flags": "flags", "engine.ending": "ending", "engine.locks": "locks"}  # below their folder
ARROWS = {
    "tools": {*ON_TOP, *FOLDERS, "registry", "flags", "seeds"} - {"tools"},
    "commands": {"options", "flags", "thumos_features", "config", "dataset", "eval", "utils"},
    "seeds": {"options", "config", "registry", "engine", "dataset", "eval", "utils"},
    "main": {
        "options",
        "config",
        "train",
        "test",
        "thumos_features",
        "engine",
        "seeds",
        "registry",
        "dataset",
        "commands",
        "fast",
        "utils",
    },
    "main_eval": {
        "options",
        "config",
        "test",
        "thumos_features",
        "engine",
        "registry",
        "dataset",
        "commands",
        "eval",
        "utils",
    },
    "train": {"config", "methods", "registry", "engine", "test", "thumos_features", "fast", "utils"},
    "options": {"config", "registry", "flags", "dataset", "eval", "utils"},
    "methods": {"config", "engine", "flags", "thumos_features", "localize", "model", "dataset", "fast", "eval", "utils"},
    "engine": {"config", "test", "registry", "thumos_features", "localize", "dataset", "fast", "locks", "eval", "utils"},
    "test": {"config", "registry", "thumos_features", "localize", "dataset", "eval", "utils"},
    "registry": {"config", "flags", "thumos_features", "localize", "dataset", "fast", "utils"},
    "flags": {"config", "eval"},
    "thumos_features": {"config", "dataset", "fast", "eval", "utils"},
    "config": {"dataset", "eval", "utils"},
    "dataset": {"config", "fast", "locks", "eval", "utils"},
    "localize": {"eval", "utils"},
    "model": {"fast"},
    "fast": {"eval", "utils"},
    "locks": set(),
    "ending": set(),
    "utils": {"eval"},
    "eval": set(),
}


def modules() -> dict[str, ast.Module]:
    files = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    return {name: ast.parse(path.read_text()) for name, path in names.items()}


def imported(tree: ast.Module) -> Iterator[str]:
    """Names that a file imports, in functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: {other for other in imported(tree) if other in known} - {name} for name, tree in known.items()}


def place(module: str) -> str:
    if module in APART:
        return APART[module]
    places = {"commands": COMMANDS, "seeds": SEEDS, "registry": REGISTRY}
    for name, members in places.items():
        if module in members:
            return name
    return module if module in ARROWS else module.partition(".")[0]


def test_no_circle():
    left = arrows()
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"these import one another: {sorted(left)}"


def test_no_arrow_runs_back():
    for name, others in arrows().items():
        for other in others - {"engine.ending"}:  # every command begins with it
            own, there = place(name), place(other)
            assert own == there or there in ARROWS[own], f"{name} imports {other}"


def test_what_lies_on_top():
    assert {path.stem for path in ROOT.glob("*.py")} == ON_TOP
