"""Compiled kernels: numba, compiled once and kept on disk where a disk can be written."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

# Divisions by zero give inf and nan as in numpy; threads run side by side. Nothing that would change a rounding is allowed.
inner = numba.njit(nogil=True, error_model="numpy")  # for functions that kernels call


class compiled:
    """Decorator of a kernel: compiled at its first call, by numba's cache once per machine and version of the file.

    Where the cache cannot be written or read (rights, a full disk, a damaged file) the kernel is compiled for this process.
    """

    announced = False

    def __init__(self, function: Callable[..., Any]):
        self.plain, self.ready, self.cached = function, False, True
        try:
            self.fast = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # numba found no folder for its cache
            self._without_cache()

    def _without_cache(self) -> None:
        self.fast, self.cached = inner(self.plain), False

    def __call__(self, *args: Any) -> Any:
        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            with np.errstate(all="ignore"):
                return self.plain(*map(_with_attributes, args))
        if not self.ready:
            self._announce()
        try:
            result = self.fast(*args)
        except Exception:  # numba compiles, and reads and writes its cache, at the first call with each kind of arguments
            if not self.cached:
                raise
            self._without_cache()
            result = self.fast(*args)
        self.ready = True
        return result

    def _announce(self) -> None:
        """Say that the next call takes long, if nothing of this kernel is in the cache."""
        folder, name = self.fast.stats.cache_path, f"*.{self.plain.__name__}-{self.plain.__code__.co_firstlineno}.*.nbi"
        if not compiled.announced and not (folder and any(Path(folder).glob(name))):
            compiled.announced = True
            print("compiling kernels for localization and scoring (once, some ten seconds)", file=sys.stderr, flush=True)


def _with_attributes(value: Any) -> Any:
    """Records whose fields are attributes, as they are in compiled code."""
    return value.view(np.recarray) if isinstance(value, np.ndarray) and value.dtype.names else value
