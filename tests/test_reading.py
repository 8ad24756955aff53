"""What is read from files: the scorer and a run accept the same annotations; repeats, odd numbers and odd files are refused."""

import copy
import json
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest
from conftest import edit_gt
from hypothesis import given
from hypothesis import strategies as st

from dataset.annotations import classes_of, read_database
from dataset.facts import dataset_facts
from dataset.prepare import main as prepare
from eval import reading
from eval.reading import InputError, as_number, is_file_name, is_text
from eval.table import read_ground_truth, read_predictions
from eval.thumos_kit import read_annotations, read_kit
from utils import UserError, read_json, read_text

GOOD = {"subset": "test", "annotations": [{"segment": [0, 1.5], "label": "x"}]}
BASE = {"anchor": GOOD, "other": {"subset": "train", "duration": 9.5, "annotations": [{"segment": ["1", "2.5"], "label": "y"}]}}
VALUES = [None, True, False, 0, -1, 1.5, 10**400, 1e308, float("inf"), float("nan"), "", "x", "nan", "1_0", "1" * 101, "2.5"]
VALUES += ["test", "\ud800", "a/b", "..", "a\0b", "n" * 201, [], {}, [1], [1, 2], ["1_0", "20"], [True, 5], [1, 10**400]]
VALUES += [[{"segment": [3, 4], "label": "z"}], [{"segment": [3, 4]}], {"segment": [0, 1], "label": "x"}]
PATHS = [("other",), ("other", "subset"), ("other", "duration"), ("other", "annotations"), ("other", "annotations", 0)]
PATHS += [("other", "annotations", 0, "segment"), ("other", "annotations", 0, "label")]
PATHS += [("other", "annotations", 0, "segment", 1), ("anchor", "duration"), ("anchor", "url"), ("new",)]
GONE = object()


def changed(path, value):
    database = copy.deepcopy(BASE)
    where = database
    for key in path[:-1]:
        where = where[key]
    if value is GONE:
        where = where if isinstance(where, list) or path[-1] in where else {path[-1]: None}
        del where[path[-1]]
    else:
        where[path[-1]] = value
    return database


def accepted(reader, path):
    try:
        return reader(path)
    except (UserError, InputError) as error:
        assert str(error).startswith(str(path)) and len(str(error)) < 1000
        return None


