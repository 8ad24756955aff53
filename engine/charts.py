"""Figures in one style: colours that all eyes tell apart (those of Okabe and Ito), one for each run, with labels and legends.

Each function of a figure returns matplotlib's Figure; `save` writes it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from eval.bootstrap import Interval
from eval.reading import clipped
from eval.table import Doubles
from utils import UserError, atomic_write

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
LINES = ("-", "--", "-.", ":")  # for prints without colours
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.prop_cycle": cycler(color=COLOURS),
    "text.parse_math": False,  # names of classes and videos may hold a $
    "pdf.fonttype": 42,  # text stays text
}
FORMATS = ("pdf", "png", "svg")
MOST_SHOWN = 60  # detections of a class, best first
MOST_CLASSES = 5  # of a strip


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def within(*args: Any, **named: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **named)

    return within


def save(drawn: Figure, path: Path) -> list[Path]:
    """Write `path`, or a PDF and a PNG if its name has no ending; returns the files. Equal figures give equal files."""
    kind = path.suffix.lstrip(".").lower()
    if kind and kind not in FORMATS:
        raise UserError(f"{path}: figures end in .{', .'.join(FORMATS)}; expected one of these, or none for a PDF and a PNG.")
    paths = [path] if kind else [path.with_name(f"{path.name}.{own}") for own in ("pdf", "png")]
    for own in paths:
        form = own.suffix.lstrip(".").lower()
        unnamed = {"Software": None} if form == "png" else {"Date": None} if form == "svg" else {"CreationDate": None}
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": "0"}), atomic_write(own, "wb") as stream:
            drawn.savefig(stream, format=form, dpi=90, metadata=unnamed)
    return paths


def blank(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def plain(name: Any, most: int = 40) -> str:
    """A name, or a value, on one line of at most `most` characters."""
    text = f"{name:g}" if isinstance(name, float) else re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(name))
    return clipped(text, most)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


# --------------------------------------------------------------------------------------------------------- one video


@dataclass
class Lane:
    """The detections of one run in one video."""

    name: str
    classes: Sequence[str]  # (D,)
    segments: NDArray[np.floating]  # (D, 2)
    scores: NDArray[np.floating]  # (D,)


@dataclass
class Strip:
    """One video: curves over time, the instances of each class, and the detections of some runs."""

    title: str
    seconds: float
    instances: list[tuple[str, float, float]]  # class, start, end
    lanes: list[Lane]
    curves: dict[str, tuple[Doubles, NDArray[np.floating]]] = field(default_factory=dict)  # times, and (T,) or (T, C) values
    columns: Sequence[str] = ()  # names of the C classes of `curves`

    @property
    def classes(self) -> list[str]:
        """Those of the instances, then others by their best detection."""
        own = sorted({name for name, *_ in self.instances})
        best: dict[str, float] = {}
        for lane in self.lanes:
            top = max(lane.scores.tolist(), default=1.0) or 1.0
            for name, score in zip(lane.classes, lane.scores.tolist(), strict=True):
                best[name] = max(best.get(name, -np.inf), score / top)
        others = sorted(best.keys() - set(own), key=lambda name: -best[name])
        return own + others[: max(0, MOST_CLASSES - len(own))]


@styled
def strip(video: Strip) -> Figure:
    """Curves, then for each class a line of its instances and a line of the detections of each run; darker: higher score."""
    heights = [1.2] * len(video.curves) + [0.25 * (1 + len(video.lanes))] * len(video.classes)
    drawn = blank(10, sum(heights) * 1.15 + 1.1)
    panels = drawn.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, (times, values)) in zip(panels, video.curves.items(), strict=False):
        _curves(panel, video, times, values)
        panel.set_ylabel("\n".join(plain(line, 22) for line in title.split("\n")), fontsize=8)
    for panel, name in zip(panels[len(video.curves) :], video.classes, strict=True):
        _lanes(panel, video, name)
    for panel in panels[:-1]:
        panel.tick_params(bottom=False)
        panel.spines["bottom"].set_visible(False)
    panels[0].set_title(plain(video.title, 90), fontsize=9)
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(0, video.seconds)
    handles = [Patch(color="black", label="ground truth")]
    handles += [Patch(color=colour(number), label=plain(lane.name, 60)) for number, lane in enumerate(video.lanes)]
    drawn.legend(
        handles=handles, loc="outside lower center", ncols=2, title="detections: darker for a higher score", title_fontsize=8
    )
    return drawn


def _curves(panel: Axes, video: Strip, times: Doubles, values: NDArray[np.floating]) -> None:
    shown = [name for name in video.classes if name in video.columns] if values.ndim == 2 else [None]
    for number, name in enumerate(shown):
        line = values if name is None else values[:, list(video.columns).index(name)]
        look: Any = {"color": "0.3"} if name is None else {"color": colour(number + 2), "ls": LINES[number % len(LINES)]}
        panel.plot(times, line, lw=1, label=None if name is None else plain(name), **look)
    for _, start, end in video.instances:
        panel.axvspan(start, end, color="0.5", alpha=0.2, lw=0)
    if len(shown) > 1:
        panel.legend(loc="upper right")


def _lanes(panel: Axes, video: Strip, name: str) -> None:
    for own, start, end in video.instances:
        if own == name:
            panel.barh(0, end - start, left=start, height=0.7, color="black", lw=0)
    for number, lane in enumerate(video.lanes, 1):
        mine = np.flatnonzero([own == name for own in lane.classes])
        mine = mine[np.argsort(-lane.scores[mine], kind="stable")][:MOST_SHOWN][::-1]
        best = lane.scores[mine].max(initial=1e-9)
        for index in mine:
            start, end = lane.segments[index]
            strength = float(np.clip(lane.scores[index] / best, 0.25, 1)) ** 2
            panel.barh(number, end - start, left=start, height=0.7, color=colour(number - 1), alpha=strength, lw=0)
    panel.set_yticks([0], [plain(name)], fontsize=8)
    panel.set_ylim(len(video.lanes) + 0.5, -0.5)
    panel.tick_params(left=False)


# -------------------------------------------------------------------------------------------------------------- tables


@styled
def bars(names: Sequence[str], runs: Mapping[str, Sequence[Interval]], label: str) -> Figure:
    """One horizontal bar, in percent, for each name and run, with its interval if it has one."""
    height = 0.8 / len(runs)
    drawn = blank(6, 1.1 + len(names) * (0.16 + 0.12 * len(runs)))
    axes = drawn.subplots()
    for number, (run, intervals) in enumerate(runs.items()):
        places = np.arange(len(names)) + height * (number - (len(runs) - 1) / 2)
        values, low, high = (100 * np.array([getattr(each, end) for each in intervals]) for end in ("value", "low", "high"))
        errors = np.nan_to_num(np.stack([values - low, high - values]).clip(0))
        bounds = {"xerr": errors, "error_kw": {"lw": 0.8, "ecolor": "0.35"}} if errors.any() else {}
        axes.barh(places, values, height, color=colour(number), label=plain(run, 60), **bounds)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn


@styled
def precision_recall(runs: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], tiou: float) -> Figure:
    """Precision by recall, the mean over the classes of each run; of a single run, the classes too. Areas are APs."""
    grid = np.linspace(0, 1, 501)
    drawn = blank(4.2, 4)
    axes = drawn.subplots()
    for number, (name, curves) in enumerate(runs.items()):
        lines = np.array([at_recalls(grid, *curve) for curve in curves])
        if len(runs) == 1:
            axes.plot(100 * grid, 100 * lines.T, color="0.8", lw=0.6)
        area = 100 * np.mean([np.sum(np.diff([0, *recall]) * precision) for recall, precision in curves])
        label = f"{plain(name, 40)} (mAP {area:.1f})"
        axes.plot(
            100 * grid, 100 * lines.mean(axis=0), color=colour(number), ls=LINES[number % len(LINES)], lw=1.6, label=label
        )
    axes.set(xlabel=f"recall in %, tIoU {tiou:g}", ylabel="precision in %, mean over classes", xlim=(0, 100), ylim=(0, 102))
    drawn.legend(loc="outside lower center")
    return drawn


def at_recalls(grid: Doubles, recall: Sequence[float], precision: Sequence[float]) -> Doubles:
    """Precision at each recall of `grid`: that at the next hit, 0 where there is none."""
    place = np.searchsorted(recall, grid - 1e-12)
    return np.append(precision, 0.0)[place]


@styled
def seeds(runs: Mapping[str, Sequence[tuple[Doubles, Doubles]]], label: str) -> Figure:
    """Learning curves (iterations, values) of all seeds of each run, and the last values with their mean and deviation."""
    drawn = blank(7.5, 3.4)
    left, right = drawn.subplots(1, 2, width_ratios=(3, 1.2))
    for number, (name, curves) in enumerate(runs.items()):
        for place, (iterations, values) in enumerate(curves):
            own = plain(name, 60) if place == 0 else None
            left.plot(
                iterations, 100 * values, color=colour(number), ls=LINES[number % len(LINES)], lw=0.9, alpha=0.7, label=own
            )
        last = 100 * np.array([values[-1] for _, values in curves])
        spread = np.linspace(-0.12, 0.12, len(last)) if len(last) > 1 else np.zeros(1)
        right.plot(number + spread, last, ".", color=colour(number), ms=5)
        deviation = last.std(ddof=1) if len(last) > 1 else 0
        right.errorbar(number + 0.28, last.mean(), deviation, fmt="_", color=colour(number), capsize=3, ms=9)
        right.annotate(
            f"{last.mean():.1f}", (number + 0.28, last.mean()), (6, 0), textcoords="offset points", va="center", size=8
        )
    left.set(xlabel="iteration", ylabel=label)
    right.set_xticks(range(len(runs)), [f"{len(curves)} seed{'s' * (len(curves) > 1)}" for curves in runs.values()])
    right.set(xlim=(-0.4, len(runs) - 0.2), xlabel="last evaluation")
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn


# ------------------------------------------------------------------------------------------------------------ settings


@styled
def settings(flags: Sequence[str], rows: Sequence[Mapping[str, Any]], value: str, title: str) -> Figure:
    """The best `value`, in percent, by the first two flags that vary: cells of a grid, or points; a line if one flag varies."""
    varied = [flag for flag in flags if len({row[flag] for row in rows}) > 1] or list(flags[:1])
    if len(varied) > 1 and np.prod([len({row[flag] for row in rows}) for flag in varied[:2]]) <= 2 * len(rows):
        return _grid(varied, rows, value, title)
    drawn = blank(6, 3.6)
    axes = drawn.subplots()
    axes.set_title(title, fontsize=9, wrap=True)
    values = 100 * np.array([row[value] for row in rows])
    across = _places(rows, varied[0], axes.set_xticks)
    if len(varied) > 1:
        points = axes.scatter(across, _places(rows, varied[1], axes.set_yticks), c=values, cmap="cividis")
        drawn.colorbar(points, label="mAP in %")
        axes.set_ylabel(varied[1])
    else:
        order = np.argsort(across)
        axes.plot(across[order], values[order], marker="o", ms=3, lw=1)
        axes.set_ylabel("mAP in %")
    axes.set_xlabel(varied[0])
    return drawn


def _places(rows: Sequence[Mapping[str, Any]], flag: str, set_ticks: Callable[..., Any]) -> Doubles:
    """The value of a flag in each row, or the place of its text, which is written at the axis."""
    if all(isinstance(row[flag], float | int) for row in rows):
        return np.array([float(row[flag]) for row in rows])
    texts = list(dict.fromkeys(str(row[flag]) for row in rows))
    set_ticks(range(len(texts)), [plain(text, 18) for text in texts])
    return np.array([float(texts.index(str(row[flag]))) for row in rows])


def _grid(varied: list[str], rows: Sequence[Mapping[str, Any]], value: str, title: str) -> Figure:
    down, across = (sorted({row[flag] for row in rows}, key=lambda own: (own is not None, own)) for flag in varied[:2])
    best = np.full((len(down), len(across)), np.nan)
    for row in rows:
        place = down.index(row[varied[0]]), across.index(row[varied[1]])
        best[place] = np.fmax(best[place], 100 * row[value])
    drawn = blank(2.4 + 0.62 * len(across), 1.4 + 0.3 * len(down))
    axes = drawn.subplots()
    image = axes.imshow(best, cmap="cividis", aspect="auto")
    middle = (np.nanmin(best) + np.nanmax(best)) / 2
    for i, j in np.argwhere(np.isfinite(best)) if best.size <= 400 else []:
        shade = "white" if best[i, j] < middle else "black"
        axes.text(j, i, f"{best[i, j]:.1f}", ha="center", va="center", color=shade, size=8)
    axes.set_xticks(range(len(across)), [plain(own, 18) for own in across], rotation=45 if len(across) > 8 else 0)
    axes.set_yticks(range(len(down)), [plain(own, 18) for own in down])
    axes.set(xlabel=varied[1], ylabel=varied[0])
    rest = f" (best over {', '.join(varied[2:])})" if varied[2:] else ""
    axes.set_title(title + rest, fontsize=9, wrap=True)
    drawn.colorbar(image, label="mAP in %")
    return drawn
