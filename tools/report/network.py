"""The activation curves of a run's test videos, computed from its checkpoint and features, and packed for the page.

Shapes: T snippets of the network's input, K classes whose curves the page has, C classes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from config import Config
from dataset.store import Files
from engine.checkpoint import load_network
from engine.device import choose_device, choose_precision
from engine.files import RunFiles
from engine.search import Part, Search, Setting
from eval.table import Table
from localize import FIELDS, Arrays, Curves, Sweep
from methods.base import Method, build_method
from test import EVAL_BATCH, Activations, compute_activations, take_steps, without_memory
from thumos_features import Mixture, Video, gather_input, load_data, test_batches
from tools.report.pack import MOST_POINTS, packed
from utils import UserError

CLASSES_KEPT = 5  # a video: at least these classes of highest score, besides those annotated and predicted
THRESHOLDS = np.arange(0.05, 1, 0.05).round(2)
MOST_TUNED = 1000  # videos
FAR = 1e9  # a threshold that no score reaches, and its negative, which every score does


@torch.no_grad()
def curves_of_run(config: Config, names: list[str], truth: Table) -> tuple[dict[str, dict[str, Any]], Table | None]:
    """By test video: its length, the curves to draw, and what localize.js needs to localize it anew; and `tuned` detections.

    `names` are the page's classes; class numbers become places among them.
    """
    page = np.array([names.index(name) for name in config.classes])
    model = Path(config.model_file) if config.model_file else RunFiles(config, quiet=True).best_model
    if not model.exists():
        raise UserError(f"{model}: no such file; expected the best model of the run. Name it with --model_file.")
    device = choose_device("auto")
    config = replace(config, precision=choose_precision("auto", device), model_file=str(model))  # the run's may not be here
    videos, store = load_data(config, ["test"]).test, Files(config.num_workers)
    method = build_method(config)
    load_network(method.network, str(model), config)
    method.network.to(device)
    take_steps(method, videos, store, device)
    activations = compute_activations(method, videos, store, device, whole=True)
    sequences = sequences_of(method, videos, store, device)
    live, usual = without_choice(config), without_memory(config)
    shown = {}
    for video in videos:
        arrays, named = activations[video.name], sequences[video.name]
        kept = classes_kept(usual, arrays, video.label_c)
        shown[video.name] = {
            "seconds": video.seconds,
            "drawn": drawn(named, classes_drawn(usual, arrays, video.label_c), page, video.seconds),
            "localize": localizable(live, usual, arrays, kept, page),
        }
    return shown, tuned(config, activations, truth)


def tuned(config: Config, activations: Activations, truth: Table) -> Table | None:
    """The detections by the best of THRESHOLDS for each video, an oracle; none for many videos, which take minutes."""
    if len(truth.videos) > MOST_TUNED:
        return None
    settings: list[Setting] = [{}, *({"cas_th": f"{threshold:g}"} for threshold in THRESHOLDS)]
    search = Search(config, activations, {"test": Part(truth, frozenset(truth.videos))}, by_video=True)
    return search.best_of_each_video(list(search.run(settings, 1)))


def without_choice(config: Config) -> Method:
    """The run's method, but every class is localized, and class terms have weight 1."""
    return without_memory(replace(config, class_th=-FAR, class_weight=1.0))


def sequences_of(method: Method, videos: list[Video], store: Files, device: torch.device) -> dict[str, Arrays]:
    method.network.eval()
    found: dict[str, Arrays] = {}
    for part, samples in test_batches(videos, method.sample, EVAL_BATCH):
        batch = method.sequences(gather_input(part, store, samples).to(device))
        for number, video in enumerate(part):
            found[video.name] = {name.replace("\n", " "): array[number] for name, array in batch.items()}
            sample = samples[number]
            if isinstance(sample, Mixture) and sample.warp is not None:
                found[video.name]["warp"] = sample.warp
    return found


def classes_drawn(method: Method, arrays: Arrays, label_c: NDArray[np.floating]) -> NDArray[np.integer]:
    """The annotated and the localized classes of a video."""
    return np.union1d(np.flatnonzero(label_c), method.curves(arrays).classes)


