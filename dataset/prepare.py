"""Prepare a data set: annotation files, durations, another layout. `python -m dataset.prepare --help`

No file is changed in place. Every command writes new files, each as a whole or not at all, and prints their paths.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import hashlib
import http.client
import json
import re
import sys
import urllib.parse
import urllib.request
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from dataset.annotations import Database, classes_of, duration_of, read_database
from dataset.facts import KNOWN, Dataset
from dataset.feature_files import inspect
from dataset.layouts import LAYOUTS, STREAMS, Layout
from engine.flags import positive_number
from eval.protocols import PROTOCOLS, GroundTruths
from eval.reading import InputError, as_number
from eval.table import Table
from eval.thumos_kit import read_annotations
from options import make_config, parse_args
from thumos_features import Video, load_data
from utils import UserError, atomic_write, listing, read_text, run_command

DOWNLOADS = {
    "thumos14": """\
Features and annotations as BaS-Net uses them: the README of github.com/Pilhyeon/BaSNet-pytorch links one archive; unpack it
  into dataset/THUMOS14 (gt.json, split_train.txt, split_test.txt, features/): 410 videos, 1.1 GB.
Official annotations: crcv.ucf.edu/THUMOS14/download.html, files TH14_Temporal_annotations_validation.zip and
  TH14_Temporal_annotations_test.zip; then python -m dataset.prepare thumos14 --annotations FOLDER --output dataset/THUMOS14""",
    "activitynet1.2": """\
Annotations: activity-net.org/download.html, activity_net.v1-2.min.json, into dataset/ActivityNet12.
Features: I3D (Kinetics), RGB and flow, of any extraction in one of the layouts of dataset/README.md. The authors of BaS-Net
  published none.""",
    "activitynet1.3": """\
Annotations: activity-net.org/download.html, activity_net.v1-3.min.json, into dataset/ActivityNet13.
Features: I3D (Kinetics), for example those linked from the README of github.com/ispc-lab/ACM-Net, 9032 + 4427 videos.""",
    "hacs": """\
