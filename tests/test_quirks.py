"""One test per quirk of docs/quirks.md: the official behaviour, and the repaired one."""

import json

import numpy as np
import pytest
import torch
from conftest import make_tiny
from test_localize import detections, golden_activations

from config import parse_schedule
from dataset.draws import SHUFFLE, SNIPPETS, batch_videos, random_state
from dataset.facts import KNOWN
from fast.snippets import Snippets
from localize import upsample
from methods.base import METHODS, build_method, settings_class
from options import make_config, parse_args
from test import detect as detections_of
from test import lost_classes, without_memory
from thumos_features import Batch
from utils import UserError


def activations(scores, snippets=60, seed=0):
    """A video whose classes have the given scores and a wavy activation each."""
    random = np.random.default_rng(seed)
    cas = np.sin(np.arange(snippets)[:, None] / random.uniform(2, 6, (1, 21))).astype(np.float32)
    score = np.zeros(21, dtype=np.float32)
    score[list(scores)] = list(scores.values())
    return {"cas": cas, "score": score}


def detect(arrays, *flags, num_seg=90):
    return detections(arrays, num_seg, "--num_segments", str(len(arrays["cas"])), *flags)


def repaired_by(flags):
    return make_config(parse_args(flags)).repaired


def test_compat_and_fix_choose_what_is_repaired():
    assert repaired_by([]) == () and repaired_by(["--compat", "official"]) == ()
    assert repaired_by(["--compat", "fixed"]) == tuple(settings_class("basnet").QUIRKS) == ("B1", "B2", "B3", "B4", "B6")
    assert repaired_by(["--fix", "B4,b1"]) == ("B1", "B4")


@pytest.mark.parametrize("method", METHODS)
def test_quirks_are_reproduced_only_where_a_number_is(method):
    numbers = {"basnet": {"thumos14"}, "um": {"thumos14", "activitynet1.2", "activitynet1.3"}}
    numbers |= {"backtal": {"thumos14", "activitynet1.2", "hacs"}, "asm_loc": {"thumos14", "activitynet1.3"}}
    numbers["cola"] = {"thumos14", "activitynet1.2"}
    quirks = settings_class(method).QUIRKS
    for dataset in KNOWN:
        compat = parse_args([f"--method={method}", f"--dataset={dataset}"]).compat
        assert compat == ("official" if dataset in numbers[method] else "fixed")
    first, *_ = quirks
    for compat, chosen in ((["--compat=official"], (first,)), ([], (first,)), (["--compat=fixed"], tuple(quirks))):
        assert repaired_by([f"--method={method}", "--dataset=demo", f"--fix={first}", *compat]) == chosen
    assert repaired_by([f"--method={method}", "--dataset=demo", "--compat=official"]) == ()
    with pytest.raises(UserError, match="B99"):
        repaired_by([f"--method={method}", "--dataset=demo", "--fix=B99"])


def test_what_quirks_take_is_counted():
    """A class that has no detection for another reason than a quirk does not count."""
    videos = {"alone": {0: 0.9}, "alone too": {0: 0.5}, "unsure": {5: 0.2}, "both": {0: 0.5, 7: 0.4}, "sure": {3: 0.9}}
    found = {name: activations(scores, seed=n) | {"num_seg": np.array(90)} for n, (name, scores) in enumerate(videos.items())}
    found["empty"] = activations({4: 0.9}) | {"num_seg": np.array(90)}
    found["empty"]["cas"][:, 4] = -1.0
    for flags, lost in (([], {"B1": 2, "B2": 1}), (["--fix=B1"], {"B2": 1}), (["--compat=fixed"], {})):
        method = without_memory(make_config(parse_args(["--num_segments=60", *flags])))
        assert lost_classes(method, found, detections_of(method, found)) == lost


def test_the_first_class_of_ones_own_data_is_found_and_its_loss_is_told(cli, tmp_path):
    own = make_tiny(tmp_path / "own", train=15, test=6)
    (own / "dataset.json").write_text('{"annotations": "gt.json"}')
    flags = [f"--data_path={own}", f"--dataset={own / 'dataset.json'}", "--lr=[0.02]*60", "--class_th=0.4", "--dropout=0"]
    flags += ["--seed=0", "--eval_every=60"]
    told = {}
    for compat in ([], ["--compat=official"]):
        told[len(compat)] = cli("main.py", *flags, *compat).stdout
        results = json.loads((tmp_path / "output" / "detections_last_seed_0.json").read_text())["results"]
        truth = json.loads((own / "gt.json").read_text())["database"]
        first = [name for name, video in truth.items() if video["subset"] == "test" and "Baseball" in str(video)]
        assert first and {name in results for name in first} == {not compat}
    assert "Quirk" not in told[0] and "quirks repaired: B1, B2, B3, B4, B6" in told[0]
    assert "recipe your own data: compat" in told[0]
    (note,) = " ".join(told[1].split()).split("Quirk B1 of the official code")[1:]  # of several lines
    assert f"{len(first)} (`last`). --fix B1 keeps them." in note


