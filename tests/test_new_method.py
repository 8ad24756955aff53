"""docs/new-method.md works as written in a copy of the project, and the registry refuses wrong methods."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import ROOT, one_thread

import methods.base
from config import Config
from methods.base import Registry, method_class
from methods.basnet import BaSNetConfig
from utils import UserError

OWN = shutil.ignore_patterns(".*", "models", "outputs", "logs", "demo*", "records", "__pycache__")


def blocks(page: str) -> list[str]:
    """The code blocks of a page."""
    return re.findall(r"^```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.whole
def test_the_page_builds_a_method_that_trains_on_the_demo(tmp_path):
    page = (ROOT / "docs" / "new-method.md").read_text()
    file, line, commands = blocks(page)
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=OWN)
    (copy / "methods" / "mil.py").write_text(file)
    registry = copy / "methods" / "base.py"
    registry.write_text(registry.read_text().replace("\n\n\ndef method_class", f"\n{line}\n\ndef method_class", 1))
    for command in commands.splitlines():
        python, *words = shlex.split(command)
        assert python == "python"
        done = subprocess.run([sys.executable, *words], cwd=copy, capture_output=True, text=True, env=one_thread())
        assert done.returncode == 0, done.stderr
    helped = done.stdout
    records = [json.loads(text) for text in (copy / "outputs" / "MIL_demo" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["iteration"] == 480 and records[-1]["averages"]["0.1:0.7"] > 0.5
    best = max(record["average_mAP"] for record in records)
    evaluated = json.loads((copy / "outputs" / "MIL_eval_demo" / "evaluation.json").read_text())["record"]["average_mAP"]
    assert evaluated == pytest.approx(best, abs=1e-3), "the evaluated model is the best one"
    assert "weight of the mean attention in the loss (default: 0.05; published)" in " ".join(helped.split())


def test_two_methods_have_neither_a_name_nor_a_class_name_in_common():
    registry = Registry()
    registry["one"] = "methods.one:One"
    for name, place in (("one", "methods.other:Other"), ("other", "methods.other:One")):
        with pytest.raises(ValueError, match="--method one has this name or this class"):
            registry[name] = place
    registry["other"] = "methods.other:Other"


@dataclass(frozen=True, kw_only=True)
class OwnConfig(Config):
    """The settings of a method in this file."""


class Without: ...


class WithAnothers:
    settings = BaSNetConfig


class WithItsOwn:
    settings = OwnConfig


@pytest.mark.parametrize("name", ["Without", "WithAnothers", "Missing"])
def test_a_method_needs_settings_of_its_own(monkeypatch, name):
    """Without them, a method would train with another method's flags."""
    monkeypatch.setattr(methods.base, "METHODS", {"own": f"{__name__}:{name}", "good": f"{__name__}:WithItsOwn"})
    with pytest.raises(UserError, match=r"methods/base.py: --method own is .* no settings of its own; expected"):
        method_class("own")
    assert method_class("good") is WithItsOwn
