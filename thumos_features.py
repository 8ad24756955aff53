"""Videos on disk -> records -> batches of T snippets of each.

Shapes: B batch, L snippets of a video, T times of the network's input, F features, C classes, K snippets mixed at each time.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from config import Config, where_to_get
from dataset.annotations import Database, check_labels, duration_of, read_database, subset_name
from dataset.draws import Draws
from dataset.feature_files import inspect, read_features
from dataset.layouts import Layout, find_layout, spelled, split_names
from dataset.store import Store
from dataset.video import Floats, Indices, Video
from eval.names import spellings
from eval.table import Table, digest, read_ground_truth
from fast.snippets import NO_BOXES, Snippets
from utils import UserError, listing


class Mixture(NamedTuple):
    """A sample of a video whose input at each time is a weighted sum of K snippets, as interpolation makes it."""

    snippets_tk: Indices
    shares_tk: Floats  # weights
    boxes: Indices | None = None  # (N, 2) first and last times of the boxes that ASM-Loc's attention uses
    warp: NDArray[np.floating] | None = None  # (L+1,) start of each snippet on this time axis, if uneven (see Curves.warp)


Sample = Indices | Mixture  # a sample of a video: the number of the snippet at each time (T,), or mixtures of snippets
Sampler = Callable[[Video, np.random.RandomState | None], Sample]  # samples a video, in training with a random generator


class Batch(NamedTuple):
    snippets: Snippets
    label_bc: Tensor
    videos: Sequence[Video] = ()
    share: float = 1.0  # this process's share of the batch
    whole: Sequence[Video] = ()  # the videos of all processes
    first: int = 0  # index in `whole` of the first of `videos`

    def to(self, device: torch.device) -> "Batch":
        return self._replace(snippets=self.snippets.to(device), label_bc=self.label_bc.to(device))


# ---------------------------------------------------------------------------------------------------- sampling


def uniform_indices(num_seg: int, times: int) -> Indices:
    """(T,) snippets of a test video: floor(i*L/T); a short video repeats snippets."""
    return np.arange(times, dtype=np.int64) * num_seg // times


def whole_or_random_indices(num_seg: int, times: int, random: np.random.RandomState | None) -> Indices:
    """Snippets of a video: random in training; in tests a video of at most `times` snippets is used whole."""
    return random_indices(num_seg, times, random) if random else uniform_indices(num_seg, min(num_seg, times))


def random_indices(num_seg: int, times: int, random: np.random.RandomState) -> Indices:
    """(T,) snippets of a training video, one from each of T segments, both ends included.

    Draws one number per segment of several snippets, so it consumes a RandomState as the official loop over snippets does.
    """
    if num_seg == times:
        return np.arange(times, dtype=np.int64)
    ends = (np.arange(times + 1) * num_seg / times).astype(np.int64)
    first, ends[-1] = ends[:-1].copy(), max(num_seg - 1, ends[-2])
    pool = ends[1:] - first + 1
    drawn = pool > 1
    first[drawn] += random.randint(0, pool[drawn])
    return first


def interpolated(num_seg: int, times: int) -> Mixture:
    """Resize L snippets to T times, linearly between the middles of equal parts, constant beyond the outer ones."""
    place_t = np.clip((np.arange(times) + 0.5) * num_seg / times - 0.5, 0, num_seg - 1)
    left_t = np.minimum(place_t.astype(np.int64), max(num_seg - 2, 0))
    share_t = (place_t - left_t).astype(np.float32)
    snippets_tk = np.stack([left_t, np.minimum(left_t + 1, num_seg - 1)], axis=1)
    return Mixture(snippets_tk, np.stack([1 - share_t, share_t], axis=1))


def gather_input(videos: list[Video], store: Store, samples: list[Sample]) -> Snippets:
    """Network input (B, F, T) for videos of equal length T."""
    if not isinstance(samples[0], Mixture):
        return store.gather(videos, [index for index in samples if not isinstance(index, Mixture)])
    mixtures = [mixture for mixture in samples if isinstance(mixture, Mixture)]
    size_b, (size_t, size_k) = len(videos), mixtures[0].snippets_tk.shape
    snippets = store.gather(videos, [mixture.snippets_tk.ravel() for mixture in mixtures])
    table = snippets.table().float()
    shares = torch.from_numpy(np.concatenate([mixture.shares_tk for mixture in mixtures])).to(table)
    mixed = F.embedding_bag(snippets.index_bt.view(-1, size_k), table, mode="sum", per_sample_weights=shares)
    boxes = tuple(NO_BOXES if mixture.boxes is None else mixture.boxes for mixture in mixtures)
    return replace(Snippets.of(mixed.view(size_b, size_t, -1)), boxes=boxes)


def training_batch(
    videos: list[Video],
    store: Store,
    draws: Draws,
    sampler: Sampler,
    iteration: int,
    share: Callable[[int], slice] = slice,
) -> Batch:
    """The batch of an iteration, or this process's share of it."""
    whole = draws.videos(len(videos), iteration)
    first, end, _ = share(len(whole)).indices(len(whole))
    counted = (end - first) / len(whole)
    if not counted:  # a process without videos takes part with one video of weight 0
        first, end = 0, 1
    numbers = whole[first:end]
    samples = [sampler(videos[v], draws.sampler(iteration, v)) for v in numbers]
    chosen = [videos[v] for v in numbers]
    label_bc = torch.from_numpy(np.stack([video.label_c for video in chosen]))
    return Batch(gather_input(chosen, store, samples), label_bc, chosen, counted, [videos[v] for v in whole], first)


