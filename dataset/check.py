"""Check a data set: `python -m dataset.check FLAGS OF main.py [--quick] [--json]`

It lists all problems, where a run stops at the first error. The exit code is 1 on errors, 0 on warnings alone. Training runs
the quick check, which reads no features.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from config import Config, where_to_get
from dataset.annotations import Database, classes_of, read_database
from dataset.archives import patiently
from dataset.layouts import Layout, find_layout
from dataset.make_demo import ensure_demo
from options import make_config, parse_args
from thumos_features import Data, SubsetFiles, Video, find_videos, open_video
from utils import UserError, listing, run_command

FPS, STRIDES = (30, 25, 24, 15, 10), range(1, 65)  # usual extraction settings, likelier frame rates first
SLACK = 1.0  # seconds by which an annotation may end after its video, or one snippet if longer: times are rounded


@dataclass(frozen=True)
class Finding:
    error: bool
    kind: str
    where: str  # subset, video or file
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass(frozen=True)
class Content:
    """The result of reading the features of one video."""

    digest: str  # of every 16th snippet
    findings: list[Finding]


def check(config: Config, quick: bool) -> tuple[list[str], list[Finding]]:
    """Lines that describe the data, and all findings."""
    database = read_database(config.annotation_file, where_to_get(config.facts, config.data_path))
    layout = find_layout(Path(config.data_path), config.facts, config.layout)
    lines = [f"{config.dataset}: layout {layout.name} in {layout.base}, annotations {config.annotation_file}"]
    findings = unknown_labels(database, config)
    videos: dict[str, list[Video]] = {}
    for number, subset in enumerate(("train", "test")):
        try:
            found = find_videos(layout, config, database, subset)
        except UserError as error:
            findings.append(Finding(True, "subset", subset, str(error)))
            continue
        findings += missing(found, layout, config) + counts(found, database, config, number)
        videos[subset], unreadable = opened(found, layout, config, database)
        findings += unreadable
        lines.append(found.summary(layout, videos[subset]))
    everything = [video for part in videos.values() for video in part]
    findings += shared_videos(videos) + labels(videos, database, config)
    findings += annotation_times(everything) + snippet_rate(everything, config) + durations(everything)
    if not quick:
        findings += contents(videos, config)
    return lines, findings


def quick_check(data: Data, config: Config) -> list[Finding]:
    """The first finding of each kind, for a training run to print before it starts; an error raises UserError."""
    videos = {"train": data.train, "test": data.test}
    everything = [*data.train, *data.test]
    findings = shared_videos(videos) + snippet_rate(everything, config) + durations(everything) + annotation_times(everything)
    findings += untrained(unseen(data.train, config))
    errors = [finding for finding in findings if finding.error]
    if errors:
        raise UserError(
            f"{errors[0].kind}: {errors[0].where}: {errors[0].text}. See python -m dataset.check with the same flags."
        )
    return first_of_each(findings)


def first_of_each(findings: list[Finding]) -> list[Finding]:
    """The first finding of each kind, with the number of further ones in its text."""
    first = list({finding.kind: finding for finding in reversed(findings)}.values())[::-1]
    number = Counter(finding.kind for finding in findings)
    return [replace(f, text=f"{f.text} (and {number[f.kind] - 1} more)" if number[f.kind] > 1 else f.text) for f in first]


# ------------------------------------------------------------------------------------------------------ the checks


def missing(found: SubsetFiles, layout: Layout, config: Config) -> list[Finding]:
    findings = []
    if found.missing:
        error = config.missing == "fail" or not found.files
        findings.append(Finding(error, "features missing", found.subset, found.what_is_missing(layout)))
    if found.unannotated:
        text = f"{len(found.unannotated)} files have no annotation and are not used: {listing(found.unannotated)}"
        findings.append(Finding(False, "annotation missing", found.subset, text))
    prefixed = [name for name, files in found.files.items() if not all(path.stem == name for path in files)]
    if 0 < len(prefixed) < len(found.files):
        text = f"{len(prefixed)} of {len(found.files)} file names differ from the annotations by the prefix v_"
        findings.append(Finding(False, "names with and without v_", found.subset, f"{text}: {listing(prefixed)}"))
    return findings


def counts(found: SubsetFiles, database: Database, config: Config, number: int) -> list[Finding]:
    if not config.facts.counts:
        return []
    names = [*found.files, *found.missing]
    here = len(names), sum(len(database[name]["annotations"]) for name in names)
    known = config.facts.counts[number]
    text = f"{here[0]} annotated videos with {here[1]} instances; {config.dataset} has {known[0]} with {known[1]}"
    return [Finding(False, "counts", found.subset, text)] if here != known else []


def opened(found: SubsetFiles, layout: Layout, config: Config, database: Database) -> tuple[list[Video], list[Finding]]:
    def attempt(name: str) -> Video | Finding:
        try:
            return open_video(name, found.files[name], layout, config, database)
        except UserError as error:
            return Finding(True, "unusable file", name, str(error))

    results = Parallel(n_jobs=max(1, config.num_workers), prefer="threads")(delayed(attempt)(name) for name in found.files)
    return [r for r in results if isinstance(r, Video)], [r for r in results if isinstance(r, Finding)]


def shared_videos(videos: dict[str, list[Video]]) -> list[Finding]:
    names = [{video.name.removeprefix("v_") for video in part} for part in videos.values()]
    both = sorted(set.intersection(*names)) if len(names) == 2 else []
    text = f"{len(both)} videos are in both subsets: {listing(both)}; scores on them mean nothing"
    return [Finding(True, "train and test overlap", "both", text)] if both else []


def unknown_labels(database: Database, config: Config) -> list[Finding]:
    labels = [(name, row["label"]) for name, video in database.items() for row in video["annotations"]]
    text = f"{{}} is none of the {config.num_classes} classes of --dataset {config.dataset}; a run refuses the file"
    return [Finding(True, "unknown label", name, text.format(label)) for name, label in labels if label not in config.classes]


def durations(videos: list[Video]) -> list[Finding]:
    """Stretched videos without a duration, and videos whose two durations differ by more than one snippet."""
    lost = [video.name for video in videos if video.timed and not video.duration]
    text = f"{len(lost)} of {len(videos)} videos have none, so their snippets are counted: {listing(lost)}"
    findings = [Finding(False, "duration missing", lost[0], text)] if lost else []
    for video in videos:
        duration, annotated = video.duration, video.annotated_duration
        if duration and annotated and abs(duration - annotated) > duration / video.num_seg:
            text = f"{duration:.2f} s in its feature file, {annotated:.2f} s in the annotations; the former is used"
            findings.append(Finding(False, "durations differ", video.name, text))
    return findings


def labels(videos: dict[str, list[Video]], database: Database, config: Config) -> list[Finding]:
    absent = sorted(set(config.classes) - set(classes_of(database)))
    findings = [Finding(False, "label absent", label, "no video of the dataset has this class") for label in absent]
    lost = [label for label in unseen(videos.get("train", []), config) if label not in absent]
    return findings + untrained(lost)


def untrained(labels: list[str]) -> list[Finding]:
    text = "no training video has it, so it is never detected"
    return [Finding(False, "label without training video", label, text) for label in labels]


def unseen(train: list[Video], config: Config) -> list[str]:
    seen = np.sum([video.label_c for video in train], axis=0) if train else np.zeros(config.num_classes)
    return [label for label, count in zip(config.classes, np.atleast_1d(seen), strict=True) if not count]


def annotation_times(videos: Iterable[Video]) -> list[Finding]:
    findings = []
    for video in videos:
        slack = max(SLACK, video.seconds / video.num_seg)
        for row in video.annotations:
            start, end = map(float, row["segment"])
            what = f"{row['label']} {start:g} to {end:g} s"
            if end <= start:
                kind = "inverted instance" if end < start else "instance of no length"
                findings.append(Finding(False, kind, video.name, f"{what}; no detection can match it, but it counts"))
            elif start < 0:
                findings.append(Finding(False, "instance before the start", video.name, what))
            elif end > video.seconds + slack:
                text = f"{what}, but the video lasts {video.seconds:.1f} s"
                findings.append(Finding(False, "annotation past the end", video.name, text))
    return findings


def snippet_rate(videos: list[Video], config: Config) -> list[Finding]:
    """Compare the snippets per second with the dataset's, over videos of known duration that were not stretched."""
    known = [video for video in videos if video.duration]
    timed = any(video.timed for video in known)
    if len({video.num_seg for video in known}) == 1:
        if timed or len(known) == 1 or len({video.duration for video in known}) == 1:
            return []
        text = f"all {len(known)} videos have {known[0].num_seg} snippets whatever their duration: stretched features"
        return [Finding(True, "snippets per second", "all", f'{text}. Set "timing": "duration" in a dataset.json')]
    if not known:
        return []
    rates = np.array([video.num_seg / (video.duration or 1) for video in known])
    rate, expected = float(np.median(rates)), config.fps / config.snippet_frames
    if abs(rate / expected - 1) <= 0.1:
        return []
    options = [
        (round(abs(fps / rate / stride - 1), 2), place, fps, stride) for place, fps in enumerate(FPS) for stride in STRIDES
    ]
    _, _, fps, stride = min(options)
    text = f"{rate:.3g} snippets per second: features of stride {stride} at {fps} fps; expected {expected:.3g}"
    remedy = "" if timed else ". Describe the features in a dataset.json (docs/own-dataset.md)"
    return [Finding(not timed, "snippets per second", f"{len(known)} videos", text + remedy)]


