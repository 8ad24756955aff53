"""The two programs as a user runs them, at tiny sizes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from conftest import ROOT, WIDTH, Harmful, command, make_tiny, one_thread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from engine.files import locked
from eval.eval_detection import ANETdetection

RUN = ["--lr", "[0.01]*4", "--eval_every", "2", "--seed", "0"]


def test_files_and_scalars_have_the_official_names(cli, tiny, tmp_path):
    done = cli("main.py", *RUN)
    output = tmp_path / "output"
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [2, 4]
    best = max(records, key=lambda record: record["choice"])

    lines = (output / "best_record_seed_0.txt").read_text().splitlines()
    assert lines[:2] == [f"Step: {best['iteration']}", f"Test_acc: {best['test_acc']:.2f}"]
    assert lines[2] == f"average_mAP: {best['average_mAP']:.4f}" and lines[3].startswith("mAP@0.1: ") and len(lines) == 12

    for which, record in (("best", best), ("last", records[-1])):
        detections = output / f"detections_{which}_seed_0.json"
        content = json.loads(detections.read_text())
        assert content["version"] == "VERSION 1.3" and set(content) == {"version", "results", "external_data"}
        mean_ap, average = ANETdetection(tiny / "gt.json", detections).evaluate()
        assert average == pytest.approx(record["average_mAP"]) and mean_ap.tolist() == list(record["mAP"].values())

    config = json.loads((output / "config.json").read_text())
    assert config["num_iters"] == 4 and config["seed"] == 0 and config["repaired"] == []
    report = (output / "report_seed_0.md").read_text()
    assert report not in done.stdout and report in cli("main.py", *RUN, "--resume", "--wide").stdout
    for part in (
        "best",
        "last",
        "2 evaluations",
        "avg 0.1:0.5",
        "avg 0.1:0.7",
        "avg 0.1:0.9",
        "video acc",
        "cls mAP",
        "protocol unnamed (4 videos, 4 instances, ",
    ):
        assert part in report
    for path in (tmp_path / "model" / "BaS_Net_model_seed_0.pkl", output / "log_seed_0.jsonl", tmp_path / "log"):
        assert str(path) in report and str(path) in done.stdout

    events = EventAccumulator(str(tmp_path / "log")).Reload()
    maps = [f"mAP@0.{n}" for n in range(1, 10)]
    expected = ["loss_base", "loss_supp", "loss_norm", "loss_total", "Test accuracy", *maps, "Average mAP"]
    assert sorted(tag for tag in events.Tags()["scalars"] if "/" not in tag) == sorted(expected)
    assert [event.step for event in events.Scalars("loss_total")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("mAP@0.5")] == [2, 4]


def test_evaluating_a_checkpoint_gives_the_numbers_of_training(cli, tmp_path):
    cli("main.py", *RUN)
    last = json.loads((tmp_path / "output" / "log.jsonl").read_text().splitlines()[-1])
    shutil.move(tmp_path / "output", tmp_path / "trained")
    done = cli("main_eval.py", f"--model_file={tmp_path}/model/BaS_Net_model_seed_0_last.ckpt")
    output = tmp_path / "output"
    assert json.loads((output / "detections.json").read_text()) == json.loads(
        (tmp_path / "trained" / "detections_last_seed_0.json").read_text()
    )
    assert f"average_mAP: {last['average_mAP']:.4f}" in (output / "best_record.txt").read_text()
    assert "protocol unnamed (4 videos, 4 instances" in done.stdout and str(output / "detections.json") in done.stdout
    cli("main_eval.py", f"--model_file={tmp_path}/model/BaS_Net_model_seed_0.pkl")
    assert (output / "earlier_runs" / "1" / "detections.json").exists()


@pytest.mark.whole
def test_the_users_command(tiny, tmp_path):
    line = "-W ignore ./main.py --model_path ./models/BaSNet_6 --output_path ./outputs/BaSNet_6 --log_path ./logs/BaSNet_6"
    flags = f"--seed -1 --modal rgb --data_path {tiny} --lr [0.01]*2 --num_segments 16 --hidden 8 --len_feature {WIDTH}"
    for name in ("outputs", "models", "logs"):
        line = line.replace(f"./{name}", f"{tmp_path}/{name}")
    done = subprocess.run(
        [sys.executable, *line.split(), *flags.split()], capture_output=True, text=True, cwd=ROOT, env=one_thread(), check=True
    )
    assert (tmp_path / "models" / "BaSNet_6" / "BaS_Net_model_seed_-1.pkl").exists()
    assert (tmp_path / "outputs" / "BaSNet_6" / "best_record_seed_-1.txt").exists() and "streams rgb" in done.stdout
    drawn = json.loads((tmp_path / "outputs" / "BaSNet_6" / "config.json").read_text())["seed_used"]
    assert drawn >= 0 and f"seed {drawn}," in done.stdout


def alone(tmp_path, name):
    """The flag for a copy of a model beside which nothing lies."""
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "model" / name, tmp_path / "alone" / name)
    return f"--model_file={tmp_path}/alone/{name}"


@pytest.mark.parametrize("modal", ["rgb", "flow"])
def test_one_stream(cli, tmp_path, modal):
    cli("main.py", *RUN, "--modal", modal, f"--len_feature={WIDTH}")
    model = alone(tmp_path, "BaS_Net_model_seed_0.pkl")
    assert f"streams {modal}" in cli("main_eval.py", model, "--modal", modal, f"--len_feature={WIDTH}").stdout
    message = cli("main_eval.py", model, expect=2).stderr
    assert f"width {WIDTH}" in message and "--modal all" in message
    assert "--modal all" in cli("main.py", *RUN, model, expect=2).stderr
    other = "flow" if modal == "rgb" else "rgb"
    last = f"--model_file={tmp_path}/model/BaS_Net_model_seed_0_last.ckpt"
    message = cli("main_eval.py", last, "--modal", other, f"--len_feature={WIDTH}", expect=2).stderr
    assert f"--modal {modal} there, {other} here" in message


@pytest.mark.parametrize("ablation", ["baseline", "base", "supp"])
def test_ablations_train_and_evaluate(cli, tmp_path, ablation):
    assert f"({ablation})" in cli("main.py", *RUN, "--ablation", ablation).stdout
    model = alone(tmp_path, "BaS_Net_model_seed_0.pkl")
    cli("main_eval.py", model, "--ablation", ablation)
    if ablation != "supp":  # the suppression branch alone is the same network as the full one
        assert "--ablation" in cli("main_eval.py", model, expect=2).stderr


def test_the_same_seed_gives_the_same_run_and_another_does_not(cli, tmp_path):
    def losses(*flags):
        cli("main.py", *RUN, *flags)
        return [json.loads(line)["loss_total"] for line in (tmp_path / "output" / "log.jsonl").read_text().splitlines()]

    assert losses() == losses() != losses("--seed", "1")


def test_quiet_prints_the_report_only(cli):
    out = cli("main.py", *RUN, "--quiet").stdout
    assert "iteration " not in out.split("Written")[0].replace("| iteration |", "") and "| " in out


@pytest.mark.parametrize(
    "interval, expected",
    [("2", ["loss_base nan", "loss_norm", "iteration 4 is not finite"]), ("1", ["video_test_0", "diverged"])],
)
def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(cli, tmp_path, interval, expected):
    flags = ["--seed", "0", "--eval_every", interval, "--dropout", "0", "--lr", "[0.01]*2+[1e30]*20"]
    message = cli("main.py", *flags, expect=2).stderr
    assert [part for part in [*expected, "lower --lr"] if part not in message] == []
    content = torch.load(tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt", weights_only=True)
    assert content["iteration"] <= 2 and all(torch.isfinite(value).all() for value in content["network"].values())


@pytest.mark.parametrize("num_iters", ["4", "40"])
def test_weights_that_diverge_after_the_loss_do_not_reach_the_checkpoint(cli, tmp_path, monkeypatch, num_iters):
    """Nothing but the weights tells: the run has come to its end or is asked to stop, and saves before it evaluates."""
    real = train.train_step

    def diverging(loss, state, *rest):
        terms = real(loss, state, *rest)
        if state.iteration == 4:
            next(state.network.parameters()).data[0] = float("nan")
            os.kill(os.getpid(), signal.SIGTERM if num_iters == "40" else 0)
        return terms

    run = ["--seed", "0", "--eval_every", "2", "--lr", "[0.01]*40", "--num_iters", num_iters]
    last = tmp_path / "model" / "BaS_Net_model_seed_0_last.ckpt"
    with monkeypatch.context() as patched:
        patched.setattr(train, "train_step", diverging)
        message = cli("main.py", *run, expect=2).stderr
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert f"the weights have diverged after iteration 4; {last} is left as it was" in message
    content = torch.load(last, weights_only=True)
    assert content["iteration"] == 2 and all(torch.isfinite(value).all() for value in content["network"].values())
    done = cli("main.py", *run[:-2], "--num_iters", "4", "--resume")
    assert "resuming after iteration 2" in done.stdout and "iteration 4/4" in done.stdout


def test_the_folders_of_a_run_that_goes_on_are_not_written_to(cli, tmp_path):
    for kind in ("output", "model", "log"):
        with locked(str(tmp_path / kind)):
            assert f"{tmp_path / kind}: another run is writing to it: process " in cli("main.py", *RUN, expect=2).stderr
        assert not any((tmp_path / kind).iterdir()), "the lock's file is gone with it"
    cli("main.py", *RUN)


@pytest.mark.whole
def test_two_runs_cannot_write_into_one_folder(tiny, places, cli, tmp_path):
    elsewhere = f"--output_path={tmp_path}/elsewhere"
    with subprocess.Popen(
        command("main.py", tiny, places, "--lr", "[0.01]*100000", "--eval_every", "5"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=one_thread(),
    ) as process:
        try:
            next(line for line in process.stdout if line.startswith("iteration"))
            assert "another run is writing to it" in cli("main.py", *RUN, expect=2).stderr
            assert "another run is writing to it" in cli("main.py", *RUN, elsewhere, expect=2).stderr
        finally:
            process.kill()


@pytest.mark.parametrize(
    "script, flags, expected",
    [
        ("main.py", ["--lr", "exit()"], "--lr"),
        ("main.py", ["--fix", "B12"], "B12"),
        ("main.py", ["--device", "cuda:99"], "CUDA devices"),
        ("main.py", ["--data_path", "/nowhere"], "/nowhere/gt.json"),
        ("main.py", ["--data_path", "LICENSE"], "LICENSE/gt.json"),
        ("main.py", ["--modal", "rgb"], f"expected (L, {2 * WIDTH})"),
        ("main_eval.py", [], "--model_file"),
        ("main_eval.py", ["--model_file", "/nowhere.pkl"], "/nowhere.pkl"),
        ("main.py", ["--model_file", "README.md"], "README.md"),
        ("main.py", ["--output_path", "LICENSE"], "LICENSE"),
        ("main_eval.py", ["--model_file", "tests"], "tests"),
    ],
)
def test_mistakes_end_with_one_message_and_code_2(cli, script, flags, expected):
    done = cli(script, *flags, expect=2)
    assert expected in done.stderr and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.whole
def test_a_full_disk_ends_with_a_message_and_whole_files(cli, tiny, tmp_path):
    """A limit on the size of files stands in for a disk that fills up while the checkpoint is written."""
    cli("main.py", *RUN)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    places = [f"--{kind}_path={tmp_path / kind}" for kind in ("model", "output", "log")]
    line = command("main.py", tiny, places, *RUN, "--resume", "--num_iters", "4")
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 4; exec "$@"', "_", *line]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT, env=one_thread())
    assert done.returncode == 2 and "Traceback" not in done.stderr and "BaS_Net_model_seed_0" in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.mark.parametrize("kilobytes", [1, 6, 40])  # stops the writing of config.json, of the checkpoint, of TensorBoard's file
@pytest.mark.whole
def test_any_file_may_be_the_one_that_does_not_fit(tiny, places, kilobytes):
    line = command("main.py", tiny, places, "--lr", "[0.01]*2000", "--eval_every", "500", "--quiet")
    limited = ["bash", "-c", f'trap "" XFSZ; ulimit -f {kilobytes}; exec "$@"', "_", *line]
    done = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT, env=one_thread())
    assert done.returncode == 2 and "Traceback" not in done.stderr and str(tiny.parent) in done.stderr


def test_starting_from_a_checkpoint(cli, tmp_path):
    cli("main.py", *RUN)
    (tmp_path / "start.pkl").write_bytes((tmp_path / "model" / "BaS_Net_model_seed_0.pkl").read_bytes())
    trained = json.loads((tmp_path / "output" / "log.jsonl").read_text().splitlines()[-1])
    cli("main.py", *RUN, f"--model_file={tmp_path}/start.pkl")
    assert json.loads((tmp_path / "output" / "log.jsonl").read_text().splitlines()[-1])["loss_total"] != trained["loss_total"]


@pytest.mark.whole
def test_real_annotations_at_the_official_width(thumos_gt, tmp_path, places):
    """A small folder cut from THUMOS'14: its gt.json whole, a few videos of 2048 features."""
    data = make_tiny(tmp_path / "thumos")
    (data / "gt.json").write_bytes(thumos_gt.read_bytes())
    for subset in ("train", "test"):
        names = (thumos_gt.parent / f"split_{subset}.txt").read_text().split()[:3]
        (data / f"split_{subset}.txt").write_text("\n".join(names))
        for stream in ("rgb", "flow"):
            for name in names:
                features = np.abs(np.random.default_rng(0).standard_normal((20, 1024))).astype(np.float32)
                np.save(data / "features" / subset / stream / f"{name}.npy", features)
    line = [sys.executable, "main.py", f"--data_path={data}", *places, "--lr", "[1e-4]", "--hidden", "16", "--seed", "0"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=one_thread(), check=True)
    assert (
        "3 training and 3 test videos" in done.stdout and "thumos-210 (210 videos, 3311 instances, 92092d3dd752)" in done.stdout
    )


