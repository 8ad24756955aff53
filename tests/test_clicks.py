"""Background clicks from every source: where they fall, what is said of them, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import TINY, WIDTH, Harmful, edit_gt
from hypothesis import given
from hypothesis import strategies as st

from dataset.clicks import gaps, simulate
from dataset.prepare import main as prepare
from methods.backtal import clicked_times
from options import make_config, parse_args
from thumos_features import Video, fingerprint, load_data
from utils import UserError

HEADER = "URLID,URL,TagID,Tag,Start,End,Time,State"


def config_of(folder, *flags):
    return make_config(parse_args(["--method", "backtal", f"--data_path={folder}", *TINY, *flags]))


def load(folder, *flags):
    return load_data(config_of(folder, *flags))


def human(video, start, end=None, tag="background_background"):
    return f"{video},{video}.mp4,20,{tag},{start},{start if end is None else end},1,1"


def write_human(folder, rows, annotator="A1"):
    """As the annotators' tool writes: a byte-order mark first, no newline last."""
    path = folder / "human_anns" / f"THUMOS14_Background-Click-Annotation_{annotator}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join([HEADER, *rows]).encode())
    return path


def clicks(data):
    return {video.name: [round(share * video.seconds, 6) for share in video.clicks] for video in data.train}


@pytest.fixture
def stretched(tiny, tmp_path):
    """The tiny videos in BackTAL's layout, with durations and frames, and a click in snippets 2 and 9 of the first."""
    prepare(["features", "--to", "backtal", f"--output={tmp_path / 'npz'}", f"--data_path={tiny}", *TINY])
    for number, path in enumerate(sorted((tmp_path / "npz").rglob("*.npz"))):
        with np.load(path) as file:
            content = dict(file)
        content |= {"duration": np.float64(20.0 + number), "frame_num": np.int64(400 + number)}
        if path.parent.name == "val":
            content["point_label"] = np.full(content["feat_spa"].shape[1], -100)
            if number == 0 or path.stem == "video_train_0":
                content["point_label"][[2, 9]] = 20
        np.savez(path, **content)
    return tmp_path / "npz"


def make_video(segments, seconds=100.0, name="v"):
    annotations = [{"segment": [str(a), str(b)], "label": "HighJump"} for a, b in segments]
    label = np.zeros(1, dtype=np.float32)
    return Video(name, 10, label, annotations, 25.0, 16, seconds, True, 1, (), lambda: np.zeros((10, 1), np.float32))


# ---------------------------------------------------------------------------------------------------------- simulated


def test_gaps_are_what_merged_actions_leave():
    video = make_video([(40, 60), (10, 20), (15, 30), (60.5, 70), (95, 200)])
    assert gaps(video, 1.0) == [(0, 10), (30, 40), (70, 95)]
    assert gaps(video, 0.1) == [(0, 10), (30, 40), (60, 60.5), (70, 95)]
    assert gaps(make_video([(0, 100)]), 1.0) == [] and gaps(make_video([]), 1.0) == [(0, 100)]


segment_lists = st.lists(st.tuples(st.floats(0, 90), st.floats(0.5, 30)).map(lambda x: (x[0], x[0] + x[1])), max_size=6)


@given(segment_lists, st.integers(0, 5), st.integers(1, 3))
def test_simulated_clicks_are_outside_actions_so_many_a_gap(segments, seed, per_gap):
    config = replace(SIMULATED, click_seed=seed, clicks_per_gap=per_gap)
    video = make_video(segments)
    shares = simulate(video, config)
    assert len(shares) == per_gap * len(gaps(video, 100.0 / config.num_segments)) and list(shares) == sorted(shares)
    assert simulate(video, config) == shares
    assert not any(a < 100 * share < b for share in shares for a, b in segments)


SIMULATED = make_config(parse_args(["--method", "backtal", "--clicks", "simulated", *TINY]))


def test_simulated_clicks_differ_by_seed_and_video():
    video = make_video([(10, 20), (50, 60)])
    others = [simulate(replace(video, name="w"), SIMULATED), simulate(video, replace(SIMULATED, click_seed=1))]
    assert len({simulate(video, SIMULATED), *others}) == 3


