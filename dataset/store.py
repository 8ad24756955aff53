"""Where features are during a run: in one matrix in memory or on the GPU, or in their files.

Shapes: N snippets of all videos, F features, L snippets of one video, T sampled times.
"""

import json
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from config import Config
from dataset.video import Indices, Video
from fast.snippets import Snippets
from utils import UserError, atomic_write, listing

GIB = 2**30
CHECKSUM_DIGITS = 12  # with a comma and a space

Checksums = dict[str, int]  # by video


class Store(Protocol):
    """Features of all videos of a run: `Matrix` or `Files`."""

    def gather(self, videos: list[Video], index: list[Indices]) -> Snippets:
        """A batch that has snippet `index[b][t]` of video b at time t."""


class Matrix:
    """The snippets of all videos, concatenated."""

    def __init__(self, videos: list[Video], snippets_nf: Tensor):
        self.snippets_nf = snippets_nf
        first = np.cumsum([0, *(video.num_seg for video in videos)])
        self.first = dict(zip(videos, first[:-1].tolist(), strict=True))

    def gather(self, videos: list[Video], index: list[Indices]) -> Snippets:
        """On the CPU, a video whose snippets are all needed is not copied; a GPU gathers all videos at once."""
        needed, places = zip(*map(distinct, videos, index), strict=True)
        first = [self.first[video] for video in videos]
        if self.snippets_nf.is_cuda:
            flat = np.concatenate([start + own for start, own in zip(first, needed, strict=True)])
            parts = [self.snippets_nf.index_select(0, torch.from_numpy(flat).to(self.snippets_nf.device))]
        else:
            ends = [start + video.num_seg for start, video in zip(first, videos, strict=True)]
            parts = [pick(self.snippets_nf[a:b], own) for a, b, own in zip(first, ends, needed, strict=True)]
        return Snippets(tuple(parts), joined_index(needed, places)).to(self.snippets_nf.device)


class Files:
    """Reads features from their files at each use; they must be the same at each use, and as `known`, which it completes."""

    def __init__(self, workers: int, dtype: torch.dtype = torch.float32, known: Checksums | None = None):
        self.pool = ThreadPoolExecutor(max(1, workers))
        self.dtype, self.known = dtype, {} if known is None else known

    def gather(self, videos: list[Video], index: list[Indices]) -> Snippets:
        needed, places = zip(*map(distinct, videos, index), strict=True)
        parts = self.pool.map(lambda video, own: pick(self.read(video), own), videos, needed)
        return Snippets(tuple(parts), joined_index(needed, places))

    def read(self, video: Video) -> Tensor:
        features = torch.from_numpy(video.read()).to(self.dtype)
        check_content({video.name: checksum(features)}, self.known)
        return features


def distinct(video: Video, index: Indices) -> tuple[Indices, Indices]:
    """The snippets needed for `index`, and the place of each element of `index` among them; all L of a short video."""
    if video.num_seg <= len(index):
        return np.arange(video.num_seg), index
    return index, np.arange(len(index))


def pick(snippets_lf: Tensor, needed: Indices) -> Tensor:
    return snippets_lf if len(snippets_lf) == len(needed) else snippets_lf.index_select(0, torch.from_numpy(needed))


def joined_index(needed: Sequence[Indices], places: Sequence[Indices]) -> Tensor:
    """(B, T) places in the concatenated snippets of all videos."""
    first = np.cumsum([0, *map(len, needed[:-1])])
    return torch.from_numpy(np.stack(places) + first[:, None])


def check_content(found: Checksums, known: Checksums) -> None:
    """Raise UserError if features are not those of `known`, the checksums of a run; complete these by the new ones."""
    differ = [name for name, value in found.items() if known.setdefault(name, value) != value]
    if differ:
        raise UserError(
            f"the features of {listing(differ)} ({len(differ)} videos) are not those with which this run began. Put the "
            "earlier files back, or start anew without --resume (what is there will be kept)."
        )


def open_store(
    videos: list[Video],
    config: Config,
    device: torch.device,
    say: Callable[[str], None] = print,
    known: Checksums | None = None,
) -> Store:
    """Open features as --cache says; `auto` takes the first of GPU, memory and files that fits in --cache_budget.

    Features that differ from the `known` checksums of a resumed run raise UserError.
    """
    known = {} if known is None else known
    dtype = torch.float16 if config.cache_dtype == "float16" else torch.float32
    snippets = sum(video.num_seg for video in videos)
    size = snippets * config.len_feature * dtype.itemsize
    place = config.cache
    if place == "auto":
        budget = config.cache_budget * GIB
        free = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else 0
        place = "device" if size <= min(budget, free) else "ram" if size <= min(budget, free_memory() / 2) else "off"
    if place == "device" and device.type == "cpu":
        place = "ram"
    where = {"ram": "in memory", "device": f"on {device}", "off": "read from their files at each use"}[place]
    say(f"features: {snippets:,} snippets of {config.len_feature}, {size / 2**20:,.0f} MiB as {config.cache_dtype}, {where}")
    if place == "off":
        return Files(config.num_workers, dtype, known)
    matrix, checksums = read_matrix(videos, config, dtype, say)
    check_content({video.name: value for video, value in zip(videos, checksums, strict=True)}, known)
    return Matrix(videos, matrix.to(device) if place == "device" else matrix)


