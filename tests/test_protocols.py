"""The ground truths of THUMOS'14 by name, and main_eval.py --result on them."""

import json

import pandas
import pytest
from conftest import SHARED

from dataset.make_demo import make_demo
from eval import detection_map
from eval.protocols import PROTOCOLS, GroundTruths, name_of
from eval.table import InputError, digest, read_ground_truth, read_predictions, size
from eval.thumos_kit import read_kit

SIZES = {"thumos-210": (210, 3311), "thumos-211": (211, 3329)} | dict.fromkeys(
    ("thumos-212", "thumos-grid", "thumos-kit"), (212, 3358)
)
GOOD = {"label": "HighJump", "score": 0.5, "segment": [1.5, 4.5]}


def rows_of(text):
    """The cells of the table that main_eval.py prints."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_sizes(official, name):
    truth = GroundTruths.read(official).build(name)
    assert size(truth) == SIZES[name]
    if name != "thumos-kit":
        assert name_of(truth) == name


def test_a_ground_truth_lacks_what_a_protocol_needs(thumos_gt):
    source = GroundTruths.read(thumos_gt)
    assert name_of(source.truth) == "thumos-210" == name_of(source.build("thumos-210"))
    for name, reason in (
        ("thumos-212", "210 videos and 3311 segments"),
        ("thumos-kit", "Ambiguous"),
        ("thumos-1", "no protocol"),
    ):
        with pytest.raises(InputError, match=reason):
            source.build(name)


def test_the_digest_is_of_the_content(thumos_gt):
    content = json.loads(thumos_gt.read_text())
    expected = digest(read_ground_truth(thumos_gt))
    content["database"] = dict(reversed(content["database"].items()))
    assert digest(read_ground_truth(content)) == expected
    content["database"]["video_test_0000004"]["annotations"][0]["segment"][1] = "1e3"
    assert digest(read_ground_truth(content)) != expected


def test_all_protocols_of_one_file(cli, official, tmp_path):
    result = SHARED / "data" / "detections" / "stpn_thumos14.json"
    flags = [
        f"--ground_truth={official}",
        "--protocols=all",
        f"--per_class={tmp_path}/tables/ap.csv",
        f"--save_kit={tmp_path}/kit.txt",
    ]
    done = cli("main_eval.py", f"--result={result}", *flags)
    rows = rows_of(done.stdout)
    assert [row[0] for row in rows] == list(PROTOCOLS)
    assert [row[4] for row in rows] == ["52.12", "51.96", "51.44", "51.12", "46.57"]
    assert [(int(row[1]), int(row[2])) for row in rows] == list(SIZES.values())
    frame = pandas.read_csv(tmp_path / "tables" / "ap.csv")
    assert len(frame) == 5 * 20 and 100 * frame[frame.protocol == "thumos-kit"]["AP@0.5"].mean() == pytest.approx(17.15628141)
    assert (tmp_path / "tables" / "ap.md").read_text().count("\n") == 102
    assert len(read_kit(tmp_path / "kit.txt")) == 9151
    again = cli("main_eval.py", f"--result={tmp_path}/kit.txt", f"--ground_truth={official}", "--protocols=thumos-kit")
    assert rows[-1] == rows_of(again.stdout)[0]


def test_detections_of_a_run_score_as_in_its_report(cli, tiny, tmp_path):
    run = cli("main.py", "--num_iters=2", "--lr=0.01", "--batch_size=3", "--seed=0", "--class_th=0", "--compat=fixed")
    record = json.loads((tmp_path / "output" / "log.jsonl").read_text().splitlines()[-1])
    done = cli("main_eval.py", f"--result={tmp_path}/output/detections_last_seed_0.json")
    row = rows_of(done.stdout)[0]
    assert row[0] == "unnamed" and row[4] == f"{100 * record['mAP']['0.1']:.2f}" != "0.00"
    unknown = record["unknown_labels"]
    assert unknown and not unknown.keys() & {"HighJump", "Billiards", "BaseballPitch"}
    note = f"{sum(unknown.values())} detections have labels that the ground truth lacks ({min(unknown)}"
    assert f"`last`: {note}" in run.stdout and f"unnamed: {note}" in done.stdout


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("{", [], "not JSON"),
        (json.dumps({"results": {"a": [GOOD | {"segment": [0]}]}}), [], "detection 0 of video a"),
        (json.dumps({"results": {}}), ["--protocols=thumos-212"], "not those of thumos-212"),
        (json.dumps({"results": {}}), ["--protocols=thumos"], "no protocol is called 'thumos'"),
        (json.dumps({"results": {}}), ["--protocols=all"], "none of the protocols"),
        (json.dumps({"results": {}}), ["--ground_truth=nowhere.json"], "nowhere.json: no such file"),
        (json.dumps({"results": {}}), ["--subset=dev"], "no subset 'dev'; its subsets are test, train"),
        (None, [], "detections.json: no such file"),
    ],
)
def test_mistakes(cli, tmp_path, content, flags, message):
    path = tmp_path / "detections.json"
    if content is not None:
        path.write_text(content)
    assert message in cli("main_eval.py", f"--result={path}", *flags, expect=2).stderr


def stpn_and_strangers():
    """STPN's detections, and three each in the videos that thumos-210 leaves out and in one that is nowhere."""
    content = json.loads((SHARED / "data" / "detections" / "stpn_thumos14.json").read_text())
    names = ["video_test_0000270", "video_test_0001292", "v_video_test_0001496", "elsewhere"]
    return {"results": content["results"] | {name: [GOOD, GOOD | {"label": "HammerThrow"}, GOOD] for name in names}}


