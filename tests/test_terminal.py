"""What a run shows: one line at a time above the bar, and a table of 80 columns."""

import contextlib
import io
import os
import pty
import re
import select
import subprocess
import termios
import time
import warnings

import pytest
from conftest import ROOT, command, one_thread
from test_outputs import FOUND, TENTHS, TRUTH, record

from engine import terminal
from engine.report import WIDTH, brief_report
from engine.terminal import Progress, clock
from eval.eval_detection import detection_map
from options import make_config, parse_args

RUN = ["--lr=[0.01]*8", "--eval_every=2", "--seed=0"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


@pytest.fixture
def now(monkeypatch):
    """A clock that a test advances."""
    at = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: at[0])
    return at


def test_the_bar_shows_loss_rate_best_and_the_time_left(now):
    with contextlib.redirect_stderr(Terminal()) as screen, Progress(0, 8, 4, hidden=False) as progress:
        progress.show(None, 1e-4, None)
        progress.bar.refresh()
        assert "eta ?, lr 1.0e-04, best mAP ?" in screen.getvalue()
        for _ in range(4):
            now[0] += 1
            assert progress.stepped() == 1
        now[0] += 10
        progress.evaluated()
        assert progress.seconds_left() == 4 * 1 + 1 * 10
        progress.show(0.51234, 1e-4, 0.37767)
        progress.bar.refresh()
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("4/8 |") and "eta 0:14, loss 0.5123, lr 1.0e-04, best mAP 37.77" in last


def test_the_time_left_counts_the_evaluation_at_the_end(now):
    with Progress(3, 10, 4, hidden=True) as progress:  # a resumed run; evaluations after 4, 8 and 10
        assert progress.seconds_left() is None
        now[0] += 2
        progress.stepped()
        assert progress.seconds_left() is None, "no evaluation is measured yet"
        now[0] += 5
        progress.evaluated()
        assert progress.seconds_left() == 6 * 2 + 2 * 5
    with Progress(8, 10, 4, hidden=True) as progress:  # begins with an evaluation
        now[0] += 5
        progress.evaluated()
        now[0] += 2
        progress.stepped()
        assert progress.seconds_left() == 1 * 2 + 1 * 5


def test_no_bar_where_there_is_no_terminal_or_quiet():
    with contextlib.redirect_stderr(Terminal()) as screen, Progress(0, 8, 4, hidden=True) as progress:
        progress.show(0.5, 1e-4, 0.5)
        progress.stepped()
    with contextlib.redirect_stderr(io.StringIO()) as pipe, Progress(0, 8, 4, hidden=False) as progress:
        progress.stepped()
    assert screen.getvalue() == pipe.getvalue() == ""


def test_warnings_of_packages_go_above_the_bar(monkeypatch):
    told = []
    monkeypatch.setattr(terminal, "say_now", told.append)
    with contextlib.redirect_stderr(Terminal()) as screen, Progress(0, 8, 4, hidden=False) as progress:
        progress.bar.refresh()
        warnings.showwarning("something is odd", UserWarning, "file.py", 3)
        before = screen.getvalue()
    assert len(told) == 1 and "something is odd" in told[0]
    assert re.search(r"\r +\r", before), "the bar's line is cleared first"


def test_clock():
    assert [clock(seconds) for seconds in (0, 59.6, 3600, 3725)] == ["0:00", "1:00", "1:00:00", "1:02:05"]


@pytest.mark.parametrize("method", ["basnet", "backtal"])
def test_the_table_fits_eighty_columns(method):
    config = make_config(parse_args([f"--method={method}", "--dataset=demo"]), training=False)
    one = record(detection_map(TRUTH, FOUND, TENTHS))
    starred = one | {"with_features": {name: one[name] for name in ("ground_truth", "mAP", "averages")}}
    names = {"a_very_long_name_of_a_model_file_seed_0.pkl": starred}
    for records in (
        {"best": one, "last": one},
        {"best": starred, "last": starred},
        names,
        {"last": one | {"unknown_labels": {"x": 5, "y|z": 7}}},
    ):
        text = brief_report(records, 3, config, 0)
        assert max(map(len, text.splitlines())) <= WIDTH == 80
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
        rows = {row[0]: row[1:] for row in cells}
        assert rows["mAP at tIoU 0.3"] == ["75.00"] * len(rows["in %"]) and rows["iterations"][0] == "26"
        assert rows["average 0.1:0.7"][0] == "75.00" and rows["video accuracy"][0] == "87.65"
        first = next(name for name in rows if name.startswith("average"))
        assert first == ("average 0.3:0.7" if method == "backtal" else "average 0.1:0.7")


def test_all_figures_are_in_the_file_and_with_wide(cli, tmp_path):
    narrow = cli("main.py", *RUN).stdout
    assert "cls mAP" not in narrow and "AR@100" not in narrow
    report = (tmp_path / "output" / "report_seed_0.md").read_text()
    assert "cls mAP" in report and "AR@100" in report and f"- {tmp_path}/output/report_seed_0.md" in narrow
    model = f"--model_file={tmp_path}/model/BaS_Net_model_seed_0_last.ckpt"
    assert "AR@100" not in cli("main_eval.py", model).stdout
    assert "AR@100" in cli("main_eval.py", model, "--wide").stdout


def on_a_terminal(line: list[str]) -> str:
    """What a program writes on a terminal of 80 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 80))
    with subprocess.Popen(line, cwd=ROOT, env=one_thread(), stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        said, deadline = b"", time.monotonic() + 120
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 1)[0]:
                continue
            try:
                part = os.read(master, 65536)
            except OSError:  # its end is closed
                break
            if not part:
                break
            said += part
        assert process.wait(10) == 0
    os.close(master)
    return said.decode()


def shown(said: str) -> list[str]:
    """The lines that stay on the screen."""
    lines = []
    for line in said.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


@pytest.mark.whole
def test_on_a_terminal_every_line_is_its_own(tiny, places):
    lines = shown(on_a_terminal(command("main.py", tiny, places, *RUN)))
    evaluations = [line for line in lines if "iteration " in line]
    assert len(evaluations) == 4 and all(line.startswith("iteration ") for line in evaluations)
    bars = [line for line in lines if "it/s" in line]
    assert len(bars) == 1 and bars[0].startswith("8/8 |") and "best mAP" in bars[0] and len(bars[0]) <= 80
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 17 and {len(line) for line in table} == {len(table[0])}
