"""Spoils every file that a user can supply, in many ways, and sees that each is read right or refused in a sentence.

    PYTHONPATH=. python tests/fuzz.py --cases 20000 --seed 0 --jobs 2

A case is a valid small file with some changes: bytes, types, shapes, keys, nesting, pickles that would make a file. It is read
as the command reads it. It must be accepted with exactly the values that numpy, json or torch find in it, or end in a UserError
(in eval/, an InputError) that names the file. Nothing else may happen: no other exception, no file made, no hang, no
gigabyte of memory.
"""

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import unittest.mock
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from conftest import TINY, Harmful, make_tiny, run_here

from dataset.annotations import classes_of, read_database, subset_name
from dataset.clicks import read_clicks
from dataset.draws import make_draws
from dataset.facts import Dataset, dataset_facts
from dataset.feature_files import inspect, read_features, read_loose
from dataset.layouts import LAYOUTS, split_names
from engine.checkpoint import NUMBERS, TrainingState, as_tensors, load_file, load_network
from engine.model_file import BLANK, sealed
from engine.search import Search, settings_read
from engine.summary import finished_run, write_summary
from eval.table import InputError, read_ground_truth, read_predictions
from eval.thumos_kit import CLASS_IDS, read_kit
from methods.base import METHODS, build_method
from options import make_config, parse_args
from test import as_table, detect, detections_text, read_activations
from thumos_features import fingerprint, load_data, load_database
from tools import compare as comparison
from tools.lab import read_parts
from tools.report.__main__ import gather
from tools.report.__main__ import parse as report_flags
from tools.report.page import write_page
from tools.report.runs import read_run
from train import make_optimizer
from utils import UserError

LIMIT = 60  # seconds that a case may take, on a busy machine and with a kernel to compile
MEMORY = 12 * 2**30  # bytes of addresses that the process of all cases may take, of which torch's libraries take three
GROWTH = 2**20  # KiB by which a case may raise the peak memory of the process
Random = np.random.Generator


@dataclass(frozen=True)
class Kind:
    """A file that a user can supply."""

    name: str
    file: str
    valid: bytes
    spoil: Callable[[bytes, Random], bytes]
    read: Callable[[Path], Any]  # as the command does
    compare: Callable[[Path, Any], None]  # with a plain reading of the same file
    beside: dict[str, bytes] = field(default_factory=dict)
    named: str = ""  # what a message has to name, if not the file


class Hang(BaseException):
    pass


# ------------------------------------------------------------------------------------------------------------ changes

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
PLAIN = [None, True, False, 0, 1, -1, 2, 1.5, -0.5, 1e308, 1e-320, 2**31, 2**63, 10**400, float("nan"), float("inf"), "", "x"]
PLAIN += ["nan", "1_0", "1e5", " 1 ", "\ud800", "\0", "a" * 3000, "é\n", [], {}, [1], [1, 2], [2, 1], [[1, 2]], {"a": 1}, DEEP]


def one(values: Any, random: Random) -> Any:
    return values[int(random.integers(len(values)))]


