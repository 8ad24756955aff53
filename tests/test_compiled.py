"""Kernels are compiled once, kept on disk, and work where nothing can be kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole

CODE = "import sys; sys.path.insert(0, {root!r}); import example; print(example.double(21)); example.double(21.0)"
IN_THREADS = """
import sys; sys.path.insert(0, {root!r}); sys.setswitchinterval(1e-5); import example
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    print(*set(pool.map(example.double, [21] * 8)))
"""
KERNEL = "from eval.compiled import compiled\n\n\n@compiled\ndef double(x: int) -> int:\n    return 2 * x\n"
ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, code: str = CODE, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(folder / "home")} | more
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", code.format(root=str(folder))], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "42\n", done.stderr
    return done


def test_the_first_call_says_so_and_the_next_is_silent(tmp_path):
    (tmp_path / "example.py").write_text(KERNEL)
    assert "compiling kernels" in run(tmp_path).stderr
    assert run(tmp_path).stderr == ""


@pytest.mark.parametrize("code", [CODE, IN_THREADS], ids=["alone", "in threads"])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_is_no_obstacle(tmp_path, code, kind):
    (tmp_path / "example.py").write_text(KERNEL)
    run(tmp_path)
    files = list(tmp_path.rglob(f"*.{kind}"))
    for file in files:
        file.write_bytes(b"")
    assert files
    run(tmp_path, code)


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path):
    """A file stands where each folder for the cache would be made."""
    (tmp_path / "example.py").write_text(KERNEL)
    (tmp_path / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    assert "compiling kernels" in run(tmp_path, PYTHONDONTWRITEBYTECODE="1").stderr


def test_kernels_run_as_plain_python_too():
    """So that a debugger can step through them."""
    tests = ["tests/test_localize.py", "tests/test_eval.py", "tests/test_proposals.py", "tests/test_thumos_kit.py"]
    chosen = ["-k", "official or plain or pairs or written_out"]
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "not slow", *tests, *chosen]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]
