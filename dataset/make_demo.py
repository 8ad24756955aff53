"""The built-in data sets: small, deterministic, one with THUMOS'14's difficulties, one of ActivityNet's shape (docs/demo.md).

`python -m dataset.make_demo FOLDER [--dataset NAME]` writes one; main.py makes it on first use.
Shapes: L feature rows of a video, W features of one stream, C classes.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset.facts import KNOWN
from utils import write_json

Floats = NDArray[np.float64]

SEED = 14
WIDTH = KNOWN["demo"].stream_width
SECONDS_PER_ROW = KNOWN["demo"].snippet_frames / KNOWN["demo"].fps


@dataclass(frozen=True)
class Kind:
    """What a demo is like. Spans are rows, (lowest, highest + 1)."""

    classes: tuple[str, ...]
    videos: dict[str, int]  # by folder
    length: tuple[float, float, int, int]  # of a video: mean and deviation of the logarithm, least, most
    second_class: float  # probability
    before: tuple[int, int]  # context of an instance
    after: tuple[int, int]
    gap: tuple[int, int]
    action: tuple[int, float, float, int]  # least length; shape and scale of a gamma distribution added to it, and its most
    lost: float = 0.0  # share of the videos that are annotated and have no features


KINDS = {
    "demo": Kind(
        classes=KNOWN["demo"].classes,
        videos={"train": 120, "test": 60},
        length=(4.9, 0.45, 60, 400),
        second_class=0.18,
        before=(0, 10),
        after=(2, 18),
        gap=(2, 26),
        action=(5, 1.5, 4.0, 35),  # mostly 3 to 11 seconds
    ),
    "demo-activitynet": Kind(
        classes=tuple(f"Activity {number:03d}" for number in range(100)),
        videos={"train": 1000, "val": 300},
        length=(5.1, 0.4, 60, 300),
        second_class=0.0,
        before=(5, 40),
        after=(5, 40),
        gap=(5, 60),
        action=(10, 1.5, 25.0, 150),  # mostly 15 to 50 seconds: one or two a video
        lost=0.03,
    ),
}
SURROUNDINGS = 4  # kinds of footage that belong to no class: crowd, talk, replay, titles

# How strongly each stream shows what happens. RGB sees places and things, flow sees movement.
# Context is as telling of the class as the action, so a classifier alone fires on both; the lull, which all footage
# without action shares and context shows too, is what a background class can learn and a filter can suppress.
STRENGTH = {
    "rgb": {"action": 0.26, "motion": 0.0, "context": 0.38, "surroundings": 0.22, "lull": 0.6, "scene": 0.06},
    "flow": {"action": 0.26, "motion": 0.06, "context": 0.24, "surroundings": 0.16, "lull": 0.36, "scene": 0},
}
# Chosen so that mean, spread, share of zeros and similarity of adjacent rows are near those of I3D features.
# level: what all rows show. look: what those of one video share. grain and gain: variation of each
# feature and of whole rows. floor: noise that makes zeros.
TEXTURE = {
    "rgb": {"level": 0.08, "look": 0.1, "grain": 0.35, "persistence": 0.7, "gain": 0.3, "floor": 0.03},
    "flow": {"level": 0.05, "look": 0.06, "grain": 0.5, "persistence": 0.4, "gain": 0.3, "floor": 0.04},
}
LEAK = 0.3  # how far context looks like the action it surrounds


@dataclass
class Timeline:
    """What happens in one video, row by row; 1 is plain sight."""

    classes: list[int]  # a short video may end before an instance of its second class
    instances: list[tuple[int, int, int]]  # class, first row, last row + 1
    action_lc: Floats
    context_lc: Floats  # what goes with a class without being the action: the pitcher waiting, the pool, the replay
    surroundings_ls: Floats
    lull_l: Floats  # what footage without action has in common in all videos: people standing, wide shots


def draw_timeline(random: np.random.Generator, number: int, kind: Kind) -> Timeline:
    """Instances with context of their class before and after, which often leaves no unrelated footage between them."""
    num_classes = len(kind.classes)
    rows = int(np.clip(random.lognormal(*kind.length[:2]), *kind.length[2:]))
    classes = [number % num_classes]
    if random.random() < kind.second_class:
        classes.append(int((classes[0] + random.integers(1, num_classes)) % num_classes))
    action, context = np.zeros((rows, num_classes)), np.zeros((rows, num_classes))
    surroundings = draw_surroundings(random, rows)
    lull = np.clip(1 + 0.3 * smooth(random, rows, 1)[:, 0], 0.2, None)
    instances: list[tuple[int, int, int]] = []
    row = int(random.integers(2, 12))
    while True:
        label = classes[len(instances)] if len(instances) < len(classes) else int(random.choice(classes))
        before, after, gap = (int(random.integers(*span)) for span in (kind.before, kind.after, kind.gap))
        first = row + before
        least, shape, scale, most = kind.action
        end = first + least + min(int(random.gamma(shape, scale)), most)
        if not instances and end + 2 > rows:
            end = rows - 2  # only where instances are long can the first be too long; no video is without
        if end + 2 > rows:
            return Timeline(classes, instances, action, context, surroundings, lull)
        instances.append((label, first, end))
        clarity = random.uniform(0.25, 1.2)  # an action far off or half hidden looks more like a lull
        action[first:end, label] = clarity
        context[row:first, label], context[end : end + after, label] = random.uniform(0.5, 1.2, 2)
        surroundings[row : end + after] *= 0.6
        surroundings[first:end] = 0
        lull[first:end] *= max(0.9 - clarity, 0)
        row = end + after + gap


def draw_surroundings(random: np.random.Generator, rows: int) -> Floats:
    """One kind of footage after another."""
    surroundings = np.zeros((rows, SURROUNDINGS))
    row = 0
    while row < rows:
        length = int(random.integers(4, 16))
        surroundings[row : row + length, random.integers(SURROUNDINGS)] = random.uniform(0.5, 1.2)
        row += length
    return surroundings


class World:
    """How one stream shows each thing that can happen: patterns of features, drawn once."""

    def __init__(self, random: np.random.Generator, stream: str, num_classes: int):
        self.strength, self.texture = STRENGTH[stream], TEXTURE[stream]
        self.level = self.texture["level"] * random.gamma(1.0, 1.0, WIDTH)
        self.scene, self.action, own = (patterns(random, num_classes) for _ in range(3))
        self.context = (1 - LEAK) * own + LEAK * self.action
        self.motion, self.lull = patterns(random, 1), patterns(random, 1)
        self.surroundings = patterns(random, SURROUNDINGS)

    def show(self, random: np.random.Generator, timeline: Timeline) -> NDArray[np.float32]:
        strength, texture, rows = self.strength, self.texture, len(timeline.lull_l)
        signal = np.tile(self.level + texture["look"] * patterns(random, 1), (rows, 1))
        signal += strength["scene"] * self.scene[timeline.classes].mean(axis=0)
        signal += strength["action"] * timeline.action_lc @ self.action
        signal += strength["motion"] * timeline.action_lc.sum(axis=1, keepdims=True) * self.motion
        signal += strength["context"] * timeline.context_lc @ self.context
        signal += strength["surroundings"] * timeline.surroundings_ls @ self.surroundings
        signal += strength["lull"] * timeline.lull_l[:, None] * self.lull
        # Features vary by factors, each on its own and all of a row together: no row tells by its size what it is.
        gain = 0.7 * random.standard_normal() + 0.7 * smooth(random, rows, 1, 0.9)
        grain = smooth(random, rows, WIDTH, texture["persistence"])
        signal *= np.exp(texture["gain"] * gain + texture["grain"] * grain)
        signal += texture["floor"] * random.standard_normal((rows, WIDTH))
        return np.maximum(signal, 0).astype(np.float32)


def patterns(random: np.random.Generator, count: int) -> Floats:
    """Non-negative and sparse: each involves about a fifth of the features, a few of them strongly."""
    return random.gamma(1.5, 0.7, (count, WIDTH)) * (random.random((count, WIDTH)) < 0.2)


def smooth(random: np.random.Generator, rows: int, width: int, persistence: float = 0.7) -> Floats:
    """Unit-variance noise in which a row resembles the one before."""
    noise = random.standard_normal((rows + 20, width))
    for row in range(1, len(noise)):
        noise[row] = persistence * noise[row - 1] + np.sqrt(1 - persistence**2) * noise[row]
    return noise[20:]


def make_demo(folder: Path, name: str = "demo") -> None:
    """Write the whole data set to `folder`, which appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        (_write_thumos if name == "demo" else _write_activitynet)(part, KINDS[name])
        part.chmod(0o755)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # only what this call made and did not finish


