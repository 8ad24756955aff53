"""Where a run's numbers come from: the code, the versions, the device and the command."""

import os
import platform
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import Config
from fast.products import processor

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 10  # seconds for git, which is slow on some network file systems


def provenance(config: Config) -> dict[str, Any]:
    """Plain values for JSON. `tree_changed` is None where git knows no revision."""
    revision, changed = git_state(ROOT)
    return {
        "project": project_version(),
        "git_revision": revision,
        "tree_changed": changed,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": device_name(config.device),
        "command": f"python {shlex.join(sys.argv)}".encode(errors="backslashreplace").decode(),
    }


def with_earlier(now: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a run, with that of its earlier parts in `settings` that ran by other code or elsewhere."""
    earlier = settings.get("earlier_provenance")
    parts = list(earlier) if isinstance(earlier, list) else []
    before = settings.get("provenance")
    if isinstance(before, dict) and before | {"command": ""} != now | {"command": ""}:
        parts.append(before)
    return {"provenance": now} | ({"earlier_provenance": parts} if parts else {})


def git_state(root: Path) -> tuple[str, bool | None]:
    """The revision of the code in `root` or why git knows none, and whether files have changed or Python files were added."""
    try:
        if not _git(root, "ls-files", "main.py"):
            return "unknown: the folder is in a repository that does not track it", None
        revision = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "-uno", ".")
        added = _git(root, "ls-files", "--others", "--exclude-standard", "*.py")
    except FileNotFoundError:
        return "unknown: git is not installed", None
    except subprocess.CalledProcessError as error:
        return f"unknown: {error.stderr.strip().splitlines()[0] if error.stderr.strip() else 'git failed'}", None
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}", None
    return revision, bool(changed or added)


def _git(root: Path, *words: str) -> str:
    line, messages = ["git", "--no-optional-locks", *words], os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        line, cwd=root, env=messages, capture_output=True, text=True, errors="replace", check=True, timeout=PATIENCE
    ).stdout


def project_version() -> str:
    try:
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown: pyproject.toml has no version"


def device_name(name: str) -> str:
    """The device that --device selects, with the name of its processor."""
    device = torch.device("cpu" if name == "auto" and not torch.cuda.is_available() else "cuda" if name == "auto" else name)
    return f"{device}, {torch.cuda.get_device_name(device) if device.type == 'cuda' else processor()}"
