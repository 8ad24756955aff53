"""Ctrl-C is answered with one line and exit code 130 at any moment, and a second one at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, one_thread

pytestmark = pytest.mark.whole

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}


def interrupted_after(seconds: float, folder: Path, *line: str) -> tuple[int, list[str], bool]:
    """Exit code and messages of a command that gets Ctrl-C as from a terminal, and whether it had ended before.

    Time counts from where Ctrl-C is answered: after the start of the interpreter, whose imports Python lists on stderr.
    """
    errors = folder / "stderr"
    with (
        open(errors, "w") as stream,
        subprocess.Popen(
            [sys.executable, "-X", "importtime", "-W", "ignore", *line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            cwd=ROOT,
            env=one_thread(),
            start_new_session=True,
        ) as process,
    ):
        while "engine.ending\n" not in errors.read_text():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(seconds)
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    messages = [text for text in errors.read_text().splitlines() if not text.startswith("import time:")]
    return process.returncode, messages, ended


def test_ctrl_c_at_any_moment_of_a_start(tiny, places, tmp_path):
    """A run that would go on for hours; from about half of the timings on it trains."""
    run = ["main.py", f"--data_path={tiny}", "--cache_path=none", *TINY, *places, "--seed=0", "--lr=[0.001]*1000000"]
    seen = [interrupted_after(0.02 + number / 6, tmp_path, *run) for number in range(25)]
    for code, messages, ended in seen:
        assert code == 130 and not ended
        assert messages == ["interrupted"] or messages[-1].startswith("stopped after iteration"), messages
    assert ["interrupted"] in [messages for _, messages, _ in seen]


@pytest.mark.parametrize("seconds", [0.02, 0.4, 1.5, 3])
@pytest.mark.parametrize(
    "line",
    [
        "main_eval.py --data_path=TINY --model_file=none.pkl",
        "-m engine.seeds OUT",
        "-m tools.plot --data_path=TINY --model_file=none.pkl",
        "-m dataset.check --data_path=TINY",
        "-m dataset.prepare thumos14 --annotations OUT --output OUT",
        "-m dataset.present train,test --data_path=TINY",
        "-m dataset.make_demo OUT/demo",
        "train.py --data_path TINY --save_path OUT",
        "test.py --data_path TINY --save_path OUT",
    ],
)
def test_ctrl_c_at_any_moment_of_a_command(line, seconds, tiny, tmp_path):
    (tmp_path / "out").mkdir()
    words = [word.replace("TINY", str(tiny)).replace("OUT", str(tmp_path / "out")) for word in line.split()]
    code, messages, ended = interrupted_after(seconds, tmp_path, *words)
    if not ended:
        ending = code == -signal.SIGINT and not any(
            "Traceback" in line for line in messages
        )  # the interpreter; in a shell, 130
        assert (code, messages) == (130, ["interrupted"]) or ending
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name != "demo"] == [], "nothing half made is left"


def test_a_package_that_is_not_installed_is_named_with_the_remedy():
    code = "from engine.ending import begin\nbegin()\nimport unheard_of.part"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "the package unheard_of is not installed for" in done.stderr and "source .venv/bin/activate" in done.stderr


HANGS = {
    "in a clean-up that nothing ends": "clean_up()",
    "after it, when the interpreter ends": "atexit.register(clean_up)",
}


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_second_ctrl_c_does_not_wait_for_the_clean_up_after_the_first(hang):
    code = (
        "import atexit, time, utils\n"
        "from engine.ending import begin\n"
        "begin()\n"
        "def clean_up():\n"
        "    print('hangs', flush=True)\n"
        "    while True:\n"
        "        try: time.sleep(600)\n"
        "        except BaseException: pass\n"
        "def work():\n"
        "    try: print('begun', flush=True); time.sleep(600)\n"
        f"    finally: {hang}\n"
        "utils.run_command(work)\n"
    )
    code_, said = two_signals(code, signal.SIGINT)
    assert code_ == 130 and set(said.splitlines()) == {"interrupted"}


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_does_not_wait_for_the_end_of_a_run_that_has_saved(first):
    code = (
        "import signal, time, utils\n"
        "from engine.ending import begin\n"
        "begin()\n"
        "def work():\n"
        "    with utils.StopSignal(lambda: None) as stop:\n"
        "        print('begun', flush=True)\n"
        "        while stop.received is None: time.sleep(0.01)\n"
        "    print('hangs', flush=True); time.sleep(600)\n"
        "utils.run_command(work)\n"
    )
    code_, said = two_signals(code, first)
    assert code_ == 130 and said.endswith("stops at once\ninterrupted\n")


def two_signals(code: str, first: int) -> tuple[int, str]:
    """Exit code and stderr of a program that prints `begun`, gets one signal, prints `hangs`, and gets Ctrl-C."""
    with subprocess.Popen([sys.executable, "-c", code], **PIPES) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(first)
            assert process.stdout.readline() == "hangs\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    return process.returncode, said


@pytest.mark.parametrize(
    "swallows",
    [
        "import swallowing",  # a package that catches everything while it is imported
        "type('Finalizer', (), {'__del__': lambda self: os.kill(os.getpid(), 2)})()",
    ],
)
def test_ctrl_c_where_python_or_a_package_would_go_on(swallows, tmp_path):
    (tmp_path / "swallowing.py").write_text(
        "import os\ntry: os.kill(os.getpid(), 2); import json\nexcept BaseException: pass\n"
    )
    code = (
        "import os, sys, utils\n"
        "from engine.ending import begin\n"
        "begin()\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "def work():\n"
        f"    {swallows}\n"
        "    print('goes on')\n"
        "utils.run_command(work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_process_ends_with_its_standard_input_if_it_is_to():
    """Even if it does not stop on SIGTERM, after a while in which it may save."""
    code = (
        "import time, utils, engine.ending as ending\n"
        "ending.GRACE = 0.5\n"
        "ending.begin()\n"
        "with utils.StopSignal(lambda: None) as stop:\n"
        "    print('begun', flush=True)\n"
        "    while stop.received is None: time.sleep(0.01)\n"
        "    print('saves', flush=True)\n"
        "    time.sleep(600)\n"
    )
    env = os.environ | {"BASNET_END_WITH_STDIN": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=env, **PIPES) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.stdin.close()
            assert process.stdout.readline() == "saves\n"
            assert process.wait(10) == 143
        finally:
            process.kill()