def test_batches(videos: list[Video], sampler: Sampler, size: int) -> list[tuple[list[Video], list[Sample]]]:
    """Test videos and their samples, in batches of at most `size` videos of equal length T."""
    samples = [sampler(video, None) for video in videos]
    times = [len(sample.snippets_tk if isinstance(sample, Mixture) else sample) for sample in samples]
    order = sorted(range(len(videos)), key=times.__getitem__)
    alike = [list(group) for _, group in groupby(order, key=times.__getitem__)]
    parts = [group[start : start + size] for group in alike for start in range(0, len(group), size)]
    return [([videos[v] for v in part], [samples[v] for v in part]) for part in parts]


# ----------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Data:
    """The videos and the ground truth of a run."""

    train: list[Video]
    test: list[Video]
    truth: Table  # of all test videos, with or without features
    summary: str


def load_data(config: Config, subsets: Sequence[str] = ("train", "test")) -> Data:
    """Find the videos of `subsets` in any layout, open their files and check the shapes."""
    layout = find_layout(Path(config.data_path), config.facts, config.layout)
    database = load_database(config)
    lines = [f"{config.dataset}: layout {layout.name} in {layout.base}, annotations {config.annotation_file}"]
    videos: dict[str, list[Video]] = {"train": [], "test": []}
    tested: list[str] = []
    for subset in subsets:
        found = find_videos(layout, config, database, subset)
        if found.missing and (config.missing == "fail" or not found.files):
            remedy = where_to_get(config.facts, config.data_path) + (REMEDY if config.missing == "fail" else "")
            raise UserError(f"{found.what_is_missing(layout)} {remedy}")
        with ThreadPoolExecutor(max(1, config.num_workers)) as pool:
            opened = partial(open_video, layout=layout, config=config, database=database)
            videos[subset] = list(pool.map(opened, *zip(*found.files.items(), strict=True)))
        if subset == "train":
            videos[subset], said = config.prepare_training(videos[subset], layout, database)
            lines += said
        lines.append(found.summary(layout, videos[subset]))
        tested = [*found.files, *found.missing]
    truth = test_truth(database, config, tested)
    return Data(videos["train"], videos["test"], truth, "\n".join(lines))


REMEDY = " Or leave these videos out with --missing drop."


def load_database(config: Config) -> Database:
    """The annotations of all videos; their labels are checked against the dataset's classes."""
    database = read_database(config.annotation_file, where_to_get(config.facts, config.data_path))
    check_labels(database, config.annotation_file, config.classes, config.dataset)
    return database


def test_truth(database: Database, config: Config, videos: Sequence[str]) -> Table:
    """The ground truth: the test subset, or the annotations of `videos` if the file names no subsets."""
    own, names = subset_name(database, config.facts.test, config.annotation_file), set(videos)
    marked = {
        name: video | {"subset": "test" if (video.get("subset") == own if own else name in names) else "other"}
        for name, video in database.items()
    }
    return read_ground_truth({"database": marked}, "test")


