"""Files of earlier runs are moved, never lost; text files say what the official ones say."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.files import record_of, set_aside
from eval.eval_detection import ANETdetection, detection_map
from eval.report import averages_from, figures, per_class, table
from eval.table import read_predictions
from main_eval import write_per_class
from options import make_config, parse_args
from test import Evaluation


def test_set_aside_moves_each_generation_to_its_own_folder(tmp_path: Path):
    paths = [tmp_path / "a" / "log", tmp_path / "b" / "model"]
    for generation in ("first", "second"):
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text(generation)
        set_aside(paths)
        assert not any(path.exists() for path in paths)
    for path in paths:
        for number, generation in ((1, "first"), (2, "second")):
            assert (path.parent / "earlier_runs" / str(number) / path.name).read_text() == generation
    assert set_aside(paths) == []


# Four instances of one class, and one detection for each with overlap 1, 0.78, 0.52 and 0.27, in the order of their scores.
# mAP is the share of the instances that are found: 1 at 0.1 and 0.2, 3/4 up to 0.5, 1/2 up to 0.75 and then 1/4.
TRUTH = {"database": {f"v{n}": {"annotations": [{"label": "x", "segment": [0, 100]}]} for n in range(4)}}
ENDS = (100, 78, 52, 27)
FOUND = {"results": {f"v{n}": [{"label": "x", "segment": [0, end], "score": end}] for n, end in enumerate(ENDS)}}
TENTHS = np.linspace(0.1, 0.9, 9)

RECORDS = {  # THUMOS'14: the mean of all nine is 5.75 / 9, of the first seven 5.25 / 7
    "basnet": """\
Step: 26
Test_acc: 0.88
average_mAP: 0.6389
mAP@0.1: 1.0000
mAP@0.2: 1.0000
mAP@0.3: 0.7500
mAP@0.4: 0.7500
mAP@0.5: 0.7500
mAP@0.6: 0.5000
mAP@0.7: 0.5000
mAP@0.8: 0.2500
mAP@0.9: 0.2500
""",
    "um": """\
Step: 26
Test_acc: 0.8765
average_mAP: 0.7500
mAP@0.1: 1.0000
mAP@0.2: 1.0000
mAP@0.3: 0.7500
mAP@0.4: 0.7500
mAP@0.5: 0.7500
mAP@0.6: 0.5000
mAP@0.7: 0.5000
""",
    "backtal": """\
Epoch: 2
average_mAP: 0.6389
mAP@0.10: 1.0000
mAP@0.20: 1.0000
mAP@0.30: 0.7500
mAP@0.40: 0.7500
mAP@0.50: 0.7500
mAP@0.60: 0.5000
mAP@0.70: 0.5000
mAP@0.80: 0.2500
mAP@0.90: 0.2500
""",
    "asm_loc": """\
-------------------------------------------------------------------------------
|t-IoU |0.100||0.200||0.300||0.400||0.500||0.600||0.700||0.800||0.900|
-------------------------------------------------------------------------------
|mAP   |1.000||1.000||0.750||0.750||0.750||0.500||0.500||0.250||0.250|
-------------------------------------------------------------------------------
|Average-mAP: 0.7500
-------------------------------------------------------------------------------

