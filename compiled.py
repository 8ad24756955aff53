"""Compiled kernels: numba, compiled once and kept on disk where a disk can be written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Divisions by zero give inf and nan as in numpy; threads run side by side. Nothing that would change a rounding is allowed.
inner = numba.njit(nogil=True, error_model="numpy")  # for functions that kernels call


class compiled:
    """Decorator of a kernel: compiled at its first call, by numba's cache once per machine and version of the file.

    Where the cache cannot be written or read (rights, a full disk, a damaged file) the kernel is compiled for this process.
    """

    announced = False

    def __init__(self, function: Callable[..., Any]):
        self.plain, self.ready = function, False
        try:
            self.fast = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # numba found no folder for its cache
            self.fast = inner(function)

    def __call__(self, *args: Any) -> Any:
        if self.ready:
            return self.fast(*args)
        self._announce()
        try:
            result = self.fast(*args)
        except Exception:
            self.fast = inner(self.plain)
            result = self.fast(*args)
        self.ready = True
        return result

    def _announce(self) -> None:
        """Say that the next call takes long, if nothing of this kernel is in the cache."""
        folder, name = self.fast.stats.cache_path, f"*.{self.plain.__name__}-{self.plain.__code__.co_firstlineno}.*.nbi"
        if not compiled.announced and not (folder and any(Path(folder).glob(name))):
            compiled.announced = True
            print("compiling kernels for localization and scoring (once, some ten seconds)", file=sys.stderr, flush=True)
