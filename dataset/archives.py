"""Reads the arrays of .npz files, each after a look at its header: a file of 2 MB can unpack to gigabytes."""

import contextlib
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from eval.reading import check_file

Array = NDArray[Any]
T = TypeVar("T")
MOST_HEADER = 10_000  # bytes, as numpy reads at most


class Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def zeros(self) -> Array:
        """An array of this shape that takes no memory."""
        return np.broadcast_to(np.zeros((), dtype=self.dtype), self.shape)


@contextlib.contextmanager
def open_npz(path: str | Path) -> Iterator[NpzFile]:
    """Open a .npz file; nothing in it is executed. Raises an error of numpy or a ValueError if it is none."""
    check_file(path, "an .npz file")
    with open(path, "rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is no zip archive")
        stream.seek(0)
        with patiently(lambda: np.load(stream, allow_pickle=False)) as file:
            names = file.zip.namelist()
            if len(set(names)) < len(names):
                raise ValueError("it contains two arrays of one name")
            yield file


def header(file: NpzFile, key: str) -> Header:
    """Shape and dtype of an array, from its header; a ValueError if the array has another size than the header says."""
    assert file.zip is not None
    with file.zip.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        assert isinstance(stream, zipfile.ZipExtFile)
        if version != (1, 0) and int.from_bytes(stream.peek(4)[:4], "little") > MOST_HEADER:
            raise ValueError(f"the header of {key} is longer than {MOST_HEADER} bytes")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = patiently(partial(read, stream))
        said, there = math.prod(shape) * dtype.itemsize, file.zip.getinfo(f"{key}.npy").file_size - stream.tell()
    if said != there and not dtype.hasobject:
        raise ValueError(f"{key} has {there:,} bytes, its header says {said:,}")
    return Header(shape, dtype)


def read_scalar(file: NpzFile, key: str) -> float:
    found = header(file, key)
    if math.prod(found.shape) != 1 or found.dtype.kind not in "fiu":
        raise ValueError(f"{key} is {found.dtype} of shape {found.shape}; expected one number")
    return float(file[key].item())


def unpacked_size(file: NpzFile) -> int:
    """Bytes of all arrays in memory, as the archive says; it never unpacks to more."""
    assert file.zip is not None
    return sum(info.file_size for info in file.zip.infolist())


def patiently(load: Callable[[], T]) -> T:
    """Call `load`, again after a SystemError, and return its result.

    numpy parses file headers with Python's parser, whose recursion counter is shared between threads in Python 3.11. Threads
    that parse at the same time sometimes get a SystemError although the file is valid.
    """
    for _ in range(20):
        try:
            return load()
        except SystemError:
            time.sleep(0.001)
    return load()
