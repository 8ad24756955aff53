"""Numba kernels, compiled once and cached on disk where possible."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

# Division by zero gives inf or nan as in numpy; threads run in parallel. No option that changes rounding (fastmath) is set.
inner = numba.njit(nogil=True, error_model="numpy")  # decorator of functions that kernels call


class compiled:
    """Decorator of a kernel: it compiles at the first call; numba's cache keeps the result per machine and file version.

    If the cache cannot be written or read (permissions, full disk, damaged file), the kernel is compiled for this process.
    """

    announced = False

    def __init__(self, function: Callable[..., Any]):
        self.plain, self.ready, self.cached = function, False, True
        try:
            self.fast = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # numba has no folder to cache in
            self._without_cache()

    def _without_cache(self) -> None:
        self.fast, self.cached = inner(self.plain), False

    def __call__(self, *args: Any) -> Any:
        if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            with np.errstate(all="ignore"):
                return self.plain(*map(_with_attributes, args))
        if not self.ready:
            self._announce()
        fast = self.fast
        try:
            result = fast(*args)
        except Exception:  # numba compiles and uses its cache at the first call with each argument type
            if fast is self.fast:  # else another thread has replaced it meanwhile
                if not self.cached:
                    raise
                self._without_cache()
            result = self.fast(*args)
        self.ready = True
        return result

    def _announce(self) -> None:
        """Print that the next call compiles, unless this kernel is cached."""
        folder, name = self.fast.stats.cache_path, f"*.{self.plain.__name__}-{self.plain.__code__.co_firstlineno}.*.nbi"
        if not compiled.announced and not (folder and any(Path(folder).glob(name))):
            compiled.announced = True
            print("compiling kernels (once, some ten seconds)", file=sys.stderr, flush=True)


def _with_attributes(value: Any) -> Any:
    """`value` with record fields as attributes, as compiled code has them; a tuple element by element."""
    if isinstance(value, tuple):
        return type(value)(*map(_with_attributes, value))
    return value.view(np.recarray) if isinstance(value, np.ndarray) and value.dtype.names else value
