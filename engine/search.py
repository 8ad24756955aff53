"""Localizes and scores saved activations under many settings (docs/seeing.md).

Settings that differ in nms_th alone share their proposals: only suppression and scoring are repeated.
Shapes: D detections of all videos by video, class and descending score; I tIoU thresholds.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from config import Config
from eval.bootstrap import weighted_ap
from eval.compiled import compiled
from eval.eval_detection import candidates_of, match, rank, score_tables
from eval.table import Table, known
from localize import Arrays, Curves, Doubles, IntArray, localize_all, suppress
from test import Activations, as_table, without_memory

Setting = dict[str, Any]  # values by flag
SHARED = "nms_th"


@dataclass(frozen=True)
class Part:
    """Videos that are scored together: those to choose a setting on, or those to test it on."""

    truth: Table
    videos: frozenset[str]


@dataclass(frozen=True)
class Trial:
    """The scores of one setting."""

    setting: Setting
    mAP: dict[str, Doubles]  # (I,) by part
    by_video: Doubles  # (V,) mean AP of each video of the last part, if asked for


class Search:
    """Scores settings on some parts of the videos whose activations it has."""

    def __init__(self, config: Config, activations: Activations, parts: Mapping[str, Part], by_video: bool = False):
        self.config, self.activations, self.parts, self.by_video = config, activations, parts, by_video

    def run(self, settings: Sequence[Setting], jobs: int) -> Iterator[Trial]:
        """The trials of `settings` in `jobs` threads, in an order of their own."""
        ordered = sorted(settings, key=lambda setting: repr(_without_shared(setting)))
        groups = [list(group) for _, group in groupby(ordered, key=lambda setting: repr(_without_shared(setting)))]
        work = [group[first : first + 16] for group in groups for first in range(0, len(group), 16)]
        pool = Parallel(n_jobs=jobs, prefer="threads", return_as="generator_unordered")
        for trials in pool(delayed(self.try_group)(group) for group in work):
            yield from trials

    def try_group(self, group: list[Setting]) -> list[Trial]:
        """Trials of settings that differ in `nms_th` alone."""
        return [self._trial(setting, table) for setting, table in zip(group, self.detections(group), strict=True)]

    def detections(self, group: list[Setting]) -> Iterator[Table]:
        """The detections of each setting; `localize` and `suppress` decide them as in a run."""
        curves = self._curves(group[0], self.activations)
        if len(group) == 1 or not all(video.shrink < 0.5 for video in curves):  # of empty proposals none need survive
            for setting in group:
                yield self._table(self._curves(setting, self.activations))
            return
        one = dict(list(self.activations.items())[:1])
        proposals = self._table([replace(video, nms_threshold=np.inf) for video in curves])
        bounds = _group_bounds(proposals)
        for setting in group:
            (rule,) = self._curves(setting, one)
            kept = survivors(proposals.segments, bounds, rule.nms_threshold, rule.nms_pad, rule.nms_keeps_equal)
            yield _rows(proposals, kept)

    def best_of_each_video(self, trials: Sequence[Trial]) -> Table:
        """The detections of the videos of the last part, each by the setting that finds most in it: an oracle."""
        scores = np.nan_to_num(np.stack([trial.by_video for trial in trials]), nan=-1)
        choices = [trials[number].setting for number in scores.argmax(axis=0)]
        return self.combined(choices, list(self.parts.values())[-1].truth.videos)

    def combined(self, choice: Sequence[Setting], videos: Sequence[str]) -> Table:
        """The detections of each video by the setting chosen for it."""
        parts = []
        for setting in {repr(setting): setting for setting in choice}.values():
            own = [name for name, chosen in zip(videos, choice, strict=True) if chosen == setting and name in self.activations]
            table = {name: self.activations[name] for name in own}
            parts.append(zip(own, localize_all(self._curves(setting, table), 1), strict=True))
        return as_table(dict(pair for part in parts for pair in part), self.config.classes)

    def _curves(self, setting: Setting, activations: Activations) -> list[Curves]:
        method = without_memory(replace(self.config, **setting))
        return [method.curves(arrays) for arrays in activations.values()]

    def _table(self, curves: list[Curves]) -> Table:
        return as_table(dict(zip(self.activations, localize_all(curves, 1), strict=True)), self.config.classes)

    def _trial(self, setting: Setting, table: Table) -> Trial:
        scores = {name: self.score(name, table) for name in self.parts}
        last = list(self.parts.values())[-1]
        by_video = np.zeros(0)
        if self.by_video:
            by_video = video_scores(last.truth, _inside(table, last), np.array(self.config.tiou_thresholds))
        return Trial(setting, scores, by_video)

    def score(self, part: str, table: Table) -> Doubles:
        """(I,) mAP of the detections in the videos of a part."""
        config, own = self.config, self.parts[part]
        found = _inside(table, own)
        return score_tables(own.truth, found, config.tiou_thresholds, config.ties, config.single_overlaps).mAP


def settings_read(config: Config, arrays: Arrays) -> set[str]:
    """The settings that a method reads to localize a video from its activations."""
    read: set[str] = set()

    class Recorder(type(config)):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    recorder = object.__new__(Recorder)
    for field in fields(config):
        object.__setattr__(recorder, field.name, getattr(config, field.name))
    method = without_memory(config)
    vars(method)["config"] = recorder
    read.clear()
    method.curves(arrays)
    return read & {field.name for field in fields(config)}


def video_scores(truth: Table, found: Table, tiou: Doubles) -> Doubles:
    """(V,) mean AP, over classes and tIoUs, of each video alone; nan for a video without instances."""
    fitted, _ = known(found, truth)
    ranking = rank(truth, fitted)
    hit = match(candidates_of(ranking, tiou.min(), "official", False), tiou, len(truth))
    counts = np.zeros((len(truth.videos), len(truth.labels)), dtype=np.int64)
    np.add.at(counts, (truth.video, truth.label), 1)
    alone = np.eye(len(truth.videos), len(fitted.videos), dtype=np.int64)
    ap = weighted_ap(hit, ranking.bounds, fitted.video[ranking.order], alone, counts)
    present = counts > 0
    scores = np.where(present, ap.mean(axis=2), 0).sum(axis=1)
    return np.where(present.any(axis=1), scores / np.maximum(present.sum(axis=1), 1), np.nan)


def _without_shared(setting: Setting) -> Setting:
    return {name: value for name, value in setting.items() if name != SHARED}


def _inside(table: Table, part: Part) -> Table:
    return _rows(table, np.flatnonzero(np.array([video in part.videos for video in table.videos])[table.video]))


def _rows(table: Table, rows: IntArray) -> Table:
    return replace(
        table, video=table.video[rows], label=table.label[rows], segments=table.segments[rows], scores=table.scores[rows]
    )


def _group_bounds(table: Table) -> IntArray:
    """Where the detections of each class of each video begin, and the end."""
    changes = (np.diff(table.video) != 0) | (np.diff(table.label) != 0)
    return np.array([0, *(np.flatnonzero(changes) + 1), len(table)] if len(table) else [0])


@compiled
def survivors(segments: Doubles, bounds: IntArray, threshold: float, pad: float, keeps_equal: bool) -> IntArray:
    """Rows that survive suppression within their group; each group is sorted by descending score."""
    kept = np.empty(len(segments), dtype=np.int64)
    count = 0
    for group in range(len(bounds) - 1):
        first = bounds[group]
        part = segments[first : bounds[group + 1]]
        for row in suppress(part, np.arange(len(part)), threshold, pad, keeps_equal):
            kept[count] = first + row
            count += 1
    return kept[:count]


def timed(trials: Iterator[Trial]) -> tuple[list[Trial], float]:
    start = time.perf_counter()
    done = list(trials)
    return done, time.perf_counter() - start
