"""One video of a run, as all that follows sees it.

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
    """One video of any layout. `read` takes its features from disk, every value checked."""

    name: str  # as the annotations spell it
    num_seg: int  # L
    label_c: Floats
    annotations: list[dict[str, Any]]
    fps: float
    snippet_frames: int
    duration: float | None  # seconds, by the feature file where it tells them, else by the annotations
    timed: bool  # whether its duration says how long it is, and not its rows
    width: int  # of one stream
    files: tuple[Path, ...]
    read: Callable[[], Floats]  # (L, F)
    frames: int | None = None  # of the video, where a file tells
    annotated_duration: float | None = None
    clicks: tuple[float, ...] = ()  # where annotators clicked on background, as shares of its length

    @property
    def seconds(self) -> float:
        return self.duration if self.timed and self.duration else self.num_seg * self.snippet_frames / self.fps