@pytest.mark.whole
def test_familiar_imports():
    code = (
        "from model import BaS_Net; from train import BaS_Net_loss; from eval.eval_detection import ANETdetection\n"
        "import torch\n"
        "net = BaS_Net(len_feature=4, num_classes=20, num_segments=16, hidden=8)\n"
        "score_base, cas_base, score_supp, cas_supp, fore_weights = net(torch.rand(2, 16, 4))\n"
        "total, terms = BaS_Net_loss(alpha=1e-4)(score_base, score_supp, fore_weights, torch.eye(20)[:2])\n"
        "total.backward(); print(sorted(terms))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "['loss_base', 'loss_norm', 'loss_supp', 'loss_total']"


def test_saved_activations_give_the_detections_and_scores_of_the_network(cli, tmp_path):
    cli("main.py", *RUN)
    model, file = f"--model_file={tmp_path}/model/BaS_Net_model_seed_0_last.ckpt", tmp_path / "kept" / "activations.npz"
    cli("main_eval.py", model, f"--save_activations={file}", "--class_th=0.05")
    output = tmp_path / "output"
    live = [(output / name).read_text() for name in ("detections.json", "best_record.txt", "per_class.csv")]
    cli("main_eval.py", f"--activations={file}", "--class_th=0.05", "--num_segments=99")  # the file has the snippets
    assert [(output / name).read_text() for name in ("detections.json", "best_record.txt", "per_class.csv")] == live
    assert len(json.loads(live[0])["results"]) > 0
    with np.load(file) as arrays:
        content = dict(arrays)
    assert content["video_test_0/cas"].shape == (16, 21) and content["video_test_0/cas"].dtype == np.float32
    assert content["video_test_0/num_seg"].shape == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.clear(), "contains no video"),
        (lambda c: c.pop("video_test_0/cas"), "video_test_0/cas is only score, num_seg"),
        (lambda c: c.update({"video_test_0/cas": np.zeros((16, 9), np.float32)}), r"(16, 9)"),
        (lambda c: c.update({"video_test_0/score": np.full(21, np.nan, np.float32)}), "not finite"),
        (lambda c: c.update({"video_test_0/cas": np.zeros((16, 21), np.float16)}), "float16"),
        (lambda c: c.update({"video_test_0/num_seg": np.int64(0)}), "not positive"),
        (lambda c: c.update({"elsewhere/num_seg": np.int64(3)}), "'elsewhere' is not annotated"),
        (lambda c: c.update({"video_test_0/num_seg": np.int64(10**12)}), "num_seg is 1000000000000; expected at most"),
        (lambda c: c.update({"video_test_0/duration": np.float64(1e300)}), "duration is 1e+300; expected at most"),
        (lambda c: c.update({"video_test_0/warp": np.arange(20.0)}), "warp is no time axis; expected 21 ascending"),
        (lambda c: c.update({"video_test_0/warp": np.arange(21.0)[::-1]}), "warp is no time axis"),
    ],
)
def test_activations_of_something_else_are_refused(cli, tmp_path, change, message):
    content = {"video_test_0/cas": np.zeros((16, 21), np.float32), "video_test_0/score": np.zeros(21, np.float32)}
    content["video_test_0/num_seg"] = np.int64(20)
    change(content)
    np.savez(tmp_path / "activations.npz", **content)
    assert message in cli("main_eval.py", f"--activations={tmp_path}/activations.npz", expect=2).stderr


