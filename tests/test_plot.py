"""tools.plot draws a video from a checkpoint, for any ablation."""

import subprocess
import sys

import pytest
from conftest import ROOT, TINY, one_thread

pytestmark = pytest.mark.whole


@pytest.mark.parametrize("ablation", ["full", "baseline"])
def test_a_picture(cli, tiny, tmp_path, ablation):
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0", "--ablation", ablation)
    figure = tmp_path / "pictures" / "video.png"
    line = [sys.executable, "-m", "tools.plot", f"--data_path={tiny}", *TINY, "--ablation", ablation, "--video", "video_test_1"]
    line += [f"--model_file={tmp_path}/model/BaS_Net_model_seed_0.pkl", f"--figure={figure}"]
    subprocess.run(line, cwd=ROOT, env=one_thread(), check=True)
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000
    done = subprocess.run([*line, "--video", "nobody"], cwd=ROOT, env=one_thread(), capture_output=True, text=True)
    assert done.returncode == 2 and "nobody" in done.stderr
