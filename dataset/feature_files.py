"""Reads the features of one video from the files of any layout; checks every value.

Shapes: L snippets, W features of one stream, F features of all streams.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset.archives import header, open_npz, patiently, read_scalar
from dataset.layouts import STREAMS, Layout
from dataset.video import Floats
from eval.reading import check_file
from utils import UserError

Array = NDArray[Any]

MOST_SNIPPETS = 2**18  # of one video: 46 hours of 16 frames at 25 per second, 1 GiB of each I3D stream
NPZ_KEYS = {"rgb": "feat_spa", "flow": "feat_tem"}


class FileFacts(NamedTuple):
    """Facts of the video that a feature file may state."""

    duration: float | None = None
    frames: int | None = None


def inspect(files: tuple[Path, ...], layout: Layout, streams: tuple[str, ...], width: int) -> tuple[int, FileFacts]:
    """The number of snippets L, and what else the files state; reads headers, not features."""
    arrays, stated = _arrays(files, layout, streams, width, headers_only=True)
    return len(arrays[0]), stated


def read_features(files: tuple[Path, ...], layout: Layout, streams: tuple[str, ...], width: int, num_seg: int) -> Floats:
    """The features (L, F), streams concatenated; the files must still have `num_seg` snippets."""
    arrays, _ = _arrays(files, layout, streams, width)
    if len(arrays[0]) != num_seg:
        raise UserError(
            f"{files[0]}: has {len(arrays[0])} snippets and had {num_seg} when the run began. Put the earlier file back, or "
            "start anew."
        )
    features = np.empty((len(arrays[0]), width * len(streams)), dtype=np.float32)
    for number, array in enumerate(arrays):
        path = files[min(number, len(files) - 1)]
        part = features[:, number * width : (number + 1) * width]
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below
            try:
                part[:] = array
            except OSError as error:  # of a memory map
                raise _unreadable(path, error) from None
        if not np.isfinite(part).all():
            row, column = np.argwhere(~np.isfinite(part))[0]
            raise UserError(
                f"{path}: {part[row, column]} at row {row}, column {column}; expected finite numbers. Extract them again."
            )
    return features


def _arrays(
    files: tuple[Path, ...], layout: Layout, streams: tuple[str, ...], width: int, headers_only: bool = False
) -> tuple[list[Array], FileFacts]:
    """One array (L, W) per stream: memory-mapped if possible, else read, or with `headers_only` an array of zeros."""
    stated = FileFacts()
    if layout.suffix == ".npz":
        arrays, stated = _from_npz(files[0], streams, width, headers_only)
    elif layout.streams_apart:
        arrays = [_checked_array(_map(path), path, width) for path in files]
    else:
        joined = _checked_array(_map(files[0]), files[0], len(STREAMS) * width)
        arrays = [joined[:, STREAMS.index(stream) * width :][:, :width] for stream in streams]
    if len({len(array) for array in arrays}) > 1:
        found = ", ".join(f"{stream} {len(array)}" for stream, array in zip(streams, arrays, strict=True))
        raise UserError(f"{files[0]}: the streams differ in their number of snippets ({found}); extract them again together.")
    return arrays, stated


def _map(path: Path) -> Array:
    try:
        check_file(path, "features")
        array = patiently(lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # on a malformed file numpy raises many types
        raise _unreadable(path, error) from None
    if not isinstance(array, np.ndarray):
        raise _unreadable(path, f"it contains a {type(array).__name__}")
    return array


def _unreadable(path: Path, reason: object) -> UserError:
    return UserError(
        f"{path}: cannot be read ({reason}); the file is truncated or not a {path.suffix} file of numbers. Copy it again."
    )


def _checked_array(array: Array, path: Path, width: int, shown: str = "(L, {})") -> Array:
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: contains {array.dtype}; expected an array of real numbers.")
    if array.ndim != 2 or array.shape[1] != width or len(array) == 0:
        found = array.shape if shown == "(L, {})" else array.shape[::-1]
        raise UserError(
            f"{path}: shape {found}; expected {shown.format(width)} with at least one snippet. "
            "Features of another width need --len_feature (all streams together)."
        )
    if len(array) > MOST_SNIPPETS:
        raise UserError(
            f"{path}: claims {len(array):,} snippets; expected at most {MOST_SNIPPETS:,}, 46 hours of 16 frames at 25 "
            "frames per second. Extract the features again, or split the video."
        )
    return array


def _from_npz(path: Path, streams: tuple[str, ...], width: int, headers_only: bool) -> tuple[list[Array], FileFacts]:
    keys = [NPZ_KEYS[stream] for stream in streams]
    try:
        with open_npz(path) as file:
            lacking = [key for key in keys if key not in file.files]
            if lacking:
                raise UserError(f"{path}: has no {lacking[0]}, only {', '.join(file.files)}; expected BackTAL's keys.")
            arrays = [_checked_array(header(file, key).zeros().T, path, width, "({}, L)") for key in keys]
            if not headers_only:
                arrays = [patiently(partial(file.__getitem__, key)).T for key in keys]
            duration, frames = (read_scalar(file, key) if key in file.files else None for key in ("duration", "frame_num"))
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None
    if duration is not None and not 0 < duration < np.inf:
        raise UserError(f"{path}: duration is {duration}; expected a positive number of seconds. Extract the features again.")
    if frames is not None and not (0 < frames < 2**31 and frames == int(frames)):
        raise UserError(f"{path}: frame_num is {frames}; expected the video's number of frames. Extract the features again.")
    stated = FileFacts(duration, None if frames is None else int(frames))
    return arrays, stated