def _write_thumos(folder: Path, kind: Kind) -> None:
    """BaS-Net's layout and files."""
    database: dict[str, Any] = {}
    for subset, number, timeline, features in videos(kind):
        name = f"demo_{subset}_{number:04d}"
        database[name] = {"subset": subset, "annotations": annotations(timeline, kind)}
        save_features(folder / "features" / subset, name, features)
    for subset, count in kind.videos.items():
        names = [f"demo_{subset}_{number:04d}" for number in range(count)]
        (folder / f"split_{subset}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    write_json(folder / "gt.json", {"database": database})


def _write_activitynet(folder: Path, kind: Kind) -> None:
    """The official file's form: ids without the `v_` of the feature files, numbers for times, some features missing."""
    random = np.random.default_rng(SEED)
    database: dict[str, Any] = {}
    for subset, number, timeline, features in videos(kind):
        name = f"{subset}{number:06d}xx"
        rows = [row | {"segment": [float(time) for time in row["segment"]]} for row in annotations(timeline, kind)]
        duration = round(len(timeline.lull_l) * SECONDS_PER_ROW, 2)
        official = {"train": "training", "val": "validation"}[subset]
        database[name] = {"duration": duration, "subset": official, "resolution": "", "url": "", "annotations": rows}
        if random.random() >= kind.lost:
            save_features(folder / "features" / subset, f"v_{name}", features)
    content = {"version": "VERSION demo", "taxonomy": [], "database": database}
    write_json(folder / KNOWN["demo-activitynet"].annotations[0], content)


def videos(kind: Kind) -> Iterator[tuple[str, int, Timeline, dict[str, NDArray[np.float32]]]]:
    """Folder, number, timeline and features of each video."""
    random = np.random.default_rng(SEED)
    worlds = {stream: World(random, stream, len(kind.classes)) for stream in STRENGTH}
    for subset, count in kind.videos.items():
        for number in range(count):
            timeline = draw_timeline(random, number, kind)
            yield subset, number, timeline, {stream: world.show(random, timeline) for stream, world in worlds.items()}


def save_features(folder: Path, name: str, features: dict[str, NDArray[np.float32]]) -> None:
    for stream, rows in features.items():
        (folder / stream).mkdir(parents=True, exist_ok=True)
        np.save(folder / stream / f"{name}.npy", rows)


def annotations(timeline: Timeline, kind: Kind) -> list[dict[str, Any]]:
    return [
        {"segment": [f"{first * SECONDS_PER_ROW:.2f}", f"{end * SECONDS_PER_ROW:.2f}"], "label": kind.classes[number]}
        for number, first, end in timeline.instances
    ]


def ensure_demo(dataset: str, data_path: str | None) -> None:
    """Make a demo's data where a run looks for it, unless something is there already."""
    if dataset in KINDS:
        folder = Path(data_path or KNOWN[dataset].data_path)
        if not folder.exists():
            print(f"making the demo data in {folder}", flush=True)
            make_demo(folder, dataset)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a demo data set.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="demo", choices=list(KINDS))
    given = parser.parse_args()
    make_demo(given.folder, given.dataset)
