"""The four folder layouts of I3D features in use, detected automatically; no file is moved or changed.

Standard library only, so that run.sh can report missing data before it builds an environment.
"""

from collections import Counter
from pathlib import Path

from dataset.facts import Dataset
from eval.names import spellings
from utils import UserError, listing, read_text

STREAMS = ("rgb", "flow")


class Layout:
    """Where a code base looks for the features of a dataset below `root`; one class per code base."""

    name: str
    shown: str  # the files of one video, for messages
    suffix = ".npy"
    streams_apart = False  # one folder per stream, else both streams in one file
    stretched = False  # all videos have the same number of snippets, so their length is their `duration`

    def __init__(self, root: Path, facts: Dataset):
        self.root, self.facts = root, facts
        self.base = next((base for base in self.bases() if self._folders(base)), self.bases()[0])
        self.folders = self._folders(self.base)  # by subset, train and test; those that exist

    def bases(self) -> list[Path]:
        """Folders that may contain the folders of the subsets."""
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
        """The feature files of a subset by name without suffix; one dict per stream if `streams_apart`, else one."""
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
        """Where this code base keeps its annotation file."""
        return self.root / self.facts.annotations[0]

    def expected(self, subset: str) -> str:
        return f"{self.folders.get(subset, self.base / self.written(subset))}/{self.shown}"

    def written(self, subset: str) -> str:
        """This code base's name for the folder of a subset."""
        return getattr(self.facts, subset)[0]


class BaSNetLayout(Layout):
    name, shown, streams_apart = "basnet", "{rgb,flow}/VIDEO.npy of (L, width of a stream)", True

    def bases(self) -> list[Path]:
        return [self.root / "features"]


class UMLayout(Layout):
    """UM's second implementation: one root for several datasets; THUMOS'14's training features are in `val`."""

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
    """The layout that `forced` names, or else the one with folders for the most subsets."""
    if forced != "auto":
        if forced not in LAYOUTS:
            raise UserError(f"layout {forced[:80]!r}: expected auto, {', '.join(LAYOUTS)}.")
        return LAYOUTS[forced](root, facts)
    found = [kind(root, facts) for kind in LAYOUTS.values()]
    if isinstance(found[0], BaSNetLayout) and found[0].folders and not (root / "features" / "train").is_dir():
        found[0], found[1] = found[1], found[0]  # UM uses the same folder `features`, with another name for the training subset
    return max(found, key=lambda layout: len(layout.folders))


def find_annotations(root: Path, layout: Layout, facts: Dataset, forced: str | None = None) -> Path:
    """The annotation file: `forced`, or the first that exists under a name of a code base or of the official download.

    If none exists, the path at which the code base of `layout` expects it.
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
    """The split file of a subset and the names in it, or None without split files."""
    for folder in dict.fromkeys((root, layout.base.parent, layout.base)):
        path = folder / f"split_{subset}.txt"
        if any((folder / f"split_{name}.txt").exists() for name in ("train", "test")):
            what = f"the {subset} videos, one name per line"
            lines = read_text(path, what, "Without any split file, the annotations define the subsets.").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if not names:
                raise UserError(f"{path}: lists no video; expected one name per line.")
            repeated = sorted(name for name, count in Counter(names).items() if count > 1)
            if repeated:
                raise UserError(f"{path}: {listing(repeated)} listed more than once; expected every video once.")
            return path, names
    return None


def spelled(name: str, among: dict[str, Path]) -> str | None:
    """The spelling of a video's name among files: ActivityNet's annotations omit the `v_` of its feature files."""
    return next((other for other in spellings(name) if other in among), None)