def raw(data: bytes, random: Random, trace: Path) -> bytes:
    """The same with bytes changed."""
    place, other = int(random.integers(len(data) + 1)), int(random.integers(len(data) + 1))
    kind = int(random.integers(12))
    if kind < 4:
        changed = bytearray(data)
        for _ in range(int(random.integers(1, 5))):
            changed[int(random.integers(len(data)))] = int(random.integers(256))
        return bytes(changed)
    deep = one([b"[" * 100_000, b'{"a":' * 100_000, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."], random)
    harmful = pickle.dumps(Harmful(trace), protocol=int(random.integers(2, 5)))
    wholes = [
        b"",
        data + data,
        b"\xef\xbb\xbf" + data,
        deep,
        harmful,
        data.replace(b"\n", b"\r\n"),
        data.replace(b"0", b"00000"),
    ]
    return [data[:place], data[min(place, other) :], data[:place] + data[other:], *wholes][int(random.integers(10))]


def walk(content: Any, random: Random) -> tuple[Any, Any] | None:
    """Some container inside and a key of it."""
    where = content
    for _ in range(12):
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        if not keys:
            return None
        key = one(keys, random)
        if not isinstance(where[key], dict | list) or not where[key] or random.random() < 0.15:
            return where, key
        where = where[key]
    return None


def change(content: Any, random: Random, value: Callable[[Any], Any]) -> None:
    """Put another value somewhere, drop a key, rename one or add one."""
    found = walk(content, random)
    if found is None:
        return
    where, key = found
    kind = random.random()
    if kind < 0.12:
        del where[key]
    elif isinstance(where, dict) and kind < 0.2:
        where[one([f"{key}x", f"v_{key}", f"module.{key}", "", 5, None, "\ud800"], random)] = where[key]
        if random.random() < 0.5:
            del where[key]
    elif isinstance(where, list) and kind < 0.2:
        where.append(where[key])
    else:
        where[key] = value(where[key])


def spoil_json(data: bytes, random: Random) -> bytes:
    try:
        lines = [json.dumps(json.loads(data))]
    except ValueError:  # many lines, each an object
        lines = data.decode().splitlines()
    number = int(random.integers(len(lines)))
    content = json.loads(lines[number])
    for _ in range(int(random.integers(1, 3))):
        change(content, random, lambda old: one([*PLAIN, str(old), [old], {"a": old}], random))
    with contextlib.suppress(TypeError, RecursionError):
        lines[number] = json.dumps(content, indent=None if len(lines) > 1 else one([None, 1], random))
    if random.random() < 0.1:  # a key twice
        quoted = [part for part in lines[number].split('"')[1::2] if part]
        name = one(quoted or ["a"], random)
        lines[number] = lines[number].replace("{", f'{{"{name}": {one(["1", "null", "{}", "[]"], random)}, ', 1)
    return "\n".join(lines).encode(errors="surrogatepass") + (b"\n" if len(lines) > 1 else b"")


WORDS = [
    "",
    "nan",
    "inf",
    "-1",
    "1e400",
    "1_0",
    "x",
    "0",
    "99999999",
    "a b",
    "é",
    "\0",
    "\ufeff",
    "1e5",
    '"',
    "'",
    "-0.0",
    "\u0661",
    "#",
]


def spoil_text(data: bytes, random: Random, separator: str) -> bytes:
    lines = [line.split(separator) for line in data.decode().splitlines()]
    for _ in range(int(random.integers(1, 4))):
        line = one(lines, random)
        kind = int(random.integers(5))
        if kind == 0:
            lines.append(list(line))
        elif kind == 1 and len(lines) > 1:
            lines.remove(line)
        elif kind == 2:
            line.append(one(WORDS, random))
        elif line:
            line[int(random.integers(len(line)))] = one(WORDS, random)
    return one(["\n", "\n", "\r\n", "\r", "\n\n"], random).join(separator.join(line) for line in lines).encode()


ARRAYS: list[Callable[[Any], Any]] = [
    lambda a: a[:0],
    lambda a: a[:1],
    lambda a: a[..., :-1],
    lambda a: a[None],
    lambda a: a[0],
    lambda a: a.T,
    lambda a: np.asfortranarray(a),
    *(lambda a, t=t: a.astype(t) for t in ("f2", "f8", ">f4", ">i8", "i1", "u8", "i2", "c16", "?", "U8", "S3", "f4", "M8[s]")),
    lambda a: a * np.nan,
    lambda a: a * np.float32(3e38),
    lambda a: a.astype("f8") * 1e300,
    lambda a: -a,
    lambda a: np.concatenate([a, a]),
    lambda a: np.zeros(()),
    lambda a: np.zeros((0, 0)),
    lambda a: np.full(a.shape, 2**62),
    lambda a: np.array([{"x": 1}], dtype=object),
    lambda a: np.array(["x", None], dtype=object),
    lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, np.nan, a),
]


def other_array(array: Any, random: Random, trace: Path) -> Any:
    if random.random() < 0.05:
        harmful = np.empty(1, dtype=object)
        harmful[0] = Harmful(trace)
        return harmful
    with contextlib.suppress(Exception), np.errstate(all="ignore"):
        return one(ARRAYS, random)(array)
    return np.zeros(3)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(arrays: list[tuple[str, Any]], compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, array in arrays:
            archive.writestr(
                name if name.endswith(".txt") else f"{name}.npy", array if isinstance(array, bytes) else npy(array)
            )
    return stream.getvalue()


def spoil_npy(data: bytes, random: Random, trace: Path) -> bytes:
    if random.random() < 0.2:
        return data.replace(
            one([b"<f4", b"False", b"descr", b"(", b"fortran"], random), one([b"|O8", b"True", b"<f8", b"", b"9"], random), 1
        )
    return npy(other_array(np.load(io.BytesIO(data)), random, trace))


def spoil_npz(data: bytes, random: Random, trace: Path) -> bytes:
    with np.load(io.BytesIO(data)) as file:
        arrays = list(file.items())
    for _ in range(int(random.integers(1, 3))):
        place = int(random.integers(len(arrays)))
        name, array = arrays[place]
        kind = int(random.integers(10))
        if kind == 0 and len(arrays) > 1:
            del arrays[place]
        elif kind == 1:
            arrays[place] = (
                one([f"{name}x", f"x/{name}", "", "a.txt", name.upper(), f"{name}/", name.replace("/", "//")], random),
                array,
            )
        elif kind == 2:
            arrays.append((name, array + 1))
        elif kind == 3:
            arrays[place] = (name, one([b"", b"x", b"\x93NUMPY", pickle.dumps(Harmful(trace))], random))
        else:
            arrays[place] = (name, other_array(array, random, trace))
    return npz(arrays, bool(random.integers(2)))


TENSORS: list[Callable[[Any], Any]] = [
    *(lambda t, d=d: t.to(d) for d in (torch.int8, torch.bool, torch.complex64, torch.half, torch.bfloat16, torch.double)),
    *(lambda t, d=d: t.to(d) for d in (torch.int64, torch.uint8, torch.float8_e4m3fn, torch.float32)),
    lambda t: t.to_sparse(),
    lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda t: t.to("meta"),
    lambda t: t * torch.nan,
    lambda t: t / 0,
    lambda t: t.double() * 1e300,
    lambda t: t.flatten(),
    lambda t: t[:0],
    lambda t: t[None],
    lambda t: torch.cat([t, t]),
    lambda t: t.flatten()[:1].expand(10**9),
    lambda t: t.flatten()[:1].expand(t.shape),
    lambda t: -t,
    lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    lambda t: torch.nested.nested_tensor([t.flatten(), t.flatten()[:1]]),
    lambda t: torch.nn.Parameter(t),
    lambda t: t.flatten().index_fill(0, torch.tensor([0]), float("nan")).view(t.shape),
    lambda t: t.tolist(),
    lambda t: torch.ones(()),
]
OTHERS = [
    torch.float32,
    torch.Size([1]),
    np.float64(1.5),
    {1, 2},
    1j,
    b"x",
    (1, 2),
    10**5000,
    "x" * 5000,
    torch.zeros(0),
    {5: 1},
]


def other_value(value: Any, random: Random, trace: Path) -> Any:
    if random.random() < 0.03:
        return Harmful(trace)
    if isinstance(value, torch.Tensor) and random.random() < 0.8:
        with contextlib.suppress(Exception):
            return one(TENSORS, random)(value)
    if isinstance(value, int | float) and random.random() < 0.4:
        return one([value + 1, -value, float(value), value + 1e-9, value * 10**6, str(value)], random)
    return one([*PLAIN, *OTHERS], random)


def saved(content: Any, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def spoil_torch(data: bytes, random: Random, trace: Path) -> bytes:
    content = torch.load(io.BytesIO(data), weights_only=True)
    if random.random() < 0.05:
        content = one(
            [{"state_dict": content}, {"model_state_dict": content, "map": np.float64(1)}, {"network": content}], random
        )
    if isinstance(content.get("config"), dict) and random.random() < 0.7:  # where there are many fields, to each its turn
        content_part = content[one(list(content), random)]
        if isinstance(content_part, dict | list) and content_part:
            change(content_part, random, partial(other_value, random=random, trace=trace))
            return saved(content, random.random() < 0.9)
    for _ in range(int(random.integers(1, 3))):
        change(content, random, partial(other_value, random=random, trace=trace))
    return saved(content, random.random() < 0.9)


def spoil_safetensors(data: bytes, random: Random, trace: Path) -> bytes:
    """The same with other tensors or another header, and with a checksum that fits."""
    tensors = safetensors.torch.load(data)
    size = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:size])["__metadata__"] | {"checksum": BLANK.decode()}
    kind = random.random()
    if kind < 0.5:
        name = one(list(tensors), random)
        other = other_value(tensors[name], random, trace)  # it may be one value, expanded to terabytes
        tensors[name] = other.contiguous() if other.numel() <= 10**6 else tensors[name][:0]
    elif kind < 0.8:
        metadata["config"] = spoil_json(metadata["config"].encode(), random).decode(errors="replace")
    else:
        header = spoil_json(data[8:size], random)
        return len(header).to_bytes(8, "little") + header + data[size:]
    data = safetensors.torch.save(tensors, metadata)
    size = 8 + int.from_bytes(data[:8], "little")
    return b"".join(sealed(data[:size], data[size:]))


# ------------------------------------------------------------------------------------------------------------- kinds


def make_world(folder: Path) -> Path:
    """Small data and small runs, whose files are spoilt."""
    tiny = make_tiny(folder / "data")
    for name, flags in RUNS.items():
        places = [f"--{kind}_path={folder / name / kind}" for kind in ("model", "output", "log")]
        line = ["main.py", f"--data_path={tiny}", "--cache_path=none", *TINY, *flags, *places]
        done = run_here(line)
        assert done.returncode == 0, done.stderr
        if name == "basnet":
            for seed in (0, 1):
                copy = folder / "seeds" / f"seed_{seed}"
                copy.mkdir(parents=True)
                for file in ("config.json", "log.jsonl"):
                    content = (folder / name / "output" / file).read_text().replace('"seed": 0', f'"seed": {seed}')
                    (copy / file).write_text(content)
                (copy / f"report_seed_{seed}.md").write_text("")
    return folder


SHORT = ["--seed=0", "--lr=[0.01]*3", "--eval_every=1"]
RUNS = {
    "basnet": SHORT,
    "official": [*SHORT, "--draws=official"],
    "um": [*SHORT, "--method=um"],
    "asm_loc": [*SHORT, "--method=asm_loc", "--steps=1", "--step_iters=1"],
    "backtal": [*SHORT, "--method=backtal", "--clicks=simulated"],
    "cola": [*SHORT, "--method=cola"],
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    silent = unittest.mock.patch("engine.checkpoint.say_now")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), silent:
        warnings.simplefilter("ignore")
        yield


def same(a: Any, b: Any) -> bool:
    """Equal values, NaN equal to itself; lists and tuples alike."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a.detach().to(b.dtype), b.detach())
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    alike = type(a) is type(b) or (isinstance(a, float | int) and isinstance(b, float | int))
    return alike and (a == b or (a != a and b != b))


def plain_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(NUMBERS):
        return torch.load(path, map_location="cpu", weights_only=True)


def repeated_keys(text: str) -> bool:
    """True if an object of a JSON text has a key twice."""
    found = []
    json.loads(text, object_pairs_hook=lambda pairs: found.append(len(dict(pairs)) < len(pairs)) or dict(pairs))
    return any(found)


def plain_json(path: Path) -> Any:
    text = path.read_text(encoding="utf-8-sig")
    assert not repeated_keys(text), "a key occurs twice, and the file is accepted"
    return json.loads(text)


class Places:
    """What the readers need besides the file: data, configurations, videos."""

    def __init__(self, world: Path):
        self.world, self.data = world, world / "data"
        flags = {name: [f"--data_path={self.data}", "--cache_path=none", *TINY, *run] for name, run in RUNS.items()}
        self.config = {name: make_config(parse_args(given)) for name, given in flags.items()}
        self.loaded = {name: load_data(config) for name, config in self.config.items() if name in ("basnet", "backtal")}
        self.database = load_database(self.config["basnet"])
        facts = dataset_facts("thumos14")
        self.layout = {name: kind(self.data, facts) for name, kind in LAYOUTS.items()}

    def of(self, name: str) -> Any:
        return self.loaded["backtal" if name == "backtal" else "basnet"]


def kinds(world: Path, trace: Path) -> list[Kind]:
    places = Places(world)
    found = [*feature_kinds(places, trace), *annotation_kinds(places), *detection_kinds(), *click_kinds(places, trace)]
    found += [*model_kinds(places, trace), *resume_kinds(places, trace), *activation_kinds(places, trace), *log_kinds(places)]
    found += [*run_kinds(places), *lab_kinds(places, trace), *loose_kinds(trace)]
    return [replace(kind, spoil=partial(either, kind.spoil, trace)) for kind in found]


def either(spoil: Callable[[bytes, Random], bytes], trace: Path, data: bytes, random: Random) -> bytes:
    """Structured changes mostly, sometimes bytes, sometimes both, sometimes none."""
    kind = random.random()
    if kind < 0.02:
        return data
    if kind < 0.75:
        with contextlib.suppress(Exception):  # what no program could write
            data = spoil(data, random)
    return raw(data, random, trace) if kind > 0.7 and data else data


def feature_kinds(places: Places, trace: Path) -> list[Kind]:
    random = np.random.default_rng(0)
    one_stream = random.random((20, 6)).astype(np.float32)

    def read(path: Path, layout: str, streams: tuple[str, ...]) -> Any:
        files = (path,) if layout != "basnet" else (path,) * len(streams)
        length, facts = inspect(files, places.layout[layout], streams, 6)
        features = read_features(files, places.layout[layout], streams, 6, length)
        assert len(features) == length and features.dtype == np.float32
        return features, facts

    def compare_npy(path: Path, value: Any) -> None:
        array = np.load(path, allow_pickle=False)
        assert array.dtype.kind in "fiu" and np.array_equal(value[0], array.astype(np.float32))

    def compare_npz(path: Path, value: Any) -> None:
        with zipfile.ZipFile(path) as archive:
            assert len(set(archive.namelist())) == len(archive.namelist()), "an array occurs twice, and the file is accepted"
        with np.load(path, allow_pickle=False) as file:
            expected = np.concatenate([file["feat_spa"].T, file["feat_tem"].T], axis=1).astype(np.float32)
            assert np.array_equal(value[0], expected)
            assert value[1].duration == (float(file["duration"].item()) if "duration" in file.files else None)
            assert value[1].frames == (int(file["frame_num"].item()) if "frame_num" in file.files else None)

    both = {"feat_spa": one_stream.T, "feat_tem": one_stream.T, "duration": np.array(12.5), "frame_num": np.array(300)}
    joined = np.concatenate([one_stream, one_stream], axis=1)
    change_npy, change_npz = partial(spoil_npy, trace=trace), partial(spoil_npz, trace=trace)
    one_read, two_read = partial(read, layout="basnet", streams=("rgb",)), partial(read, streams=("rgb", "flow"))
    return [
        Kind("features .npy", "v.npy", npy(one_stream), change_npy, one_read, compare_npy),
        Kind("features .npy of both", "v.npy", npy(joined), change_npy, partial(two_read, layout="asm_loc"), compare_npy),
        Kind("features .npz", "v.npz", npz(list(both.items())), change_npz, partial(two_read, layout="backtal"), compare_npz),
    ]


def segments_of(content: Any, videos: list[str]) -> list[tuple[Any, ...]]:
    rows = ((name, row) for name in videos for row in content[name].get("annotations", []))
    return sorted((name, row["label"], *map(float, row["segment"])) for name, row in rows)


def rows_of_table(table: Any) -> list[tuple[Any, ...]]:
    numbers = zip(table.video.tolist(), table.label.tolist(), table.segments.tolist(), strict=True)
    return [(table.videos[v], table.labels[c], *segment) for v, c, segment in numbers]


DESCRIBED = {
    "name": "mine",
    "annotations": "annotations.json",
    "train": ["train", "val"],
    "test": "test",
    "classes": ["a", "b"],
    "stream_width": 6,
    "fps": 25.0,
    "snippet_frames": 16,
    "timing": "rows",
    "tiou_thresholds": [0.3, 0.5],
    "missing": "drop",
}


def annotation_kinds(places: Places) -> list[Kind]:
    annotations = (places.data / "gt.json").read_bytes()

    def read_annotations(path: Path) -> Any:
        database = read_database(path, "Remedy.")
        return database, classes_of(database), subset_name(database, ("test",), path)

    def compare_annotations(path: Path, value: Any) -> None:
        content = plain_json(path)["database"]
        assert same(value[0], content)
        assert set(value[1]) == {label for _, label, *_ in segments_of(content, list(content))}

    def compare_truth(path: Path, value: Any) -> None:
        content = plain_json(path)
        if "database" in content:
            database = content["database"]
            wanted = [name for name in database if database[name].get("subset") == "test"]
            assert sorted(rows_of_table(value)) == segments_of(database, wanted or list(database))

    def compare_facts(path: Path, value: Dataset) -> None:
        for key, given in plain_json(path).items():
            own = getattr(value, key) if key != "data_path" else given
            listed = list(own) if isinstance(own, tuple) else own
            assert same(listed, given) or listed == [given], key

    def read_split(path: Path) -> Any:
        layout = LAYOUTS["basnet"](path.parent, dataset_facts("thumos14"))
        return split_names(path.parent, layout, "train")

    def compare_split(path: Path, value: Any) -> None:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
        assert value[1] == [line.strip() for line in lines if line.strip()]

    commas = partial(spoil_text, separator=",")
    split = (places.data / "split_train.txt").read_bytes()
    return [
        Kind("gt.json", "gt.json", annotations, spoil_json, read_annotations, compare_annotations),
        Kind(
            "gt.json to score",
            "gt.json",
            annotations,
            spoil_json,
            lambda p: read_ground_truth(p, None, ("test",)),
            compare_truth,
        ),
        Kind(
            "dataset.json",
            "dataset.json",
            json.dumps(DESCRIBED).encode(),
            spoil_json,
            lambda p: dataset_facts(str(p)),
            compare_facts,
        ),
        Kind("split", "split_train.txt", split, commas, read_split, compare_split),
    ]


def detection_kinds() -> list[Kind]:
    rows = [
        {"label": "HighJump", "score": 0.5, "segment": [1.0, 2.5]},
        {"label": "Billiards", "score": 0.25, "segment": [0, 3]},
    ]
    found = {"version": "x", "results": {"video_test_0": rows, "v2": rows[:1], "v3": []}, "external_data": {}}
    kit = "".join(f"video_test_{n} {n}.5 {n + 2.25} {CLASS_IDS['HighJump']} 0.{n}\n" for n in range(4))
    columns = {
        "video": ["a", "a", "b"],
        "label": ["x", "y", "x"],
        "start": [0, 1.5, 2],
        "end": [1, 2, 4],
        "score": [0.1, 0.2, 0.3],
    }

    def compare_found(path: Path, value: Any) -> None:
        content = plain_json(path)
        if "results" in content:
            rows = [(name, row) for name, listed in content["results"].items() for row in listed]
            assert rows_of_table(value) == [(name, row["label"], *map(float, row["segment"])) for name, row in rows]
            assert value.scores.tolist() == [float(row["score"]) for _, row in rows]
        else:
            assert value.scores.tolist() == list(map(float, content["score"]))
            assert value.segments[:, 0].tolist() == [float(x) for x in content.get("start", content.get("t-start"))]

    def compare_kit(path: Path, value: Any) -> None:
        names = {str(number): label for label, number in CLASS_IDS.items()}
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.split()]
        expected = [(video, names[label], float(start), float(end)) for video, start, end, label, _ in lines]
        assert not any("\0" in line[0] for line in lines), "a NUL at the end of a name is lost"
        assert rows_of_table(value) == expected and value.scores.tolist() == [float(line[4]) for line in lines]

    words = partial(spoil_text, separator=" ")
    return [
        Kind("detections", "found.json", json.dumps(found).encode(), spoil_json, read_predictions, compare_found),
        Kind("detections, columns", "found.json", json.dumps(columns).encode(), spoil_json, read_predictions, compare_found),
        Kind("detections of the kit", "found.txt", kit.encode(), words, read_kit, compare_kit),
    ]


def click_kinds(places: Places, trace: Path) -> list[Kind]:
    data, config = places.loaded["backtal"], places.config["backtal"]
    layout, database = places.layout["basnet"], places.database
    names = [video.name for video in data.train]
    by_name = {video.name: video for video in data.train}
    listed = "video,second\n" + "".join(f"{name},{n}.5\n" for n, name in enumerate(names)) + f"{names[0]},3\n"
    human = "URLID,Start,Tag,Annotator\n" + "".join(f"{name},{n}.25,background_background,A\n" for n, name in enumerate(names))
    first = data.train[0]
    label = np.full(first.num_seg, -100)
    label[[2, 5]] = config.num_classes
    arrays = [("feat_spa", np.zeros((6, first.num_seg), np.float32)), ("point_label", label)]

    def read(path: Path) -> Any:
        return read_clicks(data.train, layout, replace(config, clicks=str(path)), database)[0]

    def compare(path: Path, value: Any) -> None:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
        head, *rows = list(csv.reader(lines, skipinitialspace=True))
        video, second = (head.index(a) if a in head else head.index(b) for a, b in (("video", "URLID"), ("second", "Start")))
        found: dict[str, set[float]] = {name: set() for name in names}
        for row in rows:
            if row and row[video].strip().removeprefix("v_") in found:
                found[row[video].strip().removeprefix("v_")].add(float(row[second]))
        assert value == {name: tuple(sorted(t / by_name[name].seconds for t in found[name])) for name in names}
        assert all("_" not in row[second] for row in rows if row), "1_0 is read as ten"

    def read_npz(path: Path) -> Any:
        video = replace(first, files=(path,))
        return read_clicks([video], layout, replace(config, clicks="npz"), database)[0][first.name]

    def compare_npz(path: Path, value: Any) -> None:
        with zipfile.ZipFile(path) as archive:
            assert len(set(archive.namelist())) == len(archive.namelist()), "an array occurs twice, and the file is accepted"
        with np.load(path, allow_pickle=False) as file:
            labels = file["point_label"].tolist()
        assert set(labels) <= {config.num_classes, -100}
        places = [n for n, given in enumerate(labels) if given == config.num_classes]
        assert list(value) == [(n + 0.5) / first.num_seg for n in places]

    commas = partial(spoil_text, separator=",")
    return [
        Kind("clicks .csv", "clicks.csv", listed.encode(), commas, read, compare),
        Kind("clicks of annotators", "clicks.txt", human.encode(), commas, read, compare),
        Kind("clicks .npz", "v.npz", npz(arrays), partial(spoil_npz, trace=trace), read_npz, compare_npz),
    ]


def model_kinds(places: Places, trace: Path) -> list[Kind]:
    """Model files, each for the network that it is of."""
    harm = partial(spoil_torch, trace=trace)

    def read(path: Path, name: str, folder: bool = False) -> Any:
        method = build_method(places.config[name])
        load_network(method.network, path.parent if folder else path, places.config[name])
        return method.network.state_dict()

    def compare(path: Path, value: Any, prefix: str = "") -> None:
        content = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else plain_torch(path)
        kept = [content[key] for key in ("network", "model_state_dict", "state_dict") if isinstance(content.get(key), dict)]
        weights = (kept or [content])[0]
        names = [str(key).removeprefix("module.").replace("classifier.weight", "classifier.0.weight") for key in weights]
        found = {prefix + name: given for name, given in zip(names, weights.values(), strict=True)}
        assert len(found) == len(weights)
        own = {name: given for name, given in value.items() if name.startswith(prefix)}
        assert set(found) == set(own)
        for name, given in found.items():
            assert given.is_floating_point() == own[name].is_floating_point() and given.dtype != torch.bool
            assert torch.equal(given.detach().to(own[name].dtype), own[name]) and own[name].isfinite().all()

    kinds = []
    for name in METHODS:
        [model] = (places.world / name / "model").glob("*.pkl")
        [last] = (places.world / name / "model").glob("*_last.ckpt")
        twin = model.with_suffix(".safetensors")
        settled = partial(spoil_safetensors, trace=trace)
        kinds.append(
            Kind(f"model with settings, {name}", "w.safetensors", twin.read_bytes(), settled, partial(read, name=name), compare)
        )
        for label, path in (("model", model), ("checkpoint as a model", last)):
            kinds.append(Kind(f"{label}, {name}", path.name, path.read_bytes(), harm, partial(read, name=name), compare))
    weights = build_method(places.config["asm_loc"]).network.state_dict()
    parts = [
        saved(
            {"state_dict": {k.removeprefix(f"networks.{n}."): v for k, v in weights.items() if k.startswith(f"networks.{n}.")}}
        )
        for n in (0, 1)
    ]
    names = ["asm/model_step0_last_epoch.pth", "asm/model_step1_best_epoch.pth"]
    reads = partial(read, name="asm_loc", folder=True)
    compare_part = partial(compare, prefix="networks.0.")
    kinds.append(Kind("folder of asm_loc", names[0], parts[0], harm, reads, compare_part, {names[1]: parts[1]}, named="asm"))
    beside = json.dumps(places.config["um"].as_dict()).encode()
    [model] = (places.world / "um" / "model").glob("*.pkl")

    def read_beside(path: Path) -> Any:
        return read(path.with_suffix(".pth"), "um")

    none = lambda path, value: None  # noqa: E731
    kinds.append(
        Kind(
            "settings beside a model",
            "m.json",
            beside,
            spoil_json,
            read_beside,
            none,
            {"m.pth": model.read_bytes()},
            named="m.",
        )
    )
    return kinds


def resume_kinds(places: Places, trace: Path) -> list[Kind]:
    """Checkpoints that a run resumes from."""

    def read(path: Path, name: str) -> TrainingState:
        config, data = places.config[name], places.of(name)
        torch.manual_seed(0)
        method = build_method(config)
        draws = make_draws(config, 0, torch.device("cpu"), 1)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        marks = fingerprint([*data.train, *data.test], data.truth)
        state = TrainingState(method.network, make_optimizer(method.network, config), scaler, 0, marks, draws)
        state.restore(path, load_file(path), method, data.train, data.test)
        if state.known:
            method.begin_step(state.step, state.known)
            for video in (*data.train, *data.test):
                method.plan(video)
        json.dumps([state.records, state.best_model and state.best_model.record], allow_nan=False)
        json.loads("".join(detections_text(state.best_model.found if state.best_model else {}, config.classes)))
        return state

    def compare(path: Path, value: TrainingState) -> None:
        content = plain_torch(path)
        for key in value.KEPT:
            assert same(getattr(value, key), content[key]), key
        assert same(value.network.state_dict(), content["network"])
        state = value.optimizer.state_dict()["state"]
        assert set(state) == set(content["optimizer"]["state"])
        assert all(
            same(state[n][key], given) for n, part in content["optimizer"]["state"].items() for key, given in part.items()
        )
        draws = dict(content["draws"])
        if "torch" in draws:
            draws["torch"] = draws["torch"][:1]  # without that of a GPU
        assert same(value.draws.state(), draws) and value.draws.seed == content["seed"]
        best = content["best_model"]
        assert (best is None) == (value.best_model is None)
        assert not best or same(
            best, {key: getattr(value.best_model, key) for key in best} | {"found": as_tensors(value.best_model.found)}
        )

    kinds = []
    for name in RUNS:
        [last] = (places.world / name / "model").glob("*_last.ckpt")
        harm = partial(spoil_torch, trace=trace)
        kinds += 3 * [
            Kind(f"checkpoint to resume, {name}", last.name, last.read_bytes(), harm, partial(read, name=name), compare)
        ]
    return kinds


def activation_kinds(places: Places, trace: Path) -> list[Kind]:
    random = np.random.default_rng(0)
    kinds = []
    for name in METHODS:
        method = build_method(places.config[name])
        arrays = []
        for video in places.of(name).test:
            for kind, shape in method.activation_shapes().items():
                arrays.append((f"{video.name}/{kind}", random.random([n or 16 for n in shape]).astype(np.float32)))
            arrays.append((f"{video.name}/num_seg", np.array(video.num_seg)))
            if name == "backtal":
                arrays += [(f"{video.name}/duration", np.array(9.5)), (f"{video.name}/frames", np.array(250))]
            if name == "asm_loc":
                arrays.append((f"{video.name}/warp", np.arange(video.num_seg + 1.0)))

        def read(path: Path, method: Any = method) -> Any:
            activations = read_activations(path, method, places.database)
            return activations, detect(method, activations)

        def compare(path: Path, value: Any) -> None:
            with zipfile.ZipFile(path) as archive:
                assert len(set(archive.namelist())) == len(archive.namelist())
            with np.load(path, allow_pickle=False) as file:
                found = {f"{video}/{kind}": array for video, own in value[0].items() for kind, array in own.items()}
                assert set(found) == set(file.files)
                assert all(np.array_equal(found[key], file[key]) for key in found)
            assert all(np.isfinite(part.segments).all() and np.isfinite(part.scores).all() for part in value[1].values())

        kinds.append(Kind(f"activations, {name}", "a.npz", npz(arrays), partial(spoil_npz, trace=trace), read, compare))
    return kinds


def log_kinds(places: Places) -> list[Kind]:
    """What the summary of many seeds reads."""
    other = places.world / "seeds" / "seed_1"
    beside = {f"seed_1/{path.name}": path.read_bytes() for path in sorted(other.iterdir())}

    def read(path: Path) -> Any:
        (path.parent / "report_seed_0.md").write_text("")
        shutil.rmtree(path.parent.parent / "summary", ignore_errors=True)
        runs = [run for run in map(finished_run, (path.parent, path.parent.parent / "seed_1")) if run]
        if runs:
            write_summary(path.parent.parent / "summary", runs, 2)
        return runs[0] if len(runs) == 2 else None

    def compare(path: Path, value: Any) -> None:
        if value is None:
            return
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            assert [json.loads(line) for line in content.splitlines()] == value.records
        else:
            assert json.loads(content) == value.config

    own = places.world / "seeds" / "seed_0"
    kinds = []
    for file, rest in (("config.json", "log.jsonl"), ("log.jsonl", "config.json")):
        others = beside | {f"seed_0/{rest}": (own / rest).read_bytes()}
        kinds.append(
            Kind(f"{file} to sum up", f"seed_0/{file}", (own / file).read_bytes(), spoil_json, read, compare, others, "s")
        )
    return kinds


def run_kinds(places: Places) -> list[Kind]:
    """What the report and the other tools of docs/seeing.md read of a run or of an evaluation."""
    written = places.world / "basnet" / "output"
    files = {f"run/{name}": (written / name).read_bytes() for name in ("config_seed_0.json", "log_seed_0.jsonl")}
    classes = places.config["basnet"].classes
    rows = [{"label": classes[n % 3], "score": 0.1 * n, "segment": [0.5 * n, 0.5 * n + 3]} for n in range(8)]
    files["run/detections_best_seed_0.json"] = json.dumps({"results": {"video_test_0": rows, "other": rows[:1]}}).encode()
    settings, record = (json.loads(files[name].splitlines()[0] if "log" in name else files[name]) for name in list(files)[:2])
    parts = {"config": settings, "record": record, "provenance": settings["provenance"]}
    evaluation = {"evaluated/evaluation.json": json.dumps(parts).encode()}
    evaluation["evaluated/detections.json"] = files["run/detections_best_seed_0.json"]

    def read(path: Path) -> Any:
        args = report_flags([str(path.parent), f"--data_path={places.data}"])
        run = read_run(path.parent, args)
        page = write_page(path.parent.parent / "page.html", *gather([run, run], [{}, {}], {}))[0].read_text()
        comparison.differing(run, replace(run, settings={}), ("A", "B")), comparison.metrics(run, run, ("A", "B"))
        return run, json.loads(page.partition('id="numbers">')[2].partition("</script>")[0])

    def compare(path: Path, value: Any) -> None:
        run, page = value
        content = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()] if "log" in path.name else []
        if content:
            assert run.records == content and page["runs"][0]["learning"]["iteration"] == [r["iteration"] for r in content]
        if path.name == "config_seed_0.json":
            assert same(run.settings, plain_json(path)) and run.config is not None
        assert page["runs"][0]["scores"][0]["name"] == "detections of this page"

    named = [
        (own, {name: content for name, content in group.items() if name != own})
        for group in (files, evaluation)
        for own in group
    ]
    return [
        Kind(
            f"{Path(own).name} of a run",
            own,
            (files | evaluation)[own],
            spoil_json,
            read,
            compare,
            beside,
            own.partition("/")[0],
        )
        for own, beside in named
    ]


def lab_kinds(places: Places, trace: Path) -> list[Kind]:
    """Saved activations whose localization settings are searched."""
    kinds = []
    for kind in activation_kinds(places, trace):
        method = kind.name.partition(", ")[2]
        config = places.config[method]

        def read(path: Path, config: Any = config) -> Any:
            args = argparse.Namespace(file=str(path), select="test", train_activations=None)
            activations, parts = read_parts(args, config, np.random.default_rng(0))
            search = Search(config, activations, parts, by_video=True)
            settings_read(config, next(iter(activations.values())))
            return search, list(search.run([{"nms_th": 0.3}, {"nms_th": 0.6}], 1))

        def compare(path: Path, value: Any) -> None:
            search, trials = value
            for trial in trials:
                method = build_method(replace(search.config, **trial.setting))
                found = as_table(detect(method, search.activations), search.config.classes)
                assert np.array_equal(trial.mAP["test"], search.score("test", found))

        kinds.append(replace(kind, name=f"activations to search, {method}", read=read, compare=compare))
    return kinds


def loose_kinds(trace: Path) -> list[Kind]:
    """Features of no layout."""
    random = np.random.default_rng(0)
    joined = random.random((20, 12)).astype(np.float32)
    crops = random.random((3, 20, 12)).astype(np.float32)

    def read(path: Path) -> Any:
        return read_loose((path,), ("rgb", "flow"), 6)

    def compare(path: Path, value: Any) -> None:
        with (
            contextlib.closing(np.load(path, allow_pickle=False)) if path.suffix == ".npz" else contextlib.nullcontext() as file
        ):
            if file is None:
                array = np.load(path, allow_pickle=False)
            elif "feat_spa" in file.files:
                array = np.concatenate([file["feat_spa"].T, file["feat_tem"].T], axis=1)
            else:
                array = file[file.files[0]]
        if array.ndim == 3:
            array = array.mean(axis=int(np.argmin(array.shape[:2])), dtype=np.float64)
        array = array if array.shape[1] == 12 else array.T
        assert array.dtype.kind in "fiu" and np.array_equal(value[0], array.astype(np.float32))

    change_npy, change_npz = partial(spoil_npy, trace=trace), partial(spoil_npz, trace=trace)
    both = [("feat_spa", joined[:, :6].T), ("feat_tem", joined[:, 6:].T), ("duration", np.array(12.5))]
    return [
        Kind("features to predict .npy", "v.npy", npy(joined), change_npy, read, compare),
        Kind("features to predict, crops", "v.npy", npy(crops), change_npy, read, compare),
        Kind("features to predict .npz", "v.npz", npz(both), change_npz, read, compare),
        Kind("features to predict, one .npz", "v.npz", npz([("x", joined)]), change_npz, read, compare),
    ]


# -------------------------------------------------------------------------------------------------------------- cases


def run_case(kind: Kind, number: int, seed: int, folder: Path, trace: Path) -> str:
    """`accepted` or `refused`; anything else raises AssertionError."""
    random = np.random.default_rng([seed, number])
    path = folder / kind.file
    for name, content in {kind.file: b"", **kind.beside}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    def too_long(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, too_long)
    with quietly():
        path.write_bytes(kind.spoil(kind.valid, random))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        signal.alarm(LIMIT)
        with quietly():
            value = kind.read(path)
            kind.compare(path, value)
        return "accepted"
    except (UserError, InputError) as error:
        message = str(error)
        assert (kind.named or path.name) in message, f"names no file: {message}"
        assert len(message) < 3000, f"a message of {len(message)} characters: {message[:200]}"
        message.encode(errors="backslashreplace")
        return "refused"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc(limit=-6)}") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        if trace.exists():
            trace.unlink()
            raise AssertionError("a pickle was executed")
        if (grown := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) > GROWTH:
            raise AssertionError(f"took {grown / 2**20:.1f} GiB of memory")


def run_cases(
    world: Path, numbers: range, seed: int, keep: Path | None = None, only: str = ""
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Counts by kind and outcome, and what failed."""
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, trace = Path(temporary) / "case", Path(temporary) / "executed"
        torch.set_num_threads(1)
        every = [kind for kind in kinds(world, trace) if only in kind.name]
        for number in numbers:
            kind = every[number % len(every)]
            try:
                counts[kind.name, run_case(kind, number, seed, folder, trace)] += 1
            except AssertionError as error:
                counts[kind.name, "failed"] += 1
                failures.append(f"case {number} of seed {seed}, {kind.name}: {error}")
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}_{Path(kind.file).name}").write_bytes((folder / kind.file).read_bytes())
    return counts, failures


