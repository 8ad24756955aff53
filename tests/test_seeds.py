"""Many seeds: each is the run that it would be alone, none is lost with another, and their summary is arithmetic."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from argparse import Namespace

import pandas
import pytest
import torch
from conftest import ROOT, TINY, command, one_thread
from test_beside import session, wait_until

from engine import seeds
from options import make_config, parse_args
from utils import UserError

RUN = ["--lr", "[0.01]*4", "--eval_every", "2", "--class_th", "0.05"]


@pytest.fixture
def many(tiny, places, monkeypatch):
    """Run many seeds from inside the test; each is a process of its own all the same."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)

    def run(*flags: str) -> None:
        seeds.train_seeds(parse_args([f"--data_path={tiny}", "--cache_path=none", *TINY, *places, *RUN, *flags]))

    return run


def record(iteration: int, *values: float) -> dict:
    """A line of log.jsonl, its mAP at 0.3 and 0.5."""
    mean = statistics.mean(values)
    return {
        "iteration": iteration,
        "mAP": dict(zip(("0.3", "0.5"), values, strict=True)),
        "averages": {"0.3:0.5": mean},
        "average_mAP": mean,
        "choice": mean,
        **dict.fromkeys(("test_acc", "top1", "classification_mAP"), 0.5),
        "average_recall": {"AR@1": 0.25},
        **{"protocol": "unnamed", "ground_truth": "4 videos, 4 instances, abc", "with_features": None},
    }


def leave_run(output, seed, records, settings=None):
    """What a finished run leaves in its folder."""
    folder = output / f"seed_{seed}"
    folder.mkdir(parents=True)
    config = {"method": "basnet", "ablation": "full", "dataset": "demo", "modal": "all", "repaired": [], "num_iters": 4}
    (folder / "config.json").write_text(json.dumps(config | {"seed": seed, "run": str(seed), "data": "d"} | (settings or {})))
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (folder / f"report_seed_{seed}.md").write_text("")


LAST = {0: (0.5, 0.25), 1: (0.625, 0.5), 7: (0.1, 0.7)}
BEST = {0: (0.5, 0.375), 1: (0.625, 0.5), 7: (0.3, 0.7)}


@pytest.fixture
def three(tmp_path):
    for seed in LAST:
        leave_run(tmp_path, seed, [record(2, *BEST[seed]), record(4, *LAST[seed])])
    return tmp_path


def test_the_summary_is_arithmetic(three, capsys):
    seeds.summarize(three, wide=True)
    frame = pandas.read_csv(three / "seeds.csv", dtype={"row": str, "metric": str})
    values = frame.set_index(["model", "row", "metric"]).value
    gap = {seed: tuple(b - a for a, b in zip(LAST[seed], BEST[seed], strict=True)) for seed in LAST}
    for model, chosen in {"last": LAST, "best": BEST, "best - last": gap}.items():
        for place, tiou in enumerate(("0.3", "0.5")):
            column = [chosen[seed][place] for seed in chosen]
            assert [values[model, str(seed), tiou] for seed in chosen] == column
            for name, function in {"mean": statistics.mean, "standard deviation": statistics.stdev}.items():
                assert values[model, name, tiou] == pytest.approx(function(column), abs=1e-15)
            for name, function in {"median": statistics.median, "min": min, "max": max}.items():
                assert values[model, name, tiou] == function(column)
    assert values["best", "median", "avg 0.3:0.5"] == 0.5 and values["last", "7", "AR@1"] == 0.25
    assert values["last", "standard deviation", "0.5"] == pytest.approx(0.22546, abs=1e-5)  # by hand, with n - 1

    text = (three / "seeds.md").read_text()
    assert text == capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert ["last", "mean", "40.83", "48.33", "44.58"] in rows and ["best - last", "max", "20.00", "12.50", "10.00"] in rows
    assert ["7", "best", "2", "30.00", "70.00", "50.00"] in rows and ["1", "last", "4", "62.50", "50.00", "56.25"] in rows
    assert ["1", "best", "2", "62.50", "50.00", "56.25"] in rows, "of equals the first"
    assert ", seeds 0-1,7. mAP" in text

    comment, *lines = (three / "seeds.tex").read_text().splitlines()
    assert comment.startswith("% ") and comment.endswith("model & 0.3 & 0.5 & avg 0.3:0.5")
    cells = {line.split(" & ")[0]: line.removesuffix(r" \\").split(" & ")[1:] for line in lines}
    assert cells["last"] == [r"40.83 $\pm$ 27.42", r"48.33 $\pm$ 22.55", r"44.58 $\pm$ 10.18"] and len(cells["best"]) == 3
    assert all(line.endswith(r" \\") for line in lines)