@pytest.mark.parametrize("unlisted", ["count", "ignore"])
def test_videos_that_a_protocol_leaves_out_are_unlisted(official, thumos_gt, unlisted):
    """Whether they are left out of the official files or were never in the ground truth."""
    found, tiou = read_predictions(stpn_and_strangers()), [0.1, 0.3, 0.5]
    scores = [
        GroundTruths.read(source).score("thumos-210", found, tiou, "stable", unlisted) for source in (official, thumos_gt)
    ]
    assert scores[0].ap.tolist() == scores[1].ap.tolist() and scores[0].unmatched == scores[1].unmatched
    assert sum(scores[0].unmatched.videos.values()) == 12 and len(scores[0].unmatched.videos) == 4


def test_the_kit_knows_more_videos(official):
    """It counts those with Ambiguous segments alone, such as 1292, even where unlisted videos are ignored."""
    source, found = GroundTruths.read(official), read_predictions(stpn_and_strangers())
    score = source.score("thumos-kit", found, [0.1], "official")
    assert score.unmatched.videos == {"elsewhere": 3}
    ignored = source.score("thumos-kit", found, [0.1], "official", "ignore")
    content = stpn_and_strangers()
    del content["results"]["elsewhere"]
    assert ignored.ap.tolist() == source.score("thumos-kit", read_predictions(content), [0.1], "official").ap.tolist()
    changed = [label for label, more, less in zip(score.labels, score.ap, ignored.ap, strict=True) if more < less]
    assert changed == ["HammerThrow", "HighJump"]


def test_the_report_says_what_the_ground_truth_does_not_have(cli, tmp_path):
    path = tmp_path / "detections.json"
    rows = [GOOD, GOOD | {"label": "Cooking"}]
    path.write_text(json.dumps({"results": {"video_test_0": rows, "elsewhere": [*rows, GOOD | {"score": 1}]}}))
    done = {unlisted: cli("main_eval.py", f"--result={path}", *flags).stdout for unlisted, flags in FLAGS.items()}
    counted, ignored = (rows_of(text.partition("mAP in %")[0]) for text in done.values())
    for unlisted, other, other_rows in (("count", "ignore", ignored), ("ignore", "count", counted)):
        text = done[unlisted]
        assert text.count("unnamed: 2 detections lie in 1 videos that the ground truth does not list (elsewhere).") == 1
        assert text.count("unnamed: 2 detections have labels that the ground truth lacks (Cooking). They are ignored") == 1
        assert ("They count as false positives" in text) == (unlisted == "count") and "warning" not in text
        assert rows_of(text.partition(f"With --unlisted {other}:")[2]) == other_rows
    assert float(counted[0][4]) < float(ignored[0][4])


FLAGS = {"count": [], "ignore": ["--unlisted=ignore"]}


def test_the_report_is_silent_where_the_ground_truth_has_everything(cli, tmp_path):
    path = tmp_path / "detections.json"
    path.write_text(json.dumps({"results": {"v_video_test_0": [GOOD]}}))
    assert cli("main_eval.py", f"--result={path}").stdout.splitlines()[-1].startswith("mAP in %, 1 detections of")


