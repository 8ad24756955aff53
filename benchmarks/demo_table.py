"""The tables of docs/demo.md, docs/quirks.md and docs/asm_loc.md, on the demo data over several seeds.

`python -m benchmarks.demo_table [TABLE ...]` trains or resumes the runs that are not finished and prints the tables.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from eval.report import table
from methods.base import METHODS, folder_name, settings_class

AVERAGE = "0.1:0.7"
jobs: list[str] = []  # flag that sets how many seeds train at a time


def train_runs(folder: Path, seeds: list[int], *flags: str) -> list[Path]:
    """Train on the demo, unless the runs are finished; returns the folder of each seed."""
    name = "_".join(flag.strip("-") for flag in flags) or "published"
    place = folder / name.replace(",", "")
    print(f"training {place}", file=sys.stderr)
    places = [f"--{kind}_path={place}" for kind in ("model", "output", "log")]
    run_script("main.py", f"--seeds={','.join(map(str, seeds))}", *jobs, *flags, *places, "--resume")
    return [place / f"seed_{seed}" for seed in seeds]


def evaluate_run(place: Path, seed: int, *flags: str) -> float:
    """Average mAP of a run's last checkpoint under other localization flags."""
    output = place / "evaluated" / "_".join(flag.strip("-") for flag in flags)
    if not (output / "report.md").exists():
        checkpoint = place / f"BaS_Net_model_seed_{seed}_last.ckpt"
        run_script("main_eval.py", f"--model_file={checkpoint}", f"--output_path={output}", *flags)
    results = [line for line in (output / "report.md").read_text().splitlines() if line.startswith("|")]
    header, values = ([cell.strip() for cell in results[row].strip("|").split("|")] for row in (0, 2))
    return float(dict(zip(header, values, strict=True))[f"avg {AVERAGE}"])


def run_script(script: str, *flags: str) -> None:
    subprocess.run([sys.executable, script, "--dataset=demo", "--quiet", *flags], check=True, stdout=subprocess.DEVNULL)


def records(place: Path) -> list[dict[str, Any]]:
    """The records of a run, one per evaluation."""
    return [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]


def curve(place: Path, average: str = AVERAGE) -> list[float]:
    """Average mAP in percent at each evaluation of a run."""
    return [100 * record["averages"][average] for record in records(place)]


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def advantage(ours: list[float], theirs: list[float]) -> str:
    """Difference of the means, also in standard errors."""
    difference = statistics.mean(ours) - statistics.mean(theirs)
    error = ((statistics.variance(ours) + statistics.variance(theirs)) / len(ours)) ** 0.5
    return f"{difference:+.2f} ({difference / error:+.1f} SE)"


def method_table(folder: Path, seeds: list[int]) -> str:
    """Every method with its recipe for the demo, against BaS-Net and BaS-Net without a background class."""
    flags = {"BaS-Net, baseline": "--ablation=baseline", "BaS-Net": "--ablation=full"}
    flags |= {folder_name(place): f"--method={key}" for key, place in METHODS.items() if key != "basnet"}
    curves = {name: [curve(place) for place in train_runs(folder, seeds, flag)] for name, flag in flags.items()}
    rows = []
    for name, runs in curves.items():
        best, last = ([pick(run) for run in runs] for pick in (max, lambda run: run[-1]))
        ahead = [advantage(last, [run[-1] for run in curves[other]]) if name != other else "" for other in list(curves)[:2]]
        rows.append([name, spread(best), spread(last), *ahead, " ".join(f"{value:.1f}" for value in last)])
    return table(["method", "best", "last", "ahead of the baseline by", "of BaS-Net by", "last of each seed"], rows)


def step_table(folder: Path, seeds: list[int]) -> str:
    """mAP of ASM-Loc at the end of each step."""
    places = train_runs(folder, seeds, "--method=asm_loc")
    config = json.loads((places[0] / "config.json").read_text())
    ends = [(step + 1) * config["step_iters"] for step in range(config["steps"])] + [config["num_iters"]]
    at_end = [[100 * r["averages"][AVERAGE] for r in records(place) if r["iteration"] in ends] for place in places]
    rows = []
    for step, values in enumerate(map(list, zip(*at_end, strict=True))):
        ahead = advantage(values, [first for first, *_ in at_end]) if step else ""
        rows.append([str(step), str(ends[step]), spread(values), ahead, " ".join(f"{value:.1f}" for value in values)])
    return table(["step", "iterations", "at its end", "ahead of step 0 by", "of each seed"], rows)


def ablation_table(folder: Path, seeds: list[int]) -> str:
    curves = {
        name: [curve(place) for place in train_runs(folder, seeds, f"--ablation={name}")]
        for name in ("full", "baseline", "base", "supp")
    }
    rows = []
    for name, runs in curves.items():
        row = [name]
        for pick in (max, lambda run: run[-1]):
            ours, theirs = ([pick(run) for run in curves[key]] for key in ("full", name))
            row += [spread(theirs), "" if name == "full" else advantage(ours, theirs)]
        rows.append([*row, " ".join(f"{run[-1]:.1f}" for run in runs)])
    return table(["ablation", "best", "full is ahead by", "last", "full is ahead by", "last of each seed"], rows)


