"""Checkpoints: the best model as a state dict, as in the official code, and the full state that a resumed run needs."""

import io
import re
import uuid
import zipfile
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
from dataset.video import Video
from engine.model_file import SUFFIX, read_model, settings_beside, settings_in
from engine.schema import (
    SCALER,
    Misfit,
    Rule,
    anything,
    best_of,
    draws_rule,
    fields,
    found_rule,
    in_order,
    is_plain,
    listed,
    mapped,
    nothing,
    nothing_or,
    number,
    one_of,
    optimizer_rule,
    record_rule,
    setting,
    shown,
    text,
    weight,
    whole,
)
from eval.reading import check_file
from localize import Detections
from methods.base import METHODS, Method, Stepwise
from test import Found
from utils import UserError, as_user_error, atomic_write, listing, say_now

# Settings that a resumed run may change: paths, its length, and others that its numbers do not depend on.
MAY_DIFFER = {"data_path", "model_path", "output_path", "log_path", "model_file", "device", "num_workers"}
MAY_DIFFER |= {"layout", "ground_truth", "missing", "cache", "cache_budget", "cache_path", "described", "derived, unpublished"}
MAY_DIFFER |= {"precision", "compile", "eval_workers"}  # change rounding; device and compile also dropout's masks
MAY_DIFFER |= {"num_iters", "lr", "compat", "fix"}  # restore() compares the learning rates so far and the repaired quirks

FORMAT = 5  # version of the checkpoints that resume
OTHER_NAMES = {"cas_module.classifier.weight": "cas_module.classifier.0.weight"}  # leftthomas/UM's name: ours


@dataclass(frozen=True)
class Best:
    """Record, weights and detections of the best model so far."""

    record: dict[str, Any]
    weights: dict[str, Tensor]
    found: Found