""",
}


TWENTIETHS = ("0.50", "0.55", "0.60", "0.65", "0.70", "0.75", "0.80", "0.85", "0.90", "0.95")
QUARTERS = (3, 2, 2, 2, 2, 2, 1, 1, 1, 1)


def record(score, **others):
    """A line of log.jsonl with these scores."""
    evaluation = Evaluation(score, None, "unnamed", 0.87654, 0.5, 0.5, {"AR@1": 0.5}, {}, ("x",), {})
    return record_of(evaluation, 26, {}, config_of("basnet")) | others


def config_of(method):
    return make_config(parse_args([f"--method={method}"]), training=False)


@pytest.mark.parametrize("method", RECORDS)
def test_each_method_writes_its_authors_record(method):
    of_thumos = record(detection_map(TRUTH, FOUND, TENTHS))
    assert config_of(method).record_text(of_thumos, epoch=2) == RECORDS[method]


def test_records_of_activitynet_have_all_thresholds():
    of_activitynet = record(detection_map(TRUTH, FOUND, [float(tiou) for tiou in TWENTIETHS]))
    texts = {method: config_of(method).record_text(of_activitynet, epoch=2) for method in RECORDS}
    for method, heading in (
        ("basnet", "Step: 26\nTest_acc: 0.88"),
        ("um", "Step: 26\nTest_acc: 0.8765"),
        ("backtal", "Epoch: 2"),
    ):
        names = TWENTIETHS if method == "backtal" else [name.removesuffix("0") for name in TWENTIETHS]
        lines = [f"mAP@{name}: {quarters / 4:.4f}" for name, quarters in zip(names, QUARTERS, strict=True)]
        assert texts[method].splitlines() == [*heading.splitlines(), "average_mAP: 0.4250", *lines]
    _, thresholds, _, maps, _, average, *_ = texts["asm_loc"].splitlines()
    assert thresholds == f"|t-IoU |{'||'.join(f'{name}0' for name in TWENTIETHS)}|" and average == "|Average-mAP: 0.4250"
    assert maps == "|mAP   |0.750||0.500||0.500||0.500||0.500||0.500||0.250||0.250||0.250||0.250|"


def test_records_of_detections_that_the_official_evaluators_scored(official_scores):
    """Digits of `backtal/map` and `asm_loc/*/mAP` in the golden file, and of their means."""
    text = config_of("backtal").record_text(record(official_scores["backtal"]), epoch=7)
    maps = ["0.6080", "0.6080", "0.6080", "0.5943", "0.4680", "0.4073", "0.3235", "0.2620", "0.0234"]
    assert text == "Epoch: 7\naverage_mAP: 0.4336\n" + "".join(f"mAP@0.{n}0: {maps[n - 1]}\n" for n in range(1, 10))
    for name, maps, average in (
        ("thumos", "0.853||0.853||0.853||0.853||0.837||0.683||0.593||0.338||0.097", "0.7894"),
        ("anet", "0.837||0.837||0.683||0.683||0.593||0.546||0.338||0.177||0.097||0.022", "0.4813"),
    ):
        lines = config_of("asm_loc").record_text(record(official_scores[f"asm_loc/{name}"]), epoch=7).splitlines()
        assert lines[3] == f"|mAP   |{maps}|" and lines[5] == f"|Average-mAP: {average}"


RUN = ["--lr=[0.01]*8", "--eval_every=4", "--batch_size=2", "--seed=0", "--class_th=0.01"]
FIRST = {"basnet": "0.1:0.7", "um": "0.1:0.7", "backtal": "0.3:0.7", "asm_loc": "0.1:0.7"}


@pytest.mark.filterwarnings("ignore:.* a label that the ground truth lacks")
@pytest.mark.parametrize("method", RECORDS)
def test_a_run_writes_the_authors_record_and_reports_the_papers_average_first(cli, tiny, tmp_path, method):
    steps = ["--steps=1", "--step_iters=4"] if method == "asm_loc" else []
    said = cli("main.py", f"--method={method}", *RUN, *steps).stdout
    output = tmp_path / "output"
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    best = max(records, key=lambda one: one["choice"])
    maps, of_nine = ANETdetection(tiny / "gt.json", output / "detections_best_seed_0.json").evaluate()
    iteration, of_seven, of_five = best["iteration"], maps[:7].mean(), maps[2:7].mean()
    assert of_five > 0 and len({f"{100 * average:.2f}" for average in (of_five, of_seven, of_nine)}) == 3

    lines = RECORDS[method].splitlines()
    if method == "asm_loc":
        lines[3], lines[5] = f"|mAP   |{'||'.join(f'{value:.3f}' for value in maps)}|", f"|Average-mAP: {of_seven:.4f}"
    elif method == "backtal":  # three batches a pass
        lines = [f"Epoch: {iteration // 3}", f"average_mAP: {of_nine:.4f}"]
        lines += [f"mAP@0.{n}0: {value:.4f}" for n, value in enumerate(maps, 1)]
    else:
        digits, average, shown = (2, of_nine, maps) if method == "basnet" else (4, of_seven, maps[:7])
        lines = [f"Step: {iteration}", f"Test_acc: {best['test_acc']:.{digits}f}", f"average_mAP: {average:.4f}"]
        lines += [f"mAP@0.{n}: {value:.4f}" for n, value in enumerate(shown, 1)]
    assert (output / "best_record_seed_0.txt").read_text() == "\n".join(lines) + "\n"

    logged = EventAccumulator(str(tmp_path / "log")).Reload()
    of_authors = of_seven if method in ("um", "asm_loc") else of_nine
    assert {event.step: event.value for event in logged.Scalars("Average mAP")}[iteration] == pytest.approx(of_authors)
    assert {f"mAP@0.{n}" for n in range(1, 10)} <= set(logged.Tags()["scalars"])

    of_paper = f"{100 * (of_five if method == 'backtal' else of_seven):.2f}"
    assert f"mAP {FIRST[method]} {of_paper}  best" in said
    assert max(len(line) for line in said.splitlines() if line.startswith("iteration ")) <= 80
    rows = [[cell.strip() for cell in line.split("|")] for line in (output / "report_seed_0.md").read_text().splitlines()]
    place = rows[0].index("0.9") + 1
    assert rows[0][place] == f"avg {FIRST[method]}" and rows[2][1] == "best" and rows[2][place] == of_paper


def test_the_average_over_all_thresholds_leads_where_the_papers_is_not_covered():
    odd = {"mAP": {"0.3": 0.5, "0.6": 0.25}, "averages": {}}
    assert averages_from(odd, "0.1:0.7") == {"all": 0.375}
    of_activitynet = record(detection_map(TRUTH, FOUND, [float(tiou) for tiou in TWENTIETHS]))
    assert averages_from(of_activitynet, "0.3:0.7") == {"0.5:0.95": pytest.approx(0.425)}
    of_thumos = record(detection_map(TRUTH, FOUND, TENTHS))
    names = [name for name in figures(of_thumos, "0.3:0.7") if name.startswith("avg")]
    assert names == ["avg 0.3:0.7", "avg 0.1:0.5", "avg 0.1:0.7", "avg 0.1:0.9"]


def test_tables_are_aligned():
    lines = table(["model", "x"], [["best", "1.25"], ["last", "10.5"]]).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[1].strip("| -") == ""


# ------------------------------------------------------------------------------------------------------ odd names

ODD = {  # a name, as Markdown and as CSV shows it
    "HighJump": ("HighJump", "HighJump"),
    "Cutting (a_b) & c*d, 50 % + e": ("Cutting (a_b) & c*d, 50 % + e", '"Cutting (a_b) & c*d, 50 % + e"'),
    "a|b": (r"a\|b", "a|b"),
    "a\\|b": (r"a\\\|b", "a\\|b"),
    "<script>": (r"\<script>", "<script>"),
    "[x](http://y) `z`": (r"\[x](http://y) \`z\`", "[x](http://y) `z`"),
    "a\nb": ("a b", '"a\nb"'),
    "=cmd()": ("=cmd()", "'=cmd()"),
    "+1": ("+1", "'+1"),
    "-1": ("-1", "'-1"),
    "@x": ("@x", "'@x"),
    "\tx": (" x", "'\tx"),
}


def test_odd_names_break_no_table(tmp_path):
    database = {"v": {"annotations": [{"label": label, "segment": [0, 1]} for label in ODD]}}
    score = detection_map({"database": database}, {"results": {}}, [0.5])
    path = tmp_path / "classes"
    write_per_class(path, per_class({"unnamed": score}, read_predictions({"results": {}})))
    rows = path.with_suffix(".md").read_text().splitlines()
    shown = [re.split(r"(?<!\\)(?:\\\\)*\|", row) for row in rows]
    assert len(rows) == 2 + len(ODD) and {len(cells) for cells in shown} == {len(shown[0])}
    assert sorted(cells[2].strip() for cells in shown[2:]) == sorted(markdown.strip() for markdown, _ in ODD.values())
    text = path.with_suffix(".csv").read_bytes().decode()
    for _, cell in ODD.values():
        assert f"\nunnamed,{cell},1,0," in text
    assert [row["class"].removeprefix("'") for row in csv.DictReader(io.StringIO(text))] == sorted(ODD)


def test_odd_names_stay_in_their_line_of_a_report(cli, tiny):
    description = {"protocol": "a|b\n<c>", "classes": ["HighJump", "Billiards", "BaseballPitch"], "stream_width": 6}
    (tiny / "dataset.json").write_text(json.dumps(description))
    said = cli("main.py", f"--dataset={tiny}/dataset.json", "--num_iters=1").stdout
    assert r"protocol a\|b \<c> (4 videos" in said
