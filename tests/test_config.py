"""Schedules, thresholds and derived numbers; nothing given on the command line is ever executed."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import parse_schedule, parse_thresholds
from dataset.facts import TIOU_THUMOS
from options import make_config, parse_args
from utils import UserError


@pytest.mark.parametrize(
    "text, count, expected",
    [
        ("[0.0001]*1500", None, [1e-4] * 1500),
        ("[1e-4]*1000+[1e-5]*500", None, [1e-4] * 1000 + [1e-5] * 500),
        ("[1e-4,1e-4]", None, [1e-4, 1e-4]),
        (" [1e-4, 1e-5] * 2 ", None, [1e-4, 1e-5, 1e-4, 1e-5]),
        ("([1e-4]*2+[1e-5])*2", None, [1e-4, 1e-4, 1e-5, 1e-4, 1e-4, 1e-5]),
        ("1e-4", 3, [1e-4] * 3),
        ("[0.0001]*1500", 2, [1e-4] * 2),
    ],
)
def test_schedules(text, count, expected):
    assert parse_schedule(text, count) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1e-4",
        "exit()",
        "__import__('os').system('touch bad')",
        "[0.1]*n",
        "[]",
        "[0]*5",
        "[-1e-4]*5",
        "[1e-4]*0",
        "[1e-4]*-1",
    ]
    + ["[1e-4]*1.5", "[1e-4]*10**9", "[1e-4]*99999999999", "['a']*3", "[True]*3", "[[1e-4]]*3", "[1e999]*3", "[1e-4]+1e-4"]
    + [
        "2*3",
        "[x for x in (1,2)]",
        "lambda: 0",
        "(" * 3000,
        "[1e-4]*5; 1",
        "\0",
        "1j",
        "[1e-4]*True",
        "[1" + "0" * 400 + "]",
        "[1e38]",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="--lr"):
        parse_schedule(text)


@given(st.text(max_size=40))
def test_no_text_crashes_the_schedule(text):
    try:
        rates = parse_schedule(text)
    except UserError:
        return
    assert all(rate > 0 for rate in rates)


def test_more_iterations_than_rates_is_refused():
    with pytest.raises(UserError, match=r"--lr 0\.0001 --num_iters 2000"):
        parse_schedule("[0.0001]*1500", 2000)


def test_thresholds_are_numpys():
    np.testing.assert_array_equal(parse_thresholds("--cas_th", "0:0.25:0.025"), np.arange(0, 0.25, 0.025))
    for range_ in ((0.4, 0.625, 0.025), (0.1, 0.925, 0.025), (0.15, 0.25, 0.05), (0.1, 0.305, 0.005)):
        np.testing.assert_array_equal(parse_thresholds("--cas_th", ":".join(map(str, range_))), np.arange(*range_))
    assert parse_thresholds("--cas_th", "0.005,0.01,0.5") == [0.005, 0.01, 0.5]
    assert parse_thresholds("--cas_th", "0.5") == [0.5]
    assert tuple(np.linspace(0.1, 0.9, 9).tolist()) == TIOU_THUMOS


@pytest.mark.parametrize(
    "text", ["", "0.1,", "0:1", "a:b:c", "0:1:0", "1:0:0.1", "0:1:-0.1", "0:1:1e-9", "0:inf:1", "nan:1:0.1", "0.2,0.1", "0,nan"]
)
def test_bad_thresholds(text):
    with pytest.raises(UserError, match="--cas_th"):
        parse_thresholds("--cas_th", text)


def test_the_best_model_is_chosen_by_one_threshold_or_a_range():
    found = {"0.1": 0.5, "0.2": 0.3, "0.3": 0.1}
    config = make_config(parse_args([]))
    choices = {"all": 0.3, "0.1:0.2": 0.4, "0.2:0.3": 0.2, "0.3": 0.1}
    assert {text: dataclasses.replace(config, choose_by=text).choice_of(found) for text in choices} == pytest.approx(choices)
    for text in ("0.95", "0.1:0.95", "0.5:0.3", "", "best"):
        with pytest.raises(UserError, match="--choose_by"):
            make_config(parse_args(["--choose_by", text]))


def test_derived_numbers():
    config = make_config(parse_args([]))
    assert (config.num_classes, config.len_feature, config.num_iters) == (20, 2048, 1500)
    assert config.eval_interval(200) == 13
    assert config.seconds(750) == pytest.approx(480)
    single = make_config(parse_args(["--modal", "flow", "--eval_every", "1", "--num_iters", "7"]))
    assert (single.len_feature, single.streams, single.num_iters, single.eval_interval(200)) == (1024, ("flow",), 7, 1)


def test_config_is_frozen_and_plain():
    config = make_config(parse_args(["--fix", "b4, B1"]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3
    assert json.loads(json.dumps(config.as_dict()))["repaired"] == ["B1", "B4"]


@pytest.mark.parametrize("flags", [["--fix", "B9"], ["--fix", "B1;B2"], ["--len_feature", "7"]])
def test_flags_that_contradict(flags):
    with pytest.raises(UserError):
        make_config(parse_args(flags))