@dataclass
class TrainingState:
    """Everything that training changes."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # scales losses in fp16, where small gradients become 0
    seed: int  # --seed, or the seed drawn for -1
    data: str  # fingerprint of the videos
    draws: Draws
    run: str = field(default_factory=lambda: uuid.uuid4().hex)  # distinguishes this run's files from another run's
    iteration: int = 0
    losses: dict[str, float] = field(default_factory=dict)  # of the last iteration
    records: list[dict[str, Any]] = field(default_factory=list)  # one per evaluation
    step: int = 0  # of a stepwise method
    contents: Checksums = field(default_factory=dict)  # of the features used so far; the store completes it
    known: dict[str, Any] = field(default_factory=dict)  # `refine`'s output after the previous step (methods.base.Stepwise)
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

    def restore(
        self, path: Path, content: Mapping[str, Any], method: Method, train: Sequence[Video], test: Sequence[Video]
    ) -> None:
        """Continue from a checkpoint of the same run, of which nothing is used before all of it is checked."""
        config = method.config
        if "optimizer" not in content:
            raise UserError(f"{path}: holds weights only; --resume needs the checkpoint ending in _last.ckpt.")
        found = content.get("format")
        if not isinstance(found, int) or found != FORMAT:
            whose = "an earlier version" if isinstance(found, int) and found < FORMAT else "another version, or is damaged"
            raise UserError(
                f"{path}: has format {shown(found)}, expected {FORMAT}: it was written by {whose}. "
                f"Start anew, or from its weights with --model_file {path}."
            )
        checked(path, content, fields(self._facts(config), others=anything), DAMAGED)
        if differ := self._differences(content, config):
            raise UserError(
                f"{path}: is of a run with other settings: {'; '.join(differ)}. Resume with its settings, or start anew "
                "without --resume (existing files will be kept)."
            )
        checked(path, content, fields(self._parts(content, method, train, test), others=anything), DAMAGED)
        load_weights(self.network, content["network"], path, config.MUST_AGREE)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": content["optimizer"]["state"], "param_groups": groups})
        if content["scaler"]:  # none of a run in another precision
            self.scaler.load_state_dict(content["scaler"])
        for name in self.KEPT:
            setattr(self, name, content[name])
        self.draws.seed = self.seed
        self.draws.restore(content["draws"])
        if best := content["best_model"]:
            self.best_model = Best(best["record"], best["weights"], from_tensors(best["found"]))

    def _facts(self, config: Config) -> dict[str, Rule]:
        """Rules for the fields that say which run a checkpoint is of."""
        settings = fields(dict.fromkeys(config.MUST_AGREE, setting), others=setting)
        rates = listed(number(0, above=True))
        seed = whole(0, 2**32 - 1)
        facts = {"seed": seed, "data": text, "run": text, "iteration": whole(), "step": whole()}
        return facts | {"config": settings, "learning_rates": rates}

    def _differences(self, content: Mapping[str, Any], config: Config) -> list[str]:
        """How the run of a checkpoint differs from this one."""
        differ = [
            f"{name} {shown(content['config'].get(name))} there, {value!r} here"
            for name, value in config.as_dict().items()
            if name not in MAY_DIFFER and _plain(content["config"].get(name, value)) != _plain(value)
        ]
        if content["data"] != self.data:
            differ.append("other videos, labels or lengths in --data_path")
        done = content["iteration"]
        if done > config.num_iters:
            differ.append(f"{done} iterations done there, --num_iters {config.num_iters} here")
        elif list(content["learning_rates"][:done]) != config.learning_rates[:done]:
            differ.append(f"the learning rates of the {done} iterations that it has done")
        return differ

    def _parts(
        self, content: Mapping[str, Any], method: Method, train: Sequence[Video], test: Sequence[Video]
    ) -> dict[str, Rule]:
        """Rules for all that a run continues with."""
        config, done, step, records = method.config, content["iteration"], content["step"], content.get("records")
        step_of = method.step_of if isinstance(method, Stepwise) else lambda iteration: 0
        known: Rule = nothing
        if step and (rule := getattr(method, "known_rule", None)):
            known = rule([video.name for video in (*test, *train)])
        record = record_rule([f"{tiou:g}" for tiou in config.tiou_thresholds])
        weights = {name: weight(own) for name, own in self.network.state_dict().items()}
        found = found_rule([video.name for video in test], config.num_classes)
        best: dict[str, Rule] = {"record": record, "weights": fields(weights), "found": found}
        return {
            "step": one_of(sorted({step_of(max(0, done - 1)), step_of(done)})),
            "losses": fields({"loss_total": number()} if done else {}, others=number()),
            "records": in_order(listed(record), done),
            "known": known,
            "contents": fields({}, {video.name: whole(0, 2**32 - 1) for video in (*train, *test)}),
            "network": mapped(anything),
            "optimizer": optimizer_rule(self.optimizer, done),
            "scaler": SCALER,
            "draws": draws_rule(config.draws == "official", len(train)),
            "best_model": best_of(fields(best), records),
        }


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


OTHER = "It is damaged, or no checkpoint of this network: copy it again, or name another with --model_file."
DAMAGED = "It is damaged: copy it again, or start anew without --resume (existing files will be kept)."


def checked(path: str | Path, value: Any, rule: Rule, remedy: str) -> None:
    """Raise a UserError that names file, field, found and expected if `value`, read from `path`, breaks a rule."""
    try:
        rule(value)
    except Misfit as misfit:
        raise UserError(f"{path}: {misfit}. {remedy}") from None


WEIGHTS = ("network", "model_state_dict", "state_dict")  # keys of the weights in our, ASM-Loc's and BackTAL's checkpoints
SCALAR = np.float64(0).__reduce__()[0]  # unpickles a numpy number
# Official checkpoints hold a score as a numpy number, pickled under the name of an older or a newer version of numpy.
NUMBERS: list[Any] = [np.dtype, np.dtypes.Float64DType, SCALAR, (SCALAR, "numpy.core.multiarray.scalar")]


def save_file(path: Path, content: Any) -> None:
    buffer = io.BytesIO()  # torch.save to a file hides the error of a full disk
    torch.save(content, buffer)
    with atomic_write(path, "wb") as stream:
        stream.write(buffer.getbuffer())


def load_file(path: str | Path) -> Mapping[str, Any]:
    """The content of a checkpoint, ours or official, with tensors on the CPU. Executes no code in the file."""
    with as_user_error():
        check_file(path, "a checkpoint", "Name an existing one with --model_file.")
    try:
        if Path(path).suffix == SUFFIX:
            return read_model(path)
        _check_archive(path)
        content = _unpickled(path)
    except Exception as error:  # torch.load raises almost any exception on other files
        reason = re.split(r"[.\n]", str(error))[0][:300]
        raise UserError(
            f"{path}: is not a readable checkpoint ({reason}). Expected a file of tensors; copy it again."
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a state dict.")
    return content


def _unpickled(path: str | Path, mmap: bool = False) -> Any:
    with torch.serialization.safe_globals(NUMBERS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _check_archive(path: str | Path) -> None:
    """Raise an exception if the file is damaged or unpacks to more than its size.

    torch does not compare checksums, and takes what it finds for numbers; it reads compressed parts, but writes none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("its parts are compressed, which torch never does")
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged[:100]} is wrong")


