"""The four ways in which researchers keep I3D features on disk, found by looking; nothing is moved or rewritten.

Standard library only, so that a missing data set is noticed before an environment is built.
"""

from collections import Counter
from pathlib import Path

from dataset.facts import Dataset
from eval.names import spellings
from utils import UserError, listing, read_text

STREAMS = ("rgb", "flow")


class Layout:
    """Where one code base looks for the features of a dataset below `root`; one class a code base."""

    name: str
    shown: str  # the files of one video, for messages
    suffix = ".npy"
    streams_apart = False  # a folder for each stream, else both in one file
    stretched = False  # all videos to the same number of rows: durations say how long they are

    def __init__(self, root: Path, facts: Dataset):
        self.root, self.facts = root, facts
        self.base = next((base for base in self.bases() if self._folders(base)), self.bases()[0])
        self.folders = self._folders(self.base)  # of the subsets train and test; empty if there are none

    def bases(self) -> list[Path]:
        """Folders that may hold the folders of the subsets."""
        return [self.root]

    def _folders(self, base: Path) -> dict[str, Path]:
        folders: dict[str, Path] = {}
        for subset, names in (("train", self.facts.train), ("test", self.facts.test)):
            for folder in (base / name for name in names):
                if subset not in folders and folder not in folders.values() and self._has_features(folder):
                    folders[subset] = folder
        return folders

    def _has_features(self, folder: Path) -> bool:
        if self.streams_apart:
            return any((folder / stream).is_dir() for stream in STREAMS)
        return folder.is_dir() and any(path.suffix == self.suffix for path in folder.iterdir())

    def files(self, subset: str, streams: tuple[str, ...]) -> list[dict[str, Path]]:
        """By file name without suffix, the features of every video in the folder of `subset`; for each stream if apart."""
        if subset not in self.folders:
            return [{} for _ in streams] if self.streams_apart else [{}]
        folder = self.folders[subset]
        places = [folder / stream for stream in streams] if self.streams_apart else [folder]
        return [
            {path.name.removesuffix(self.suffix): path for path in sorted(place.iterdir()) if path.name.endswith(self.suffix)}
            if place.is_dir()
            else {}
            for place in places
        ]

    def annotations(self) -> Path:
        """Where this code base has its annotation file."""
        return self.root / self.facts.annotations[0]

    def expected(self, subset: str) -> str:
        return f"{self.folders.get(subset, self.base / self.written(subset))}/{self.shown}"

    def written(self, subset: str) -> str:
        """What this code base calls the folder of a subset."""
        return getattr(self.facts, subset)[0]


class BaSNetLayout(Layout):
    name, shown, streams_apart = "basnet", "{rgb,flow}/VIDEO.npy of (L, width of a stream)", True

    def bases(self) -> list[Path]:
        return [self.root / "features"]


class UMLayout(Layout):
    """UM's second implementation: one folder for several datasets, training features of THUMOS'14 in `val`."""

    name, shown, streams_apart = "um", "{rgb,flow}/VIDEO.npy of (L, width of a stream)", True

    def bases(self) -> list[Path]:
        family, version = self.facts.name.rstrip("0123456789."), self.facts.name.lstrip("abcdefghijklmnopqrstuvwxyz-")
        own = "features" if family != "activitynet" else f"features_{version}"
        below = self.facts.name if family != "activitynet" else family
        return [self.root / own, self.root / below / own]

    def annotations(self) -> Path:
        names = self.facts.annotations
        own = next((name for name in names if name.startswith("annotations")), names[0])
        return (self.base if self.folders else self.bases()[-1]).parent / own

    def written(self, subset: str) -> str:
        if self.facts.name == "thumos14":
            return {"train": "val", "test": "test"}[subset]
        return {"train": "train", "test": "val"}[subset] if "activitynet" in self.facts.name else super().written(subset)


class ASMLocLayout(Layout):
    """ASM-Loc's and ACM-Net's."""

    name, shown = "asm_loc", "VIDEO.npy of (L, 2 x width of a stream), RGB first"


class BackTALLayout(Layout):
    name, shown, suffix = "backtal", "VIDEO.npz with feat_spa and feat_tem of (width of a stream, L)", ".npz"
    stretched = True

    def written(self, subset: str) -> str:
        return "val" if self.facts.name == "thumos14" and subset == "train" else super().written(subset)


LAYOUTS: dict[str, type[Layout]] = {kind.name: kind for kind in (BaSNetLayout, UMLayout, ASMLocLayout, BackTALLayout)}


def find_layout(root: Path, facts: Dataset, forced: str = "auto") -> Layout:
    """The layout with folders for both subsets, or else for one; `forced` names it."""
    if forced != "auto":
        return LAYOUTS[forced](root, facts)
    found = [kind(root, facts) for kind in LAYOUTS.values()]
    if isinstance(found[0], BaSNetLayout) and found[0].folders and not (root / "features" / "train").is_dir():
        found[0], found[1] = found[1], found[0]  # the same folder `features`, with another name for the training subset
    return max(found, key=lambda layout: len(layout.folders))


def find_annotations(root: Path, layout: Layout, facts: Dataset, forced: str | None = None) -> Path:
    """The annotation file: `forced`, or the first by a name that a code base or the official download gives it.

    Where there is none, the place at which the code base of `layout` has it.
    """
    if forced:
        return Path(forced)
    beside = root.parent.parent / "lib" / "dataset" / f"materials_{root.name}"  # in BackTAL's repository
    parents = [base.parent for kind in LAYOUTS.values() for base in kind(root, facts).bases()]  # features may be elsewhere
    for folder in dict.fromkeys((root, layout.base.parent, layout.base, beside, *parents)):
        for name in facts.annotations:
            if (folder / name).is_file():
                return folder / name
    return layout.annotations()


def split_names(root: Path, layout: Layout, subset: str) -> tuple[Path, list[str]] | None:
    """The split file of a subset and the names in it, if there is one."""
    for folder in dict.fromkeys((root, layout.base.parent, layout.base)):
        path = folder / f"split_{subset}.txt"
        if any((folder / f"split_{name}.txt").exists() for name in ("train", "test")):
            what = f"the {subset} videos, one name a line"
            lines = read_text(path, what, "Without any split file, the annotations say who is in which subset.").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if not names:
                raise UserError(f"{path}: lists no video; expected one name a line.")
            repeated = sorted(name for name, count in Counter(names).items() if count > 1)
            if repeated:
                raise UserError(f"{path}: {listing(repeated)} listed more than once; expected every video once.")
            return path, names
    return None


def spelled(name: str, among: dict[str, Path]) -> str | None:
    """How a file spells the name of a video: ActivityNet's annotations leave out the `v_` that its files begin with."""
    return next((other for other in spellings(name) if other in among), None)
