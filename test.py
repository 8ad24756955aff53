"""Network -> activations -> detections -> scores, each by a function of its own.

Shapes: V videos, C classes; activations are those of methods/, one dict of arrays per video.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from config import Config
from dataset.archives import header, open_npz, unpacked_size
from eval.classification import classification_map, exact_accuracy, top1_accuracy
from eval.eval_detection import DetectionScore, score_tables
from eval.proposals import average_recall
from eval.protocols import name_of
from eval.table import Table, rows_of
from localize import Arrays, Detections, localize_all, narrowed
from methods.base import Method, Stepwise, build_method
from thumos_features import Mixture, Store, Video, gather_input, test_batches
from utils import UserError, atomic_write, check_file, release_memory

EVAL_BATCH = 8  # videos per forward pass; affects results by rounding only
RELEASE_EVERY = 32  # batches after which unused memory is returned to the system
MOST_RATIO = 100  # of the sizes of activations in memory and in their file, which is not compressed as it is written
AVERAGE_NUMBERS = (1, 5, 10, 50, 100)  # average numbers of proposals per video at which average recall is reported

Activations = dict[str, Arrays]  # by video
Found = dict[str, Detections]


@dataclass(frozen=True)
class Evaluation:
    """The results of evaluating the network once."""

    score: DetectionScore
    score_of_found: DetectionScore | None  # over the test videos with features, if others were dropped
    protocol: str  # name of the ground truth
    test_acc: float
    classification_mAP: float
    top1: float
    average_recall: dict[str, float]  # AR@AN, and the area under its curve
    found: Found
    classes: tuple[str, ...]
    lost: dict[str, int]  # by quirk, the number of predicted classes without a detection because of it

    @property
    def average_mAP(self) -> float:
        """Over all thresholds."""
        return self.score.average_mAP

    @property
    def num_detections(self) -> int:
        return sum(len(found.scores) for found in self.found.values())


class Judge:
    """The part of an evaluation after the network; can be pickled and sent to another process."""

    def __init__(self, config: Config, labels: Mapping[str, NDArray[np.float32]], truth: Table, threads: int | None = None):
        self.config, self.labels, self.truth, self.threads = config, labels, truth, threads

    @cached_property
    def method(self) -> Method:
        return without_memory(self.config)

    def __call__(self, activations: Activations) -> Evaluation:
        found = detect(self.method, activations, self.threads)
        return score(self.method, activations, found, self.labels, self.truth, self.threads)


def without_memory(config: Config) -> Method:
    """A method whose network has no memory for weights, for localization alone."""
    with torch.device("meta"):
        return build_method(config)


def compute_activations(
    method: Method,
    videos: list[Video],
    store: Store,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
    share: slice = slice(None),
    whole: bool = False,
) -> Activations:
    """Compute the activations of the batches in `share`; calls `between` after each batch.

    Unless `whole`, a narrow method's `cas` has only the columns that localization can need: of 5,000 videos with 200 classes,
    all columns take 3 GB.
    """
    narrow = not whole and getattr(method, "narrow", False)
    method.network.eval()
    activations: Activations = {}
    for count, (part, shown) in enumerate(test_batches(videos, method.sample, EVAL_BATCH)[share], 1):
        batch = method.activations(gather_input(part, store, shown).to(device))
        if not np.isfinite(batch["score"]).all():
            raise UserError(
                f"the network's scores of {part[0].name} and its neighbours are not finite: its weights have diverged. "
                "Earlier checkpoints are untouched; a lower --lr usually helps."
            )
        for number, video in enumerate(part):
            arrays = {key: array[number] for key, array in batch.items()}
            activations[video.name] = arrays | {"num_seg": np.array(video.num_seg)}
            if isinstance(mixture := shown[number], Mixture) and mixture.warp is not None:
                activations[video.name]["warp"] = mixture.warp
            if video.timed and video.duration is not None:
                activations[video.name]["duration"] = np.array(video.duration)
            if video.frames is not None:
                activations[video.name]["frames"] = np.array(video.frames)
            if narrow:
                activations[video.name] = narrowed(activations[video.name], found_classes(method, arrays["score"]))
        if count % RELEASE_EVERY == 0:
            release_memory()  # what is kept of a video is small and lies between arrays of the whole batch
        between()
    return activations


def sequences_of(
    method: Method, video: Video, store: Store, device: torch.device
) -> tuple[Arrays, NDArray[np.floating] | None]:
    """What the network sees over time in a video, by name, and the warp of its time axis; for a network in evaluation mode."""
    sample = method.sample(video, None)
    found = method.sequences(gather_input([video], store, [sample]).to(device))
    return {name: values[0] for name, values in found.items()}, getattr(sample, "warp", None)


def take_steps(method: Method, videos: list[Video], store: Store, device: torch.device) -> None:
    """Advance a stepwise method to the last step of its training, each step from the detections of the one before."""
    if isinstance(method, Stepwise):
        last = method.last_step
        if last > method.step_of(sys.maxsize):
            raise UserError(
                f"{method.config.model_file}: was trained for {last} steps; evaluate it with the --steps of its training."
            )
        method.begin_step(0, {})
        for step in range(1, last + 1):
            known = method.refine(compute_activations(method, videos, store, device), [])
            method.begin_step(step, known)


def save_activations(path: str | Path, activations: Activations) -> None:
    """Write one .npz of all videos with keys <video>/<array>."""
    arrays = {f"{name}/{key}": array for name, video in activations.items() for key, array in video.items()}
    with atomic_write(path, "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


MOST_SECONDS, MOST_FRAMES = 1e6, 10**7  # of a video; larger values are damage, and would exhaust the memory
REMEDY = "Write it again with main_eval.py --model_file FILE --save_activations, with the flags of the training run."


def read_activations(path: str | Path, method: Method, database: dict[str, Any]) -> Activations:
    """Read a file of `save_activations`; checks every array against the shapes of `method`."""
    check_file(path, "saved activations", REMEDY)
    try:
        with open_npz(path) as file:
            size, packed = unpacked_size(file), Path(path).stat().st_size
            if size > MOST_RATIO * packed:
                raise ValueError(f"its {packed:,} bytes unpack to {size:,}, more than {MOST_RATIO} times as many")
            names = file.files
            content = {key: file[key] for key in names if header(file, key)}
    except Exception as error:  # on a malformed archive numpy raises many types
        raise UserError(f"{path}: cannot be read as saved activations ({str(error)[:200]}). {REMEDY}") from None
    if len(content) < len(names):
        raise UserError(f"{path}: has an array twice; expected every key once. {REMEDY}")
    activations: Activations = {}
    for key, array in content.items():
        name, _, kind = key.rpartition("/")
        activations.setdefault(name, {})[kind] = array
    if not activations:
        raise UserError(f"{path}: contains no video. {REMEDY}")
    for name, arrays in activations.items():
        if not database.get(name, {}).get("annotations"):
            annotations = method.config.annotation_file
            raise UserError(
                f"{path}: video {name[:200]!r} is not annotated in {annotations}; expected keys <video>/<array>. {REMEDY}"
            )
        _check_arrays(f"{path}: {name}", arrays, method)
    return activations


def _check_arrays(where: str, arrays: Arrays, method: Method) -> None:
    """Raise a UserError unless `arrays` are those of one video by `method`."""
    times = {"duration": (), "frames": (), "warp": (None,)}  # present only if the video's timing needs them
    expected = method.activation_shapes() | {"num_seg": ()} | {kind: times[kind] for kind in times.keys() & arrays}
    if foreign := arrays.keys() - expected:
        raise UserError(f"{where} also has {', '.join(sorted(foreign))[:200]}: it is of another method. {REMEDY}")
    for kind, shape in expected.items():
        array = arrays.get(kind, np.zeros(0, dtype=object))
        if not isinstance(array, np.ndarray):
            raise UserError(f"{where}/{kind} is no array. {REMEDY}")
        fits = array.ndim == len(shape) and all(n in (m, None) for m, n in zip(array.shape, shape, strict=True))
        counts = kind in ("num_seg", "frames")
        typed = array.dtype.kind in "iu" if counts else array.dtype in (np.float32, np.float64)
        if not fits or not typed or 0 in array.shape:
            found = f"{array.dtype} {array.shape}" if kind in arrays else f"only {', '.join(arrays)}"
            wanted = "an integer" if counts else f"float32 {shape}"
            raise UserError(f"{where}/{kind} is {found}; expected {wanted}. {REMEDY}")
        if not np.isfinite(array).all() or (kind in ("num_seg", "duration", "frames") and array <= 0):
            raise UserError(f"{where}/{kind} has values that are not finite or not positive. {REMEDY}")
        most = MOST_FRAMES if counts else MOST_SECONDS
        if not shape and array > most:
            raise UserError(f"{where}/{kind} is {array}; expected at most {most:g}. {REMEDY}")
    lengths = {len(arrays[kind]) for kind, shape in method.activation_shapes().items() if shape[:1] == (None,)}
    if len(lengths) > 1:
        raise UserError(f"{where} has arrays of {' and '.join(map(str, sorted(lengths)))} times. {REMEDY}")
    if (warp := arrays.get("warp")) is not None:
        count = int(arrays["num_seg"]) + 1
        if len(warp) != count or warp[0] != 0 or warp[-1] <= 0 or (np.diff(warp) < 0).any():
            raise UserError(f"{where}/warp is no time axis; expected {count} ascending starts of snippets from 0. {REMEDY}")


def detect(method: Method, activations: Activations, threads: int | None = None) -> Found:
    """Localize every video."""
    return dict(zip(activations, localize_all(map(method.curves, activations.values()), threads), strict=True))


def found_classes(method: Method, score: NDArray[np.floating]) -> NDArray[np.integer]:
    """Numbers of the predicted classes, ascending; the best one if none is predicted."""
    score_c = score[: method.config.num_classes]
    predicted = np.flatnonzero(method.predicted(score_c))
    return predicted if len(predicted) else np.array([score_c.argmax()])


def lost_classes(method: Method, activations: Activations, found: Found, threads: int | None = None) -> dict[str, int]:
    """By quirk, the number of predicted classes (the best one if none is predicted) without a detection because of it."""
    config = method.config
    lacking: Activations = {}
    for name, arrays in activations.items():
        if not np.isin(found_classes(method, arrays["score"]), found[name].classes).all():
            lacking[name] = arrays
    lost = {}
    losing = {name for name, quirk in config.QUIRKS.items() if quirk.loses}
    for quirk in losing - set(config.repaired) if lacking else ():
        without = replace(config, compat="official", fix=",".join((*config.repaired, quirk)))
        again = detect(without_memory(without), lacking, threads)
        lost[quirk] = sum(len(np.setdiff1d(again[name].classes, found[name].classes)) for name in lacking)
    return {quirk: lost[quirk] for quirk in sorted(lost) if lost[quirk]}


def as_table(found: Found, classes: tuple[str, ...]) -> Table:
    parts = list(found.values())
    return Table(
        list(found),
        list(classes),
        np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts]),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.segments for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def detections_text(found: Mapping[str, Detections], classes: tuple[str, ...]) -> Iterator[str]:
    """The text of a file of detections in ActivityNet's format, video by video; a video without detections has no entry."""
    yield '{"version": "VERSION 1.3", "results": {'
    separator = ""
    for name, part in found.items():
        if len(part.scores):
            columns = zip(part.classes.tolist(), part.scores.tolist(), part.segments.tolist(), strict=True)
            rows = [{"label": classes[c], "score": s, "segment": segment} for c, s, segment in columns]
            yield f"{separator}{json.dumps(name)}: {json.dumps(rows)}"
            separator = ", "
    yield '}, "external_data": {"used": true, "details": "Features from I3D Network"}}\n'


