"""Fixtures shared by the tests: golden values, THUMOS-shaped folders of a few small videos, the command line."""

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import tracemalloc
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# oneDNN reads this once, at the first product of a process: the tests of half precision may not be the first that make one
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")
# or the bits of a test would depend on the processor
os.environ.setdefault("BASNET_PRODUCTS", "mm")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script; programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("project", deadline=None)  # a kernel's first call compiles it
settings.load_profile("project")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # real data that is never part of the project; tests that want it skip without it
WIDTH = 6  # of one stream of the tiny videos
TINY = ["--len_feature", str(2 * WIDTH), "--num_segments", "16", "--hidden", "8", "--device", "cpu"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["mm", "onednn", "conv", "tiny"])
def products_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The fast layers multiply by each library in turn, small products too; or by torch.mm as layers that are tiny."""
    from fast import conv, products

    if request.param == "onednn" and not products.has_onednn():
        pytest.skip("this torch has no such operator")
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(conv, "TINY", sys.maxsize if request.param == "tiny" else 0)
    with products.only("mm" if request.param == "tiny" else request.param):
        yield request.param


@pytest.fixture(scope="module", params=[0, sys.maxsize], ids=["shared", "tiny"])
def size_of_tiny(request: pytest.FixtureRequest) -> Iterator[int]:
    """All layers share products of snippets, or none does, since all are tiny."""
    from fast import conv

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "TINY", request.param)
        yield request.param


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Values that the official code computed (docs/basnet.md, section 8)."""
    with np.load(ROOT / "tests" / "golden" / "basnet.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_localization() -> dict[str, np.ndarray]:
    """Detections of the official codes of UM, ASM-Loc and BackTAL, with their inputs."""
    with np.load(ROOT / "tests" / "golden" / "localization.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def golden_evaluation() -> dict[str, np.ndarray]:
    """Scores of the official evaluators of UM, ASM-Loc and BackTAL, for the last two with the scored detections."""
    with np.load(ROOT / "tests" / "golden" / "evaluation.npz") as file:
        return dict(file)


@pytest.fixture
def official_scores(golden_evaluation: dict[str, np.ndarray]) -> dict:
    """Our scores of the detections that the official evaluators of BackTAL and ASM-Loc scored.

    BackTAL's counts detections of videos of another subset as wrong; ASM-Loc's detections include an unknown class.
    """
    from eval import detection_map

    database = {f"v{video}": {"subset": "test" if video < 11 else "other", "annotations": []} for video in range(12)}
    for video, label, start, end in golden_evaluation["backtal/gt"]:
        database[f"v{video:.0f}"]["annotations"].append({"label": f"c{label:.0f}", "segment": [start, end]})
    results: dict[str, list] = {}
    for video, label, start, end, value in golden_evaluation["backtal/pred"]:
        row = {"label": f"c{label:.0f}", "segment": [start, end], "score": value}
        results.setdefault(f"v{video:.0f}", []).append(row)
    scores = {"backtal": detection_map({"database": database}, {"results": results}, np.linspace(0.1, 0.9, 9), subset="test")}
    video, label, value, start, end = golden_evaluation["asm_loc/pred"].T
    found = {"video": video, "label": label, "start": start, "end": end, "score": value}
    for name, tiou in (("thumos", np.arange(0.1, 1.0, 0.1)), ("anet", np.arange(0.5, 1.0, 0.05))):
        with pytest.warns(UserWarning, match="4 detections have labels that the ground truth lacks"):
            scores[f"asm_loc/{name}"] = detection_map(golden_evaluation["asm_loc/gt"], found, tiou)
    return scores


@pytest.fixture(scope="session")
def thumos_gt() -> Path:
    path = SHARED / "data" / "thumos14" / "gt.json"
    if not path.exists():
        pytest.skip("the real THUMOS'14 annotations are not here")
    return path


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder of the official annotation files."""
    folder = SHARED / "data" / "thumos14_official"
    if not folder.exists():
        pytest.skip("the official annotations are not here")
    return folder


def make_tiny(folder: Path, train: int = 5, test: int = 4) -> Path:
    """A THUMOS-shaped data set whose classes are easy to tell apart; returns its folder."""
    random = np.random.default_rng(0)
    labels = ["HighJump", "Billiards", "BaseballPitch"]
    database = {}
    for subset, count in (("train", train), ("test", test)):
        names = [f"video_{subset}_{number}" for number in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"split_{subset}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            label = labels[number % len(labels)]
            snippets = int(random.integers(12, 30))
            database[name] = {"subset": subset, "annotations": [{"segment": ["1.5", "4.5"], "label": label}]}
            for stream in ("rgb", "flow"):
                features = 0.1 * random.random((snippets, WIDTH))
                features[3:7, number % len(labels)] += 1
                path = folder / "features" / subset / stream / f"{name}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, features.astype(np.float32))
    (folder / "gt.json").write_text(json.dumps({"database": database}))
    return folder


class Harmful:
    """Whoever loads a pickle of it makes a file."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return open, (str(self.trace), "w")


def edit_gt(tiny: Path, change: Callable[[dict], object]) -> None:
    """Change the annotations of a data set."""
    path = tiny / "gt.json"
    content = json.loads(path.read_text())
    change(content["database"])
    path.write_text(json.dumps(content))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "data")


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Flags that keep a run's files inside the test's own folder."""
    return [f"--{kind}_path={tmp_path / kind}" for kind in ("model", "output", "log")]


SHORT_RUN = ["--lr=[0.01]*4", "--eval_every=2", "--seed=0", *TINY]
METHOD_RUNS = {  # flags of a short run of each method whose evaluations have detections
    "basnet": ["--ablation=base", "--class_th=0.02"],
    "um": ["--method=um", "--r_act=4"],
    "backtal": ["--method=backtal", "--clicks=simulated", "--nms_th=0.4", "--class_th=0.02"],
    "asm_loc": ["--method=asm_loc", "--steps=1", "--step_iters=2"],
    "cola": ["--method=cola", "--r_easy=3"],
}
MODELS = dict(zip(METHOD_RUNS, ("BaS_Net_model", "model", "BackTAL_model", "ASM_Loc_model", "CoLA_model"), strict=True))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a short run of every method, with its data, models and outputs."""
    folders = {}
    for method, flags in METHOD_RUNS.items():
        folders[method] = folder = tmp_path_factory.mktemp(method)
        places = [f"--{kind}_path={folder / f'{kind}s' / 'mine'}" for kind in ("model", "output", "log")]
        line = ["main.py", f"--data_path={make_tiny(folder / 'data')}", *places, "--cache_path=none", *SHORT_RUN, *flags]
        done = run_here(line)
        assert done.returncode == 0, done.stdout + done.stderr
    return folders


def best(folder: Path, method: str = "basnet", suffix: str = ".pkl") -> Path:
    """The best model of one of `runs`."""
    return folder / "models" / "mine" / f"{MODELS[method]}_seed_0{suffix}"


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(tiny: Path, places: list[str]) -> Cli:
    """Run main.py or main_eval.py on the tiny data, in this process, which saves the imports."""

    def run(script: str, *flags: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = run_here(command(script, tiny, places, *flags)[1:])
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        if expect == 2:
            assert "Traceback" not in done.stderr
        return done

    return run


draws_pictures = False


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process draw pictures for TensorBoard; without this fixture not, as they take most of a tiny run's time."""
    monkeypatch.setattr(sys.modules[__name__], "draws_pictures", True)


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    with (
        unittest.mock.patch("engine.recorder.pictures", lambda *_: {}),
        unittest.mock.patch("engine.recorder.Recorder._draw_best", lambda _: None),
    ):
        yield


def run_here(line: list[str]) -> subprocess.CompletedProcess[str]:
    """What `python` followed by `line` does, from the project's folder."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    main = importlib.import_module(line[0].removesuffix(".py")).main
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        unittest.mock.patch.object(sys, "argv", line),
        unittest.mock.patch.object(threading, "excepthook", threading.excepthook),
        contextlib.nullcontext() if draws_pictures else without_pictures(),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(line, code, out.getvalue(), err.getvalue())


def command(script: str, data: Path, places: list[str], *flags: str) -> list[str]:
    return [sys.executable, script, f"--data_path={data}", "--cache_path=none", *TINY, *places, *flags]


@pytest.fixture
def memory() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """A limit, in bytes, on the memory that a block of a test allocates at a time."""

    @contextlib.contextmanager
    def limit(most: int) -> Iterator[None]:
        tracemalloc.start()
        try:
            yield
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak <= most, f"{peak:,} bytes were allocated"

    return limit


def one_thread() -> dict[str, str]:
    """The environment of a program that a test starts: one thread, unless the caller of the tests says otherwise."""
    return {"OMP_NUM_THREADS": "1"} | os.environ