databases = st.builds(changed, st.sampled_from(PATHS), st.sampled_from([*VALUES, GONE]))
named = st.builds(lambda name: BASE | {name: GOOD}, st.sampled_from([value for value in VALUES if isinstance(value, str)]))
any_json = st.recursive(st.sampled_from(VALUES[:-3]), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
anything = st.builds(lambda value: BASE | {"other": value}, any_json)


@given(databases | named | anything, st.sampled_from([None, "anchor", "segment", "label"]))
def test_a_run_and_the_scorer_accept_the_same_annotations(database, repeated):
    """And the text of a file in which a key is repeated is refused by both."""
    text = json.dumps({"database": database})
    if repeated:
        text = text.replace(f'"{repeated}": ', f'"{repeated}": 3, "{repeated}": ', 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gt.json"
        path.write_text(text)
        read = accepted(lambda path: read_database(path, "Remedy."), path)
        truth = accepted(lambda path: read_ground_truth(path, "test"), path)
    assert (read is None) == (truth is None)
    assert not repeated or read is None
    if read is not None:
        assert list(read) == truth.videos
        assert set(truth.labels) <= set(classes_of(read))


@pytest.mark.parametrize("value", ["1_0", "nan", "inf", "", "x", "1" * 101, True, None, [], 10**400, float("nan")])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="is not a finite number"):
        as_number(value)


def test_what_is_a_number():
    assert [as_number(value) for value in (3, 2.5, "18.6", " 1e2 ", "-0.5")] == [3, 2.5, 18.6, 100, -0.5]


# ---------------------------------------------------------------------------------------------------------- repeats


def test_repeated_keys_are_refused_in_every_json(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text('{"fps": 25, "fps": 30}')
    with pytest.raises(UserError, match=r"dataset\.json: 'fps' occurs more than once"):
        dataset_facts(str(path))
    path.write_text('{"results": {"a": [{"label": "x", "label": "y", "segment": [0, 1], "score": 1}]}}')
    with pytest.raises(InputError, match="'label' occurs more than once"):
        read_predictions(path)


def test_a_repeat_among_many_keys_is_found_at_once(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text("{" + ",".join(f'"v{n}": 0' for n in [*range(200_000), 199_999]) + "}")
    begin = time.monotonic()
    with pytest.raises(UserError, match="'v199999' occurs more than once"):
        read_json(path, "annotations", "")
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.mp4 1_0", "expected alternating names"),
        ("a.mp4 3 b.mp4 4 a.mp4 5", "a listed more than once"),
        ("x/a.mp4 3 a.avi 3", "a listed more than once"),
    ],
)
def test_odd_or_repeated_durations_are_refused(tiny, tmp_path, text, message):
    (tmp_path / "durations.txt").write_text(text)
    with pytest.raises(UserError, match=rf"durations\.txt: .*{message}"):
        files = [f"--annotations={tiny}/gt.json", f"--durations={tmp_path}/durations.txt", f"--output={tmp_path}/o"]
        prepare(["durations", *files])


def test_odd_numbers_in_text_are_refused_by_the_kit(tmp_path):
    path = tmp_path / "found.txt"
    for line in ("a 1_0 20 7 0.5", "a 1 20 7 0_5", "a 1 20 0_7 0.5", "a 1 nan 7 0.5"):
        path.write_text(line)
        with pytest.raises(InputError, match=r"found\.txt, line 1"):
            read_kit(path)


@pytest.mark.parametrize("bad", [{"start": ["1_0"]}, {"end": [True]}, {"score": ["1_0"]}, {"score": [None]}])
def test_odd_numbers_in_columns_are_refused(tmp_path, bad):
    path = tmp_path / "found.json"
    good = {"video": ["a"], "label": ["x"], "start": ["1.5"], "end": [20], "score": [0.5]}
    path.write_text(json.dumps(good))
    assert read_predictions(path).segments.tolist() == [[1.5, 20]]
    path.write_text(json.dumps(good | bad))
    with pytest.raises(InputError, match="is not a number"):
        read_predictions(path)


# ------------------------------------------------------------------------------------------------------------ names


def test_what_may_be_the_name_of_a_file():
    for name in ("video_test_0000004", "v_-abc", "a.b c", "größe", "-x", "n" * 200):
        assert is_file_name(name)
    for name in ("", ".", "..", "a/b", "../x", "/x", "a\\b", "a\0b", "a\nb", "n" * 201, "ö" * 101, "caf\udce9", 3, None):
        assert not is_file_name(name)
    assert is_text("a/b") and not is_text("\ud800")


@pytest.mark.parametrize("name", ["../../escaped", "a/b", "..", "", "a\0b", "\ud800", "n" * 201])
def test_videos_with_odd_names_are_refused(tiny, name):
    edit_gt(tiny, lambda database: database.update({name: database["video_test_0"]}))
    for reader in (lambda path: read_database(path, ""), read_ground_truth):
        with pytest.raises(
            (UserError, InputError), match=r"gt\.json: a video is called .*; expected a name that a file may have"
        ):
            reader(tiny / "gt.json")


@pytest.mark.parametrize("duration", [-1, "0", "1_0", "x", True, [1], float("nan"), float("inf"), 10**400])
def test_odd_durations_are_refused(tiny, duration):
    edit_gt(tiny, lambda database: database["video_test_0"].update(duration=duration))
    for reader in (lambda path: read_database(path, ""), read_ground_truth):
        with pytest.raises((UserError, InputError), match=r"gt\.json: video video_test_0 has the duration"):
            reader(tiny / "gt.json")


def test_all_videos_name_a_subset_or_none_does(tiny):
    edit_gt(tiny, lambda database: database["video_test_0"].pop("subset"))
    for reader in (lambda path: read_database(path, ""), lambda path: read_ground_truth(path, "test")):
        with pytest.raises((UserError, InputError), match=r"gt\.json: video video_test_0 has the subset None; expected a name"):
            reader(tiny / "gt.json")
    edit_gt(tiny, lambda database: [video.pop("subset", None) for video in database.values()])
    assert list(read_database(tiny / "gt.json", "")) == read_ground_truth(tiny / "gt.json").videos


def test_names_in_the_official_text_are_checked(official, tmp_path):
    for path in (official / "temporal_annotations_test").iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    assert len(read_annotations(tmp_path)[0]) > 3000
    with open(tmp_path / "Diving_test.txt", "a") as stream:
        stream.write("../../escaped 1 2\n")
    with pytest.raises(InputError, match=r"Diving_test\.txt, line .*'\.\./\.\./escaped'"):
        read_annotations(tmp_path)


# ------------------------------------------------------------------------------------------------------------ files


@pytest.fixture(params=["pipe", "socket", "device", "folder"])
def special(request, tmp_path, monkeypatch):
    """What exists under a file's name and is none; a reader that opens it may wait for ever."""
    if request.param == "device":
        return Path("/dev/zero")
    path = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        monkeypatch.chdir(tmp_path)  # a socket's path may not be long
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    return path


def test_only_regular_files_are_read(special):
    for reader in (
        lambda: read_text(special, "text", "Remedy."),
        lambda: read_json(special, "JSON", "Remedy."),
        lambda: read_database(special, "Remedy."),
        lambda: read_predictions(special),
        lambda: read_ground_truth(special),
        lambda: read_kit(special),
    ):
        with pytest.raises((UserError, InputError), match=f"{special}: is a (pipe, socket or device|folder), not a file;"):
            reader()


def test_a_file_of_more_bytes_than_memory_is_not_read(tmp_path):
    path = tmp_path / "gt.json"
    path.touch()
    os.truncate(path, 2**40)  # without content
    with pytest.raises(UserError, match=r"has 1,099,511,627,776 bytes; expected .* of at most 2,147,483,648"):
        read_database(path, "")


@pytest.mark.parametrize("text", ["[" * 5_000_000, '{"a":' * 2_000_000, '{"database": ' + "9" * 5000, "9" * 3_000_000])
def test_megabytes_of_nesting_or_digits_are_refused(tmp_path, text):
    path = tmp_path / "gt.json"
    path.write_text(text)
    for reader in (lambda: read_database(path, ""), lambda: read_ground_truth(path)):
        with pytest.raises((UserError, InputError), match=r"gt\.json: not JSON") as error:
            reader()
        assert len(str(error.value)) < 1000


def test_a_deeply_nested_value_is_named(tmp_path):
    assert reading.short(3) == "3" and len(reading.short("x" * 1000)) == 90
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert reading.short(nested) == "a deeply nested list"
