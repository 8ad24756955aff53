"""Files of earlier runs are moved, never lost; text files say what the official ones say."""

from pathlib import Path

from eval.report import best_record_text, table
from outputs import set_aside


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


def test_best_record_has_the_official_lines():
    record = {"iteration": 26, "test_acc": 0.876, "average_mAP": 0.123456, "mAP": {"0.1": 0.5, "0.2": 0.25}}
    assert best_record_text(record) == "Step: 26\nTest_acc: 0.88\naverage_mAP: 0.1235\nmAP@0.1: 0.5000\nmAP@0.2: 0.2500\n"


def test_tables_are_aligned():
    lines = table(["model", "x"], [["best", "1.25"], ["last", "10.5"]]).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[1].strip("| -") == ""
