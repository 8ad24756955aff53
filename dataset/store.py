"""Where features are during a run: all in one matrix, in memory or on the GPU, or left in their files.

Shapes: N rows of all videos, F features, L rows of one video, T times at which it is shown.
"""

import json
import shutil
import time
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
from utils import UserError, atomic_write

GIB = 2**30


class Store(Protocol):
    """Features of all videos of a run: `Matrix` or `Files`."""

    def rows(self, videos: list[Video], index: list[Indices]) -> Snippets:
        """What shows row `index[b][t]` of video b at time t."""


class Matrix:
    """The rows of all videos one after the other."""

    def __init__(self, videos: list[Video], rows_nf: Tensor):
        self.rows_nf = rows_nf
        first = np.cumsum([0, *(video.num_seg for video in videos)])
        self.first = dict(zip(videos, first[:-1].tolist(), strict=True))

    def rows(self, videos: list[Video], index: list[Indices]) -> Snippets:
        """On the CPU a video shown whole is not copied; a GPU gathers the rows of all videos at once."""
        wanted, places = zip(*map(distinct, videos, index), strict=True)
        first = [self.first[video] for video in videos]
        if self.rows_nf.is_cuda:
            flat = np.concatenate([start + rows for start, rows in zip(first, wanted, strict=True)])
            parts = [self.rows_nf.index_select(0, torch.from_numpy(flat).to(self.rows_nf.device))]
        else:
            ends = [start + video.num_seg for start, video in zip(first, videos, strict=True)]
            parts = [pick(self.rows_nf[a:b], rows) for a, b, rows in zip(first, ends, wanted, strict=True)]
        return Snippets(tuple(parts), show(wanted, places)).to(self.rows_nf.device)


class Files:
    """Features are read from their files whenever they are needed."""

    def __init__(self, workers: int):
        self.pool = ThreadPoolExecutor(max(1, workers))

    def rows(self, videos: list[Video], index: list[Indices]) -> Snippets:
        wanted, places = zip(*map(distinct, videos, index), strict=True)
        parts = self.pool.map(lambda video, rows: pick(torch.from_numpy(video.read()), rows), videos, wanted)
        return Snippets(tuple(parts), show(wanted, places))


def distinct(video: Video, index: Indices) -> tuple[Indices, Indices]:
    """The rows that have to be there to show `index`, and where among them each of it is: all of a short video's rows."""
    if video.num_seg <= len(index):
        return np.arange(video.num_seg), index
    return index, np.arange(len(index))


def pick(rows_lf: Tensor, wanted: Indices) -> Tensor:
    return rows_lf if len(rows_lf) == len(wanted) else rows_lf.index_select(0, torch.from_numpy(wanted))


def show(wanted: Sequence[Indices], places: Sequence[Indices]) -> Tensor:
    """Places in the rows of all videos, laid end to end."""
    first = np.cumsum([0, *map(len, wanted[:-1])])
    return torch.from_numpy(np.stack(places) + first[:, None])


def open_store(videos: list[Video], config: Config, device: torch.device, say: Callable[[str], None] = print) -> Store:
    """Features where --cache wants them; `auto` takes the GPU, then memory, then files, by what fits --cache_budget."""
    dtype = torch.float16 if config.cache_dtype == "float16" else torch.float32
    rows = sum(video.num_seg for video in videos)
    size = rows * config.len_feature * dtype.itemsize
    place = config.cache
    if place == "auto":
        budget = config.cache_budget * GIB
        free = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else 0
        place = "device" if size <= min(budget, free) else "ram" if size <= min(budget, free_memory() / 2) else "off"
    if place == "device" and device.type == "cpu":
        place = "ram"
    where = {"ram": "in memory", "device": f"on {device}", "off": "read from their files at each use"}[place]
    say(f"features: {rows:,} rows of {config.len_feature}, {size / 2**20:,.0f} MiB as {config.cache_dtype}, {where}")
    if place == "off":
        return Files(config.num_workers)
    matrix = read_matrix(videos, config, dtype, say)
    return Matrix(videos, matrix.to(device) if place == "device" else matrix)


def free_memory() -> float:
    """Bytes that may be taken; all one could wish for where the system does not tell."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")


def read_matrix(videos: list[Video], config: Config, dtype: torch.dtype, say: Callable[[str], None]) -> Tensor:
    """The rows of all videos, from the packed copy if it is of these very files, else from them."""
    folder = Path(config.data_path) / "packed" if config.cache_path == "auto" else Path(config.cache_path)
    path = (
        None
        if config.cache_path == "none"
        else folder / f"{'_'.join((config.facts.name, *config.streams, config.cache_dtype))}.bin"
    )
    header = packed_header(videos, config)
    matrix = torch.empty((sum(video.num_seg for video in videos), config.len_feature), dtype=dtype)
    if path is not None and _unpack(path, header, matrix):
        return matrix
    first = np.cumsum([0, *(video.num_seg for video in videos)])

    def fill(number: int) -> None:
        rows = matrix[first[number] : first[number + 1]]
        rows.copy_(torch.from_numpy(videos[number].read()))
        if dtype == torch.float16 and not torch.isfinite(rows).all():
            raise UserError(f"{videos[number].files[0]}: has values beyond 65504; they need --cache_dtype float32.")

    with ThreadPoolExecutor(max(1, config.num_workers)) as pool:
        list(pool.map(fill, range(len(videos))))
    if path is not None:
        _pack(path, header, matrix, say)
    return matrix


def packed_header(videos: list[Video], config: Config) -> bytes:
    """One line that changes with whatever the matrix is made from: names, sizes and times of the files."""
    files = [[[str(file.resolve()), *_state(file)] for file in video.files] for video in videos]
    names = [[video.name, video.num_seg] for video in videos]
    content = {"format": 1, "streams": config.streams, "dtype": config.cache_dtype, "videos": names, "files": files}
    return json.dumps(content).encode() + b"\n"


def _bytes(matrix: Tensor) -> memoryview:
    return memoryview(matrix.numpy()).cast("B")  # type: ignore[arg-type]


def _state(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def _unpack(path: Path, header: bytes, matrix: Tensor) -> bool:
    """Fill `matrix` from a packed copy with this header; False if there is none, or one of other files."""
    values = _bytes(matrix)
    try:
        if path.stat().st_size != len(header) + len(values):
            return False
        with open(path, "rb", buffering=0) as stream:
            if stream.read(len(header)) != header:
                return False
            done = 0
            while done < len(values):
                count = stream.readinto(values[done : done + 2**28])
                if not count:
                    return False
                done += count
            return True
    except OSError:
        return False


def _pack(path: Path, header: bytes, matrix: Tensor, say: Callable[[str], None]) -> None:
    """Keep a packed copy, if there is a place for it: it saves time, nothing depends on it."""
    values = _bytes(matrix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < 2 * len(values):
            say(f"no packed copy of the features is kept: {path.parent} has little space left")
            return
        for half in path.parent.glob(f".{path.name}.*.part"):
            if time.time() - half.stat().st_mtime > 3600:  # of a run that was killed; a younger one may be at work
                half.unlink()
        with atomic_write(path, "wb") as stream:
            stream.write(header)
            stream.write(values)
        say(f"a packed copy of the features is kept in {path}")
    except OSError as error:
        say(f"no packed copy of the features is kept: {path}: {error.strerror}")
