"""Detection metrics, usable alone: `from eval import detection_map`. Imports neither torch nor the rest of the project."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.eval_detection import ANETdetection, DetectionScore, detection_map

__all__ = ["ANETdetection", "DetectionScore", "detection_map"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because `options.py` imports eval before numpy is installed."""
    if name not in __all__:
        raise AttributeError(f"module 'eval' has no attribute {name!r}")
    return getattr(importlib.import_module("eval.eval_detection"), name)
