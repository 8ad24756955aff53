"""Numbers that no machine can hold are refused with a message, before memory or time is taken."""

import io
import os
import time
import zipfile

import numpy as np
import pytest
from conftest import TINY

from config import MOST_ITERATIONS, parse_schedule
from dataset.archives import header, open_npz
from dataset.feature_files import MOST_SNIPPETS
from dataset.prepare import main as prepare
from options import make_config, parse_args
from thumos_features import load_data
from utils import UserError


def load(folder, *flags):
    return load_data(make_config(parse_args([f"--data_path={folder}", *TINY, *flags]))).train


def npy_header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


# --------------------------------------------------------------------------------------------------------- features


@pytest.fixture
def stretched(tiny, tmp_path):
    """The tiny videos in BackTAL's layout; returns the file of one."""
    prepare(["features", "--to=backtal", f"--output={tmp_path}/backtal", f"--data_path={tiny}", *TINY])
    return tmp_path / "backtal" / "val" / "video_train_1.npz"


def rewrite(path, **members):
    """Replace arrays of an .npz file by the bytes of others, compressed."""
    with np.load(path) as file:
        arrays = dict(file)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
                if key in members:
                    for part in members[key]:
                        stream.write(part)
                else:
                    np.save(stream, array)


def zeros(count):
    return (bytes(2**20) for _ in range(count // 2**20))


def test_an_array_that_claims_more_than_is_there_takes_no_memory(stretched, memory):
    rewrite(stretched, feat_spa=[npy_header((6, 10**12)), bytes(600)])
    with memory(2**24), pytest.raises(UserError, match=r"feat_spa has 600 bytes, its header says 24,000,000,000,000"):
        load(stretched.parents[1], "--cache=ram")


def test_an_array_that_unpacks_to_more_than_a_video_has_is_not_unpacked(stretched, memory):
    """The file has some 200 kB, the array 192 MiB; what a file of 2 MB can unpack to is twenty times as much."""
    rows = 2**23
    rewrite(stretched, feat_spa=[npy_header((6, rows)), *zeros(24 * rows)])
    assert stretched.stat().st_size < 2**20
    with memory(2**24), pytest.raises(UserError, match=rf"claims {rows:,} snippets; expected at most {MOST_SNIPPETS:,}"):
        load(stretched.parents[1])


def test_a_number_that_unpacks_to_an_array_is_not_unpacked(stretched, memory):
    rewrite(stretched, duration=[npy_header((2**24,), "<f8"), *zeros(2**27)])
    with memory(2**24), pytest.raises(UserError, match=r"duration is float64 of shape \(16777216,\); expected one number"):
        load(stretched.parents[1])


def test_a_header_of_gigabytes_is_not_read(stretched, memory):
    rewrite(stretched, feat_spa=[b"\x93NUMPY\x02\x00" + (2**28).to_bytes(4, "little"), *zeros(2**28)])
    with memory(2**24), pytest.raises(UserError, match="the header of feat_spa is longer than 10000 bytes"):
        load(stretched.parents[1])


def test_an_array_of_numpys_second_format_is_read(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as stream:
        np.lib.format.write_array(stream, np.ones((3, 4)), version=(2, 0))
    with open_npz(path) as file:
        assert header(file, "x") == ((3, 4), np.dtype(np.float64)) and (file["x"] == 1).all()


def test_two_arrays_of_one_name_are_refused(stretched):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(stretched, "a") as archive:
        archive.writestr("duration.npy", b"")
    with pytest.raises(UserError, match="two arrays of one name"):
        load(stretched.parents[1])


@pytest.mark.parametrize("rows", [10**12, MOST_SNIPPETS + 1])
def test_a_plain_array_of_too_many_snippets_is_refused(tiny, rows):
    path = tiny / "features" / "train" / "rgb" / "video_train_1.npy"
    path.write_bytes(npy_header((rows, 6)) + bytes(6))
    with pytest.raises(UserError, match=r"video_train_1\.npy: cannot be read"):
        load(tiny, "--cache=ram")
    if rows < 10**9:  # now all of them are there, if without content
        os.truncate(path, len(npy_header((rows, 6))) + 24 * rows)
        with pytest.raises(UserError, match=rf"video_train_1\.npy: claims {rows:,} snippets; expected at most"):
            load(tiny, "--cache=ram")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_feature_file_is_a_regular_file(tiny, stretched, kind):
    for path in (tiny / "features" / "train" / "rgb" / "video_train_1.npy", stretched):
        path.unlink()
        {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
        with pytest.raises(UserError, match=rf"{path.name}: .*is a (pipe|folder).*, not a file"):
            load(tiny if path.suffix == ".npy" else stretched.parents[1])


def test_clicks_are_looked_for_in_no_pipe(tiny, stretched):
    first = stretched.with_name("video_train_0.npz")
    first.unlink()
    os.mkfifo(first)
    with pytest.raises(UserError, match=rf"{first.name}: .*is a pipe"):
        load(stretched.parents[1], "--method=backtal")


# ------------------------------------------------------------------------------------------------ activations, models


def test_activations_that_unpack_to_much_more_are_refused(cli, tmp_path, memory):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{"video_test_0/score": np.zeros(2**25)})
    with memory(2**26):
        said = cli("main_eval.py", f"--activations={path}", expect=2).stderr
    assert "bytes unpack to 268,4" in said and "more than 100 times as many" in said


@pytest.mark.parametrize("flag", ["activations", "model_file", "result", "ground_truth"])
def test_a_pipe_is_named_instead_of_waited_for(cli, tmp_path, flag):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    said = cli("main.py" if flag == "ground_truth" else "main_eval.py", f"--{flag}={path}", expect=2).stderr
    assert f"error: {path}: is a pipe, socket or device, not a file; expected " in said


# ------------------------------------------------------------------------------------------------------------ flags

MOST = {
    "num_iters": 10_000_000,
    "batch_size": 10_000,
    "num_segments": 100_000,
    "len_feature": 100_000,
    "hidden": 16_384,
    "scale": 1_000,
    "num_workers": 1_024,
    "eval_workers": 1_024,
    "jobs": 10_000,
}
MOST_OF_METHODS = {"asm_loc": {"steps": 100, "step_iters": 10_000_000}, "backtal": {"clicks_per_gap": 10_000}}


@pytest.mark.parametrize(
    ("method", "flag", "most"),
    [(method, *one) for method, own in ({"basnet": MOST} | MOST_OF_METHODS).items() for one in own.items()],
)
def test_each_size_has_a_bound(method, flag, most, capsys):
    assert getattr(parse_args([f"--method={method}", f"--{flag}={most}"]), flag) == most
    for value in (str(most + 1), "1000000000000", "9" * 5000):
        with pytest.raises(SystemExit) as stop:
            parse_args([f"--method={method}", f"--{flag}={value}"])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and f"argument --{flag}: " in told
        assert len(value) > 4000 or f"{value} is more than {most}" in told


def test_a_schedule_is_not_expanded_beyond_the_bound(memory):
    most = MOST_ITERATIONS
    for text, count in (
        ("1e-4", most + 1),
        ("1e-4", 10**9),
        ("[1e-4]*10", 10**9),
        (f"[1e-4]*{most}+[1e-4]", None),
        (f"[1e-4,1e-4]*{most}", None),
    ):
        begin = time.monotonic()
        with memory(2 * 8 * most), pytest.raises(UserError, match=r"--(lr|num_iters)"):
            parse_schedule(text, count)
        assert time.monotonic() - begin < 10


def test_many_ranges_of_seeds_are_bounded_together(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--seeds", "0-9999,20000"])
    assert "more than 10000 seeds" in capsys.readouterr().err
