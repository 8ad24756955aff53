"""The built-in demo data sets, small and deterministic: one resembles THUMOS'14, one ActivityNet (docs/demo.md).

`python -m dataset.make_demo FOLDER [--dataset NAME]` writes one; main.py makes it on first use.
Shapes: L snippets of a video, W features of one stream, C classes, S kinds of surroundings.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import contextlib
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
from engine.locks import lock
from utils import UserError, run_command, say_now, write_json

Doubles = NDArray[np.float64]

SEED = 14
WIDTH = KNOWN["demo"].stream_width
SECONDS_PER_SNIPPET = KNOWN["demo"].snippet_frames / KNOWN["demo"].fps


@dataclass(frozen=True)
class Kind:
    """The parameters of a demo. Spans are in snippets, (lowest, highest + 1)."""

    classes: tuple[str, ...]
    videos: dict[str, int]  # number of videos by folder
    length: tuple[float, float, int, int]  # log-normal video length: mean and deviation of the logarithm, minimum, maximum
    second_class: float  # probability that a video has one
    before: tuple[int, int]  # context before an instance
    after: tuple[int, int]  # context after it
    gap: tuple[int, int]  # between the contexts of two instances
    action: tuple[int, float, float, int]  # minimum length; shape, scale and maximum of the gamma variable added to it
    lost: float = 0.0  # share of annotated videos without features


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
SURROUNDINGS = 4  # kinds of footage without a class: crowd, talk, replay, titles

# How strongly each stream shows each event. RGB shows places and objects, flow shows motion.
# Context indicates the class as clearly as the action does, so a classifier alone responds to both. All footage without
# action, context included, also shows the lull; a background class can learn it and a filter can suppress it.
STRENGTH = {
    "rgb": {"action": 0.26, "motion": 0.0, "context": 0.38, "surroundings": 0.22, "lull": 0.6, "scene": 0.06},
    "flow": {"action": 0.26, "motion": 0.06, "context": 0.24, "surroundings": 0.16, "lull": 0.36, "scene": 0},
}
# Chosen so that mean, spread, share of zeros and similarity of adjacent snippets are near those of I3D features.
# level: common to all snippets. look: common to the snippets of a video. grain and gain: variation of each
# feature and of whole snippets. floor: noise that makes zeros.
TEXTURE = {
    "rgb": {"level": 0.08, "look": 0.1, "grain": 0.35, "persistence": 0.7, "gain": 0.3, "floor": 0.03},
    "flow": {"level": 0.05, "look": 0.06, "grain": 0.5, "persistence": 0.4, "gain": 0.3, "floor": 0.04},
}
LEAK = 0.3  # share of the action's pattern in the pattern of its context


@dataclass
class Timeline:
    """How visible each event is at each snippet of a video; 1 is fully visible."""

    classes: list[int]  # a short video may end before an instance of its second class
    instances: list[tuple[int, int, int]]  # class, first snippet, last snippet + 1
    action_lc: Doubles
    context_lc: Doubles  # footage of a class without the action: the pitcher waiting, the pool, the replay
    surroundings_ls: Doubles
    lull_l: Doubles  # common to footage without action in all videos: people standing, wide shots


def draw_timeline(random: np.random.Generator, number: int, kind: Kind) -> Timeline:
    """Draw instances with context of their class before and after, often without unrelated footage in between."""
    num_classes = len(kind.classes)
    length = int(np.clip(random.lognormal(*kind.length[:2]), *kind.length[2:]))
    classes = [number % num_classes]
    if random.random() < kind.second_class:
        classes.append(int((classes[0] + random.integers(1, num_classes)) % num_classes))
    action, context = np.zeros((length, num_classes)), np.zeros((length, num_classes))
    surroundings = draw_surroundings(random, length)
    lull = np.clip(1 + 0.3 * smooth(random, length, 1)[:, 0], 0.2, None)
    instances: list[tuple[int, int, int]] = []
    start = int(random.integers(2, 12))
    while True:
        label = classes[len(instances)] if len(instances) < len(classes) else int(random.choice(classes))
        before, after, gap = (int(random.integers(*span)) for span in (kind.before, kind.after, kind.gap))
        first = start + before
        least, shape, scale, most = kind.action
        end = first + least + min(int(random.gamma(shape, scale)), most)
        if not instances and end + 2 > length:
            end = length - 2  # every video has an instance, so a first one that is too long is cut
        if end + 2 > length:
            return Timeline(classes, instances, action, context, surroundings, lull)
        instances.append((label, first, end))
        clarity = random.uniform(0.25, 1.2)  # a distant or half hidden action resembles a lull
        action[first:end, label] = clarity
        context[start:first, label], context[end : end + after, label] = random.uniform(0.5, 1.2, 2)
        surroundings[start : end + after] *= 0.6
        surroundings[first:end] = 0
        lull[first:end] *= max(0.9 - clarity, 0)
        start = end + after + gap


def draw_surroundings(random: np.random.Generator, length: int) -> Doubles:
    """(L, S) visibility of each kind of surroundings, one kind at a time."""
    surroundings = np.zeros((length, SURROUNDINGS))
    start = 0
    while start < length:
        stretch = int(random.integers(4, 16))
        surroundings[start : start + stretch, random.integers(SURROUNDINGS)] = random.uniform(0.5, 1.2)
        start += stretch
    return surroundings


class World:
    """The feature pattern of each event in one stream, drawn once."""

    def __init__(self, random: np.random.Generator, stream: str, num_classes: int):
        self.strength, self.texture = STRENGTH[stream], TEXTURE[stream]
        self.level = self.texture["level"] * random.gamma(1.0, 1.0, WIDTH)
        self.scene, self.action, own = (patterns(random, num_classes) for _ in range(3))
        self.context = (1 - LEAK) * own + LEAK * self.action
        self.motion, self.lull = patterns(random, 1), patterns(random, 1)
        self.surroundings = patterns(random, SURROUNDINGS)

    def show(self, random: np.random.Generator, timeline: Timeline) -> NDArray[np.float32]:
        """The features (L, W) of a video."""
        strength, texture, length = self.strength, self.texture, len(timeline.lull_l)
        signal = np.tile(self.level + texture["look"] * patterns(random, 1), (length, 1))
        signal += strength["scene"] * self.scene[timeline.classes].mean(axis=0)
        signal += strength["action"] * timeline.action_lc @ self.action
        signal += strength["motion"] * timeline.action_lc.sum(axis=1, keepdims=True) * self.motion
        signal += strength["context"] * timeline.context_lc @ self.context
        signal += strength["surroundings"] * timeline.surroundings_ls @ self.surroundings
        signal += strength["lull"] * timeline.lull_l[:, None] * self.lull
        # Random factors scale each feature, and all features of a snippet: its magnitude does not reveal its event.
        gain = 0.7 * random.standard_normal() + 0.7 * smooth(random, length, 1, 0.9)
        grain = smooth(random, length, WIDTH, texture["persistence"])
        signal *= np.exp(texture["gain"] * gain + texture["grain"] * grain)
        signal += texture["floor"] * random.standard_normal((length, WIDTH))
        return np.maximum(signal, 0).astype(np.float32)


def patterns(random: np.random.Generator, count: int) -> Doubles:
    """(count, W) non-negative sparse patterns: about a fifth of the features are not zero, a few of them large."""
    return random.gamma(1.5, 0.7, (count, WIDTH)) * (random.random((count, WIDTH)) < 0.2)


def smooth(random: np.random.Generator, length: int, width: int, persistence: float = 0.7) -> Doubles:
    """(length, width) unit-variance noise, autocorrelated over time."""
    noise = random.standard_normal((length + 20, width))
    for i in range(1, len(noise)):
        noise[i] = persistence * noise[i - 1] + np.sqrt(1 - persistence**2) * noise[i]
    return noise[20:]


def make_demo(folder: Path, name: str = "demo") -> None:
    """Write a demo to `folder`, which appears as a whole or not at all and is not there yet."""
    with _alone(folder):
        if (folder.exists() and any(folder.iterdir())) or not _make(folder, name):
            raise UserError(f"{folder}: is there already; expected a new folder, as nothing is overwritten. Name another one.")


def ensure_demo(dataset: str, data_path: str | None) -> None:
    """Generate a demo where a run looks for it, unless the path exists."""
    if dataset not in KINDS:
        return
    folder = Path(data_path or KNOWN[dataset].data_path)
    if folder.exists():
        return
    with _alone(folder):
        if folder.exists():
            return
        print(f"making the demo data in {folder}", flush=True)
        if not _make(folder, dataset):
            print(f"{folder}: was made by another program meanwhile, and is used as it is", flush=True)


def _alone(folder: Path) -> contextlib.AbstractContextManager[None]:
    """A lock that is held while a demo is made in `folder`."""

    def wait(holder: str) -> None:
        say_now(f"waiting for the demo data in {folder}, which another process makes: {holder}")

    return lock(folder.with_name(f".{folder.name}.lock"), wait)


def _make(folder: Path, name: str) -> bool:
    """Write a demo to `folder`; False if another program makes that folder meanwhile, which is left as it is then."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        (_write_thumos if name == "demo" else _write_activitynet)(part, KINDS[name])
        part.chmod(0o755)
        os.rename(part, folder)
    except OSError:
        if not (folder.is_dir() and any(folder.iterdir())):
            raise
        return False
    finally:
        shutil.rmtree(part, ignore_errors=True)  # after an error, the unfinished folder
    return True


