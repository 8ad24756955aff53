"""Actions in videos without annotations: the same as in an evaluation, in files that other programs read."""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import METHOD_RUNS, SHARED, WIDTH, best, run_here
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.feature_files import read_loose
from engine.model_file import write_model
from methods.base import build_method
from options import make_config, parse_args
from tools.predictor import Predictor
from tools.timelines import Action, Timeline, ass, clock, csv_rows, eaf, label_studio, page, rows_apart, terminal, via, vtt
from utils import UserError

VIDEOS = [f"video_test_{number}" for number in range(4)]


def features_of(folder, video="video_test_1", stream=None):
    paths = [folder / "data" / "features" / "test" / name / f"{video}.npy" for name in ("rgb", "flow")]
    return paths if stream is None else np.load(paths[("rgb", "flow").index(stream)])


def predict(output, model, *flags, expect=0):
    """What python -m tools.predict prints; a message of standard error with `expect=2`."""
    line = ["tools.predict", f"--model_file={model}", f"--output_path={output}", "--device=cpu", *map(str, flags)]
    done = run_here(line)
    assert done.returncode == expect and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stderr if expect else done.stdout


def results(output):
    return json.loads((output / "detections.json").read_text())["results"]


def close(found, expected):
    assert list(found) == list(expected) and expected
    for name, rows in expected.items():
        assert [row["label"] for row in found[name]] == [row["label"] for row in rows]
        for key in ("score", "segment"):
            np.testing.assert_allclose([r[key] for r in found[name]], [r[key] for r in rows], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------- as in an evaluation


@pytest.mark.parametrize("method", METHOD_RUNS)
def test_a_prediction_is_what_an_evaluation_finds(runs, method, tmp_path):
    """Of a folder, of single files and from Python."""
    folder, model = runs[method], best(runs[method], method, ".safetensors")
    expected = json.loads((folder / "outputs" / "mine" / "detections_best_seed_0.json").read_text())["results"]
    predict(tmp_path / "many", model, "--features", folder / "data" / "features" / "test")
    close(results(tmp_path / "many"), dict(sorted(expected.items())))
    predict(tmp_path / "one", model, "--features", *features_of(folder), "--formats=none")
    close(results(tmp_path / "one"), {"video_test_1": expected["video_test_1"]})

    predictor = Predictor(model, device="cpu")
    found = predictor([features_of(folder, stream=stream) for stream in ("rgb", "flow")])
    rows = [{"label": a.label, "score": a.score, "segment": [a.start, a.end]} for a in found]
    order = lambda rows: sorted(rows, key=lambda row: (row["segment"], row["label"]))  # noqa: E731
    close({"": order(rows)}, {"": order(expected["video_test_1"])})
    assert len(found) == len(rows) and found.seconds == len(features_of(folder, stream="rgb")) * 16 / 25


def test_settings_of_a_model_that_has_none_are_given_as_flags(runs, tmp_path):
    folder = runs["basnet"]
    lone = shutil.copy(best(folder), tmp_path / "official.pkl")
    flags = ["--dataset=thumos14", "--ablation=base", "--class_th=0.02", "--hidden=8", f"--len_feature={2 * WIDTH}"]
    predict(tmp_path / "out", lone, "--features", *features_of(folder), *flags, "--num_segments=16")
    expected = json.loads((folder / "outputs" / "mine" / "detections_best_seed_0.json").read_text())["results"]
    close(results(tmp_path / "out"), {"video_test_1": expected["video_test_1"]})
    message = predict(tmp_path / "out", lone, "--features", *features_of(folder), "--dataset=activitynet1.3", expect=2)
    assert "expected the annotations" in message


def test_no_data_set_is_needed(runs, tmp_path):
    shutil.copytree(runs["um"] / "models", tmp_path / "models")
    features = np.concatenate([features_of(runs["um"], stream=stream) for stream in ("rgb", "flow")], axis=1)
    np.save(tmp_path / "talk.npy", features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("options.read_database", lambda *_: pytest.fail("annotations were read"))
        predict(tmp_path / "out", best(tmp_path, "um"), "--features", tmp_path / "talk.npy")
    assert list(results(tmp_path / "out")) == ["talk"]


def test_two_predictors_do_not_disturb_each_other(runs):
    arrays = {name: [features_of(runs[name], stream=stream) for stream in ("rgb", "flow")] for name in ("um", "asm_loc")}
    one, two = (Predictor(best(runs[name], name), device="cpu") for name in arrays)
    alone = list(one(arrays["um"]))
    other = list(two(arrays["asm_loc"]))
    assert list(one(arrays["um"])) == alone and list(two(arrays["asm_loc"])) == other and alone != other
    assert list(one([array[:9] for array in arrays["um"]])) != alone  # another video may have the same name


# --------------------------------------------------------------------------------------------------- times, thresholds


def test_times_follow_from_the_frame_rate_the_snippets_or_the_duration(runs):
    arrays = [features_of(runs["um"], stream=stream) for stream in ("rgb", "flow")]
    usual = Predictor(best(runs["um"], "um"), device="cpu", nms_th=1)(arrays)
    halved = Predictor(best(runs["um"], "um"), device="cpu", nms_th=1, fps=50)(arrays)
    longer = Predictor(best(runs["um"], "um"), device="cpu", nms_th=1, snippet_frames=32)(arrays)
    timed = Predictor(best(runs["um"], "um"), device="cpu", nms_th=1)(arrays, duration=10 * usual.seconds)
    for found, scale in ((halved, 0.5), (longer, 2), (timed, 10)):
        assert found.seconds == pytest.approx(scale * usual.seconds) and len(found) == len(usual) > 0
        for action, other in zip(sorted(found, key=lambda a: -a.score), sorted(usual, key=lambda a: -a.score), strict=True):
            assert action.score == pytest.approx(other.score)
        starts = sorted(action.start for action in found)
        np.testing.assert_allclose(starts, [scale * start for start in sorted(action.start for action in usual)])


def test_thresholds_and_counts(runs, tmp_path):
    model, flags = best(runs["um"], "um"), ["--features", *features_of(runs["um"])]
    predict(tmp_path / "all", model, *flags)
    every = results(tmp_path / "all")["video_test_1"]
    predict(tmp_path / "nms", model, *flags, "--nms_th=0.1")
    assert len(results(tmp_path / "nms")["video_test_1"]) < len(every)
    limit = sorted(row["score"] for row in every)[len(every) // 2]
    predict(tmp_path / "score", model, *flags, f"--min_score={limit}")
    assert results(tmp_path / "score")["video_test_1"] == [row for row in every if row["score"] >= limit]
    said = predict(tmp_path / "most", model, *flags, "--most=1")
    assert results(tmp_path / "most")["video_test_1"] == every
    top = max(every, key=lambda row: row["score"])
    assert said.count(" - 0") == 1 and f"{clock(top['segment'][0])} - {clock(top['segment'][1])} " in said
    assert (tmp_path / "most" / "video_test_1.vtt").read_text().count("-->") == 1


# ------------------------------------------------------------------------------------------------------ feature files


@pytest.fixture
def arrays():
    random = np.random.default_rng(3)
    return [random.random((21, WIDTH)).astype(np.float32) for _ in range(2)]


def save(path, array):
    np.savez(path, **array) if isinstance(array, dict) else np.save(path, array)
    return path


def test_features_of_any_form(arrays, tmp_path):
    rgb, flow = arrays
    crops = [np.stack([array - 1, array, array + 1]) for array in arrays]
    forms = {
        "streams apart": [save(tmp_path / "a_rgb.npy", rgb), save(tmp_path / "a_flow.npy", flow)],
        "both": [save(tmp_path / "b.npy", np.concatenate(arrays, axis=1))],
        "double precision": [save(tmp_path / "c.npy", np.concatenate(arrays, axis=1).astype(np.float64))],
        "BackTAL": [save(tmp_path / "d.npz", {"feat_spa": rgb.T, "feat_tem": flow.T})],
        "an .npz for each": [save(tmp_path / "e_rgb.npz", {"x": rgb}), save(tmp_path / "e_flow.npz", {"arr_0": flow.T})],
        "crops first": [save(tmp_path / f"f{n}.npy", array) for n, array in enumerate(crops)],
        "crops second": [save(tmp_path / f"g{n}.npy", array.swapaxes(0, 1)) for n, array in enumerate(crops)],
        "crops of both": [save(tmp_path / "h.npy", np.concatenate(crops, axis=2))],
        "crops in .npz": [save(tmp_path / f"i{n}.npz", {"x": array}) for n, array in enumerate(crops)],
    }
    for form, files in forms.items():
        found, stated = read_loose(tuple(files), ("rgb", "flow"), WIDTH)
        np.testing.assert_allclose(found, np.concatenate(arrays, axis=1), atol=1e-6, err_msg=form)
        assert found.dtype == np.float32 and stated.duration is None
    for stream, own in zip(("rgb", "flow"), arrays, strict=True):  # of a model of one stream
        for files in ([forms["both"][0]], [forms["BackTAL"][0]], [forms["streams apart"][stream == "flow"]]):
            np.testing.assert_array_equal(read_loose(tuple(files), (stream,), WIDTH)[0], own)


def test_an_npz_file_states_the_duration(runs, tmp_path, arrays):
    path = save(tmp_path / "v.npz", {"feat_spa": arrays[0].T, "feat_tem": arrays[1].T, "duration": np.array(100.0)})
    assert "v, 01:40.0\n" in predict(tmp_path / "out", best(runs["um"], "um"), "--features", path)
    assert "v, 00:50.0\n" in predict(tmp_path / "out", best(runs["um"], "um"), "--features", path, "--duration=50")


BAD = {
    "wrong width": (
        lambda folder, rgb, flow: [save(folder / "x.npy", rgb[:, 1:]), save(folder / "y.npy", flow)],
        "x.npy: shape",
    ),
    "one stream": (lambda folder, rgb, flow: [save(folder / "x.npy", rgb)], "x.npy: has the width of one stream"),
    "three files": (lambda folder, rgb, flow: [save(folder / f"{n}.npy", rgb) for n in "xyz"], "3 files"),
    "no rows": (
        lambda folder, rgb, flow: [save(folder / "x.npy", rgb[:0]), save(folder / "y.npy", flow)],
        "x.npy: shape (0, 6)",
    ),
    "NaN": (
        lambda folder, rgb, flow: [save(folder / "x.npy", rgb), save(folder / "y.npy", flow * np.nan)],
        "y.npy: nan at row 0",
    ),
    "text": (
        lambda folder, rgb, flow: [save(folder / "x.npy", rgb.astype(str)), save(folder / "y.npy", flow)],
        "x.npy: contains",
    ),
    "other lengths": (
        lambda folder, rgb, flow: [save(folder / "x.npy", rgb), save(folder / "y.npy", flow[1:])],
        "rgb 21, flow 20",
    ),
    "two arrays": (lambda folder, rgb, flow: [save(folder / "x.npz", {"a": rgb, "b": flow})], "x.npz: has the arrays a, b"),
    "as many crops as snippets": (
        lambda folder, rgb, flow: [save(folder / "x.npy", np.stack([rgb] * 21)), save(folder / "y.npy", flow)],
        "x.npy: shape (21, 21, 6)",
    ),
    "nothing": (lambda folder, rgb, flow: [folder / "none.npy"], "none.npy: no such file"),
    "an empty folder": (lambda folder, rgb, flow: [folder], "no .npy or .npz file"),
    "a stream is missing": (
        lambda folder, rgb, flow: [save(folder / "a_rgb.npy", rgb).parent],
        "1 of 1 videos lack a stream: a",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_features_are_named(case, arrays, runs, tmp_path):
    make, expected = BAD[case]
    (tmp_path / "bad").mkdir()
    files = make(tmp_path / "bad", *arrays)
    message = predict(tmp_path / "out", best(runs["um"], "um"), "--features", *files, expect=2)
    assert expected in message and message.startswith("error: ") and message.count("error") == 1


def test_truncated_and_harmful_files(runs, tmp_path, arrays):
    from conftest import Harmful

    harmful = np.empty(1, dtype=object)
    harmful[0] = Harmful(tmp_path / "executed")
    np.save(tmp_path / "x.npy", harmful, allow_pickle=True)
    np.savez(tmp_path / "y.npz", x=harmful)
    cut = save(tmp_path / "z.npy", arrays[0])
    cut.write_bytes(cut.read_bytes()[:-100])
    for name in ("x.npy", "y.npz", "z.npy"):
        message = predict(tmp_path / "out", best(runs["um"], "um"), "--features", tmp_path / name, tmp_path / name, expect=2)
        assert name in message and ("cannot be read" in message or "contains object" in message)
    assert not (tmp_path / "executed").exists()


def test_an_array_of_too_many_numbers_is_not_unpacked(tmp_path, memory):
    np.savez_compressed(tmp_path / "x.npz", x=np.broadcast_to(np.float16(0), (2**20, WIDTH)))
    with memory(2**20), pytest.raises(UserError, match=r"x\.npz: claims 6,291,456 numbers"):
        read_loose((tmp_path / "x.npz",) * 2, ("rgb", "flow"), WIDTH)


@pytest.mark.parametrize(
    "call, expected",
    [
        (lambda p, a: p(a[0]), r"shape \(21, 6\); expected real numbers \(L, 12\)"),
        (lambda p, a: p([a[0], a[1][1:]]), r"\(21, 6\) and \(20, 6\)"),
        (lambda p, a: p([array * np.nan for array in a], video="talk"), "talk: the features are not all finite"),
        (lambda p, a: p(a, duration=-1), "a duration of -1"),
        (lambda p, a: p([array.astype(str) for array in a]), "expected real numbers"),
        (lambda p, a: Predictor("none.pkl"), "none.pkl: no such file"),
        (lambda p, a: Predictor(p.config.model_file, nms_th=7), "7 is not in 0..1"),
        (lambda p, a: Predictor(p.config.model_file, nms=7), "nms"),
    ],
)
def test_mistakes_in_python_are_user_errors(call, expected, runs, arrays):
    predictor = Predictor(best(runs["um"], "um"), device="cpu")
    with pytest.raises(UserError, match=expected):
        call(predictor, arrays)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (["--formats=vtt,avi"], "avi is none of vtt"),
        (["--video=none.mp4"], "none.mp4: no such file"),
        (["--nms_th=2"], "2 is not in 0..1"),
        (["--duration=0"], "--duration"),
        (["--fps=0"], "--fps"),
    ],
)
def test_mistakes_on_the_command_line(flags, expected, runs, tmp_path):
    message = predict(tmp_path / "out", best(runs["um"], "um"), "--features", *features_of(runs["um"]), *flags, expect=2)
    assert expected in message
    folder = runs["um"] / "data" / "features" / "test"
    assert "are of one video" in predict(
        tmp_path / "out", best(runs["um"], "um"), "--features", folder, "--duration=5", expect=2
    )


# --------------------------------------------------------------------------------------------------------- many videos


@pytest.fixture
def many(runs, tmp_path):
    """A folder of twenty videos."""
    for number in range(20):
        for stream, array in zip(
            ("rgb", "flow"), (features_of(runs["um"], VIDEOS[number % 4], s) for s in ("rgb", "flow")), strict=True
        ):
            (tmp_path / "many" / stream).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "many" / stream / f"v{number:02}.npy", array + number)
    return tmp_path / "many"


def test_a_stopped_prediction_goes_on_and_holds_few_videos_in_memory(runs, many, tmp_path, monkeypatch):
    model, own, sizes = best(runs["um"], "um"), Predictor.predict, []

    def stops(self, videos):
        sizes.append(len(videos))
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return own(self, videos)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", stops)
        predict(tmp_path / "out", model, "--features", many, "--formats=vtt", expect=130)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("v*.*")}
    assert len(written) == 16 and not (tmp_path / "out" / "detections.json").exists()
    said = predict(tmp_path / "out", model, "--features", many, "--formats=vtt")
    assert "8 of 20 videos are done already" in said and "20 videos, " in said and max(sizes) == 8
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    predict(tmp_path / "whole", model, "--features", many)
    for name in ("detections.json", "detections.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "whole" / "videos" / "v07.json").write_text("{")  # damaged
    for name, wrong in (("v08", {"seconds": "x"}), ("v09", {"classes": [999]}), ("v10", {"segments": []})):
        part = tmp_path / "whole" / "videos" / f"{name}.json"
        content = json.loads(part.read_text()) | {"classes": [0], "scores": [1], "segments": [[0, 1]]}
        part.write_text(json.dumps(content | wrong))
    np.save(many / "rgb" / "v03.npy", features_of(runs["um"], stream="rgb")[:20])
    np.save(many / "flow" / "v03.npy", features_of(runs["um"], stream="flow")[:20])
    assert "15 of 20 videos are done already" in predict(tmp_path / "whole", model, "--features", many)
    assert results(tmp_path / "whole")["v03"] != results(tmp_path / "out")["v03"]


def test_other_settings_start_anew_and_keep_the_earlier_files(runs, many, tmp_path):
    model = best(runs["um"], "um")
    predict(tmp_path / "out", model, "--features", many)
    earlier = (tmp_path / "out" / "detections.json").read_bytes()
    said = predict(tmp_path / "out", model, "--features", many, "--nms_th=0.1")
    assert "moved to" in said and "done already" not in said
    assert (tmp_path / "out" / "earlier_runs" / "1" / "detections.json").read_bytes() == earlier
    assert len(list((tmp_path / "out" / "earlier_runs" / "1" / "videos").iterdir())) == 20


def test_one_bad_video_does_not_stop_the_others(runs, many, tmp_path):
    (many / "rgb" / "v03.npy").write_bytes(b"")
    message = predict(tmp_path / "out", best(runs["um"], "um"), "--features", many, expect=2)
    assert "1 of 20 videos could not be used (v03)" in message and "rgb/v03.npy: cannot be read" in message
    assert len(results(tmp_path / "out")) == 19
    np.save(many / "rgb" / "v03.npy", features_of(runs["um"], VIDEOS[3], "rgb"))
    assert "19 of 20 videos are done already" in predict(tmp_path / "out", best(runs["um"], "um"), "--features", many)
    assert len(results(tmp_path / "out")) == 20


# --------------------------------------------------------------------------------------------------------------- files

NASTY = 'a|b\n=cmd <b>"&\\N{\\b1}-->'
TIMES = [0.0, 0.4, 59.96, 3599.99, 3600.0, 36000.5]
TALK = Timeline(
    "=video",
    40_000.0,
    [
        Action(0.0, 2.5, NASTY, 0.9),
        Action(1.0, 3.0, NASTY, 0.5),
        Action(2.75, 4.0, NASTY, 0.4),
        Action(3599.95, 36000.5, "HighJump", 0.1),
    ],
    "my videos/a&b.mp4",
    25.0,
)


def test_clocks():
    assert [clock(time) for time in TIMES] == ["00:00.0", "00:00.4", "01:00.0", "01:00:00.0", "01:00:00.0", "10:00:00.5"]
    assert clock(75.25, 3, True) == "00:01:15.250" and clock(-1) == "00:00.0"


def seconds(text):
    hours, minutes, rest = text.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


CUE = re.compile(r"(\d\d:\d\d:\d\d\.\d{3}) --> (\d\d:\d\d:\d\d\.\d{3})\n([^\n]+)")


def test_subtitles():
    head, *cues = vtt(TALK).strip().split("\n\n")
    assert head == "WEBVTT" and len(cues) == 4
    for cue, action in zip(cues, TALK.actions, strict=True):
        start, end, text = CUE.fullmatch(cue).groups()
        assert (seconds(start), seconds(end)) == pytest.approx(action[:2], abs=1e-3)
        assert "<" not in text and "-->" not in text
    assert 'a|b =cmd &lt;b&gt;"&amp;\\N{\\b1}--&gt; (0.90)' in cues[0]
    lines = [line for line in ass(TALK).splitlines() if line.startswith("Dialogue: ")]
    fields = [line.removeprefix("Dialogue: ").split(",", 4) for line in lines]
    assert [seconds(field[2]) for field in fields] == pytest.approx([a.end for a in TALK.actions], abs=1e-2)
    assert not any(sign in "".join(lines) for sign in "{}\\") and fields[3][4] == "HighJump (0.10)"
    assert fields[3][1:3] == ["1:00:00.00", "10:00:00.50"] or fields[3][1] == "0:59:59.95"


def test_elan():
    root = ElementTree.fromstring(eaf(TALK))
    order = [(slot.get("TIME_SLOT_ID"), int(slot.get("TIME_VALUE"))) for slot in root.iter("TIME_SLOT")]
    times = dict(order)
    assert [time for _, time in order] == sorted(times.values()) and len(times) == 8
    tiers = root.findall("TIER")
    assert len({tier.get("TIER_ID") for tier in tiers}) == len(tiers) == 3  # the second action overlaps both others
    found = []
    for tier in tiers:
        assert tier.get("LINGUISTIC_TYPE_REF") == root.find("LINGUISTIC_TYPE").get("LINGUISTIC_TYPE_ID")
        spans = [[times[own.get(f"TIME_SLOT_REF{n}")] for n in (1, 2)] for own in tier.iter("ALIGNABLE_ANNOTATION")]
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        found += spans
    assert sorted(found) == [[0, 2500], [1000, 3000], [2750, 4000], [3599950, 36000500]]
    assert root.find("HEADER/MEDIA_DESCRIPTOR").get("RELATIVE_MEDIA_URL") == "./my%20videos/a%26b.mp4"


def test_label_studio_and_via():
    [task] = json.loads(label_studio(TALK))
    assert task["data"]["video"] == "my videos/a&b.mp4"
    [prediction] = task["predictions"]
    assert [row["value"]["timelinelabels"] for row in prediction["result"]] == [[action.label] for action in TALK.actions]
    assert prediction["result"][1]["value"]["ranges"] == [{"start": 26, "end": 76}] and prediction["score"] == 0.9
    assert {(row["type"], row["from_name"], row["to_name"]) for row in prediction["result"]} == {
        ("timelinelabels", "actions", "video")
    }
    project = json.loads(via(TALK))
    options = project["attribute"]["1"]["options"]
    assert project["file"]["1"]["fname"] == "my videos/a&b.mp4" and list(options.values()) == [NASTY, "HighJump"]
    segments = [(*row["z"], options[row["av"]["1"]]) for row in project["metadata"].values()]
    assert segments == [(a.start, a.end, a.label) for a in TALK.actions] and project["project"]["vid_list"] == ["1"]


def test_tables_and_pages():
    rows = list(csv.reader(io.StringIO(csv_rows(TALK))))
    assert rows[0] == ["'=video", "0.0", "2.5", NASTY, "0.9"] and len(rows) == 4
    assert len(terminal(TALK).splitlines()) == 6 and "a\\|b =cmd" in terminal(TALK)
    assert terminal(Timeline("v", 5.0, [], "v.mp4", 25.0)) == "no action found\n"

    class Page(HTMLParser):
        starts, source = [], ""

        def handle_starttag(self, tag, attributes):
            if tag == "button":
                self.starts.append(float(dict(attributes)["data-start"]))
            if tag == "video":
                self.source = dict(attributes)["src"]
            assert tag != "b"

    reader = Page()
    reader.feed(page(TALK))
    assert sorted(reader.starts) == pytest.approx([a.start for a in TALK.actions], abs=1e-3)
    assert reader.source == "my%20videos/a%26b.mp4"
    assert "No action found" in page(Timeline("v", 5.0, [], "v.mp4", 25.0))


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
SPANS = st.tuples(st.integers(0, 500), st.integers(1, 300)).map(lambda pair: (pair[0] / 10, (pair[0] + pair[1]) / 10))
ACTIONS = st.lists(
    st.builds(lambda span, label, score: Action(*span, label, score), SPANS, NAMES, st.floats(-1, 1)), max_size=12
)


@settings(max_examples=40)
@given(NAMES, ACTIONS)
def test_any_names_and_actions_are_written_so_that_they_are_read(name, actions):
    timeline = Timeline(name, 90.0, sorted(actions), name, 25.0)
    assert len(list(ElementTree.fromstring(eaf(timeline)).iter("ALIGNABLE_ANNOTATION"))) == len(actions)
    tiers = [tier.get("TIER_ID") for tier in ElementTree.fromstring(eaf(timeline)).iter("TIER")]
    assert len(set(tiers)) == len(tiers)
    assert len(CUE.findall(vtt(timeline))) == len(actions) == vtt(timeline).count("-->")
    assert ass(timeline).count("\nDialogue: ") == len(actions) == len(ass(timeline).splitlines()) - 12
    assert len(json.loads(via(timeline))["metadata"]) == len(actions)
    assert len(json.loads(label_studio(timeline))[0]["predictions"][0]["result"]) == len(actions)
    assert page(timeline).count("<button ") == len(actions)
    for row in rows_apart(actions):
        assert all(a.end <= b.start for a, b in pairwise(row))


def test_the_files_of_a_video(runs, tmp_path):
    video = tmp_path / "videos" / "talk.mp4"
    video.parent.mkdir()
    video.write_bytes(b"")
    said = predict(tmp_path / "out", best(runs["um"], "um"), "--features", *features_of(runs["um"]), "--video", video)
    endings = {path.name.removeprefix("talk") for path in (tmp_path / "out").glob("talk.*")}
    assert endings == {".vtt", ".ass", ".eaf", ".labelstudio.json", ".via.json", ".html", ".png"}
    assert all(f"talk{ending}\n" in said for ending in endings)
    assert 'src="../videos/talk.mp4"' in (tmp_path / "out" / "talk.html").read_text()
    assert (tmp_path / "out" / "talk.png").read_bytes().startswith(b"\x89PNG")


# --------------------------------------------------------------------------------------------------------- a real video


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A network of the size of I3D features with random weights."""
    config = make_config(parse_args(["--hidden=16", "--class_th=0", "--device=cpu", "--seed=0"]), training=False)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    write_model(path, build_method(config).network.state_dict(), {}, config.as_dict())
    return path


@pytest.mark.parametrize("snippets, flags", [(18, ("24", "25", "25")), (21, ("12", "15", "15"))])
def test_a_real_video_with_real_features(large, tmp_path, snippets, flags):
    folder = SHARED / "data" / "real_video"
    if not folder.exists():
        pytest.skip("the real video is not here")
    frames, fps, name = flags
    files = [folder / f"i3d_stack_step_fps_24_{frames}_{name}_{stream}.npy" for stream in ("rgb", "flow")]
    video = next(folder.glob("*.mp4"))
    said = predict(
        tmp_path, large, "--features", *files, f"--fps={fps}", f"--snippet_frames={frames}", "--video", video, "--most=5"
    )
    seconds = snippets * int(frames) / int(fps)
    assert f"{clock(seconds)}\n" in said and "was trained with --snippet_frames 16" in said
    [rows] = results(tmp_path).values()
    assert rows and all(0 <= row["segment"][0] < row["segment"][1] <= seconds + 2 * int(frames) / int(fps) for row in rows)
    assert json.loads(next(tmp_path.glob("*.via.json")).read_text())["file"]["1"]["fname"].endswith(video.name)