def classes_kept(method: Method, arrays: Arrays, label_c: NDArray[np.floating]) -> NDArray[np.integer]:
    """These and the best by score."""
    best = np.argsort(-arrays["score"][: method.config.num_classes])[:CLASSES_KEPT]
    return np.union1d(best, classes_drawn(method, arrays, label_c))


def drawn(named: Arrays, classes: NDArray[np.integer], page: NDArray[np.integer], seconds: float) -> dict[str, Any]:
    """Sequences of the network: one line where all classes share it, else one of each of `classes`."""
    warp = named.pop("warp", None)
    length = len(next(iter(named.values())))
    step = -(-length // MOST_POINTS)  # every step-th point, if there are too many
    share = np.arange(length) / length
    if warp is not None:
        share = np.interp(share, warp / warp[-1], np.arange(len(warp)) / (len(warp) - 1))
    lines = []
    for title, values in named.items():
        columns = values.shape[1] if values.ndim == 2 else 0
        for number in classes.tolist() if columns else [None]:
            line = values if number is None else values[:, number]
            place = None if number is None else int(page[number])
            lines.append({"title": title, "class": place, "values": packed(line[::step], np.float16)})
    times = packed(share[::step] * seconds, np.float32) if warp is not None else step * seconds / length
    return {"times": times, "lines": lines}


def localizable(
    live: Method, usual: Method, arrays: Arrays, kept: NDArray[np.integer], page: NDArray[np.integer]
) -> dict[str, Any] | None:
    """The kept columns of the fields of localize.Curves; class terms with the run's class weight, and with weight 1."""
    curves, own = live.curves(arrays), usual.curves(arrays)
    if len(curves.activation) > MOST_POINTS:
        return None
    place = np.searchsorted(curves.classes, kept)
    single = curves.activation.dtype == np.float32
    fields = {name: getattr(own, name) for name in FIELDS}
    usual_settings = {"class_th": usual.config.class_th, "class_weight": usual.config.class_weight}
    return (
        fields
        | usual_settings
        | {
            "classes": page[kept].tolist(),
            "first_class": int(page[0]),
            "class_scores": arrays["score"][kept].astype(float).tolist(),
            "activation": [packed(curves.activation[:, k], curves.activation.dtype) for k in place],
            "common": None if curves.common is None else packed(curves.common, curves.common.dtype),
            "single": single,
            "warp": None if curves.warp is None else np.asarray(curves.warp, float).tolist(),
            "sweeps": [sweep_of(sweep) for sweep in curves.sweeps],
            "terms": [terms_of(curves, own, number, place) for number in range(len(curves.sweeps))],
        }
        | rules_of_classes(usual, arrays)
    )


def sweep_of(sweep: Sweep) -> dict[str, Any]:
    names = ("support", "activation_share", "common_share", "thresholded")
    return {"thresholds": list(map(float, sweep.thresholds))} | {name: getattr(sweep, name) for name in names}


def terms_of(curves: Curves, own: Curves, number: int, place: NDArray[np.integer]) -> dict[str, list[float | None]]:
    """Class terms of a sweep with class weight 1, and those of the run; None where the run does not localize the class."""
    usual = dict(zip(own.classes.tolist(), np.asarray(own.sweeps[number].class_term, float).tolist(), strict=True))
    return {
        "unit": np.asarray(curves.sweeps[number].class_term, float)[place].tolist(),
        "usual": [usual.get(int(number)) for number in curves.classes[place]],
    }


def rules_of_classes(method: Method, arrays: Arrays) -> dict[str, bool]:
    """How the method chooses classes by their scores, read from what it does with made-up scores."""
    threshold, count = np.float32(method.config.class_th), method.config.num_classes

    def localized(*scores: float) -> list[int]:
        low = np.full_like(arrays["score"], -FAR)
        low[: len(scores)] = scores
        return method.curves(arrays | {"score": low}).classes.tolist()

    return {
        "strict": count > 1 and 0 not in localized(float(threshold), float(threshold) + 1),
        "best_if_none": bool(localized()),
        "loses_first_alone": not localized(float(threshold) + 1),
    }