def contents(videos: dict[str, list[Video]], config: Config) -> list[Finding]:
    """The checks that read features."""
    everything = [(subset, video) for subset, part in videos.items() for video in part]
    workers = max(1, config.num_workers)
    results = Parallel(n_jobs=workers, prefer="threads")(delayed(content)(video) for _, video in everything)
    findings = [finding for result in results for finding in result.findings]
    alike: dict[str, list[tuple[str, Video]]] = defaultdict(list)
    for (subset, video), result in zip(everything, results, strict=True):
        alike[result.digest or video.name].append((subset, video))
    same: dict[bytes, list[tuple[str, Video]]] = defaultdict(list)
    for group in alike.values():
        for subset, video in group if len(group) > 1 else []:
            same[video.read().tobytes()].append((subset, video))
    for group in same.values():
        if len(group) > 1:
            across = len({subset for subset, _ in group}) > 1
            names = listing([video.name for _, video in group])
            text = f"{names} have the same features" + (", in training and in test" if across else "")
            findings.append(Finding(across, "duplicate content", group[0][1].name, text))
    return findings


def content(video: Video) -> Content:
    try:
        features = video.read()
    except UserError as error:
        return Content("", [Finding(True, "unusable file", video.name, str(error))])
    findings = []
    kinds = {str(patiently(partial(np.load, path, mmap_mode="r")).dtype) for path in video.files if path.suffix == ".npy"}
    if any(np.dtype(kind).kind != "f" for kind in kinds):
        findings.append(Finding(False, "features of integers", video.name, f"{', '.join(kinds)}; I3D features are floats"))
    if len(features) > 1 and (features[1] == features[0]).all() and (features == features[0]).all():
        findings.append(Finding(False, "constant features", video.name, f"all {len(features)} snippets are equal"))
    return Content(hashlib.blake2b(features[::16].tobytes()).hexdigest(), findings)