Annotations: github.com/hangzhaomit/HACS-dataset, HACS_segments_v1.1.1.json (in HACS_v1.1.1.zip), into dataset/HACS.
Features: I3D (Kinetics); the same page links extracted ones.""",
}


# ------------------------------------------------------------------------------------------------------ annotations


def prepare_thumos14(args: Namespace) -> None:
    """Write gt.json and split files from the official text files, with the test videos of one protocol."""
    root, output = Path(args.annotations), Path(args.output)
    try:
        train, _ = read_annotations(root / "temporal_annotations_validation")
        source = GroundTruths.read(root)
        test = source.build(args.protocol)
    except InputError as error:
        raise UserError(str(error)) from None
    database: Database = {}
    for subset, table in (("train", train), ("test", test)):
        for name, rows in rows_by_video(table).items():
            database.setdefault(name, {"subset": subset, "annotations": []})["annotations"] += rows
    files = {"gt.json": database_text(database)}
    for subset in ("train", "test"):
        names = sorted(name for name, video in database.items() if video["subset"] == subset)
        files[f"split_{subset}.txt"] = "\n".join(names) + "\n"
    write_new(output, files)
    print_counts(database, KNOWN["thumos14"])


def rows_by_video(table: Table) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for video, label, segment in zip(table.video.tolist(), table.label.tolist(), table.segments.tolist(), strict=True):
        row = {"segment": [repr(time) for time in segment], "label": table.labels[label]}
        rows.setdefault(table.videos[video], []).append(row)
    return rows


def prepare_official(facts: Dataset, args: Namespace) -> None:
    """Write gt.json from ActivityNet's or HACS's JSON with unchanged durations, subsets and annotations."""
    content = read_database(Path(args.annotations), f"Expected {facts.annotations[-1]}.")
    database = {
        name: {key: video[key] for key in ("duration", "subset", "annotations") if key in video}
        for name, video in content.items()
    }
    write_new(Path(args.output), {"gt.json": database_text(database)})
    print_counts(database, facts)


def prepare_durations(args: Namespace) -> None:
    """Copy an annotation file and add the durations from a text file of alternating names and seconds."""
    words = read_text(args.durations, "alternating names and seconds of videos", "").split()
    try:
        names = [re.sub(r"\.(mp4|avi|mkv|webm|mov)$", "", Path(name).name) for name in words[::2]]
        seconds = dict(zip(names, map(as_number, words[1::2]), strict=True))
        if not all(value > 0 for value in seconds.values()):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{args.durations}: expected alternating names and seconds of videos, for example a.mp4 51.3."
        ) from None
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{args.durations}: {listing(repeated)} listed more than once; expected every video once.")
    database = read_database(Path(args.annotations), "")
    known = {name: name if name in seconds else f"v_{name}" for name in database}
    lacking = [name for name, other in known.items() if other not in seconds]
    if len(lacking) == len(database):
        raise UserError(f"{args.durations}: lists none of the {len(database)} videos of {args.annotations}.")
    timed = {name: {"duration": seconds[other]} for name, other in known.items() if other in seconds}
    output = Path(args.output)
    with_durations = {name: video | timed.get(name, {}) for name, video in database.items()}
    write_new(output.parent, {output.name: database_text(with_durations)})
    print(f"{args.output}: {len(database) - len(lacking)} of {len(database)} videos have a duration")
    if lacking:
        print(f"without a duration: {listing(lacking)}")


def database_text(database: Database) -> str:
    return json.dumps({"database": database}) + "\n"


def write_new(folder: Path, files: dict[str, str]) -> None:
    """Write text files, or none of them if one exists with other content."""
    taken = [
        folder / name for name, text in files.items() if (folder / name).exists() and not _has_content(folder / name, text)
    ]
    if taken:
        raise UserError(
            f"{listing([str(path) for path in taken])}: exists already, with other content. Choose another --output."
        )
    for name, text in files.items():
        with atomic_write(folder / name) as stream:
            stream.write(text)
        print(folder / name)


def _has_content(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def print_counts(database: Database, facts: Dataset) -> None:
    print(f"  {len(classes_of(database))} classes")
    for number, names in enumerate((facts.train, facts.test)):
        part = [video for video in database.values() if video.get("subset") in names and video["annotations"]]
        known = f" (officially {facts.counts[number][0]} with {facts.counts[number][1]})" if facts.counts else ""
        instances = sum(len(video["annotations"]) for video in part)
        timed = sum(duration_of(video) is not None for video in part)
        print(f"  {names[0]}: {len(part)} videos with {instances} instances{known}, {timed} durations")


# --------------------------------------------------------------------------------------------------------- features


def prepare_features(args: Namespace, rest: Sequence[str]) -> None:
    """Write the features of a data set in another layout. Complete videos are kept, so an interrupted run can continue."""
    config = make_config(parse_args(rest))
    if config.modal != "all":
        raise UserError(f"--modal {config.modal}: features are converted with both streams; leave out --modal.")
    output = Path(args.output)
    if output.resolve() == Path(config.data_path).resolve():
        raise UserError(f"--output {output}: is the folder that is read, and it is not changed. Choose another.")
    data = load_data(config)
    print(data.summary)
    jobs = [(subset, video) for subset, part in (("train", data.train), ("test", data.test)) for video in part]
    files = {Path(config.facts.annotations[0]).name: database_text(read_database(config.annotation_file, ""))}
    files |= {
        f"split_{subset}.txt": "\n".join(video.name for video in part) + "\n"
        for subset, part in (("train", data.train), ("test", data.test))
    }
    write_new(output, files)
    convert = partial(_convert, layout=LAYOUTS[args.to](output, config.facts))
    work = Parallel(n_jobs=max(1, config.num_workers), prefer="threads", return_as="generator")
    written = list(tqdm(work(delayed(convert)(*job) for job in jobs), total=len(jobs), disable=not sys.stderr.isatty()))
    print(f"{output}: layout {args.to}, {sum(written)} videos written, {len(written) - sum(written)} existed")


def _convert(subset: str, video: Video, layout: Layout) -> bool:
    """Write one video unless it exists; returns True if written."""
    folder = layout.base / layout.written(subset)
    if layout.streams_apart:
        paths = [folder / stream / f"{video.name}.npy" for stream in STREAMS]
    else:
        paths = [folder / f"{video.name}{layout.suffix}"]
    if _converted(video, paths, layout):
        return False
    features = video.read()
    halves = np.split(features, 2, axis=1)
    if layout.suffix == ".npz":
        arrays = {"feat_spa": halves[0].T, "feat_tem": halves[1].T}
        arrays |= {"cls_label": video.label_c, "vid_name": np.array(video.name), "duration": np.array(video.seconds)}
        with atomic_write(paths[0], "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    else:
        for path, array in zip(paths, halves if len(paths) == 2 else [features], strict=True):
            with atomic_write(path, "wb") as stream:
                np.save(stream, np.ascontiguousarray(array))
    return True


def _converted(video: Video, paths: list[Path], layout: Layout) -> bool:
    """True if the files are readable, have as many snippets, and are at least as new as the video's own files."""
    try:
        snippets, _ = inspect(tuple(paths), layout, STREAMS, video.width)
        return snippets == video.num_seg and all(p.stat().st_mtime >= f.stat().st_mtime for p in paths for f in video.files)
    except (UserError, OSError):
        return False


# --------------------------------------------------------------------------------------------------------- downloads


def prepare_downloads(args: Namespace) -> None:
    for name in [args.dataset] if args.dataset else DOWNLOADS:
        print(f"{name}\n{DOWNLOADS[name]}\n")


class CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that the user could have given."""

    def __init__(self, allow_http: bool):
        self.allow_http = allow_http

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_address(newurl, self.allow_http)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, allow_http: bool) -> None:
    try:
        scheme = urllib.parse.urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme != "https" and not (scheme == "http" and allow_http):
        remedy = "--allow_http takes this one" if scheme == "http" else "Download other files yourself"
        raise UserError(f"{url}: is no address to fetch from; expected https://... {remedy}.")


def _check_size(url: str, size: int, most: int) -> None:
    if size > most:
        raise UserError(
            f"{url}: has {size:,} bytes or more; expected at most {most:,}; file discarded. Check the address, or raise --most."
        )


def prepare_fetch(args: Namespace) -> None:
    """Download a file to --output, and keep it only if its checksum is right."""
    output = Path(args.output)
    if output.exists():
        raise UserError(f"{output}: exists already, and nothing is overwritten. Choose another --output.")
    checksum = hashlib.new(args.algorithm)
    most = int(args.most * 2**30)
    _check_address(args.url, args.allow_http)
    opener = urllib.request.build_opener(CheckedRedirects(args.allow_http))
    try:
        with opener.open(args.url, timeout=60) as answer, atomic_write(output, "wb") as stream:
            total, done = int(answer.headers.get("Content-Length") or 0) or None, 0
            _check_size(args.url, total or 0, most)
            with tqdm(total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
                while block := answer.read(2**20):
                    checksum.update(block)
                    stream.write(block)
                    bar.update(len(block))
                    done += len(block)
                    _check_size(args.url, done, most)
                if total is not None and done < total:
                    raise UserError(f"{args.url}: ended after {done} of {total} bytes. Run this again.")
            if checksum.hexdigest() != args.checksum.lower():
                raise UserError(
                    f"{args.url}: its {args.algorithm} is {checksum.hexdigest()}, expected {args.checksum}; file discarded. "
                    "Check the address and the checksum."
                )
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.filename == str(output):
            raise  # an error of the disk, not of the download
        raise UserError(f"{args.url}: cannot be fetched ({error}). Check the address and the connection.") from None
    print(f"{output}: {output.stat().st_size:,} bytes, {args.algorithm} matches")


# ------------------------------------------------------------------------------------------------------- the command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.prepare",
        description=__doc__.replace("`python -m dataset.prepare --help`", ""),
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    thumos = commands.add_parser("thumos14", help="gt.json and split files from the official text files")
    thumos.add_argument("--annotations", required=True, help="folder of temporal_annotations_validation and _test")
    thumos.add_argument("--output", required=True, help="folder for gt.json, split_train.txt and split_test.txt")
    thumos.add_argument(
        "--protocol",
        default="thumos-210",
        choices=[name for name in PROTOCOLS if not PROTOCOLS[name].kit],
        help="protocol of the test videos (docs/evaluation.md)",
    )
    for name in ("activitynet1.2", "activitynet1.3", "hacs"):
        official = commands.add_parser(name, help="gt.json from the official JSON")
        official.add_argument("--annotations", required=True, help=KNOWN[name].annotations[-1])
        official.add_argument("--output", required=True, help="folder for gt.json")
    durations = commands.add_parser("durations", help="a copy of an annotation file with durations")
    durations.add_argument("--annotations", required=True, help="annotation file")
    durations.add_argument("--durations", required=True, help="text file of alternating names and seconds")
    durations.add_argument("--output", required=True, help="the new annotation file")
    features = commands.add_parser("features", help="features in another layout; flags of main.py select the data to read")
    features.add_argument("--to", required=True, choices=list(LAYOUTS), help="layout to write")
    features.add_argument("--output", required=True, help="folder to write to")
    downloads = commands.add_parser("downloads", help="print where to get each data set")
    downloads.add_argument("dataset", nargs="?", choices=list(DOWNLOADS))
    fetch = commands.add_parser("fetch", help="download a file from a URL that you trust")
    fetch.add_argument("url")
    fetch.add_argument("--output", required=True)
    fetch.add_argument("--checksum", required=True, help="checksum of the file, in hexadecimal digits")
    fetch.add_argument("--algorithm", default="sha256", choices=["sha256", "md5", "sha1"])
    fetch.add_argument("--most", type=positive_number, default=100.0, metavar="GIB", help="largest size (default: 100)")
    fetch.add_argument("--allow_http", action="store_true", help="take http:// too, which anybody on the way can change")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args, rest = build_parser().parse_known_args(arguments)
    if rest and args.command != "features":
        build_parser().error(f"unrecognized arguments: {' '.join(rest)}")
    match args.command:
        case "thumos14":
            prepare_thumos14(args)
        case "durations":
            prepare_durations(args)
        case "features":
            prepare_features(args, rest)
        case "downloads":
            prepare_downloads(args)
        case "fetch":
            prepare_fetch(args)
        case name:
            prepare_official(KNOWN[name], args)


if __name__ == "__main__":
    run_command(main)
