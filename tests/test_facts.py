"""A user's data set in a file: the example of docs/own-dataset.md works, and errors of a wrong file are named."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT, TINY

from dataset.check import main as check
from dataset.facts import KNOWN, TIOU_ACTIVITYNET, TIOU_THUMOS, dataset_facts
from dataset.prepare import main
from options import make_config, parse_args
from thumos_features import load_data
from utils import UserError


def test_thresholds_are_numpys():
    assert np.linspace(0.1, 0.9, 9).tolist() == list(TIOU_THUMOS)
    assert np.linspace(0.5, 0.95, 10).tolist() == list(TIOU_ACTIVITYNET)


def test_the_example_of_the_documentation_works(cli, tmp_path, capsys):
    """Its JSON blocks are written to the files they name, its features are made by its Python block."""
    text = (ROOT / "docs" / "own-dataset.md").read_text(encoding="utf-8")
    for name, block in re.findall(r"`([\w./]+\.json)`:\n```json\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(block)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code.replace("kitchen/", f"{tmp_path}/kitchen/"), "example", "exec"), {})
    description = tmp_path / "kitchen" / "dataset.json"
    assert len(json.loads(description.read_text())) == 10, "ten lines, as the text says"
    config = make_config(parse_args([f"--dataset={description}"]))
    assert (config.classes, config.fps, config.len_feature) == (("chop", "pour"), 30.0, 32)
    data = load_data(config)
    assert len(data.train) == 4 and len(data.test) == 2
    check([f"--dataset={description}"])
    assert "no problem found" in capsys.readouterr().out
    done = cli("main.py", f"--dataset={description}", f"--data_path={tmp_path}/kitchen", "--len_feature=32", "--num_iters=1")
    assert "protocol kitchen-test (2 videos" in done.stdout


def write(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_what_is_left_out_is_as_on_thumos(tmp_path):
    facts = dataset_facts(write(tmp_path, {}))
    assert facts.classes == () and facts.fps == 25 and facts.data_path == str(tmp_path) and facts.name == tmp_path.name
    assert facts.train == KNOWN["thumos14"].train


def test_a_description_is_known_by_its_place_however_spelt(tmp_path, monkeypatch):
    path = write(tmp_path, {"classes": ["a"]})
    monkeypatch.chdir(tmp_path)
    spelt = [make_config(parse_args(["--dataset", name, *TINY])).dataset for name in (path, "dataset.json", "./dataset.json")]
    assert set(spelt) == {path}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "contains a list"),
        ({"clases": ["a"]}, "unknown key clases"),
        ({"classes": ["a", "a"]}, "list of different names"),
        ({"classes": [1]}, "list of different names"),
        ({"train": ""}, "a name"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": True}, "fps is True"),
        ({"snippet_frames": 1.5}, "snippet_frames is 1.5"),
        ({"tiou_thresholds": []}, "tiou_thresholds"),
        ({"tiou_thresholds": [2]}, "tiou_thresholds"),
        ({"tiou_thresholds": [True]}, "tiou_thresholds"),
        ({"timing": "frames"}, "rows or duration"),
        ({"missing": 3}, "fail or drop"),
        ({"data_path": None}, "expected text"),
        ({"data_path": "a\0b"}, "expected text"),
        ({"annotations": "a\0b"}, "a name"),
        ({"annotations": "\ud800"}, "a name"),
        ({"protocol": "\ud800"}, "expected text"),
        ({"train": "../escaped"}, "none outside of data_path"),
        ({"test": ["test", "/escaped"]}, "none outside of data_path"),
        *(
            ({"name": name}, "name is .*; expected 1 to 100 letters")
            for name in (
                "../../../escaped",
                "a/b",
                "..",
                ".a",
                "",
                " a",
                "a\0b",
                "a\nb",
                "a|b",
                "=a(b)",
                "a\\b",
                "a" * 101,
                3,
                None,
            )
        ),
    ],
)
def test_a_wrong_description_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        dataset_facts(path)
    assert str(error.value).startswith(path)


@pytest.mark.parametrize("name", ["kitchen", "my data-2.0_b+c", "Küche", "a" * 100])
def test_a_name_of_letters_and_digits_is_fine(tmp_path, name):
    assert dataset_facts(write(tmp_path, {"name": name, "train": "splits/train"})).name == name


def test_annotations_elsewhere_are_converted_to_where_they_are_to_be(tiny, tmp_path):
    (tmp_path / "gt.json").write_bytes((tiny / "gt.json").read_bytes())
    description = {"annotations": "../gt.json", "data_path": "data", "stream_width": 6}
    main(["features", "--to=basnet", f"--output={tmp_path}/a/b/out", "--dataset", write(tmp_path, description), *TINY])
    assert (tmp_path / "a" / "b" / "out" / "gt.json").exists() and not (tmp_path / "a" / "b" / "gt.json").exists()


def test_a_wrong_name_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        parse_args(["--dataset", "thumos15"])
    assert "thumos14, activitynet1.2" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file"):
        make_config(parse_args(["--dataset", f"{tmp_path}/nowhere.json", *TINY]))