def _write_thumos(folder: Path, kind: Kind) -> None:
    """Write BaS-Net's layout and files."""
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
    """Write the official format: ids without the `v_` of feature files, numeric times, some features missing."""
    random = np.random.default_rng(SEED)
    database: dict[str, Any] = {}
    for subset, number, timeline, features in videos(kind):
        name = f"{subset}{number:06d}xx"
        own = [row | {"segment": [float(time) for time in row["segment"]]} for row in annotations(timeline, kind)]
        duration = round(len(timeline.lull_l) * SECONDS_PER_SNIPPET, 2)
        official = {"train": "training", "val": "validation"}[subset]
        database[name] = {"duration": duration, "subset": official, "resolution": "", "url": "", "annotations": own}
        if random.random() >= kind.lost:
            save_features(folder / "features" / subset, f"v_{name}", features)
    content = {"version": "VERSION demo", "taxonomy": [], "database": database}
    write_json(folder / KNOWN["demo-activitynet"].annotations[0], content)


def videos(kind: Kind) -> Iterator[tuple[str, int, Timeline, dict[str, NDArray[np.float32]]]]:
    """Yield folder, number, timeline and features of each video."""
    random = np.random.default_rng(SEED)
    worlds = {stream: World(random, stream, len(kind.classes)) for stream in STRENGTH}
    for subset, count in kind.videos.items():
        for number in range(count):
            timeline = draw_timeline(random, number, kind)
            yield subset, number, timeline, {stream: world.show(random, timeline) for stream, world in worlds.items()}


def save_features(folder: Path, name: str, features: dict[str, NDArray[np.float32]]) -> None:
    for stream, snippets in features.items():
        (folder / stream).mkdir(parents=True, exist_ok=True)
        np.save(folder / stream / f"{name}.npy", snippets)


def annotations(timeline: Timeline, kind: Kind) -> list[dict[str, Any]]:
    return [
        {"segment": [f"{first * SECONDS_PER_SNIPPET:.2f}", f"{end * SECONDS_PER_SNIPPET:.2f}"], "label": kind.classes[number]}
        for number, first, end in timeline.instances
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a demo data set.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", default="demo", choices=list(KINDS))
    given = parser.parse_args()
    run_command(lambda: make_demo(given.folder, given.dataset))