def free_memory() -> float:
    """Available memory in bytes; infinite if the system does not report it."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")


def read_matrix(
    videos: list[Video], config: Config, dtype: torch.dtype, say: Callable[[str], None]
) -> tuple[Tensor, list[int]]:
    """The snippets of all videos (N, F) and a checksum per video, from the packed copy if it was made from the same files.

    What is missing or damaged in the packed copy is read from the files, and the copy is written again.
    """
    path = packed_path(config)
    header = packed_header(videos, config)
    matrix = torch.empty((sum(video.num_seg for video in videos), config.len_feature), dtype=dtype)
    parts = matrix.split([video.num_seg for video in videos])
    stored, start = _stored_checksums(path, header, len(videos)) if path else (None, 0)
    places = np.cumsum([start, *(part.nbytes for part in parts)]).tolist()

    def fill(number: int) -> tuple[int, bool]:
        """Fill the part of a video; returns its checksum, and whether it comes from the packed copy."""
        part = parts[number]
        if path and stored and _read_at(path, places[number], part) and checksum(part) == stored[number]:
            return stored[number], True
        part.copy_(torch.from_numpy(videos[number].read()))
        if dtype == torch.float16 and not torch.isfinite(part).all():
            raise UserError(f"{videos[number].files[0]}: has values beyond 65504; use --cache_dtype float32.")
        return checksum(part), False

    with ThreadPoolExecutor(max(1, config.num_workers)) as pool:
        filled = list(pool.map(fill, range(len(videos))))
    checksums = [value for value, _ in filled]
    if path and not all(packed for _, packed in filled):
        if stored:
            bad = [video.name for video, (_, packed) in zip(videos, filled, strict=True) if not packed]
            say(f"{path}: {len(bad)} videos of the packed copy were damaged ({listing(bad)}); read from their files again")
        _pack(path, header, matrix, checksums, say)
    return matrix, checksums


def packed_path(config: Config) -> Path | None:
    if config.cache_path == "none":
        return None
    folder = Path(config.data_path) / "packed" if config.cache_path == "auto" else Path(config.cache_path)
    return folder / f"{'_'.join((config.facts.name, *config.streams, config.cache_dtype))}.bin"


def packed_header(videos: list[Video], config: Config) -> bytes:
    """One line that identifies the source of the matrix: names, sizes and modification times of the files."""
    files = [[[str(file.resolve()), *_state(file)] for file in video.files] for video in videos]
    names = [[video.name, video.num_seg] for video in videos]
    content = {"format": 2, "streams": config.streams, "dtype": config.cache_dtype, "videos": names, "files": files}
    return json.dumps(content).encode() + b"\n"


def _state(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise UserError(f"{file}: was there when the run began and is gone ({error.strerror}). Put it back.") from None
    return state.st_size, state.st_mtime_ns


def checksum(features: Tensor) -> int:
    """CRC-32 of features in memory."""
    return zlib.crc32(_bytes(features))


def _bytes(matrix: Tensor) -> memoryview:
    return memoryview(matrix.numpy()).cast("B")  # type: ignore[arg-type]


def _stored_checksums(path: Path, header: bytes, count: int) -> tuple[list[int] | None, int]:
    """The checksums in a packed copy and the place at which its features begin; None if there is no copy with this header."""
    try:
        with open(path, "rb") as stream:
            if stream.read(len(header)) != header:
                return None, 0
            line = stream.readline(CHECKSUM_DIGITS * count + 2)
        stored = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return None, 0
    return (stored if isinstance(stored, list) and len(stored) == count else None), len(header) + len(line)


def _read_at(path: Path, place: int, part: Tensor) -> bool:
    """Fill `part` from a file, beginning at `place`; False if the file is too short."""
    values, done = _bytes(part), 0
    try:
        with open(path, "rb", buffering=0) as stream:
            stream.seek(place)
            while count := stream.readinto(values[done : done + 2**28]):
                done += count
    except OSError:
        return False
    return done == len(values)


def _pack(path: Path, header: bytes, matrix: Tensor, checksums: list[int], say: Callable[[str], None]) -> None:
    """Write a packed copy if possible; it only saves time."""
    values = _bytes(matrix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < 2 * len(values):
            say(f"no packed copy of the features is kept: {path.parent} has little space left")
            return
        for half in path.parent.glob(f".{path.name}.*.part"):
            if time.time() - half.stat().st_mtime > 3600:  # left by a killed run; a newer one may belong to a running process
                half.unlink()
        with atomic_write(path, "wb") as stream:
            stream.write(header)
            stream.write(json.dumps(checksums).encode() + b"\n")
            stream.write(values)
        say(f"a packed copy of the features is kept in {path}")
    except OSError as error:
        say(f"no packed copy of the features is kept: {path}: {error.strerror}")
