"""Localize actions in videos without annotations (docs/predict.md).

`python -m tools.predict --model_file FILE --features rgb.npy flow.npy`, or a folder of features, and flags of main_eval.py.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset.feature_files import read_loose
from dataset.layouts import STREAMS
from dataset.video import Video
from engine.checkpoint import settings_of
from engine.figure import draw
from engine.files import locked, set_aside
from engine.flags import not_negative_integer, positive_number
from eval.names import did_you_mean
from eval.reading import check_video_name
from localize import Detections
from methods.recipes import OF_THE_FOLDER, OF_THE_MACHINE
from options import parse_args, tell_settings
from test import write_detections
from tools.predictor import Prediction, Predictor
from tools.timelines import CSV_HEADER, WRITERS, Timeline, address, clock, csv_rows, terminal
from utils import UserError, as_user_error, atomic_write, check_file, listing, run_command, say_now, write_json

AT_ONCE = 8  # videos in memory
PICTURE = "png"


def main() -> None:
    own = argparse.ArgumentParser(
        usage="python -m tools.predict --model_file FILE --features FILE... [FLAGS]",
        epilog="Also the flags of main_eval.py, such as --nms_th, --class_th, --fps, --snippet_frames, --output_path and "
        "--device; their defaults are the settings of the model's training. python main_eval.py --help lists them.",
        allow_abbrev=False,
    )
    where = "feature files of a video, RGB first, or one folder of the features of many"
    own.add_argument("--features", nargs="+", type=Path, required=True, metavar="PATH", help=where)
    own.add_argument("--video", type=Path, metavar="FILE", help="the video itself, for a page that shows it")
    seconds = "the video's duration in seconds (None: that of its snippets, or in its .npz file)"
    own.add_argument("--duration", type=positive_number, help=seconds)
    own.add_argument("--min_score", type=float, default=-np.inf, metavar="SCORE", help="leave out actions of lower scores")
    most = "best actions of a video in the table and in its own files (default: 20; 0: all); JSON and CSV have all"
    own.add_argument("--most", type=not_negative_integer, default=20, metavar="N", help=most)
    names = f"files to write for each video: {', '.join((*WRITERS, PICTURE))}, all or none (default: all for one video)"
    own.add_argument("--formats", metavar="LIST", help=names)
    chosen, rest = own.parse_known_args()
    run_command(lambda: predict(chosen, rest), "--debug" in sys.argv)


def predict(chosen: argparse.Namespace, rest: list[str]) -> None:
    args = parse_args(rest, folders="_predict", settings_of=settings_of)
    predictor = Predictor.of(args)
    files = find_features(chosen.features, predictor.config.streams)
    if chosen.video and len(files) == 1:
        files = {_checked_name(chosen.video.stem, chosen.video): paths for paths in files.values()}
    formats = find_formats(chosen.formats, len(files), chosen.video)
    if len(files) > 1 and (chosen.video or chosen.duration):
        raise UserError(f"--video and --duration are of one video; --features names {len(files)}. Leave them out.")
    if chosen.video:
        with as_user_error():
            check_file(chosen.video, "a video", "Name another with --video.")
    tell_settings(args, lambda line: None if args.quiet else print(line))
    with locked(predictor.config.output_path):
        Run(predictor, files, formats, chosen, args.quiet).go()


def find_features(paths: list[Path], streams: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """The feature files of each video, by name: of folders of streams, of names that end in a stream, or of whole videos."""
    if len(paths) > 1 or not paths[0].is_dir():
        for path in paths:
            check_file(path, "features", "Name the feature files of a video, or a folder, with --features.")
        return {
            _checked_name(re.sub(rf"[_.-]?({'|'.join(STREAMS)})$", "", paths[0].stem) or paths[0].stem, paths[0]): tuple(paths)
        }
    [folder] = paths
    if all((folder / stream).is_dir() for stream in streams):
        places = [_features_in(folder / stream) for stream in streams]
    else:
        whole = _features_in(folder)
        ended = [
            {name.removesuffix(f"_{stream}"): path for name, path in whole.items() if name.endswith(f"_{stream}")}
            for stream in streams
        ]
        places = ended if any(ended) else [whole]
    names = sorted(set().union(*places))
    lacking = [name for name in names if not all(name in place for place in places)]
    if lacking or not names:
        found = f"{len(lacking)} of {len(names)} videos lack a stream: {listing(lacking)}" if names else "no .npy or .npz file"
        raise UserError(
            f"{folder}: {found}; expected {{{','.join(streams)}}}/VIDEO.npy, VIDEO_rgb.npy and VIDEO_flow.npy, or VIDEO.npy or "
            ".npz of all streams. Name another folder with --features."
        )
    return {_checked_name(name, folder): tuple(place[name] for place in places) for name in names}


def _features_in(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in (".npy", ".npz") and path.name[0] != "."}


def _checked_name(name: str, where: Path) -> str:
    with as_user_error():
        check_video_name(name, str(where))
    return name


def find_formats(text: str | None, videos: int, video: Path | None) -> list[str]:
    known = [*WRITERS, PICTURE]
    if text in (None, "all"):
        names = known if text or videos == 1 else []
        return [name for name in names if name != "html" or video]
    names = [] if text == "none" else [name.strip() for name in str(text).split(",")]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--formats {text}: {unknown[0]} is none of {', '.join(known)}.{did_you_mean(unknown[0], known)}")
    return names


@dataclass
class Run:
    """A prediction of some videos; each is written as soon as it is made, and a second run goes on with the others."""

    predictor: Predictor
    files: Mapping[str, tuple[Path, ...]]
    formats: list[str]
    chosen: argparse.Namespace
    quiet: bool

    def __post_init__(self) -> None:
        self.output = Path(self.predictor.config.output_path)
        self.failed: dict[str, str] = {}
        self.untimed = 0  # videos without a duration, on a data set whose videos have one

    def go(self) -> None:
        self._set_aside_others()
        left = [name for name in self.files if not self._is_done(name)]
        if left and len(left) < len(self.files) and not self.quiet:
            print(f"{len(self.files) - len(left)} of {len(self.files)} videos are done already")
        with (
            ThreadPoolExecutor(max(1, self.predictor.config.num_workers)) as pool,
            tqdm(total=len(left), unit=" videos", disable=self.quiet or len(self.files) == 1) as bar,
        ):
            for start in range(0, len(left), AT_ONCE):
                part = left[start : start + AT_ONCE]
                videos = [video for video in pool.map(self._read, part) if video]
                for video, prediction in zip(videos, self.predictor.predict(videos) if videos else [], strict=True):
                    self._write(video, prediction)
                bar.update(len(part))
        self._finish()

    def _set_aside_others(self) -> None:
        """Move files of a prediction with other settings aside."""
        model = Path(self.predictor.config.model_file or "")
        others = OF_THE_MACHINE | OF_THE_FOLDER
        settings = {name: value for name, value in self.predictor.config.as_dict().items() if name not in others}
        chosen = {name: str(getattr(self.chosen, name)) for name in ("video", "duration", "min_score", "most")}
        own = {"model": _state((model,)), "settings": settings, "chosen": chosen}
        own = json.loads(json.dumps(own))
        place = self.output / "predict.json"
        try:
            same = json.loads(place.read_text(encoding="utf-8")) == own
        except (OSError, ValueError, RecursionError):
            same = False
        if not same:
            paths = self.output.iterdir() if self.output.is_dir() else ()
            moved = set_aside([path for path in paths if path.name not in (".lock", "earlier_runs")])
            if moved and not self.quiet:
                print(f"files of an earlier run were moved to {', '.join(map(str, moved))}")
            write_json(place, own, indent=1)

    def _part(self, name: str) -> Path:
        return self.output / "videos" / f"{name}.json"

    def _is_done(self, name: str) -> bool:
        """True if the video was predicted from these files, and all that is wanted of it was written."""
        try:
            same = json.loads(self._part(name).read_text(encoding="utf-8"))["files"] == _state(self.files[name]) != []
            Parts([name], self).prediction(name)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False
        return same and all(self._place(name, kind).exists() for kind in self.formats)

    def _place(self, name: str, kind: str) -> Path:
        return self.output / f"{name}{WRITERS[kind][0] if kind in WRITERS else '.png'}"

    def _read(self, name: str) -> Video | None:
        """A video with its features, or None if they cannot be used."""
        config = self.predictor.config
        try:
            features, stated = read_loose(self.files[name], config.streams, config.len_feature // len(config.streams))
            return self.predictor.video(name, features, stated._replace(duration=self.chosen.duration or stated.duration))
        except UserError as error:
            self.failed[name] = str(error)
            return None

    def _write(self, video: Video, prediction: Prediction) -> None:
        """Write the files of a video; that which says it is done comes last."""
        self.untimed += self.predictor.config.timing == "duration" and not video.timed
        kept = prediction.found.scores >= self.chosen.min_score
        found = Detections(*(column[kept] for column in vars(prediction.found).values()))
        prediction = replace(prediction, found=found)
        timeline = self._timeline(prediction)
        for kind in self.formats:
            with atomic_write(self._place(video.name, kind), "w" if kind in WRITERS else "wb") as stream:
                if kind in WRITERS:
                    stream.write(WRITERS[kind][1](timeline))
                else:
                    sequences, warp = self.predictor.sequences(video)
                    draw(self.predictor.config, video, found, sequences, warp).savefig(stream, dpi=110, format=kind)
        content = {name: column.tolist() for name, column in vars(found).items()}
        write_json(self._part(video.name), {"files": _state(self.files[video.name]), "seconds": video.seconds} | content)

    def _timeline(self, prediction: Prediction) -> Timeline:
        media = address(self.chosen.video, self.output) if self.chosen.video else f"{prediction.video}.mp4"
        actions = prediction.actions(self.chosen.most or None)
        return Timeline(prediction.video, prediction.seconds, actions, media, self.predictor.config.fps)

    def _finish(self) -> None:
        """Write what all videos have in common, and tell what was done."""
        first = next(iter(self.failed.values()), "")
        if first and len(self.files) == 1:
            raise UserError(first)
        parts = Parts([name for name in self.files if name not in self.failed], self)
        paths = [self.output / "detections.json", self.output / "detections.csv"]
        write_detections(paths[0], parts, self.predictor.config.classes)
        count = 0
        with atomic_write(paths[1]) as stream:
            stream.write(CSV_HEADER)
            for prediction in parts.predictions():
                count += len(prediction)
                timeline = self._timeline(prediction)
                stream.write(csv_rows(replace(timeline, actions=prediction.actions())))
                if len(self.files) == 1:
                    print(f"{prediction.video}, {clock(prediction.seconds)}\n{terminal(timeline)}", end="")
        config = self.predictor.config
        if self.untimed:
            say_now(
                f"warning: the durations of {self.untimed} videos are not known; they are taken to last as long as their "
                f"snippets, {config.snippet_frames} frames at {config.fps:g} a second. Give --duration."
            )
        if not self.quiet:
            own = [self._place(name, kind) for name in parts for kind in self.formats] if len(parts) == 1 else []
            more = f"- {len(self.formats)} files of each video\n" if self.formats and not own else ""
            print(
                f"{len(parts)} video{'s' * (len(parts) != 1)}, {count} action{'s' * (count != 1)}\nWritten:\n"
                + "".join(f"- {path}\n" for path in [*paths, *own])
                + more,
                end="",
            )
        if self.failed:
            raise UserError(
                f"{len(self.failed)} of {len(self.files)} videos could not be used ({listing(sorted(self.failed))}): {first} "
                "The others are written; run this again once it is mended."
            )


def _state(files: tuple[Path, ...]) -> list[list[Any]]:
    """What a file is known by: another one has another size or time."""
    try:
        return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    except OSError:  # it is gone, which reading it tells
        return []


class Parts(Mapping[str, Detections]):
    """The detections of the videos that were written; one video is in memory at a time."""

    def __init__(self, names: list[str], run: Run):
        self.names, self.run = names, run

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Detections:
        return self.prediction(name).found

    def predictions(self) -> Iterator[Prediction]:
        return map(self.prediction, self.names)

    def prediction(self, name: str) -> Prediction:
        content = json.loads(self.run._part(name).read_text(encoding="utf-8"))
        columns = np.array(content["classes"], dtype=np.int64), np.array(content["scores"], dtype=np.float64)
        segments, classes = np.array(content["segments"], dtype=np.float64).reshape(-1, 2), self.run.predictor.config.classes
        if len({*map(len, columns), len(segments)}) > 1 or not np.isin(columns[0], np.arange(len(classes))).all():
            raise ValueError("these are no detections of the model's classes")
        return Prediction(name, float(content["seconds"]), Detections(*columns, segments), classes)


if __name__ == "__main__":
    main()
