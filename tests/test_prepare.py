"""dataset.prepare writes the published data and never damages existing files."""

import functools
import hashlib
import http.server
import json
import os
import threading
import urllib.request

import numpy as np
import pytest
from conftest import TINY

from dataset.prepare import DOWNLOADS, main
from eval.protocols import PROTOCOLS, name_of
from eval.table import read_ground_truth, size
from utils import UserError


def by_video(path):
    database = json.loads(path.read_text())["database"]
    return {
        name: (video["subset"], sorted((row["label"], *map(float, row["segment"])) for row in video["annotations"]))
        for name, video in database.items()
    }


def test_thumos14_is_that_of_basnet(official, thumos_gt, tmp_path, capsys):
    main(["thumos14", f"--annotations={official}", f"--output={tmp_path}"])
    assert by_video(tmp_path / "gt.json") == by_video(thumos_gt) and len(by_video(thumos_gt)) == 410
    for subset in ("train", "test"):
        name = f"split_{subset}.txt"
        assert (tmp_path / name).read_text().split() == (thumos_gt.parent / name).read_text().split()
    assert "210 videos with 3311 instances (officially 210 with 3311)" in capsys.readouterr().out


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "thumos-kit"])
def test_other_ground_truths(official, tmp_path, protocol):
    main(["thumos14", f"--annotations={official}", f"--output={tmp_path}", f"--protocol={protocol}"])
    assert name_of(read_ground_truth(tmp_path / "gt.json", "test")) == protocol


def test_durations_are_attached(official, thumos_gt, tmp_path, capsys):
    half, whole = tmp_path / "half.json", tmp_path / "gt.json"
    lists = [f"--durations={official}/{subset}_durations.txt" for subset in ("test", "validation")]
    main(["durations", f"--annotations={thumos_gt}", f"--output={half}", lists[0]])
    assert "210 of 410 videos have a duration" in capsys.readouterr().out
    main(["durations", f"--annotations={half}", f"--output={whole}", lists[1]])
    database = json.loads(whole.read_text())["database"]
    assert all(video["duration"] > 0 for video in database.values())
    assert database["video_test_0000814"]["duration"] == pytest.approx(181.2, abs=0.1)
    assert by_video(whole) == by_video(thumos_gt)


@pytest.mark.parametrize("text", ["a.mp4", "a.mp4 x", "a.mp4 -1", "a.mp4 nan", "", "other.mp4 3"])
def test_bad_durations_are_named(tiny, tmp_path, text):
    (tmp_path / "durations.txt").write_text(text)
    with pytest.raises(UserError, match=r"durations\.txt: (expected|lists none)"):
        main(["durations", f"--annotations={tiny}/gt.json", f"--durations={tmp_path}/durations.txt", f"--output={tmp_path}/o"])
    assert not (tmp_path / "o").exists()


def test_the_official_json_of_activitynet(tmp_path, capsys):
    rows = [{"label": "Archery", "segment": [1.5, 3]}]
    video = {"duration": 9.5, "subset": "training", "resolution": "320x240", "url": "https://...", "annotations": rows}
    database = {"a": video, "b": video | {"subset": "validation"}, "c": video | {"subset": "testing", "annotations": []}}
    (tmp_path / "official.json").write_text(json.dumps({"version": "VERSION 1.2", "taxonomy": [], "database": database}))
    main(["activitynet1.2", f"--annotations={tmp_path}/official.json", f"--output={tmp_path}/out"])
    out = capsys.readouterr().out
    assert "training: 1 videos with 1 instances (officially 4819 with 7151), 1 durations" in out and "1 classes" in out
    made = json.loads((tmp_path / "out" / "gt.json").read_text())["database"]
    assert made["a"] == {"duration": 9.5, "subset": "training", "annotations": rows} and len(made) == 3
    assert size(read_ground_truth(tmp_path / "out" / "gt.json", "validation")) == (1, 1)


def test_missing_official_files_are_named(tmp_path):
    with pytest.raises(UserError, match="BaseballPitch_"):
        main(["thumos14", f"--annotations={tmp_path}", f"--output={tmp_path}/out"])
    assert not (tmp_path / "out").exists()


