"""Videos on disk -> checked records in memory -> batches of T rows each.

Shapes: B batch, L feature rows of a video, T rows given to the network, F features, C classes.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config import Config
from dataset.present import where_to_get
from utils import UserError, listing, read_json, read_text

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Video:
    name: str
    features_lf: Floats
    label_c: Floats

    @property
    def num_seg(self) -> int:
        return len(self.features_lf)


class Batch(NamedTuple):
    features_btf: Tensor
    label_bc: Tensor


# ---------------------------------------------------------------------------------------------------- sampling


def uniform_indices(num_seg: int, rows: int) -> Indices:
    """Rows of a test video: floor(i*L/T); a short video repeats rows."""
    return np.arange(rows, dtype=np.int64) * num_seg // rows


def random_indices(num_seg: int, rows: int, random: np.random.RandomState) -> Indices:
    """Rows of a training video, one from each of T stretches, both ends included.

    Draws one number per stretch longer than a row, so a RandomState gives the stream of the official per-row loop.
    """
    if num_seg == rows:
        return np.arange(rows, dtype=np.int64)
    first = (np.arange(rows) * num_seg / rows).astype(np.int64)
    last = np.append(first[1:], max(num_seg - 1, first[-1]))
    drawn = last > first
    first[drawn] += random.randint(0, (last - first + 1)[drawn])
    return first


SHUFFLE, ROWS = 1, 2  # what a generator is for is part of its key, so that no two uses share a stream


def random_state(*key: int) -> np.random.RandomState:
    """numpy's legacy generator keyed by integers such as (ROWS, seed, iteration, video): no state to carry or to save."""
    return np.random.RandomState(np.random.SeedSequence(key).generate_state(8))


def batch_videos(num_videos: int, batch_size: int, iteration: int, seed: int, official: bool) -> Indices:
    """Which videos iteration 0, 1, ... trains on: shuffled passes, the short last batch kept.

    Officially (quirk B6) only the first pass is one: later iterations each take the first batch of a new shuffle.
    """
    per_pass = math.ceil(num_videos / batch_size)
    if official and iteration >= per_pass:
        shuffle, place = iteration, 0
    else:
        shuffle, place = iteration // per_pass * per_pass, iteration % per_pass
    order = random_state(SHUFFLE, seed, shuffle).permutation(num_videos)
    return order[place * batch_size : (place + 1) * batch_size]


def training_batch(videos: list[Video], config: Config, seed: int, iteration: int) -> Batch:
    """The batch of one iteration; the same whatever ran before it."""
    chosen = batch_videos(len(videos), config.batch_size, iteration, seed, "B6" not in config.repaired)
    features = [
        videos[v].features_lf[random_indices(videos[v].num_seg, config.num_segments, random_state(ROWS, seed, iteration, v))]
        for v in chosen
    ]
    return Batch(torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack([videos[v].label_c for v in chosen])))


def test_features(videos: list[Video], config: Config) -> Tensor:
    """Uniformly sampled features (B, T, F) of whole videos."""
    rows = [video.features_lf[uniform_indices(video.num_seg, config.num_segments)] for video in videos]
    return torch.from_numpy(np.stack(rows))


# ----------------------------------------------------------------------------------------------------- reading


def load_database(config: Config) -> dict[str, Any]:
    """gt.json's videos, each checked for what the rest relies on."""
    path = Path(config.data_path) / "gt.json"
    content = read_json(path, "the ground truth of all videos", where_to_get(config))
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise UserError(
            f'{path}: no "database" object in it; expected {{"database": {{video: ...}}}}, as dataset/README.md shows.'
        )
    for name, video in content["database"].items():
        try:
            labels = _checked_labels(video)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f'{path}: video {name} is malformed; expected {{"subset": "test", "annotations": '
                '[{"segment": ["18.6", "24.8"], "label": "HighJump"}]} with finite times.'
            ) from None
        unknown = sorted(labels - set(config.classes))
        if unknown:
            raise UserError(
                f"{path}: video {name} has the unknown label {listing(unknown)}; the {len(config.classes)} classes of "
                f"--dataset {config.dataset} are {', '.join(config.classes)}. Correct the label or the dataset."
            )
    return content["database"]


