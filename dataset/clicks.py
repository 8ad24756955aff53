"""Background clicks: times at which an annotator saw none of the video's classes (docs/backtal.md, section 4).

They come from BackTAL's .npz files, its annotators' files, a list of the user's, or a simulation. Standard library only,
except for reading .npz: the configuration imports this module before numpy is installed.
"""

import contextlib
import csv
import random
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dataset.annotations import Database
from dataset.layouts import Layout
from eval.names import spellings
from eval.reading import as_number
from utils import UserError, listing, read_text

if TYPE_CHECKING:
    from dataset.video import Video


class ClickSettings(Protocol):
    """The part of the configuration that clicks depend on."""

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
COLUMNS = (("video", "second"), ("URLID", "Start"))  # of a user's list, and of the annotators' files
SLACK = 1.0  # seconds by which a click may lie past the end: a whole number of snippets rounds the duration down
NO_CLICK = -100  # in point_label


def find_source(wanted: str, root: Path, layout: Layout, annotator: str | None) -> str:
    """Resolve `auto`: clicks in the feature files, else the annotators' clicks, else simulated ones."""
    if annotator and wanted not in ("auto", "human"):
        raise UserError(f"--annotator {annotator} requires --clicks human, but --clicks is {wanted}; leave out one of the two.")
    if annotator:
        return "human"
    if wanted not in ("auto", "npz", "human", "simulated"):
        return str(Path(wanted).resolve())  # the same path for every spelling of it
    if wanted == "npz" and layout.suffix != ".npz":
        raise UserError(f"--clicks npz: the feature files of {root} are {layout.suffix}; expected BackTAL's .npz files.")
    if wanted != "auto":
        return wanted
    first = next(iter(layout.files("train", ("rgb",))[0].values()), None)
    with contextlib.suppress(OSError, zipfile.BadZipFile):  # reading the file later reports its errors
        if first and first.is_file() and zipfile.is_zipfile(first):
            with zipfile.ZipFile(first) as archive:
                if "point_label.npy" in archive.namelist():
                    return "npz"
    return "human" if human_files(root, None)[0].is_file() else "simulated"


def human_files(root: Path, annotator: str | None) -> list[Path]:
    """The file of one annotator (default: the first), or the files of all."""
    folder = root / "human_anns"
    chosen = ANNOTATORS if annotator == "all" else (annotator or ANNOTATORS[0],)
    return [folder / f"THUMOS14_Background-Click-Annotation_{name}.txt" for name in chosen]


def read_clicks(videos: Sequence["Video"], layout: Layout, config: ClickSettings, database: Database) -> tuple[Clicks, str]:
    """The clicks of every training video, and a summary to print."""
    if config.clicks == "npz":
        clicks = {video.name: _labelled_snippets(video, config.num_classes) for video in videos}
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
            raise UserError(f"{', '.join(map(str, paths))}: no click lies in a training video; choose others with --clicks.")
    return clicks, summary(videos, clicks, config.clicks_described)


def summary(videos: Sequence["Video"], clicks: Clicks, source: str) -> str:
    """A line with the number of clicks, and of those that wrongly lie inside an action."""
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
    """Read a list: the video and the second of every click, all checked."""
    expected = "expected a header with the columns video,second, or a file of BackTAL's annotators (URLID,...,Start,...)"
    lines = read_text(path, "background clicks", "Choose others with --clicks.").splitlines()
    reader = csv.DictReader(lines, skipinitialspace=True)
    with as_csv(reader, path):
        columns = next((pair for pair in COLUMNS if set(pair) <= set(reader.fieldnames or ())), None)
    if columns is None:
        raise UserError(f"{path}: its columns are {listing(list(reader.fieldnames or ())) or 'none'}; {expected}.")
    repeated = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: its header has the column {listing(repeated)} more than once; {expected}.")
    known = {other: name for name in database for other in spellings(name)}
    used = {video.name: video for video in videos}
    found = []
    for row in csv_rows(reader, path):
        where = f"{path}, line {reader.line_num}"
        name, text = ((row[column] or "").strip() for column in columns)
        if name not in known:
            raise UserError(f"{where}: video {name!r} is not annotated; correct its name or remove the line.")
        if row.get("Tag", HUMAN_TAG) != HUMAN_TAG:
            raise UserError(f"{where}: Tag is {row['Tag']!r}; expected {HUMAN_TAG}, a click on background.")
        try:
            second = as_number(text)
        except ValueError:
            raise UserError(f"{where}: {columns[1]} is {text!r}; expected a number of seconds.") from None
        video = used.get(known[name])
        if video is None:
            continue  # in another subset, or dropped because it has no features
        if layout.stretched and video.duration is None:
            raise UserError(f"{where}: the duration of {name} is unknown; add its `duration` to the annotations.")
        if not 0 <= second <= video.seconds + SLACK:
            raise UserError(f"{where}: second {text} of {name}, which lasts {video.seconds:.2f} s; correct or remove the line.")
        found.append((video.name, second))
    return found


def csv_rows(reader: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str | None]]:
    with as_csv(reader, path):
        yield from reader


@contextlib.contextmanager
def as_csv(reader: "csv.DictReader[str]", path: Path) -> Iterator[None]:
    """Turn an error of `reader`, in its header or a row, into a message."""
    try:
        yield
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error}); correct it.") from None


def _labelled_snippets(video: "Video", background: int) -> tuple[float, ...]:
    """Clicks from the snippet labels of a .npz file in BackTAL's layout."""
    import numpy as np  # imported here because the configuration is made before numpy is installed

    from dataset.archives import header, open_npz

    path = video.files[0]
    try:
        with open_npz(path) as file:
            found = header(file, "point_label")
            label_l = file["point_label"] if found.shape == (video.num_seg,) else found.zeros()
    except Exception as error:  # on a malformed archive numpy raises many types
        raise UserError(f"{path}: has no readable point_label ({error}); choose other clicks with --clicks.") from None
    fits = label_l.shape == (video.num_seg,)
    unknown = sorted(set(label_l.tolist()) - {background, NO_CLICK}) if fits else []
    if not fits or unknown:
        raise UserError(
            f"{path}: point_label has shape {label_l.shape}, unexpected values {listing(list(map(str, unknown))) or 'none'}; "
            f"expected ({video.num_seg},), {background} at background clicks and {NO_CLICK} elsewhere."
        )
    return tuple(((np.flatnonzero(label_l == background) + 0.5) / video.num_seg).tolist())


# ------------------------------------------------------------------------------------------------------- simulation


def simulate(video: "Video", config: ClickSettings) -> tuple[float, ...]:
    """Draw clicks uniformly in each gap between actions, with one random generator per video.

    `--click_miss` is the share of gaps without clicks, `--click_noise` the standard deviation of click times in seconds.
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
    """(start, end) of the parts of a video without an action that last at least `least` seconds."""
    found, free = [], 0.0
    for start, end in [*_segments(video), (video.seconds, video.seconds)]:
        if min(start, video.seconds) - free >= least:
            found.append((free, min(start, video.seconds)))
        free = max(free, end)
    return found


def _segments(video: "Video") -> list[tuple[float, float]]:
    return sorted((float(row["segment"][0]), float(row["segment"][1])) for row in video.annotations)