def quirk_table(folder: Path, seeds: list[int]) -> str:
    """The effect of each quirk of the official code on BaS-Net's mAP on the demo, where quirks are repaired by default."""
    official = "--compat=official"
    places = train_runs(folder, seeds, official)
    reproduced = [curve(place)[-1] for place in places]
    rows = [["none (--compat official)", spread(reproduced), ""]]
    for name in settings_class("basnet").QUIRKS:
        if name == "B6":  # affects training; the others affect localization
            values = [curve(place)[-1] for place in train_runs(folder, seeds, official, "--fix=B6")]
        else:
            values = [evaluate_run(place, seed, official, f"--fix={name}") for place, seed in zip(places, seeds, strict=True)]
        rows.append([name, spread(values), f"{statistics.mean(values) - statistics.mean(reproduced):+.2f}"])
    values = [curve(place)[-1] for place in train_runs(folder, seeds, "--ablation=full")]
    rows.append(["all (the default)", spread(values), f"{statistics.mean(values) - statistics.mean(reproduced):+.2f}"])
    return table(["repaired", "last", "difference"], rows)


def storage_table(folder: Path, seeds: list[int]) -> str:
    """The effect of features in half precision."""
    return varied(folder, seeds, "--cache_dtype", {"float32": "--ablation=full", "float16": "--cache_dtype=float16"})


def precision_table(folder: Path, seeds: list[int]) -> str:
    """The effect of the precision of large products."""
    half = {name: f"--precision={name}" for name in ("bf16", "fp16")}
    return varied(folder, seeds, "--precision", {"fp32": "--ablation=full"} | half)


def affinity_table(folder: Path, seeds: list[int]) -> str:
    """The effect of the layout of BackTAL's gates."""
    return backtal_table(folder, seeds, {"official": [], "paper": ["--affinity_layout=paper"]})


def click_table(folder: Path, seeds: list[int]) -> str:
    """The effect of a careless annotator's clicks on BackTAL."""
    return backtal_table(folder, seeds, {"careful": [], "careless": ["--click_noise=2", "--click_miss=0.4"]})


def backtal_table(folder: Path, seeds: list[int], changes: dict[str, list[str]]) -> str:
    """A table of BackTAL under different flags, compared with the first row."""
    runs = {name: train_runs(folder, seeds, "--method=backtal", *flags) for name, flags in changes.items()}
    last = {name: [curve(place)[-1] for place in places] for name, places in runs.items()}
    first = next(iter(last.values()))
    rows = [
        [name, spread(values), "" if values is first else advantage(values, first), " ".join(f"{x:.1f}" for x in values)]
        for name, values in last.items()
    ]
    return table(["BackTAL", "last", "difference", "last of each seed"], rows)


def varied(folder: Path, seeds: list[int], title: str, flags: dict[str, str]) -> str:
    rows = []
    for name, flag in flags.items():
        last = [curve(place)[-1] for place in train_runs(folder, seeds, flag)]
        rows.append([name, spread(last), " ".join(f"{value:.2f}" for value in last)])
    return table([title, "last", "last of each seed"], rows)


def class_table(folder: Path, seeds: list[int], *flags: str) -> str:
    """The effect of the reduction of the classification loss, with a hundred classes."""
    rows = []
    for reduction in ("mean", "classsum"):
        runs = train_runs(folder, seeds, "--dataset=demo-activitynet", *flags, f"--bce_reduction={reduction}")
        last = [records(run)[-1] for run in runs]
        values = [[100 * record["top1"] for record in last], [100 * record["averages"]["0.5:0.95"] for record in last]]
        rows.append([reduction, *map(spread, values), " ".join(f"{value:.2f}" for value in values[1])])
    return table(["--bce_reduction", "top-1", "avg mAP 0.5:0.95", "of each seed"], rows)


def um_class_table(folder: Path, seeds: list[int]) -> str:
    return class_table(folder, seeds, "--method=um")


TABLES = {
    "methods": method_table,
    "steps": step_table,
    "ablations": ablation_table,
    "quirks": quirk_table,
    "storage": storage_table,
    "precision": precision_table,
    "classes": class_table,
    "um_classes": um_class_table,
    "affinity": affinity_table,
    "clicks": click_table,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of {', '.join(TABLES)} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("outputs/demo_table"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, help="seeds that train at a time (default: that of main.py --seeds)")
    args = parser.parse_args()
    jobs += [f"--jobs={args.jobs}"] if args.jobs else []
    print(f"mAP in %, averaged over tIoU {AVERAGE}; mean ± standard deviation over seeds {args.seeds}; SE: standard error")
    for name in args.tables or TABLES:
        print(f"\n{name}\n{TABLES[name](args.folder, args.seeds)}", end="")
