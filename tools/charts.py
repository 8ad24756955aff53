"""Figures with one style: colours that all eyes tell apart (Okabe and Ito's), labelled axes, legends, no title without need.

`figure(width, height)` makes one; every function here returns a matplotlib Figure, which the caller saves.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "text.parse_math": False,  # names of classes and videos may hold a $
    "pdf.fonttype": 42,  # text stays text
}


def figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def heat_map(flags: Sequence[str], rows: Sequence[dict[str, Any]], value: str, title: str) -> Figure:
    """The best `value`, in percent, for each pair of values of the first two flags that vary; a line if one flag varies."""
    with matplotlib.rc_context(STYLE):
        varied = [flag for flag in flags if len({row[flag] for row in rows}) > 1] or list(flags[:1])
        if len(varied) > 1 and all(len({row[flag] for row in rows}) <= 40 for flag in varied[:2]):
            return _grid(varied, rows, value, title)
        drawn = figure(6, 3.6)
        axes = drawn.subplots()
        axes.set_title(title, fontsize=9)
        first = varied[0]
        places = range(len(rows)) if isinstance(rows[0][first], str) else [row[first] for row in rows]
        order = np.argsort(places)
        colour = [100 * row[value] for row in rows]
        if len(varied) > 1 and not isinstance(rows[0][varied[1]], str):
            points = axes.scatter(places, [row[varied[1]] for row in rows], c=colour, cmap="cividis")
            drawn.colorbar(points, label="mAP in %")
            axes.set_ylabel(varied[1])
        else:
            axes.plot(np.array(places)[order], np.array(colour)[order], marker="o", ms=3, lw=1)
            axes.set_ylabel("mAP in %")
        axes.set_xlabel(first)
        return drawn


def _grid(varied: list[str], rows: Sequence[dict[str, Any]], value: str, title: str) -> Figure:
    down, across = (sorted({row[flag] for row in rows}) for flag in varied[:2])
    best = np.full((len(down), len(across)), np.nan)
    for row in rows:
        place = down.index(row[varied[0]]), across.index(row[varied[1]])
        best[place] = np.fmax(best[place], 100 * row[value])
    drawn = figure(2 + 0.62 * len(across), 1.4 + 0.3 * len(down))
    axes = drawn.subplots()
    image = axes.imshow(best, cmap="cividis", aspect="auto")
    middle = (np.nanmin(best) + np.nanmax(best)) / 2
    for i, j in np.argwhere(np.isfinite(best)) if best.size <= 400 else []:
        axes.text(
            j, i, f"{best[i, j]:.1f}", ha="center", va="center", color="white" if best[i, j] < middle else "black", size=8
        )
    axes.set_xticks(range(len(across)), [_short(name) for name in across], rotation=45 if len(across) > 8 else 0)
    axes.set_yticks(range(len(down)), [_short(name) for name in down])
    axes.set_xlabel(varied[1])
    axes.set_ylabel(varied[0])
    rest = f" (best over {', '.join(varied[2:])})" if varied[2:] else ""
    axes.set_title(title + rest, fontsize=9, wrap=True)
    drawn.colorbar(image, label="mAP in %")
    return drawn


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:18]