def _checked_labels(video: Any) -> set[str]:
    """The labels of one video of gt.json, or an exception if anything in it has not the expected form."""
    labels = {row["label"] for row in video["annotations"]}
    segments = [row["segment"] for row in video["annotations"]]
    times = [time for segment in segments for time in segment]
    well_formed = (
        all(isinstance(text, str) for text in [video["subset"], *labels])
        and all(isinstance(segment, list) and len(segment) == 2 for segment in segments)
        and all(isinstance(time, str | int | float) and not isinstance(time, bool) for time in times)
        and all(math.isfinite(float(time)) for time in times)
    )
    if not well_formed:
        raise ValueError
    return labels


def load_videos(config: Config, database: dict[str, Any], subset: str) -> list[Video]:
    """All videos of split_{subset}.txt, features in memory, every file checked."""
    split = Path(config.data_path) / f"split_{subset}.txt"
    lines = read_text(split, f"the {subset} videos, one name a line", where_to_get(config)).splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{split}: lists no video; expected one name a line.")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{split}: {listing(repeated)} listed more than once; expected every video once.")
    bare = [name for name in names if not database.get(name, {}).get("annotations")]
    if bare:
        raise UserError(
            f"{split}: {len(bare)} of {len(names)} videos have no annotation in gt.json: {listing(bare)}. "
            "Add their annotations or take them out of the split."
        )
    misplaced = [name for name in names if database[name]["subset"] != subset]
    if misplaced:
        raise UserError(
            f"{split}: {len(misplaced)} videos are of another subset in gt.json: {listing(misplaced)}; expected "
            f'"subset": "{subset}". Correct whichever of the two is wrong.'
        )
    _report_missing(config, subset, names)
    with ThreadPoolExecutor(max(1, config.num_workers)) as pool:
        features = list(pool.map(lambda name: _read_features(config, subset, name), names))
    return [
        Video(name, rows, multi_hot([a["label"] for a in database[name]["annotations"]], config.classes))
        for name, rows in zip(names, features, strict=True)
    ]


def fingerprint(videos: list[Video]) -> str:
    """Changes with the names, lengths, labels or order of videos, on which every batch depends."""
    rows = [(video.name, video.num_seg, video.label_c.tolist()) for video in videos]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def multi_hot(labels: list[str], classes: tuple[str, ...]) -> Floats:
    present = set(labels)
    return np.array([name in present for name in classes], dtype=np.float32)


def _feature_file(config: Config, subset: str, stream: str, name: str) -> Path:
    return Path(config.data_path) / "features" / subset / stream / f"{name}.npy"


def _report_missing(config: Config, subset: str, names: list[str]) -> None:
    paths = [_feature_file(config, subset, stream, name) for stream in config.streams for name in names]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} feature files of the {subset} videos are missing: {listing(missing, 3)}. "
            f"Expected one (L, {config.len_feature // len(config.streams)}) array a video in "
            f"{paths[0].parent}. {where_to_get(config)}"
        )


def _read_features(config: Config, subset: str, name: str) -> Floats:
    """One video's streams side by side, (L, F) float32."""
    width = config.len_feature // len(config.streams)
    paths = [_feature_file(config, subset, stream, name) for stream in config.streams]
    arrays = [_read_stream(path, width) for path in paths]
    if len({len(array) for array in arrays}) > 1:
        found = ", ".join(f"{path}: {len(array)}" for path, array in zip(paths, arrays, strict=True))
        raise UserError(f"the streams of {name} differ in their number of rows ({found}); extract them again together.")
    return np.concatenate(arrays, axis=1)


def _read_stream(path: Path, width: int) -> Floats:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # bytes that are no array make numpy raise almost anything
        raise UserError(f"{path}: cannot be read ({error}); the file is truncated or no .npy array. Copy it again.") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UserError(f"{path}: holds {getattr(array, 'dtype', type(array).__name__)}; expected an array of real numbers.")
    if array.ndim != 2 or array.shape[1] != width or len(array) == 0:
        raise UserError(
            f"{path}: shape {array.shape}; expected (L, {width}) with at least one row. "
            "Features of another width need --len_feature (all streams together)."
        )
    with np.errstate(over="ignore"):  # what overflows is reported below
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise UserError(
            f"{path}: {array[row, column]} at row {row}, column {column}; expected finite numbers. Extract it again."
        )
    return array