# ---------------------------------------------------------------------------------------------------- the command


def as_text(lines: list[str], findings: list[Finding]) -> str:
    """A table of one line per kind of finding, errors first, with the first case of each."""
    kinds = Counter((finding.error, finding.kind) for finding in findings)
    rows = []
    for (error, kind), count in sorted(kinds.items(), key=lambda item: (not item[0][0], item[0][1])):
        first = next(finding for finding in findings if (finding.error, finding.kind) == (error, kind))
        level = "ERROR" if error else "warning"
        rows.append(f"{level:8}{kind:30}{count:>6}  {first.where}: {first.text}")
    title = [f"{'':8}{'what':30}{'count':>6}  first", *rows] if rows else ["no problem found"]
    return "\n".join([*lines, "", *title]) + "\n"


def main(arguments: list[str]) -> None:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--quick", action="store_true")
    own.add_argument("--json", action="store_true")
    chosen, rest = own.parse_known_args(arguments)
    if {"-h", "--help"} & set(rest):
        print(f"{__doc__}\nFlags of main.py that select the data: --dataset --data_path --layout --ground_truth --missing")
        return
    args = parse_args(rest)
    ensure_demo(args.dataset, args.data_path)
    lines, findings = check(make_config(args), chosen.quick)
    if chosen.json:
        print(json.dumps({"data": lines, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        print(as_text(lines, findings), end="")
    if any(finding.error for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
