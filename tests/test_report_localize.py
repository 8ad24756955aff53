"""The report's JavaScript localizes as localize.py does."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from random_curves import as_json, random_curves

from localize import localize

SCRIPT = ROOT / "tools" / "report" / "localize.js"
VIDEOS = 200
AS_ARRAYS = """
function asArrays(video) {
  const kind = video.single ? Float32Array : Float64Array;
  return {...video, activation: video.activation.map((c) => kind.from(c)), common: video.common && kind.from(video.common)};
}
"""


@pytest.fixture(scope="module")
def videos():
    random = np.random.default_rng(0)
    return [random_curves(random) for _ in range(VIDEOS)]


def assert_same(videos, answers):
    assert len(answers) == VIDEOS
    total = 0
    for curves, answer in zip(videos, answers, strict=True):
        expected = localize(curves)
        assert answer["classes"] == expected.classes.tolist()
        np.testing.assert_allclose(answer["scores"], expected.scores, rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.reshape(answer["segments"], (-1, 2)), expected.segments, rtol=0, atol=1e-9)
        total += len(expected.classes)
    assert total > 1000


def test_node_finds_what_python_finds(videos, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node; the whole tests run the script in a browser")
    (tmp_path / "videos.json").write_text(json.dumps([as_json(curves) for curves in videos]))
    program = f"""
        const {{ localize }} = require({json.dumps(str(SCRIPT))});
        {AS_ARRAYS}
        const videos = JSON.parse(require("fs").readFileSync({json.dumps(str(tmp_path / "videos.json"))}));
        console.log(JSON.stringify(videos.map((video) => localize(asArrays(video)))));
    """
    done = subprocess.run([node, "-e", program], capture_output=True, text=True, check=True)
    assert_same(videos, json.loads(done.stdout))
