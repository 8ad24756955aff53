"""The built-in data set: small, deterministic, and with THUMOS'14's difficulties (docs/demo.md says what is in it).

`python -m dataset.make_demo FOLDER` writes it in the layout of THUMOS14; main.py makes it on first use.
Shapes: L feature rows of a video, W features of one stream, C classes.
"""

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import DATASETS, Config
from utils import write_json

Floats = NDArray[np.float64]

SEED = 14
CLASSES = DATASETS["demo"].classes
WIDTH = DATASETS["demo"].stream_width
VIDEOS = {"train": 120, "test": 60}
WIDTH = 64
SECONDS_PER_ROW = DATASETS["demo"].snippet_frames / DATASETS["demo"].fps
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


def draw_timeline(random: np.random.Generator, number: int) -> Timeline:
    """Instances with context of their class before and after, which often leaves no unrelated footage between them."""
    rows = int(np.clip(random.lognormal(4.9, 0.45), 60, 400))
    classes = [number % len(CLASSES)]
    if random.random() < 0.18:
        classes.append(int((classes[0] + random.integers(1, len(CLASSES))) % len(CLASSES)))
    action, context = np.zeros((rows, len(CLASSES))), np.zeros((rows, len(CLASSES)))
    surroundings = draw_surroundings(random, rows)
    lull = np.clip(1 + 0.3 * smooth(random, rows, 1)[:, 0], 0.2, None)
    instances: list[tuple[int, int, int]] = []
    row = int(random.integers(2, 12))
    while True:
        label = classes[len(instances)] if len(instances) < len(classes) else int(random.choice(classes))
        before, after, gap = (int(random.integers(*span)) for span in ((0, 10), (2, 18), (2, 26)))
        first = row + before
        end = first + 5 + min(int(random.gamma(1.5, 4.0)), 35)  # mostly 3 to 11 seconds
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

    def __init__(self, random: np.random.Generator, stream: str):
        self.strength, self.texture = STRENGTH[stream], TEXTURE[stream]
        self.level = self.texture["level"] * random.gamma(1.0, 1.0, WIDTH)
        self.scene, self.action, own = (patterns(random, len(CLASSES)) for _ in range(3))
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


def make_demo(folder: Path) -> None:
    """Write the whole data set to `folder`, which appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        _write(part)
        part.chmod(0o755)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # only what this call made and did not finish


def _write(folder: Path) -> None:
    random = np.random.default_rng(SEED)
    worlds = {stream: World(random, stream) for stream in STRENGTH}
    database: dict[str, Any] = {}
    for subset, count in VIDEOS.items():
        names = [f"demo_{subset}_{number:04d}" for number in range(count)]
        (folder / f"split_{subset}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        for number, name in enumerate(names):
            timeline = draw_timeline(random, number)
            database[name] = {"subset": subset, "annotations": annotations(timeline)}
            for stream, world in worlds.items():
                path = folder / "features" / subset / stream / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, world.show(random, timeline))
    write_json(folder / "gt.json", {"database": database})


def annotations(timeline: Timeline) -> list[dict[str, Any]]:
    return [
        {"segment": [f"{first * SECONDS_PER_ROW:.2f}", f"{end * SECONDS_PER_ROW:.2f}"], "label": CLASSES[number]}
        for number, first, end in timeline.instances
    ]


def ensure_demo(config: Config) -> None:
    """Make the demo data where a run with --dataset demo looks for it, unless something is there already."""
    folder = Path(config.data_path)
    if config.dataset == "demo" and not folder.exists():
        print(f"making the demo data in {folder}", flush=True)
        make_demo(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the demo data set.")
    parser.add_argument("folder", type=Path)
    make_demo(parser.parse_args().folder)