def write_detections(path: Path, found: Mapping[str, Detections], classes: tuple[str, ...]) -> None:
    with atomic_write(path) as stream:
        stream.writelines(detections_text(found, classes))


def score(
    method: Method,
    activations: Activations,
    found: Found,
    labels: Mapping[str, NDArray[np.float32]],
    truth: Table,
    threads: int | None = None,
) -> Evaluation:
    """Compute all metrics; `labels` has the multi-hot labels (C,) of at least the videos in `activations`."""
    config = method.config
    table = as_table(found, config.classes)
    recall = average_recall(truth, table)
    seen = np.isin(truth.videos, list(activations))[truth.video]
    label_vc = np.stack([labels[name] for name in activations])
    score_vc = np.stack([arrays["score"][: config.num_classes] for arrays in activations.values()])
    predicted_vc = np.stack([method.predicted(score_c) for score_c in score_vc])
    return Evaluation(
        score=score_tables(truth, table, config.tiou_thresholds, config.ties, config.single_overlaps),
        score_of_found=None
        if seen.all()
        else score_tables(rows_of(truth, seen), table, config.tiou_thresholds, config.ties, config.single_overlaps),
        protocol=name if (name := name_of(truth)) != "unnamed" else config.protocol,
        test_acc=exact_accuracy(predicted_vc, label_vc),
        classification_mAP=classification_map(score_vc, label_vc),
        top1=top1_accuracy(score_vc, label_vc),
        average_recall={f"AR@{n}": recall.at(n) for n in AVERAGE_NUMBERS} | {"area": recall.area},
        found=found,
        classes=config.classes,
        lost=lost_classes(method, activations, found, threads),
    )


if __name__ == "__main__":  # UM's second implementation is evaluated by `python test.py` (tools/leftthomas.py)
    importlib.import_module("tools.leftthomas").run_test()
