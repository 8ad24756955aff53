"""Runs the report's scripts in node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

REPORT = ROOT / "tools" / "report"


def in_node(scripts: list[str], given: Any, expression: str, folder: Path) -> Any:
    """The value of `expression` of `given`, with the functions of `scripts`; skips without node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node; the whole tests run the scripts in a browser")
    source = "\n".join((REPORT / name).read_text() for name in scripts)
    (folder / "given.json").write_text(json.dumps(given))
    program = folder / "program.js"
    program.write_text(
        f"{source}\nconst given = JSON.parse(require('fs').readFileSync({json.dumps(str(folder / 'given.json'))}));\n"
        f"console.log(JSON.stringify({expression}));\n"
    )
    done = subprocess.run([node, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
