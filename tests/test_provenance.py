"""What a run says about its code, versions, device and command."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import provenance as module
from engine.provenance import git_state, project_version, provenance
from options import make_config, parse_args


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "main.py").write_text("1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "main.py")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_versions_device_and_command(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--seed", "3", "--output_path", "a b", "\udcff"])
    found = provenance(make_config(parse_args(["--device=cpu"]), training=False))
    assert (found["python"], found["torch"], found["numpy"]) == (platform.python_version(), torch.__version__, np.__version__)
    assert found["project"] == project_version() and found["project"][0].isdigit()
    assert found["device"].startswith("cpu, ") and len(found["device"]) > len("cpu, ")
    assert found["command"] == r"python main.py --seed 3 --output_path 'a b' '\udcff'"
    assert json.loads(json.dumps(found)) == found


def test_revision_and_changes(checkout):
    revision = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == (revision, False)
    (checkout / "notes.txt").write_text("a user's own file")
    assert git_state(checkout) == (revision, False)
    (checkout / "methods").mkdir()
    (checkout / "methods" / "mine.py").write_text("2\n")
    assert git_state(checkout) == (revision, True)
    (checkout / "methods" / "mine.py").unlink()
    (checkout / "main.py").write_text("3\n")
    assert git_state(checkout) == (revision, True)


def test_no_checkout(tmp_path, checkout):
    revision, changed = git_state(tmp_path)
    assert revision.startswith("unknown: ") and "not a git repository" in revision and changed is None
    (checkout / "copy").mkdir()  # the project, copied into a repository of something else
    assert git_state(checkout / "copy")[0].startswith("unknown: ")


def test_no_commit_yet(tmp_path):
    (tmp_path / "main.py").write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "main.py")
    revision, changed = git_state(tmp_path)
    assert revision.startswith("unknown: ") and changed is None


def test_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == ("unknown: git is not installed", None)


def test_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert project_version().startswith("unknown: ")