def test_nothing_in_saved_activations_is_executed(cli, tmp_path):
    np.savez(tmp_path / "activations.npz", **{"video_test_0/cas": np.array([Harmful(tmp_path / "executed")])})
    done = cli("main_eval.py", f"--activations={tmp_path}/activations.npz", expect=2)
    assert "cannot be read as saved activations" in done.stderr and not (tmp_path / "executed").exists()


def test_a_file_that_holds_no_activations_is_refused(cli, tmp_path):
    (tmp_path / "activations.npz").write_bytes(b"PK\x03\x04 cut off")
    assert (
        "cannot be read as saved activations"
        in cli("main_eval.py", f"--activations={tmp_path}/activations.npz", expect=2).stderr
    )
    assert "no such file" in cli("main_eval.py", "--activations=nowhere.npz", expect=2).stderr


@pytest.mark.parametrize("name, message", [("score", "two arrays of one name"), ("cas", "cannot be read as saved")])
def test_activations_that_are_ambiguous_or_no_arrays_are_refused(cli, tmp_path, name, message):
    """A member of the archive that numpy does not know comes as bytes; of two of one name it reads the last."""
    path = tmp_path / "activations.npz"
    content = {"video_test_0/score": np.zeros(21, np.float32), "video_test_0/num_seg": np.int64(20)}
    np.savez(path, **content, **({} if name == "cas" else {"video_test_0/cas": np.zeros((16, 21), np.float32)}))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(f"video_test_0/{name}.npy", b"no array" if name == "cas" else archive.read(f"video_test_0/{name}.npy"))
    error = cli("main_eval.py", f"--activations={path}", expect=2).stderr
    assert message in error and "activations.npz" in error


def test_a_checkpoint_of_more_steps_is_named(cli, tmp_path):
    run = ["--method=asm_loc", "--steps=1", "--step_iters=1", "--seed=0", "--lr=[0.01]*2"]
    cli("main.py", *run)
    path = tmp_path / "model" / "ASM_Loc_model_seed_0.pkl"
    weights = torch.load(path) | {"step": torch.tensor(7)}
    torch.save(weights, path)
    message = cli("main_eval.py", f"--model_file={path}", *run[:3], expect=2).stderr
    assert f"{path}: was trained for 7 steps" in message
