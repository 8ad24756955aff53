"""Background clicks: moments at which an annotator saw nothing of the video's classes (docs/backtal.md, section 4).

They come from BackTAL's .npz files, from its annotators' files, from a list of one's own, or are drawn between actions.
Standard library only, but for what reads .npz: the configuration says where clicks come from.
"""

import contextlib
import csv
import random
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dataset.annotations import Database
from dataset.layouts import Layout
from eval.names import spellings
from utils import UserError, listing, read_text

if TYPE_CHECKING:
    from dataset.video import Video


class Settings(Protocol):
    """What the flags say of clicks, and what they depend on."""

    @property
    def clicks(self) -> str: ...
    @property
    def clicks_described(self) -> str: ...
    @property
    def annotator(self) -> str | None: ...
    @property
    def click_seed(self) -> int: ...
    @property
    def clicks_per_gap(self) -> int: ...
    @property
    def click_noise(self) -> float: ...
    @property
    def click_miss(self) -> float: ...
    @property
    def data_path(self) -> str: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def num_segments(self) -> int: ...


Clicks = dict[str, tuple[float, ...]]  # by video, as shares of its length

SOURCES = ("auto", "npz", "human", "simulated")
ANNOTATORS = ("A1", "A2", "A3")
HUMAN_TAG = "background_background"
COLUMNS = (("video", "second"), ("URLID", "Start"))  # of a list of one's own, and of the annotators' files
SLACK = 1.0  # seconds by which a click may lie past the end: rows round a video's length down
NO_CLICK = -100  # in point_label


def find_source(wanted: str, root: Path, layout: Layout, annotator: str | None) -> str:
    """What `auto` stands for: clicks in the feature files, else those of the annotators, else simulated ones."""
    if annotator and wanted not in ("auto", "human"):
        raise UserError(f"--annotator {annotator} is for --clicks human, and --clicks is {wanted}; give one of the two.")
    if annotator:
        return "human"
    if wanted not in ("auto", "npz", "human", "simulated"):
        return str(Path(wanted).resolve())  # one list, however it is spelt
    if wanted == "npz" and layout.suffix != ".npz":
        raise UserError(f"--clicks npz: the feature files of {root} are {layout.suffix}; expected BackTAL's .npz files.")
    if wanted != "auto":
        return wanted
    first = next(iter(layout.files("train", ("rgb",))[0].values()), None)
    with contextlib.suppress(OSError, zipfile.BadZipFile):  # what else such a file is good for is told when it is read
        if first and zipfile.is_zipfile(first):
            with zipfile.ZipFile(first) as archive:
                if "point_label.npy" in archive.namelist():
                    return "npz"
    return "human" if human_files(root, None)[0].is_file() else "simulated"


def human_files(root: Path, annotator: str | None) -> list[Path]:
    """The files of one annotator, the first unless told, or of all of them."""
    folder = root / "human_anns"
    chosen = ANNOTATORS if annotator == "all" else (annotator or ANNOTATORS[0],)
    return [folder / f"THUMOS14_Background-Click-Annotation_{name}.txt" for name in chosen]


def read_clicks(videos: Sequence["Video"], layout: Layout, config: Settings, database: Database) -> tuple[Clicks, str]:
    """The clicks of every training video, and what there is to say of them."""
    if config.clicks == "npz":
        clicks = {video.name: _labelled_rows(video, config.num_classes) for video in videos}
    elif config.clicks == "simulated":
        clicks = {video.name: simulate(video, config) for video in videos}
    else:
        paths = human_files(Path(config.data_path), config.annotator) if config.clicks == "human" else [Path(config.clicks)]
        listed: dict[str, set[float]] = defaultdict(set)
        for path in paths:
            for name, second in read_seconds(path, database, videos, layout):
                listed[name].add(second)
        clicks = {video.name: tuple(sorted(t / video.seconds for t in listed[video.name])) for video in videos}
        if not any(clicks.values()):
            raise UserError(f"{', '.join(map(str, paths))}: has no click in a training video; choose others with --clicks.")
    return clicks, summary(videos, clicks, config.clicks_described)


def summary(videos: Sequence["Video"], clicks: Clicks, source: str) -> str:
    """How many there are, and how many of them are mistakes: people make some."""
    count = sum(map(len, clicks.values()))
    clicked = sum(bool(clicks[video.name]) for video in videos)
    inside = sum(
        any(start <= share * video.seconds <= end for start, end in _segments(video))
        for video in videos
        for share in clicks[video.name]
    )
    text = f"  clicks {source}: {count:,} in {clicked} of {len(videos)} training videos"
    return text + (f"; warning: {inside} ({100 * inside / count:.1f} %) lie inside an annotated action" if inside else "")