def table(counts: Counter[tuple[str, str]]) -> str:
    names = sorted({name for name, _ in counts})
    outcomes = ("accepted", "refused", "failed")
    lines = [f"{'kind':36}" + "".join(f"{outcome:>10}" for outcome in outcomes)]
    lines += [f"{name:36}" + "".join(f"{counts[name, outcome]:10}" for outcome in outcomes) for name in names]
    lines.append(f"{'all':36}" + "".join(f"{sum(counts[name, outcome] for name in names):10}" for outcome in outcomes))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the files of failed cases")
    parser.add_argument("--kinds", default="", metavar="TEXT", help="only kinds whose names have this in them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        world = make_world(Path(temporary) / "world")
        parts = [range(args.first + job, args.first + args.cases, args.jobs) for job in range(args.jobs)]
        limit = (resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))  # a worker that is killed would never answer
        with multiprocessing.get_context("spawn").Pool(args.jobs, resource.setrlimit, limit) as pool:
            results = pool.starmap(run_cases, [(world, part, args.seed, args.keep, args.kinds) for part in parts])
    failures = [failure for _, failed in results for failure in failed]
    print("\n".join(failures))
    print(f"{args.cases} cases of seed {args.seed}\n{table(sum((counts for counts, _ in results), Counter()))}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
