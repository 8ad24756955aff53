"""Numbers and text in the form in which the page holds them."""

import base64
import json
import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MOST_POINTS = 2000  # of a curve
KINDS = {"float16": "f2", "float32": "f4", "float64": "f8", "uint8": "u1", "uint16": "u2"}


def packed(values: NDArray[Any], dtype: DTypeLike) -> dict[str, str]:
    """Little-endian numbers in base64: {"f4": "..."}."""
    kind = np.dtype(dtype)
    if kind == np.float16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        kind = np.dtype(np.float32)
    array = np.ascontiguousarray(values, dtype=kind.newbyteorder("<"))
    return {KINDS[kind.name]: base64.b64encode(array.tobytes()).decode()}


def as_script(value: Any) -> str:
    """JSON that may stand inside a <script> element: no character of it ends the element or opens a comment."""
    try:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """The value with None in place of infinities and nan, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