# ------------------------------------------------------------------------------------------------------------ lists


def read_seconds(path: Path, database: Database, videos: Sequence["Video"], layout: Layout) -> list[tuple[str, float]]:
    """Video and second of every click of a list, every one checked."""
    expected = "expected a header with the columns video,second, or a file of BackTAL's annotators (URLID,...,Start,...)"
    lines = read_text(path, "background clicks", "Choose others with --clicks.").splitlines()
    reader = csv.DictReader(lines, skipinitialspace=True)
    columns = next((pair for pair in COLUMNS if set(pair) <= set(reader.fieldnames or ())), None)
    if columns is None:
        raise UserError(f"{path}: its columns are {', '.join(reader.fieldnames or ()) or 'none'}; {expected}.")
    known = {other: name for name in database for other in spellings(name)}
    used = {video.name: video for video in videos}
    found = []
    for row in rows_of(reader, path):
        where = f"{path}, line {reader.line_num}"
        name, text = ((row[column] or "").strip() for column in columns)
        if name not in known:
            raise UserError(f"{where}: video {name!r} is not among the annotated ones; correct its name or take the line out.")
        if row.get("Tag", HUMAN_TAG) != HUMAN_TAG:
            raise UserError(f"{where}: Tag is {row['Tag']!r}; expected {HUMAN_TAG}, as these are clicks on background.")
        try:
            second = float(text)
        except ValueError:
            raise UserError(f"{where}: {columns[1]} is {text!r}; expected a number of seconds.") from None
        video = used.get(known[name])
        if video is None:
            continue  # of another subset, or dropped for want of features
        if layout.stretched and video.duration is None:
            raise UserError(f"{where}: nothing says how long {name} is; give the annotations its `duration`.")
        if not 0 <= second <= video.seconds + SLACK:
            raise UserError(f"{where}: second {text} of {name}, which lasts {video.seconds:.2f} s; correct it or take it out.")
        found.append((video.name, second))
    return found


def rows_of(reader: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str | None]]:
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is no line of a table ({error}); correct it.") from None


def _labelled_rows(video: "Video", background: int) -> tuple[float, ...]:
    """Clicks that a .npz file of BackTAL's layout marks in its rows."""
    import numpy as np  # here, as the configuration is made before there need be a numpy

    path = video.files[0]
    try:
        with np.load(path, allow_pickle=False) as file:
            label_l = file["point_label"]
    except Exception as error:  # bytes that are no archive make numpy raise almost anything
        raise UserError(f"{path}: has no readable point_label ({error}); choose other clicks with --clicks.") from None
    unknown = sorted(set(label_l.ravel().tolist()) - {background, NO_CLICK})
    if label_l.shape != (video.num_seg,) or unknown:
        raise UserError(
            f"{path}: point_label is {label_l.shape} and has {listing(list(map(str, unknown))) or 'no other value'} besides; "
            f"expected ({video.num_seg},), {background} where background was clicked and {NO_CLICK} elsewhere."
        )
    return tuple(((np.flatnonzero(label_l == background) + 0.5) / video.num_seg).tolist())


# ------------------------------------------------------------------------------------------------------- simulation


def simulate(video: "Video", config: Settings) -> tuple[float, ...]:
    """Clicks at even chances in each gap between actions, by a generator of the video's own.

    `--click_miss` is the share of gaps that the annotator passes over, `--click_noise` the deviation of the hand, in seconds.
    """
    draw = random.Random(f"{config.click_seed} {video.name}")
    shares = []
    for start, end in gaps(video, video.seconds / config.num_segments):
        missed = draw.random() < config.click_miss
        for _ in range(config.clicks_per_gap):
            second = draw.uniform(start, end) + config.click_noise * draw.gauss(0, 1)
            if not missed:
                shares.append(min(max(second / video.seconds, 0.0), 1.0))
    return tuple(sorted(shares))


def gaps(video: "Video", least: float) -> list[tuple[float, float]]:
    """What no action covers of a video, in stretches of at least so many seconds."""
    found, free = [], 0.0
    for start, end in [*_segments(video), (video.seconds, video.seconds)]:
        if min(start, video.seconds) - free >= least:
            found.append((free, min(start, video.seconds)))
        free = max(free, end)
    return found


def _segments(video: "Video") -> list[tuple[float, float]]:
    return sorted((float(row["segment"][0]), float(row["segment"][1])) for row in video.annotations)