@dataclass(frozen=True)
class SubsetFiles:
    """The annotated videos of a subset, and their files."""

    subset: str
    files: dict[str, tuple[Path, ...]]
    missing: list[str]
    unannotated: list[str]

    def what_is_missing(self, layout: Layout) -> str:
        return (
            f"{len(self.missing)} of {len(self.files) + len(self.missing)} annotated {self.subset} videos have no features: "
            f"{listing(self.missing)}. Expected {layout.expected(self.subset)}."
        )

    def summary(self, layout: Layout, videos: list[Video]) -> str:
        size = sum(path.stat().st_size for video in videos for path in video.files) / 2**20
        text = f"  {self.subset}: {len(videos)} videos, {sum(video.num_seg for video in videos):,} snippets, {size:,.0f} MiB"
        if self.unannotated:
            text += f"; {len(self.unannotated)} files have no annotation and are not used: {listing(self.unannotated)}"
        return text + (f"\n    dropped: {self.what_is_missing(layout)}" if self.missing else "")


def find_videos(layout: Layout, config: Config, database: Database, subset: str) -> SubsetFiles:
    """Find the videos of a subset: those of its split file, else of the annotations' subset, else of the folder."""
    places = layout.files(subset, config.streams)
    present = set().union(*places)
    names = getattr(config.facts, subset)
    split = split_names(Path(config.data_path), layout, subset)
    own = subset_name(database, names, config.annotation_file)
    if split:
        wanted = split[1]
        _check_split(*split, database, own, config.annotation_file)
    elif own:
        wanted = [name for name, video in database.items() if video.get("subset") == own and video["annotations"]]
    else:
        wanted = [name for name in database if spelled(name, places[0]) and database[name]["annotations"]]
    if not wanted:  # the file names no subsets
        raise UserError(
            f"{config.annotation_file}: names no subsets, and none of its annotated videos is in the folder of the {subset} "
            f'subset; expected {layout.expected(subset)}. Correct --data_path, or give the videos a "subset".'
        )
    files, missing = {}, []
    for name in wanted:
        keys = [spelled(name, place) for place in places]
        if None in keys:
            missing.append(name)
        else:
            files[name] = tuple(place[key] for place, key in zip(places, keys, strict=True) if key)
            present -= set(keys)
    known = {key for name in database for key in spellings(name)}
    return SubsetFiles(subset, files, missing, sorted(present - known))


def _check_split(path: Path, wanted: list[str], database: Database, own: str | None, annotations: Path) -> None:
    bare = [name for name in wanted if not database.get(name, {}).get("annotations")]
    if bare:
        raise UserError(
            f"{path}: {len(bare)} of {len(wanted)} videos have no annotation in {annotations}: {listing(bare)}. "
            "Add their annotations or remove them from the split."
        )
    misplaced = [name for name in wanted if database[name].get("subset") != own]
    if misplaced:
        raise UserError(
            f"{path}: {len(misplaced)} videos belong to another subset in {annotations}: {listing(misplaced)}; expected "
            f'"subset": "{own}". Correct one of the two files.'
        )


def open_video(name: str, files: tuple[Path, ...], layout: Layout, config: Config, database: Database) -> Video:
    annotations = database[name]["annotations"]
    width = config.len_feature // len(config.streams)
    num_seg, stated = inspect(files, layout, config.streams, width)
    annotated_duration = duration_of(database[name])
    return Video(
        name=name,
        num_seg=num_seg,
        label_c=multi_hot([row["label"] for row in annotations], config.classes),
        annotations=annotations,
        fps=config.fps,
        snippet_frames=config.snippet_frames,
        duration=stated.duration or annotated_duration,
        timed=config.timing == "duration" or layout.stretched,
        width=width,
        files=files,
        read=lambda: read_features(files, layout, config.streams, width, num_seg),
        frames=stated.frames,
        annotated_duration=annotated_duration,
    )


def fingerprint(videos: list[Video], truth: Table) -> str:
    """Hash of the ground truth and of all facts of the videos, in order; the store compares their features."""
    facts = ((v.name, v.num_seg, v.label_c.tolist(), v.duration, v.timed, v.frames, *v.clicks) for v in videos)
    content = [digest(truth), *facts]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def multi_hot(labels: list[str], classes: tuple[str, ...]) -> Floats:
    present = set(labels)
    return np.array([name in present for name in classes], dtype=np.float32)