def test_a_careless_annotator_misses_gaps_and_clicks_beside_them():
    videos = [make_video([(10, 20), (50, 60)], name=str(number)) for number in range(200)]
    kept = [simulate(video, replace(SIMULATED, click_miss=0.4)) for video in videos]
    assert 0.5 < sum(map(len, kept)) / 600 < 0.7
    assert set(kept[3]) <= set(simulate(videos[3], SIMULATED)), "the others stay where they were"
    noisy = [share for video in videos for share in simulate(video, replace(SIMULATED, click_noise=3.0))]
    inside = np.mean([10 < 100 * share < 20 or 50 < 100 * share < 60 for share in noisy])
    assert 0.02 < inside < 0.3 and min(noisy) >= 0 and max(noisy) <= 1


# -------------------------------------------------------------------------------------------------------------- lists


def test_the_annotators_files(tiny):
    rows = [human("video_train_0", 0.5), human("video_train_0", 6, 6.5), human("video_train_1", 7)]
    write_human(tiny, rows)
    write_human(tiny, [human("video_train_0", 0.5), human("video_train_2", 5), human("video_test_1", 5)], "A2")
    write_human(tiny, [human("video_train_3", 5)], "A3")
    data = load(tiny)  # auto: they are there
    assert clicks(data) == {f"video_train_{n}": {0: [0.5, 6], 1: [7]}.get(n, []) for n in range(5)}, "the start counts"
    assert "clicks of human annotators (A1): 3 in 2 of 5 training videos" in data.summary and "warning" not in data.summary
    assert clicks(load(tiny, "--annotator=A2"))["video_train_2"] == [5]
    every = clicks(load(tiny, "--annotator=all"))
    assert every["video_train_0"] == [0.5, 6] and every["video_train_2"] == every["video_train_3"] == [5]
    video = data.train[0]
    shown = clicked_times([video], 16)[0]
    assert np.flatnonzero(shown).tolist() == [int(0.5 / video.seconds * 16), int(6 / video.seconds * 16)]


def test_a_list_of_ones_own(tiny):
    path = tiny / "own.csv"
    path.write_text("second, video, who\n5, v_video_train_1, me\n0, video_train_0, me\n5,video_test_0,me\n")
    data = load(tiny, f"--clicks={path}")
    assert clicks(data)["video_train_1"] == [5] and clicks(data)["video_train_0"] == [0]
    assert f"clicks of {path}: 2 in 2 of 5" in data.summary


def test_clicks_inside_actions_are_counted(tiny):
    path = tiny / "own.csv"
    path.write_text("video,second\nvideo_train_1,2\nvideo_train_1,5\nvideo_train_0,1.5\nvideo_train_0,6\n")
    assert "warning: 2 (50.0 %) lie inside an annotated action" in load(tiny, f"--clicks={path}").summary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,second\nvideo_train_9,1\n", "line 2: video 'video_train_9' is not annotated"),
        ("video,second\nvideo_train_0,99\n", "line 2: second 99 of video_train_0, which lasts"),
        ("video,second\nvideo_train_0,1\nvideo_train_0,-1\n", "line 3: second -1"),
        ("video,second\nvideo_train_0,1_0\n", "second is '1_0'"),
        ("video,second,second\nvideo_train_0,1,2\n", "the column second more than once"),
        ("video,second\nvideo_train_0,nan\n", "second is 'nan'"),
        ("video,second\nvideo_train_0,early\n", "line 2: second is 'early'; expected a number"),
        ("video,second\nvideo_train_0\n", "second is ''"),
        ("video,time\nvideo_train_0,1\n", "its columns are video, time; expected a header with the columns video,second"),
        ("video_train_0,1\n", "its columns are video_train_0, 1"),
        ("", "its columns are none"),
        (f"{HEADER}\n{human('video_train_0', 1, tag='HighJump')}", "Tag is 'HighJump'"),
        (b"video,second\nvideo_train_0,\xff\n", "not UTF-8"),
        (None, "no such file; expected background clicks"),
    ],
)
def test_bad_lists_are_refused(tiny, text, message):
    path = tiny / "own.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        load(tiny, f"--clicks={path}")
    assert str(path) in str(error.value) and message in str(error.value)