def test_the_terminal_shows_a_table_of_eighty_columns(three, capsys):
    seeds.summarize(three)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, (line for line in lines if not line.startswith("- ")))) <= 80
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["in %", "last", "best", "best - last"]
    assert ["tIoU 0.3", "40.83 ± 27.42", "47.50 ± 16.39", "6.67 ± 11.55"] in rows
    assert ["average 0.3:0.5", "44.58 ± 10.18", "50.00 ± 6.25", "5.42 ± 5.05"] in rows
    assert ["7", "40.00", "50.00", "10.00"] in rows and f"- {three}/seeds.md" in lines


def test_videos_without_features_have_rows_of_their_own(tmp_path, capsys):
    """The figures over the videos with features stand beside those over all."""
    for seed, values in {0: (0.004, 0.008), 1: (0.006, 0.010)}.items():
        with_features = {"ground_truth": "2 videos, 3 instances, def", "averages": {"0.3:0.5": 0.375}}
        with_features["mAP"] = {"0.3": 0.25 + seed / 4, "0.5": 0.5}
        leave_run(tmp_path, seed, [record(4, *values) | {"with_features": with_features}])
    seeds.summarize(tmp_path)
    out = capsys.readouterr().out
    text = (tmp_path / "seeds.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    for model in ("last", "best"):
        assert [model, "mean", "0.50", "0.90", "0.70"] in rows
        assert [f"{model} *", "mean", "37.50", "50.00", "37.50"] in rows
        assert ["1", f"{model} *", "4", "50.00", "50.00", "37.50"] in rows
    frame = pandas.read_csv(tmp_path / "seeds.csv", dtype={"row": str, "metric": str})
    values = frame.set_index(["model", "row", "metric"]).value
    assert values["last *", "0", "0.3"] == 0.25 and values["best *", "max", "0.3"] == 0.5
    assert "last * & 37.50 $\\pm$ 17.68 & 50.00 $\\pm$ 0.00" in (tmp_path / "seeds.tex").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert rows[0] == ["in %", "last", "best", "last *", "best *"]
    assert ["tIoU 0.3", "0.50 ± 0.14", "0.50 ± 0.14", "37.50 ± 17.68", "37.50 ± 17.68"] in rows
    assert max(map(len, (line for line in out.splitlines() if not line.startswith("- ")))) <= 80
    for said in (" ".join(text.split()), " ".join(out.split())):
        assert "those marked * exclude them (2 videos, 3 instances, def)" in said


def test_a_summary_can_be_made_again_and_keeps_the_one_before(three):
    seeds.summarize(three)
    before = (three / "seeds.csv").read_text()
    leave_run(three, 8, [record(4, 0.2, 0.2)])
    seeds.summarize(three)
    assert (three / "earlier_runs" / "1" / "seeds.csv").read_text() == before != (three / "seeds.csv").read_text()


def test_the_average_that_the_methods_paper_puts_first_leads(tmp_path):
    averages = {"0.1:0.5": 0.5, "0.3:0.7": 0.25}
    leave_run(tmp_path, 3, [record(4, 0.25, 0.5) | {"averages": averages}], {"method": "backtal"})
    seeds.summarize(tmp_path)
    header = (tmp_path / "seeds.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in header.split("|")][3:-1] == ["0.3", "0.5", "avg 0.3:0.7", "avg 0.1:0.5"]
    assert "last & 25.00 & 50.00 & 25.00 & 50.00 \\\\" in (tmp_path / "seeds.tex").read_text()


def test_one_seed_has_no_deviation(tmp_path):
    leave_run(tmp_path, 3, [record(4, 0.25, 0.5)])
    seeds.summarize(tmp_path)
    assert "nan" not in (tmp_path / "seeds.md").read_text() + (tmp_path / "seeds.tex").read_text()
    assert "last & 25.00 & 50.00 & 37.50 \\\\" in (tmp_path / "seeds.tex").read_text()


def test_unfinished_seeds_are_left_out_and_that_is_said(three):
    (three / "seed_0" / "report_seed_0.md").unlink()
    with (three / "seed_1" / "log.jsonl").open("a") as stream:
        stream.write('{"iteration": 4, "mAP"')
    leave_run(three, 8, [record(2, 0.2, 0.2)])
    leave_run(three, 9, [record(4, 0.2, 0.2)])
    os.utime(three / "seed_9" / "report_seed_9.md", (1, 1))  # of a run that has been made longer since
    seeds.summarize(three)
    assert "seed 7 (1 of 5 are finished)." in (three / "seeds.md").read_text()
    with pytest.raises(UserError, match="no folder seed_N of a finished run"):
        seeds.summarize(three / "elsewhere")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("log.jsonl", {"mAP": {}}, r"seed_1/log\.jsonl: 0\.mAP is a dict of 0; expected a dict with keys\. .* train this seed"),
        (
            "log.jsonl",
            {"mAP": {"0.3": "0.5", "0.5": 0.5}},
            r"seed_1/log\.jsonl: 0\.mAP\.0\.3 is .0\.5.; expected a finite",
        ),
        ("log.jsonl", {"with_features": {"mAP": {}}}, r"log\.jsonl: 0\.with_features .* expected"),
        ("log.jsonl", {"average_recall": None}, r"log\.jsonl: 0\.average_recall is None; expected a dict"),
        ("log.jsonl", {"test_acc": float("nan")}, r"log\.jsonl: 0\.test_acc is nan"),
        ("log.jsonl", {"mAP": {"0.3": 0.5, "0.7": 0.5}}, "the names of their figures"),
        ("config.json", {"method": "none"}, r"seed_1/config\.json: method is 'none'; expected one of basnet"),
        ("config.json", {"repaired": "B1"}, r"config\.json: repaired is 'B1'; expected a list"),
        ("config.json", {"modal": "\ud800"}, r"config\.json: modal is .*; expected text of valid characters"),
        (
            "log.jsonl",
            {"averages": {"\ud800": 0.5}},
            r"log\.jsonl: 0\.averages\.a key is .* of valid characters",
        ),
        ("config.json", {"modal": [[]]}, r"config\.json: modal is a list of 1; expected text"),
    ],
)
def test_a_damaged_run_is_named_and_not_averaged(three, file, change, message):
    path = three / "seed_1" / file
    lines = [json.dumps(json.loads(line) | change) for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    os.utime(three / "seed_1" / "report_seed_1.md")
    with pytest.raises(UserError, match=message):
        seeds.summarize(three)


def test_two_runs_of_one_seed_are_not_averaged(three):
    shutil.copytree(three / "seed_7", three / "seed_8")
    os.utime(three / "seed_8" / "report_seed_7.md")
    with pytest.raises(UserError, match="two have seed 7"):
        seeds.summarize(three)


def test_seeds_of_different_runs_are_not_averaged(three):
    leave_run(three, 8, [record(4, 0.2, 0.2)], {"data": "other videos", "data_path": "may differ"})
    with pytest.raises(UserError, match=r"seeds 0 and 8.*data 'd' and 'other videos'\. "):
        seeds.summarize(three)


@pytest.mark.parametrize(
    ("flag", "same"),
    [("--alpha=0.5", False), ("--num_iters=3", False), ("--num_workers=1", True), ("--data_path=elsewhere", True)],
)
def test_a_run_is_finished_if_it_is_this_very_run(tmp_path, flag, same):
    def config(*flags):
        return make_config(parse_args(["--seed=0", f"--output_path={tmp_path}/seed_0", *RUN, *flags]))

    leave_run(tmp_path, 0, [record(4, 0.2, 0.2)], config().as_dict())
    assert seeds.is_finished(config()) and seeds.is_finished(config(flag)) == same


def test_lists_of_seeds_as_text():
    assert seeds.seeds_text([4]) == "seed 4" and seeds.seeds_text([9, 0, 2, 1, 7, 8]) == "seeds 0-2,7-9"


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """In the place of main.py, a program that notes when it ran, with which flags and on how many threads.

    It waits until as many have begun as AT_ONCE says.
    """
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "main.py").write_text(
        "import glob, json, os, sys, time\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "begun = time.monotonic()\n"
        "open(f'{os.getpid()}.begun', 'w').close()\n"
        "while len(glob.glob('*.begun')) < int(os.environ.get('AT_ONCE', 1)) and time.monotonic() < begun + 20:\n"
        "    time.sleep(0.01)\n"
        "time.sleep(0.1)\n"
        "with open(f'{os.getpid()}.seen', 'w') as file:\n"
        "    json.dump([begun, time.monotonic(), sys.argv[1:], os.environ['OMP_NUM_THREADS']], file)\n"
    )
    monkeypatch.setattr(seeds, "ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    return lambda: [json.loads(path.read_text()) for path in tmp_path.glob("*.seen")]


@pytest.mark.parametrize(
    ("flags", "gpus", "at_once", "devices", "budget"),
    [
        ([], 2, 2, {"cuda:0", "cuda:1"}, 16),
        (["--jobs", "4"], 2, 4, {"cuda:0", "cuda:1"}, 8),
        (["--device", "cuda:1", "--jobs", "2"], 2, 2, {"cuda:1"}, 8),
        (["--device", "cpu"], 2, 3, {"cpu"}, 16 / 3),
        (["--jobs", "1"], 0, 1, {"cpu"}, 16),
    ],
)
def test_every_running_seed_has_its_share_of_the_machine(stub, tmp_path, monkeypatch, flags, gpus, at_once, devices, budget):
    """On a machine of six cores."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("AT_ONCE", str(at_once))
    args = parse_args(["--seeds", "0-5", *flags])
    runs = [Namespace(**(vars(args) | seeds.own_places(args, seed))) for seed in args.seeds]
    (tmp_path / "marker").write_text("")
    ended = list(seeds.run_seeds(runs, args, tmp_path / "marker", lambda text: None))
    assert sorted((seed, code) for seed, code, _ in ended) == [(seed, 0) for seed in range(6)]
    seen = [(begun, end, parse_args(flags), threads) for begun, end, flags, threads in stub()]
    assert sorted(args.seed for _, _, args, _ in seen) == list(range(6))

    def crowd(device):
        """At most, how many seeds ran at once on `device`."""
        own = [(begun, end) for begun, end, args, _ in seen if device in (None, args.device)]
        return max(sum(begun <= moment < end for begun, end in own) for moment, _ in own)

    assert crowd(None) == at_once and {args.device for *_, args, _ in seen} == devices
    assert {crowd(device) for device in devices} == {at_once // len(devices)}, "no device has more than its share"
    assert {args.cache_budget for *_, args, _ in seen} == {budget}
    assert {threads for *_, threads in seen} == {str(max(1, 6 // at_once))}


def test_a_seed_that_cannot_begin_takes_no_other_with_it(stub, tiny, places, tmp_path):
    """A file is where its folder should be. The others are begun, and that they leave no results is told too."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "seed_1").write_text("in the way")
    with pytest.raises(UserError) as told:
        seeds.train_seeds(parse_args([f"--data_path={tiny}", *TINY, *places, "--seeds=0-2", "--jobs=1"]))
    for part in ("3 of 3 seeds failed", "seed 1: ", "output/seed_1'", "seeds 0,2: exit code 0", "run.log", "--resume"):
        assert part in str(told.value)
    assert sorted(parse_args(flags).seed for _, _, flags, _ in stub()) == [0, 2]
    assert not (tmp_path / "output" / "seeds.running").exists()


@pytest.mark.whole
def test_each_seed_is_the_run_that_it_would_be_alone_and_none_is_lost_with_another(many, tiny, tmp_path, capsys):
    """Seed 5 cannot write its model; seed 6, asked for later, has a file where its folder should be."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "seed_5").write_text("in the way")
    alone = [f"--{kind}_path={tmp_path}/alone/{kind}" for kind in ("model", "output", "log")]
    line = command("main.py", tiny, alone, *RUN, "--seed", "3")
    with (
        subprocess.Popen(line, stdout=subprocess.DEVNULL, cwd=ROOT, env=one_thread()) as process,
        pytest.raises(UserError, match=r"1 of 3 seeds failed\. seed 5: .*/model/seed_5.*--resume"),
    ):
        many("--seeds", "3-5", "--jobs", "3")
    assert process.returncode == 0
    said = capsys.readouterr().out
    assert "\nseed 3: average mAP (0.1:0.7) " in said and "\nseed 4: average mAP" in said
    assert "seeds 3-4 (2 of 3 are finished)." in said
    for kind, names in (
        ("output", ["log.jsonl", "best_record_seed_3.txt", "detections_best_seed_3.json", "detections_last_seed_3.json"]),
        ("model", ["BaS_Net_model_seed_3.pkl"]),
    ):
        for name in names:
            assert (tmp_path / kind / "seed_3" / name).read_bytes() == (tmp_path / "alone" / kind / name).read_bytes()

    files = {path: path.read_bytes() for path in (tmp_path / "output").glob("seed_[34]/*")}
    assert files[tmp_path / "output/seed_3/log.jsonl"] != files[tmp_path / "output/seed_4/log.jsonl"]
    (tmp_path / "output" / "seed_6").write_text("in the way")
    with pytest.raises(UserError, match=r"1 of 3 seeds failed\. seed 6: .*output/seed_6"):
        many("--seeds", "3-4,6", "--resume")
    assert {path: path.read_bytes() for path in files} == files, "what was finished is not touched"
    assert "seeds 3-4: finished before" in capsys.readouterr().out
    assert not (tmp_path / "output" / "seeds.running").exists()


@pytest.mark.whole
def test_stopped_seeds_save_and_go_on(many, tiny, places, tmp_path):
    flags = ["--lr", "[0.01]*100000", "--eval_every", "10", "--class_th", "0.05", "--seeds"]
    log = tmp_path / "output" / "seed_0" / "run.log"
    line = command("main.py", tiny, places, *flags, "0-1", "--jobs", "1")
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=one_thread()
    ) as process:
        while not (log.exists() and "iteration 30/" in log.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        message = process.communicate()[1]
    assert process.returncode == 143 and "finished seeds are kept" in message and message.strip().endswith("--resume")
    assert not (tmp_path / "output" / "seed_1").exists() and not (tmp_path / "output" / "seeds.running").exists()
    stopped = int(log.read_text().split("stopped after iteration ")[1].split(";")[0])
    many(*flags, "0", "--num_iters", str(stopped + 1), "--resume")
    assert f"resuming after iteration {stopped}\n" in log.read_text()
    assert ", seed 0." in (tmp_path / "output" / "seeds.md").read_text()


LONG = ["--lr", "[0.01]*100000", "--eval_every", "10", "--class_th", "0.05", "--seeds", "0-1"]


def trains(log):
    return log.exists() and "iteration 30/" in log.read_text()


@pytest.mark.whole
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc")
def test_seeds_end_with_a_killed_parent_and_are_resumed(many, tiny, places, tmp_path):
    logs = [tmp_path / "output" / f"seed_{seed}" / "run.log" for seed in (0, 1)]
    line = command("main.py", tiny, places, *LONG, "--jobs", "2")
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, cwd=ROOT, env=one_thread(), start_new_session=True) as process:
        try:
            wait_until(lambda: all(map(trains, logs)), seconds=120)
            process.kill()
            wait_until(lambda: not session(process.pid), seconds=30)
        finally:
            kill_group(process.pid)
    stopped = [int(log.read_text().split("stopped after iteration ")[1].split(";")[0]) for log in logs]
    many(*LONG, "--num_iters", str(max(stopped) + 1), "--resume")
    for log, iteration in zip(logs, stopped, strict=True):
        assert f"resuming after iteration {iteration}\n" in log.read_text()
    assert ", seeds 0-1." in (tmp_path / "output" / "seeds.md").read_text()


def kill_group(leader):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def test_a_seed_knows_whether_its_command_still_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "TOUCH", 0.05)
    monkeypatch.setattr(seeds, "PATIENCE", 3 * seeds.POLL)
    marker = tmp_path / "seeds.running"

    def seen():
        return seeds.Marker(seeds.Job(0, (), "", "", str(marker), seeds.content_of(marker), "1"))

    with seeds.kept(marker):
        first = seen()
        for _ in range(20):  # it is touched in between
            time.sleep(0.1)
            assert first.stands()
        text = marker.read_text()
    assert not first.stands(), "the command has ended in order"
    with seeds.kept(marker):
        assert not first.stands() and seen().stands(), "of a later command"
    marker.write_text(text)
    assert [first.stands() for _ in range(5)] == [True, True, True, False, False], "killed: nobody touches it"


@pytest.fixture
def cluster(tmp_path):
    """The address of a Dask scheduler with two workers, started elsewhere as on other machines; they multiply by conv1d."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    place = {"cwd": tmp_path, "stderr": subprocess.DEVNULL}
    start = [sys.executable, "-m", "dask"]
    flags = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen([*start, "scheduler", "--host", "127.0.0.1", "--port", "0", *flags], **place)
    other = os.environ | {"BASNET_PRODUCTS": "conv"}
    worker = [*start, "worker", "--nthreads", "1", "--no-nanny", *flags]
    workers = [subprocess.Popen(worker, env=other, **place) for _ in range(2)]
    try:
        while not file.exists():
            assert scheduler.poll() is None
            time.sleep(0.1)
        yield Namespace(address=json.loads(file.read_text())["address"], workers=workers)
    finally:
        for process in (*workers, scheduler):
            process.terminate()
            process.wait()


@pytest.mark.whole
def test_seeds_run_on_the_workers_of_a_dask_cluster(many, cluster, tmp_path):
    """As all that a seed said tells."""
    import dask

    with dask.config.set(scheduler_address=cluster.address):  # as DASK_SCHEDULER_ADDRESS does before Dask is imported
        many("--seeds", "0-1", "--backend", "dask")
    assert ", seeds 0-1." in (tmp_path / "output" / "seeds.md").read_text()
    for seed in (0, 1):
        assert "products by torch's conv1d" in (tmp_path / "output" / f"seed_{seed}" / "run.log").read_text()


@pytest.mark.whole
def test_seeds_end_with_a_killed_dask_worker(many, cluster, tiny, places, tmp_path):
    log = tmp_path / "output" / "seed_0" / "run.log"
    line = command("main.py", tiny, places, *LONG[:-1], "0", "--backend", "dask")
    env = one_thread() | {"DASK_SCHEDULER_ADDRESS": cluster.address}
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, cwd=ROOT, env=env) as process:
        try:
            wait_until(lambda: trains(log), seconds=60)
            for worker in cluster.workers:
                worker.kill()
            wait_until(lambda: "stopped after iteration" in log.read_text(), seconds=30)
        finally:
            process.kill()


def test_a_missing_package_is_named(many, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="pip install"):
        many("--seeds", "0", "--backend", "dask")


def test_only_main_takes_many_seeds(cli):
    assert "--seeds is for main.py" in cli("main_eval.py", "--seeds", "0-1", expect=2).stderr


def test_seeds_under_torchrun_are_refused(cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "without torchrun" in cli("main.py", "--seeds", "0-1", expect=2).stderr
