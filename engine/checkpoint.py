"""What is kept of a training run: the official plain state dict of the best model, and all that a resume needs."""

import io
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from config import Config
from dataset.draws import Draws
from dataset.store import Checksums
from localize import Detections
from test import Found
from utils import UserError, atomic_write, listing, say_now

# A resumed run may differ in where things are and how far it goes, and in nothing that its numbers depend on.
MAY_DIFFER = {"data_path", "model_path", "output_path", "log_path", "model_file", "device", "num_workers"}
MAY_DIFFER |= {"layout", "ground_truth", "missing", "cache", "cache_budget", "cache_path", "described", "derived, unpublished"}
MAY_DIFFER |= {"precision", "compile", "eval_workers"}  # numbers change by rounding; device, compile: and dropout's draws
MAY_DIFFER |= {"num_iters", "lr", "compat", "fix"}  # looked at more closely: rates so far, quirks repaired

FORMAT = 5  # of the checkpoints that resume: changes with what is in them
OTHER_NAMES = {"cas_module.classifier.weight": "cas_module.classifier.0.weight"}  # of leftthomas/UM: ours


@dataclass(frozen=True)
class Best:
    """The best model so far, and what it found."""

    record: dict[str, Any]
    weights: dict[str, Tensor]
    found: Found


@dataclass
class TrainingState:
    """Everything that changes while a run trains."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of losses, for fp16, which has no small gradients
    seed: int  # the one in use: --seed, or what was drawn for -1
    data: str  # fingerprint of the videos
    draws: Draws
    run: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells this run's files from another's
    iteration: int = 0
    losses: dict[str, float] = field(default_factory=dict)  # of the last iteration
    records: list[dict[str, Any]] = field(default_factory=list)  # one per evaluation
    step: int = 0  # of a method that trains in several
    contents: Checksums = field(default_factory=dict)  # of the features used so far; the store completes it
    known: dict[str, Any] = field(default_factory=dict)  # what the step before found (methods.Stepwise)
    best_model: Best | None = None

    KEPT = ("seed", "data", "run", "iteration", "losses", "records", "step", "known", "contents")

    def is_best(self, record: dict[str, Any], config: Config) -> bool:
        """True if the selection mAP beats the best so far, or the best of its step where each step has its own best."""
        if self.best_model is None:
            return True
        best = self.best_model.record
        new_step = record.get("step", 0) > best.get("step", 0)
        return record["choice"] > best["choice"] or (config.best_of_each_step and new_step)

    def save(self, path: Path, config: Config) -> None:
        best = self.best_model
        if not all(torch.isfinite(weight).all() for weight in self.network.parameters()):
            raise UserError(
                f"the weights have diverged after iteration {self.iteration}; {path} is left as it was. Lower --lr."
            )
        content = {name: getattr(self, name) for name in self.KEPT} | {
            "format": FORMAT,
            "config": config.as_dict(),
            "learning_rates": config.learning_rates,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "draws": self.draws.state(),
            "best_model": best and {"record": best.record, "weights": best.weights, "found": as_tensors(best.found)},
        }
        save_file(path, content)

    def restore(self, path: Path, content: Mapping[str, Any], config: Config) -> None:
        """Continue from a checkpoint of the same run."""
        if "optimizer" not in content:
            raise UserError(f"{path}: holds weights only; --resume needs the checkpoint ending in _last.ckpt.")
        if content.get("format") != FORMAT:
            raise UserError(
                f"{path}: was written by an earlier version. Start anew, or from its weights with --model_file {path}."
            )
        differ = [
            f"{name} {content['config'].get(name)!r} there, {value!r} here"
            for name, value in config.as_dict().items()
            if name not in MAY_DIFFER and _plain(content["config"].get(name, value)) != _plain(value)
        ]
        if content["data"] != self.data:
            differ.append("other videos, labels or lengths in --data_path")
        done = content["iteration"]
        if done > config.num_iters:
            differ.append(f"{done} iterations done there, --num_iters {config.num_iters} here")
        elif content["learning_rates"][:done] != config.learning_rates[:done]:
            differ.append(f"the learning rates of the {done} iterations that it has done")
        if differ:
            raise UserError(
                f"{path}: is of a run with other settings: {'; '.join(differ)}. Resume with its settings, or start anew "
                "without --resume (what is there will be kept)."
            )
        load_weights(self.network, content["network"], path, config.MUST_AGREE)
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        self.draws.restore(content["draws"])
        for name in self.KEPT:
            setattr(self, name, content[name])
        if best := content["best_model"]:
            self.best_model = Best(best["record"], best["weights"], from_tensors(best["found"]))


def as_tensors(found: Found) -> dict[str, Any]:
    """Detections of all videos for a checkpoint: the videos, the number of detections of each, and columns."""
    parts = list(found.values())
    columns = {name: [getattr(part, name) for part in parts] for name in ("classes", "scores", "segments")}
    tensors = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in columns.items()}
    return {"videos": list(found), "counts": torch.tensor([len(part.scores) for part in parts])} | tensors


def from_tensors(content: Mapping[str, Any]) -> Found:
    counts = content["counts"].tolist()
    columns = (content[name].split(counts) for name in ("classes", "scores", "segments"))
    found = (Detections(*(tensor.numpy() for tensor in part)) for part in zip(*columns, strict=True))
    return dict(zip(content["videos"], found, strict=True))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


WEIGHTS = ("network", "model_state_dict", "state_dict")  # where a checkpoint of ours, ASM-Loc's or BackTAL's has them
SCALAR = np.float64(0).__reduce__()[0]  # makes one of numpy's numbers when a file is read
# Official checkpoints hold one beside tensors, a score, under the name that older versions of numpy or newer ones give it.
NUMBERS: list[Any] = [np.dtype, np.dtypes.Float64DType, SCALAR, (SCALAR, "numpy.core.multiarray.scalar")]


def save_file(path: Path, content: Any) -> None:
    buffer = io.BytesIO()  # given a file on a full disk, torch.save hides what went wrong
    torch.save(content, buffer)
    with atomic_write(path, "wb") as stream:
        stream.write(buffer.getbuffer())


def load_file(path: str | Path) -> Mapping[str, Any]:
    """A checkpoint, ours or official, with tensors on the CPU; nothing in it is executed."""
    try:
        with torch.serialization.safe_globals(NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint. Name an existing one with --model_file.") from None
    except Exception as error:  # bytes that are no checkpoint make torch.load raise almost anything
        reason = re.split(r"[.\n]", str(error))[0]
        raise UserError(f"{path}: is no readable checkpoint ({reason}). Expected a file of tensors; copy it again.") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a state dict.")
    return content


def load_network(network: nn.Module, path: str | Path, config: Config) -> None:
    """Load the weights in a checkpoint of either kind; one that knows its own settings has to agree with this run's."""
    if Path(path).is_dir():
        return load_weights(network, weights_in_folder(network, Path(path)), path, config.MUST_AGREE)
    content = load_file(path)
    trained = content.get("config", {}) if isinstance(content.get("network"), Mapping) else settings_beside(Path(path))
    differ = [
        f"--{name} {trained[name]} there, {getattr(config, name, None)} here"
        for name in config.MUST_AGREE
        if name in trained and trained[name] != getattr(config, name, None)
    ]
    if differ:
        raise UserError(f"{path}: was trained with other settings: {'; '.join(differ)}. Use those that it was trained with.")
    for name in config.SHOULD_AGREE:
        if name in trained and trained[name] != getattr(config, name, None):
            say_now(f"warning: {path}: was trained with --{name} {trained[name]}; this run has {getattr(config, name, None)}.")
    if trained.get("repaired", list(config.repaired)) != list(config.repaired):
        there, here = (", ".join(ids) or "none" for ids in (trained["repaired"], config.repaired))
        say_now(f"warning: {path}: was trained with quirks repaired: {there}; this run repairs: {here} (--compat, --fix).")
    load_weights(network, network_weights(content), path, config.MUST_AGREE)