def test_a_click_just_past_the_end_is_in_the_last_snippet(tiny):
    video = load(tiny).train[0]
    path = tiny / "own.csv"
    path.write_text(f"video,second\nvideo_train_0,{video.seconds + 0.5}\n")
    assert np.flatnonzero(clicked_times(load(tiny, f"--clicks={path}").train, 16)[0]).tolist() == [15]


def test_other_clicks_are_another_data_set(tiny):
    some, others = load(tiny), load(tiny, "--click_seed=1")
    assert fingerprint(some.train, some.truth) != fingerprint(others.train, others.truth)


# ------------------------------------------------------------------------------------------------------ feature files


def test_clicks_in_feature_files(stretched):
    data = load(stretched)  # auto: they are there
    assert "clicks of the feature files: 2 in 1 of 5" in data.summary
    video = data.train[0]
    assert np.flatnonzero(clicked_times([video], video.num_seg)[0]).tolist() == [2, 9], "snippet for snippet"
    assert [video.frames for video in data.test] == [400, 401, 402, 403]


def test_a_list_beside_stretched_features_needs_durations(stretched):
    write_human(stretched, [human("video_train_0", 5)])
    data = load(stretched, "--clicks=human")
    assert clicks(data)["video_train_0"] == [5] and data.train[0].seconds == 24
    for path in (stretched / "val").iterdir():
        with np.load(path) as file:
            content = {key: value for key, value in file.items() if key != "duration"}
        np.savez(path, **content)
    with pytest.raises(UserError, match="the duration of video_train_0 is unknown"):
        load(stretched, "--clicks=human")
    edit_gt(stretched, lambda db: [video.update(duration=10.0) for video in db.values()])
    assert load(stretched, "--clicks=human").train[0].clicks == (0.5,)


@pytest.mark.parametrize(
    ("label", "message"),
    [(np.full(3, -100), "(3,)"), (np.full(99, 4), "unexpected values 4"), (None, "no readable point_label")],
)
def test_bad_labels_in_feature_files_are_refused(stretched, label, message):
    path = stretched / "val" / "video_train_1.npz"
    with np.load(path) as file:
        content = dict(file)
    del content["point_label"]
    if label is not None:
        content["point_label"] = label[: content["feat_spa"].shape[1]]
    np.savez(path, **content)
    with pytest.raises(UserError) as error:
        load(stretched, "--clicks=npz")
    assert str(path) in str(error.value) and message in str(error.value)


def test_nothing_in_labels_of_feature_files_is_executed(stretched, tmp_path):
    path = stretched / "val" / "video_train_1.npz"
    arrays = dict(np.load(path))
    harm = [Harmful(tmp_path / "executed")] * arrays["feat_spa"].shape[1]
    np.savez(path, **(arrays | {"point_label": np.array(harm)}))
    with pytest.raises(UserError, match=r"video_train_1\.npz: has no readable point_label"):
        load(stretched, "--clicks=npz")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("frames", [0, 2.5, -1])
def test_frames_have_to_be_a_number_of_frames(stretched, frames):
    path = stretched / "test" / "video_test_1.npz"
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **content | {"frame_num": np.array(frames)})
    with pytest.raises(UserError, match=f"{path.name}: frame_num is {float(frames)}"):
        load(stretched)


def test_without_clicks_they_are_simulated_and_that_is_said(tiny):
    data = load(tiny)
    assert config_of(tiny).clicks == "simulated" and len(clicks(data)["video_train_0"]) == 2
    assert "clicks simulated from the ground truth (seed 0, 1 a gap): 10 in 5 of 5" in data.summary
    assert data.train[0].width == WIDTH


def test_labels_of_another_size_are_not_unpacked(stretched, memory):
    path = stretched / "val" / "video_train_1.npz"
    arrays = dict(np.load(path))
    np.savez_compressed(path, **arrays | {"point_label": np.zeros(2**27)})
    with memory(2**28), pytest.raises(UserError, match=r"video_train_1\.npz: point_label has shape \(134217728,\)"):
        load(stretched, "--clicks=npz")