def test_nothing_that_is_there_is_changed(tiny, official, tmp_path):
    before = {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is the folder that is read"):
        main(["features", "--to=um", f"--output={tiny}", f"--data_path={tiny}", *TINY])
    for command in (
        ["thumos14", f"--annotations={official}", f"--output={tiny}"],
        ["durations", f"--annotations={tiny}/gt.json", f"--output={tiny}/gt.json", f"--durations={tmp_path}/durations.txt"],
    ):
        (tmp_path / "durations.txt").write_text("video_test_0.mp4 3")
        with pytest.raises(UserError, match=r"gt\.json.*exists already"):
            main(command)
    assert before == {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}


def test_a_conversion_takes_nothing_for_done_that_is_not(tiny, tmp_path, capsys):
    flags = ["features", "--to=asm_loc", f"--output={tmp_path}/out", f"--data_path={tiny}", *TINY]
    main(flags)
    np.save(tmp_path / "out" / "train" / "video_train_0.npy", np.ones((3, 99)))
    (tmp_path / "out" / "train" / "video_train_1.npy").write_bytes(b"\x93NUMPY")
    for stream in ("rgb", "flow"):
        path = tiny / "features" / "train" / stream / "video_train_2.npy"
        np.save(path, np.load(path) + 1)
    capsys.readouterr()
    main(flags)
    assert "3 videos written, 6 existed" in capsys.readouterr().out
    rgb = np.load(tiny / "features" / "train" / "rgb" / "video_train_2.npy")
    assert (np.load(tmp_path / "out" / "train" / "video_train_2.npy")[:, : rgb.shape[1]] == rgb).all()


def test_features_of_one_stream_are_not_converted(tiny, tmp_path):
    with pytest.raises(UserError, match="both streams"):
        main(["features", "--to=um", f"--output={tmp_path}/um", f"--data_path={tiny}", *TINY, "--modal=rgb"])


def test_downloads_are_described(capsys):
    main(["downloads"])
    out = capsys.readouterr().out
    assert all(name in out for name in DOWNLOADS)
    main(["downloads", "hacs"])
    assert "HACS_segments_v1.1.1.json" in capsys.readouterr().out


@pytest.fixture
def served(tmp_path):
    """The URL of a local HTTP server for a folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_download_is_kept_only_with_its_checksum(served, tmp_path, capsys):
    folder, address = served
    content = np.random.default_rng(0).bytes(3_000_000)
    (folder / "features.zip").write_bytes(content)
    target, checksum = tmp_path / "got" / "features.zip", hashlib.sha256(content).hexdigest()

    def fetch(name, checksum):
        main(["fetch", f"{address}/{name}", f"--output={target}", f"--checksum={checksum}", "--allow_http"])

    for name, given, message in (
        ("features.zip", "0" * 64, f"its sha256 is {checksum}"),
        ("nothing.zip", checksum, "cannot be fetched"),
        ("a b", checksum, "cannot be fetched"),
    ):
        with pytest.raises(UserError, match=message):
            fetch(name, given)
        assert not target.exists() and not list(target.parent.glob(".*"))
    fetch("features.zip", checksum.upper())
    assert target.read_bytes() == content and "3,000,000 bytes" in capsys.readouterr().out
    with pytest.raises(UserError, match="nothing is overwritten"):
        fetch("features.zip", checksum)


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "data:,x", "ftp://a/b", "http://127.0.0.1/x", "HTTP://a/b", "x", "/etc/passwd", "https", "//["],
)
def test_only_https_is_fetched_from(tmp_path, address):
    with pytest.raises(UserError, match="is no address to fetch from; expected https") as error:
        main(["fetch", address, f"--output={tmp_path}/got", "--checksum=0"])
    assert ("--allow_http takes this one" in str(error.value)) == address.lower().startswith("http:") and not os.listdir(
        tmp_path
    )


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_leads_to_no_other_kind_of_address(tmp_path, target):
    class Redirecting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/x"
        with pytest.raises(UserError, match=rf"{target}(: is no address|' is not allowed)"):
            main(["fetch", address, f"--output={tmp_path}/got", "--checksum=0", "--allow_http"])
        server.shutdown()
    assert not os.listdir(tmp_path)


def test_a_redirect_from_https_to_http_is_checked():
    from dataset.prepare import CheckedRedirects

    request = urllib.request.Request("https://a/x")
    with pytest.raises(UserError, match="http://a/x: is no address"):
        CheckedRedirects(False).redirect_request(request, None, 302, "", {}, "http://a/x")
    assert CheckedRedirects(False).redirect_request(request, None, 302, "", {}, "https://b/x").full_url == "https://b/x"


@pytest.mark.parametrize("announced", [True, False])
def test_a_download_has_a_largest_size(served, tmp_path, announced, monkeypatch):
    folder, address = served
    (folder / "big").write_bytes(bytes(3 * 2**20))
    if not announced:
        monkeypatch.setattr(http.client.HTTPMessage, "get", lambda self, name, default=None: default)
    with pytest.raises(UserError, match=r"/big: has .* bytes or more; expected at most 1,048,576; file discarded") as error:
        flags = [f"--output={tmp_path}/got", "--checksum=0", "--allow_http", f"--most={1 / 1024}"]
        main(["fetch", f"{address}/big", *flags])
    assert ("3,145,728" in str(error.value)) == announced and os.listdir(tmp_path) == ["served"]


def test_mistyped_flags_are_refused(tmp_path):
    with pytest.raises(SystemExit):
        main(["durations", "--annotations=a", "--durations=b", "--output=c", "--protocol=d"])
    assert not (tmp_path / "c").exists()
