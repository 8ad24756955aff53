"""Reads the features of one video from the files of any layout; checks every value.

Shapes: L snippets, W features of one stream, F features of all streams.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset.archives import header, open_npz, patiently, read_scalar
from dataset.layouts import LAYOUTS, STREAMS, Layout
from dataset.video import Floats
from eval.reading import check_file
from utils import UserError

Array = NDArray[Any]

Form = Layout | type[Layout]  # the form of its files is the same for all data sets

MOST_SNIPPETS = 2**18  # of one video: 46 hours of 16 frames at 25 per second, 1 GiB of each I3D stream
NPZ_KEYS = {"rgb": "feat_spa", "flow": "feat_tem"}


class FileFacts(NamedTuple):
    """Facts of the video that a feature file may state."""

    duration: float | None = None
    frames: int | None = None


def inspect(files: tuple[Path, ...], layout: Form, streams: tuple[str, ...], width: int) -> tuple[int, FileFacts]:
    """The number of snippets L, and what else the files state; reads headers, not features."""
    arrays, stated = _arrays(files, layout, streams, width, headers_only=True)
    return len(arrays[0]), stated


def read_features(files: tuple[Path, ...], layout: Form, streams: tuple[str, ...], width: int, num_seg: int) -> Floats:
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
    files: tuple[Path, ...], layout: Form, streams: tuple[str, ...], width: int, headers_only: bool = False
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
    _check_lengths(arrays, streams, files[0])
    return arrays, stated


def _check_lengths(arrays: list[Array], streams: tuple[str, ...], path: Path) -> None:
    if len({len(array) for array in arrays}) > 1:
        found = ", ".join(f"{stream} {len(array)}" for stream, array in zip(streams, arrays, strict=True))
        raise UserError(f"{path}: the streams differ in their number of snippets ({found}); extract them again together.")


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


def _check_numbers(array: Array, path: Path) -> None:
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: contains {array.dtype}; expected an array of real numbers.")


def _checked_array(array: Array, path: Path, width: int, shown: str = "(L, {})") -> Array:
    _check_numbers(array, path)
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


# ------------------------------------------------------------------------------------------------------- without a layout


def read_loose(files: tuple[Path, ...], streams: tuple[str, ...], width: int) -> tuple[Floats, FileFacts]:
    """The features (L, F) of one video in files of any layout, and what else they state.

    Besides what the layouts hold, an array may have three dimensions; the shorter one of the first two are crops, and their
    mean is taken. An .npz file may hold one array of one stream, in either direction.
    """
    if len(files) == 1 and files[0].suffix == ".npz" and NPZ_KEYS[streams[0]] in _names(files[0]):
        num_seg, stated = inspect(files, LAYOUTS["backtal"], streams, width)
        return read_features(files, LAYOUTS["backtal"], streams, width, num_seg), stated
    if len(files) not in (1, len(streams)):
        raise UserError(
            f"{', '.join(map(str, files))}: {len(files)} files; expected one of each stream, {' and '.join(streams)}, or one "
            "of all. Name them in this order."
        )
    arrays = [_of_any_shape(path, width, len(STREAMS) if len(files) < len(STREAMS) else 1) for path in files]
    if len(files) == 1 and arrays[0].shape[1] == len(STREAMS) * width:
        arrays = [arrays[0][:, STREAMS.index(stream) * width :][:, :width] for stream in streams]
    elif len(files) < len(streams):
        raise UserError(
            f"{files[0]}: has the width of one stream, {width}; expected {' and '.join(streams)}. Name the files of both, or "
            "one that has both side by side."
        )
    _check_lengths(arrays, streams, files[0])
    features = np.concatenate(arrays, axis=1, dtype=np.float32)
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise UserError(
            f"{files[min(column // width, len(files) - 1)]}: {features[row, column]} at row {row}, column {column % width}; "
            "expected finite numbers. Extract them again."
        )
    return features, FileFacts()


def _names(path: Path) -> list[str]:
    try:
        with open_npz(path) as file:
            return list(file.files)
    except Exception as error:  # on a malformed archive numpy raises many types
        raise _unreadable(path, error) from None


def _of_any_shape(path: Path, width: int, streams: int) -> Array:
    """The array (L, W) of one stream, or of up to so many streams side by side, in single precision."""
    array = _only_array(path, width) if path.suffix == ".npz" else _map(path)
    _check_size(array, path, width)
    widths = [width * count for count in range(1, streams + 1)]
    if array.ndim == 2 and path.suffix == ".npz" and array.shape[1] not in widths and array.shape[0] in widths:
        array = array.T
    with np.errstate(all="ignore"):  # what is not finite is reported by the caller
        if array.ndim == 3 and array.shape[2] in widths and array.shape[0] != array.shape[1] and array.size:
            array = array.mean(axis=int(np.argmin(array.shape[:2])), dtype=np.float64)
        known = array.shape[1] if array.ndim == 2 and array.shape[1] in widths else width
        return _checked_array(array, path, known).astype(np.float32)


def _only_array(path: Path, width: int) -> Array:
    """The array of an .npz file that has no other."""
    names = _names(path)
    if len(names) != 1:
        raise UserError(f"{path}: has the arrays {', '.join(names)[:200]}; expected one array, or BackTAL's keys.")
    try:
        with open_npz(path) as file:
            _check_size(header(file, names[0]).zeros(), path, width)  # before it is unpacked
            return file[names[0]]
    except UserError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def _check_size(array: Array, path: Path, width: int) -> None:
    _check_numbers(array, path)
    if array.size > MOST_SNIPPETS * len(STREAMS) * width:
        raise UserError(
            f"{path}: claims {array.size:,} numbers; expected at most {MOST_SNIPPETS * len(STREAMS) * width:,}, those of "
            f"{MOST_SNIPPETS:,} snippets. Extract the features again, or split the video."
        )
