"""The record of one video.

Shapes: L snippets, F features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]  # of snippets


@dataclass(frozen=True, eq=False)
class Video:
    """One video of any layout. `read` reads its features from disk and checks every value."""

    name: str  # as the annotations spell it
    num_seg: int  # L
    label_c: Floats
    annotations: list[dict[str, Any]]
    fps: float
    snippet_frames: int
    duration: float | None  # seconds, from the feature file if it states them, else from the annotations
    timed: bool  # True: its length is its duration; False: that of its snippets
    width: int  # of one stream
    files: tuple[Path, ...]
    read: Callable[[], Floats]  # (L, F)
    frames: int | None = None  # number of video frames, if the feature file states it
    annotated_duration: float | None = None
    clicks: tuple[float, ...] = ()  # background clicks, as shares of its length

    @property
    def seconds(self) -> float:
        return self.duration if self.timed and self.duration else self.num_seg * self.snippet_frames / self.fps