def load_network(network: nn.Module, path: str | Path, config: Config) -> None:
    """Load the weights of a checkpoint, ours or official; settings stored with it must agree with this run's."""
    if Path(path).is_dir():
        return load_weights(network, weights_in_folder(network, Path(path)), path, config.MUST_AGREE)
    content = load_file(path)
    trained = trained_with(content, Path(path), config)
    same_classes = list(trained.get("classes") or ()) == list(config.classes)
    differ = [
        f"--{name} {str(trained[name])[:60]} there, {getattr(config, name, None)} here"
        for name in config.MUST_AGREE
        if name in trained and trained[name] != getattr(config, name, None) and not (name == "dataset" and same_classes)
    ]
    if differ:
        raise UserError(f"{path}: was trained with other settings: {'; '.join(differ)}. Use those that it was trained with.")
    for name in config.SHOULD_AGREE:
        if name in trained and trained[name] != getattr(config, name, None):
            there, here = str(trained[name])[:60], getattr(config, name, None)
            say_now(f"warning: {path}: was trained with --{name} {there}; this run has {here}.")
    if trained.get("repaired", list(config.repaired)) != list(config.repaired):
        there, here = (", ".join(ids)[:200] or "none" for ids in (trained["repaired"], config.repaired))
        say_now(f"warning: {path}: was trained with quirks repaired: {there}; this run repairs: {here} (--compat, --fix).")
    load_weights(network, network_weights(content), path, config.MUST_AGREE)


def trained_with(content: Mapping[str, Any], path: Path, config: Config) -> Mapping[str, Any]:
    """The settings of a model's training that this run's are compared with, if the checkpoint or a file beside it has them."""
    has_own = isinstance(content.get("network"), Mapping)
    source, trained = (path, content.get("config", {})) if has_own else settings_beside(path)
    compared = (*config.MUST_AGREE, *config.SHOULD_AGREE, "repaired", "classes")
    if isinstance(trained, Mapping):
        trained = {name: trained[name] for name in compared if name in trained}
    rule = fields({}, dict.fromkeys(compared, setting) | {"repaired": listed(text), "classes": listed(text)})
    remedy = OTHER if has_own else WRONG_SETTINGS
    checked(source, {"config": trained} if has_own else trained, fields({"config": rule}) if has_own else rule, remedy)
    return trained


