"""A sample of the cases of fuzz.py, and all of them."""

import subprocess
import sys

import pytest
from conftest import ROOT, one_thread
from fuzz import kinds, make_world, quietly, run_cases

SAMPLE = 240


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("fuzz") / "world")


def test_every_file_is_accepted_before_it_is_spoilt(world, tmp_path):
    for kind in kinds(world, tmp_path / "executed"):
        for name, content in {kind.file: kind.valid, **kind.beside}.items():
            (tmp_path / kind.name / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / kind.name / name).write_bytes(content)
        path = tmp_path / kind.name / kind.file
        with quietly():
            kind.compare(path, kind.read(path))


def test_a_spoilt_file_is_read_right_or_refused(world):
    counts, failures = run_cases(world, range(SAMPLE), seed=0)
    assert not failures, "\n".join(failures)
    outcomes = {outcome: sum(n for (_, own), n in counts.items() if own == outcome) for outcome in ("accepted", "refused")}
    assert outcomes["accepted"] > SAMPLE / 10 and outcomes["refused"] > SAMPLE / 3


@pytest.mark.slow
def test_twenty_thousand_spoilt_files():
    line = [sys.executable, str(ROOT / "tests" / "fuzz.py"), "--cases=20000", "--seed=0"]
    done = subprocess.run(line, capture_output=True, text=True, env=one_thread() | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