def test_names_of_tables_and_of_scores(cli, tmp_path):
    """A dot in --per_class is part of the name; --score_key reads files whose score is called otherwise."""
    path = tmp_path / "detections.json"
    path.write_text(json.dumps({"results": {"video_test_0": [{"label": "HighJump", "score300": 1, "segment": [1.5, 4.5]}]}}))
    assert "no 'score', only label, score300, segment" in cli("main_eval.py", f"--result={path}", expect=2).stderr
    for name in ("w/scnn0.1", "w/scnn0.2.csv", "w/scnn0.3.md"):
        cli("main_eval.py", f"--result={path}", "--score_key=score300", f"--per_class={tmp_path}/{name}")
    written = sorted(file.name for file in (tmp_path / "w").iterdir())
    assert written == [f"scnn0.{number}.{ending}" for number in (1, 2, 3) for ending in ("csv", "md")]
    assert pandas.read_csv(tmp_path / "w" / "scnn0.1.csv").set_index("class").loc["HighJump", "AP@0.9"] == 0.5
    message = cli("main_eval.py", f"--result={tmp_path}/kit.txt", "--score_key=score300", expect=2).stderr
    assert "kit.txt: --score_key score300 is for JSON" in message


def annotated(**labels):
    return {"subset": "test", "annotations": [{"segment": segment, "label": label} for label, segment in labels.items()]}


SOURCE = {
    "database": {
        "a": annotated(HighJump=[0, 10], Ambiguous=[20, 30]),
        "b": annotated(ambiguous=[0, 10]),
        "train": {"subset": "train", "annotations": [{"segment": [0, 1], "label": "HighJump"}]},
    }
}


def test_ambiguous_segments_of_a_json_are_no_class(tmp_path):
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(SOURCE))
    source = GroundTruths.read(path)
    assert source.truth.labels == ["HighJump"] and source.ambiguous is not None and len(source.ambiguous) == 2
    path.write_text(json.dumps({"database": {"b": SOURCE["database"]["b"]}}))
    with pytest.raises(InputError, match="Ambiguous segments only"):
        GroundTruths.read(path)


def test_a_video_of_another_subset_counts_as_for_the_evaluator(tmp_path):
    """`--result` and `ANETdetection` have to agree on what a false positive is."""
    path = tmp_path / "gt.json"
    path.write_text(json.dumps({"database": {k: SOURCE["database"][k] for k in ("a", "train")}}))
    row = {"label": "HighJump", "segment": [0, 10]}
    results = {"results": {"a": [row | {"score": 0.5}], "train": [row | {"score": 0.9}]}}
    source = GroundTruths.read(path)
    assert source.score("unnamed", read_predictions(results), [0.5], "official").average_mAP == 0.5
    truth = {"database": {"a": annotated(HighJump=[0, 10]), "train": SOURCE["database"]["train"]}}
    assert detection_map(truth, results, 0.5).average_mAP == 0.5


def test_ties_and_counts_by_class_reach_the_user(cli, tmp_path):
    wrong = GOOD | {"segment": [50, 60]}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps({"results": {"video_test_0": [GOOD, wrong]}}))
    first = {}
    for ties in ("official", "stable"):
        cli("main_eval.py", f"--result={path}", f"--ties={ties}", f"--per_class={tmp_path}/ap.csv")
        row = pandas.read_csv(tmp_path / "ap.csv").set_index("class").loc["HighJump"]
        assert (row["ground truths"], row["detections"]) == (2, 2) and row["mean"] == row["AP@0.5"]
        first[ties] = row["AP@0.5"]
    assert first == {"official": 0.25, "stable": 0.5}


def test_the_demo_goes_by_its_name(cli, tmp_path):
    make_demo(tmp_path / "demo")
    path = tmp_path / "detections.json"
    path.write_text(json.dumps({"results": {}}))
    done = cli("main_eval.py", f"--result={path}", "--dataset=demo", f"--data_path={tmp_path}/demo")
    assert rows_of(done.stdout)[0][:4] == ["demo-v1", "60", "243", "539eb93b037b"]


def test_the_dataset_says_which_subset_is_scored(cli, tmp_path):
    """Its validation subset here, though the file has one called test as well."""
    row = {"label": "a", "segment": [0, 10]}
    database = {"v": {"subset": "val", "annotations": [row]}, "t": {"subset": "test", "annotations": [row, row]}}
    (tmp_path / "gt.json").write_text(json.dumps({"database": database}))
    (tmp_path / "dataset.json").write_text(json.dumps({"annotations": "gt.json", "test": "val"}))
    (tmp_path / "found.json").write_text(json.dumps({"results": {"v": [row | {"score": 1}]}}))
    flags = [f"--dataset={tmp_path}/dataset.json", f"--data_path={tmp_path}"]
    done = cli("main_eval.py", f"--result={tmp_path}/found.json", *flags)
    assert rows_of(done.stdout)[0][1:5:3] == ["1", "100.00"]
    done = cli("main_eval.py", f"--result={tmp_path}/found.json", *flags, "--subset=test")
    assert rows_of(done.stdout)[0][1:5:3] == ["1", "0.00"]