def settings_of(path: str | Path) -> tuple[Path, Mapping[str, Any]]:
    """The settings of a model's training and the file that has them: the model, or one beside it; {} if none are known."""
    path = Path(path)
    if not path.is_file():  # nor is a pipe read, which may never end
        return path, {}
    source = path
    try:
        settings = settings_in(path) if path.suffix == SUFFIX else _settings_in_checkpoint(path)
    except Exception:
        load_file(path)  # says what is wrong with the file
        return path, {}
    if settings is None:
        source, settings = settings_beside(path)
    checked(source, settings, nothing_or(fields({"method": one_of(METHODS)}, others=setting)), WRONG_SETTINGS)
    return source, settings


def _settings_in_checkpoint(path: Path) -> Mapping[str, Any] | None:
    """The settings in a checkpoint that resumes, whose tensors are not read; None for a plain state dict."""
    if not zipfile.is_zipfile(path):
        return None
    content = _unpickled(path, mmap=True)
    return content["config"] if "network" in content else None


WRONG_SETTINGS = "Correct it, or move it away: it says how the model was trained."


def weights_in_folder(network: nn.Module, folder: Path) -> Mapping[str, Any]:
    """The state dict of an official checkpoint that is a folder of files."""
    if not isinstance(network, ManyFiles):
        raise UserError(f"{folder}: is a folder; expected a checkpoint file. Name one with --model_file.")
    return network.weights_in(folder)


def network_weights(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict in a checkpoint, with our names and without the prefix of torch's DataParallel."""
    weights = next((content[name] for name in WEIGHTS if isinstance(content.get(name), Mapping)), content)
    names = {key: str(key).removeprefix("module.") for key in weights}
    names = {key: OTHER_NAMES.get(name, name) for key, name in names.items()}
    if len(set(names.values())) < len(names):  # two for one name: they keep theirs, and are not taken for the network's
        names = {key: str(key) for key in weights}
    return {names[key]: value for key, value in weights.items()}


@runtime_checkable
class ManyFiles(Protocol):
    """A network whose official checkpoints are folders."""

    def weights_in(self, folder: Path) -> dict[str, Any]: ...


def load_weights(network: nn.Module, weights: Mapping[str, Any], path: str | Path, flags: Sequence[str]) -> None:
    """Load a state dict; errors state how it differs from the network and name `flags` as possible reasons."""
    own, named = network.state_dict(), ", ".join(f"--{flag}" for flag in flags)
    missing, foreign = [k for k in own if k not in weights], [k for k in weights if k not in own]
    if missing or foreign:
        raise UserError(
            f"{path}: holds another network than this run's ({named}). Missing: {listing(missing) or 'nothing'}; unexpected: "
            f"{listing(foreign) or 'nothing'}. Evaluate it with the settings that it was trained with."
        )
    wrong = {k: weights[k] for k in own if is_plain(weights[k]) and weights[k].shape != own[k].shape}
    if wrong:
        raise UserError(f"{path}: does not fit this run. {_misfit(own, wrong, named)}")
    checked(path, weights, fields({key: weight(value) for key, value in own.items()}), OTHER)
    network.load_state_dict(weights)


def _misfit(own: Mapping[str, Tensor], wrong: Mapping[str, Tensor], named: str) -> str:
    key = next(iter(wrong))
    found, expected = tuple(wrong[key].shape), tuple(own[key].shape)
    if len(found) == 3 and key.endswith(("conv_1.0.weight", "conv.0.weight")) and found[1] != expected[1]:
        widths = f"It was trained on features of width {found[1]} and this run gives {expected[1]}"
        if 2 * min(found[1], expected[1]) == max(found[1], expected[1]):
            return f"{widths}: one stream (--modal rgb or flow) against two (--modal all). Use the --modal of its training."
        return f"{widths}: another --dataset or --len_feature. Use what it was trained with."
    return (
        f"{key} has shape {found}, expected {expected}: another width (--hidden), another number of classes "
        f"(--dataset) or another network ({named}). Use those of its training (config.json beside its outputs)."
    )