def test_b1_a_video_of_class_0_alone_yields_nothing():
    alone = activations({0: 0.9})
    assert len(detect(alone)) == 0
    assert set(detect(alone, "--fix", "B1")[:, 0]) == {0}
    assert set(detect(activations({0: 0.5, 7: 0.4}))[:, 0]) == {0, 7}
    arrays, num_seg = golden_activations(3003)
    assert len(detections(arrays, num_seg)) == 0 < len(detections(arrays, num_seg, "--fix", "B1"))


def test_b2_a_video_without_a_confident_class_yields_nothing():
    unsure = activations({5: 0.2, 9: 0.24})
    assert len(detect(unsure)) == 0
    assert set(detect(unsure, "--fix", "B2")[:, 0]) == {9}
    assert set(detect(activations({0: 0.2}), "--fix", "B2")[:, 0]) == {0}, "the best class may be number 0"


def test_b3_the_class_term_is_one_whatever_the_score():
    arrays = activations({3: 0.3, 8: 0.6})
    official, fixed = detect(arrays), detect(arrays, "--fix", "B3")
    for number, score in ((3, 0.3), (8, 0.6)):
        lost = official[official[:, 0] == number][:, 1] - fixed[fixed[:, 0] == number][:, 1]
        np.testing.assert_allclose(lost, 0.2 * (1 - score), atol=1e-6)


def test_b4_one_second_is_added_to_lengths_and_intersections():
    arrays = activations({3: 0.9})
    arrays["cas"][:, 3] = 0
    arrays["cas"][[10, 12], 3] = 1  # two peaks of a second each, a quarter of a second apart
    flags = ["--cas_th", "0.2:0.3:0.1", "--nms_th", "0.2"]
    official, fixed = (detect(arrays, *flags, *fix, num_seg=60) for fix in ([], ["--fix", "B4"]))
    assert len(official) == 1 and len(fixed) == 2
    assert 0 < fixed[:, 2].max() - fixed[:, 3].min() < 1, "the two do not touch"


@pytest.mark.parametrize("fill", [-1.0, 1.0])
def test_b5_a_predicted_class_without_support_yields_nothing(fill):
    arrays = activations({3: 0.9, 5: 0.8})
    arrays["cas"][:, 3] = fill
    assert set(detect(arrays)[:, 0]) == {5}


def test_b6_after_the_first_pass_batches_are_independent_draws():
    official = [batch_videos(40, 16, i, seed=0, official=True) for i in range(90)]
    fixed = [batch_videos(40, 16, i, seed=0, official=False) for i in range(90)]
    assert [len(batch) for batch in official] == [16, 16, 8] + [16] * 87
    assert [len(batch) for batch in fixed] == [16, 16, 8] * 30
    assert all(len(set(batch)) == len(batch) for batch in official + fixed)
    assert all(sorted(np.concatenate(fixed[i : i + 3])) == list(range(40)) for i in range(0, 90, 3))
    later = np.bincount(np.concatenate(official[3:]), minlength=40)
    assert later.std() > 0 and abs(later.mean() - 87 * 16 / 40) < 1e-9
    for ours, theirs in zip(official[:3], fixed[:3], strict=True):
        assert ours.tolist() == theirs.tolist()


def test_b7_every_video_and_iteration_draws_from_its_own_stream():
    keys = [(SNIPPETS, 0, iteration, video) for iteration in range(20) for video in range(20)]
    keys += [(SHUFFLE, 0, iteration) for iteration in range(20)]
    assert len({tuple(random_state(*key).randint(0, 2**31, 4)) for key in keys}) == len(keys)


def test_b8_flags_are_not_executed_and_parsing_deletes_nothing(tmp_path):
    marker = tmp_path / "events"
    marker.write_text("kept")
    with pytest.raises(UserError):
        parse_schedule(f"[__import__('os').remove({str(marker)!r})]")
    make_config(parse_args(["--log_path", str(tmp_path)]))
    assert marker.read_text() == "kept"


def test_b9_the_best_is_chosen_on_the_test_videos_and_the_last_is_reported_too(cli, tmp_path):
    cli("main.py", "--num_iters", "4", "--eval_every", "1", "--lr", "[0.01]*4", "--seed", "0")
    records = [json.loads(line) for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]
    best = max(records, key=lambda record: record["choice"])
    text = (tmp_path / "output" / "report_seed_0.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line.startswith("|")}
    assert rows["best"] == str(best["iteration"]) and rows["last"] == "4" and "4 evaluations" in text


def test_b10_the_upsampled_tail_is_extrapolated():
    fine = upsample(np.array([0.0, 1.0, 0.5], dtype=np.float32), 4)
    assert fine.tolist() == [0, 0.25, 0.5, 0.75, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


def test_b11_no_time_of_an_action_reaches_the_loss():
    config = make_config(parse_args(["--hidden", "8", "--len_feature", "2", "--num_segments", "4"]))
    method = build_method(config)
    method.network.eval()
    batch = Batch(Snippets.of(torch.rand(1, 4, 2)), torch.eye(20)[:1])
    assert method.loss(batch) == method.loss(batch._replace(videos=[None])), "snippets and classes suffice, whatever the videos"