def settings_beside(path: Path) -> Mapping[str, Any]:
    """What a model was trained with, if a .json beside it says so (leftthomas.py)."""
    try:
        settings = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, Mapping) and "method" in settings else {}


def weights_in_folder(network: nn.Module, folder: Path) -> Mapping[str, Any]:
    """The state dict of an official checkpoint of several files."""
    if not isinstance(network, ManyFiles):
        raise UserError(f"{folder}: is a folder; expected a checkpoint file. Name one with --model_file.")
    return network.weights_in(folder)


def network_weights(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a checkpoint under our names, without the prefix that torch's DataParallel adds."""
    weights = next((content[name] for name in WEIGHTS if isinstance(content.get(name), Mapping)), content)
    names = {key: str(key).removeprefix("module.") for key in weights}
    return {OTHER_NAMES.get(names[key], names[key]): value for key, value in weights.items()}


@runtime_checkable
class ManyFiles(Protocol):
    """A network whose official checkpoints are folders."""

    def weights_in(self, folder: Path) -> dict[str, Any]: ...


def load_weights(network: nn.Module, weights: Mapping[str, Any], path: str | Path, flags: Sequence[str]) -> None:
    """Load a state dict; the error says how it differs from the network, and which `flags` may be the reason."""
    own, named = network.state_dict(), ", ".join(f"--{flag}" for flag in flags)
    missing, foreign = [k for k in own if k not in weights], [k for k in weights if k not in own]
    if missing or foreign:
        raise UserError(
            f"{path}: is of another network than this run's ({named}): it lacks {listing(missing) or 'nothing'} and has "
            f"{listing(foreign) or 'nothing'} besides. Evaluate it with the settings that it was trained with."
        )
    wrong = {k: weights[k] for k in own if not isinstance(weights[k], Tensor) or weights[k].shape != own[k].shape}
    if wrong:
        raise UserError(f"{path}: does not fit this run. {_misfit(own, wrong, named)}")
    network.load_state_dict(weights)


def _misfit(own: Mapping[str, Tensor], wrong: Mapping[str, Any], named: str) -> str:
    key = next(iter(wrong))
    found, expected = tuple(getattr(wrong[key], "shape", ())), tuple(own[key].shape)
    if len(found) == 3 and key.endswith(("conv_1.0.weight", "conv.0.weight")) and found[1] != expected[1]:
        widths = f"It was trained on features of width {found[1]} and this run gives {expected[1]}"
        if 2 * min(found[1], expected[1]) == max(found[1], expected[1]):
            return f"{widths}: one stream (--modal rgb or flow) against two (--modal all). Use the --modal of its training."
        return f"{widths}: another --dataset or --len_feature. Use what it was trained with."
    return (
        f"{key} has shape {found}, expected {expected}: another width (--hidden), another number of classes "
        f"(--dataset) or another network ({named}). Use those of its training (config.json beside its outputs)."
    )
