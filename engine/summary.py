"""The summary of many seeds: statistics of each metric, as Markdown, CSV and LaTeX."""

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from config import Config
from engine.checkpoint import MAY_DIFFER, checked
from engine.files import set_aside
from engine.report import WIDTH
from engine.schema import LOGGED, anything, fields, listed, one_of, shown, text, whole
from eval.reading import is_text
from eval.report import as_markdown, averages_from, figures, table
from methods.base import METHODS, settings_class
from methods.recipes import OF_ONE_START
from utils import UserError, atomic_write, read_json, read_text

GAP = "best - last"
STAR = "*"  # marks figures over the test videos that have features
STATISTICS = {"mean": "mean", "standard deviation": "std", "median": "median", "min": "min", "max": "max"}  # and in pandas


def seeds_text(seeds: list[int]) -> str:
    """`seed 4`, `seeds 0-2,7`."""
    starts = [seed for seed in sorted(seeds) if seed - 1 not in seeds]
    ends = [seed for seed in sorted(seeds) if seed + 1 not in seeds]
    listed = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    return f"seed{'s' * (len(seeds) > 1)} {listed}"


@dataclass(frozen=True)
class Run:
    """The config and the records of a run."""

    config: dict[str, Any]
    records: list[dict[str, Any]]  # one per evaluation

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def last(self) -> dict[str, Any]:
        return self.records[-1]

    @property
    def best(self) -> dict[str, Any]:
        """The best evaluation on the test videos, which the official code selects: the last that beat all before it."""
        best = [record for record in self.records if record.get("best")]
        return best[-1] if best else max(self.records, key=lambda record: record.get("choice", record["average_mAP"]))

    @property
    def paper_average(self) -> str:
        return settings_class(self.config["method"]).PAPER_AVERAGE

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that its numbers depend on, without the seed."""
        free = MAY_DIFFER - {"num_iters", "lr"} | {"seed", "seed_used", *OF_ONE_START}
        return {name: value for name, value in self.config.items() if name not in free}


def finished_run(folder: Path) -> Run | None:
    """The run in `folder` if it is finished, else None. A run writes its report last."""
    log, settings = folder / "log.jsonl", folder / "config.json"
    try:
        config = read_json(settings, "the settings of a run", "")
        report = folder / f"report_seed_{config['seed']}.md"
        records = [json.loads(line) for line in read_text(log, "the log of a run", "").splitlines()]
        ended = records[-1]["iteration"] == config["num_iters"] and report.stat().st_mtime_ns >= log.stat().st_mtime_ns
    except (UserError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not ended:
        return None
    checked(settings, config, RUN_SETTINGS, DAMAGED)
    checked(log, records, listed(LOGGED), DAMAGED)
    return Run(config, records)


DAMAGED = "The file is damaged: train this seed again, or move its folder away."
RUN_SETTINGS = fields(
    {"method": one_of(METHODS), "seed": whole(-1), "num_iters": whole(1), "dataset": text, "modal": text},
    {"repaired": listed(text), "described": text},
    anything,
)


def is_finished(config: Config) -> bool:
    """True if the run of `config` is finished."""
    run = finished_run(Path(config.output_path))
    wanted = Run(json.loads(json.dumps(config.as_dict())), []).settings
    return run is not None and run.settings | wanted == run.settings


def write_summary(output: Path, runs: list[Run], asked: int, wide: bool = True) -> str:
    """Write the summary as Markdown, CSV and LaTeX table rows; returns the Markdown, or unless `wide` a table of 80 columns."""
    for number, run in enumerate(runs):
        figured = [set(figures(record, run.paper_average)) for record in (runs[0].last, run.last, run.best)]
        differ = [
            f"{name} {shown(runs[0].settings.get(name))} and {shown(value)}"
            for name, value in run.settings.items()
            if runs[0].settings.get(name) != value
        ]
        differ += ["the names of their figures"] * (figured != 3 * figured[:1])
        differ += [f"two have seed {run.seed}"] * (run.seed in [other.seed for other in runs[:number]])
        if differ:
            raise UserError(
                f"{output}: seeds {runs[0].seed} and {run.seed} are of runs with different settings: {'; '.join(differ)}. "
                "Train one of them again, or keep them in different folders."
            )
    if not is_text(str(output)):
        raise UserError(f"{str(output)!a}: is not UTF-8; expected a path in UTF-8. Rename the folder.")
    tables = tables_of(runs)
    paths = [output / f"seeds.{kind}" for kind in ("md", "csv", "tex")]
    written = "\nWritten:\n" + "".join(f"- {path}\n" for path in paths)
    text = markdown(runs, tables, asked) + written
    set_aside(paths)
    for path, content in zip(paths, (text, long_table(tables).to_csv(index=False), latex(runs, tables)), strict=True):
        with atomic_write(path) as stream:
            stream.write(content)
    return text if wide else brief(runs, tables, asked) + written


def tables_of(runs: list[Run]) -> dict[str, pandas.DataFrame]:
    """For each model, a table with one row per seed and one column per metric of log.jsonl."""
    last, best = (
        pandas.DataFrame.from_dict({run.seed: figures(record, run.paper_average) for run, record in chosen}, orient="index")
        for chosen in ([(run, run.last) for run in runs], [(run, run.best) for run in runs])
    )
    tables = {"last": last, "best": best, GAP: best - last}
    for name, records in (("last", [run.last for run in runs]), ("best", [run.best for run in runs])):
        values = [with_features(record, run) for record, run in zip(records, runs, strict=True)]
        if all(set(columns_of(run)) <= set(known) for known, run in zip(values, runs, strict=True)):
            tables[f"{name} {STAR}"] = pandas.DataFrame(values, index=last.index)
    return tables


def with_features(record: dict[str, Any], run: Run) -> dict[str, float]:
    """mAP and its averages over the videos that have features; {} if all have."""
    score = record.get("with_features")
    if not score:
        return {}
    return score["mAP"] | {f"avg {name}": value for name, value in averages_from(score, run.paper_average).items()}


def statistics_of(table: pandas.DataFrame) -> pandas.DataFrame:
    """One row per statistic; the standard deviation is the sample's, NaN for a single seed."""
    return table.agg(list(STATISTICS.values())).set_axis(list(STATISTICS))


def long_table(tables: dict[str, pandas.DataFrame]) -> pandas.DataFrame:
    """One row per value, with its model, its seed or statistic, and its metric."""
    whole = pandas.concat({model: pandas.concat([table, statistics_of(table)]) for model, table in tables.items()})
    return whole.rename_axis(index=["model", "row"], columns="metric").stack().rename("value").reset_index()


def columns_of(run: Run) -> list[str]:
    """The metrics that fit a page: mAP and its averages."""
    return [*run.last["mAP"], *(f"avg {name}" for name in averages_from(run.last, run.paper_average))]


def markdown(runs: list[Run], tables: dict[str, pandas.DataFrame], asked: int) -> str:
    columns = columns_of(runs[0])
    rows = [
        [model, statistic, *("" if value != value else f"{100 * value:.2f}" for value in values)]
        for model, own in tables.items()
        for statistic, *values in statistics_of(own[columns]).itertuples()
    ]
    by_seed = [
        [
            str(run.seed),
            model,
            str(chosen["iteration"]),
            *(f"{100 * value:.2f}" for value in tables[model].loc[run.seed, columns]),
        ]
        for run in runs
        for model, chosen in chosen_by_model(run, tables)
    ]
    return "\n".join(
        [
            table(["model", "over seeds", *columns], rows),
            table(["seed", "model", "iteration", *columns], by_seed),
            "{}. mAP in % at each tIoU, {}, {}. The standard deviation is that of a sample (n - 1).\n".format(
                *setting_of(runs, asked)
            ),
            *(f"{note}\n" for note in notes_on(runs, tables)),
        ]
    )


def brief(runs: list[Run], tables: dict[str, pandas.DataFrame], asked: int) -> str:
    """Mean and deviation of mAP, and the first average of each seed, in lines of at most WIDTH characters."""
    columns = columns_of(runs[0])
    models = [model for model in tables if model != GAP or f"last {STAR}" not in tables]
    statistics = {model: statistics_of(tables[model][columns]) for model in models}
    rows = [[_row_name(column), *(_mean(own[column], len(runs)) for own in statistics.values())] for column in columns]
    first = f"avg {next(iter(averages_from(runs[0].last, runs[0].paper_average)))}"
    by_seed = [[str(run.seed), *(f"{100 * tables[model].loc[run.seed, first]:.2f}" for model in models)] for run in runs]
    run, scoring, quirks = setting_of(runs, asked)
    lines = [f"{run}.", f"{scoring},", f"{quirks}.", *notes_on(runs, tables)]
    lines = [f"mAP in %, mean{' ± standard deviation of a sample (n - 1)' if len(runs) > 1 else ''}.", *lines]
    return "\n".join(
        [
            table(["in %", *models], rows),
            table([f"seed, {_row_name(first)}", *models], by_seed),
            "".join(f"{textwrap.fill(line, WIDTH)}\n" for line in lines),
        ]
    )


def _row_name(column: str) -> str:
    return column.replace("avg", "average") if column.startswith("avg") else f"tIoU {column}"


def _mean(values: pandas.Series, runs: int) -> str:
    mean, deviation = f"{100 * values['mean']:.2f}", 100 * values["standard deviation"]
    return f"{mean} ± {deviation:.2f}" if runs > 1 else mean


def chosen_by_model(run: Run, tables: dict[str, pandas.DataFrame]) -> list[tuple[str, dict[str, Any]]]:
    """The models of `tables` with their record of a run."""
    return [(model, run.best if model.startswith("best") else run.last) for model in tables if model != GAP]


def setting_of(runs: list[Run], asked: int) -> tuple[str, str, str]:
    """What the figures are of: the runs, the ground truth, the repaired quirks."""
    config, first = runs[0].config, runs[0].last
    described = f" ({config['described']})" if config.get("described") else ""
    count = seeds_text([run.seed for run in runs]) + (f" ({len(runs)} of {asked} are finished)" if len(runs) < asked else "")
    return (
        f"{config['method']}{as_markdown(described)} on {as_markdown(config['dataset'])}, --modal {config['modal']}, {count}",
        f"protocol {as_markdown(first['protocol'])} ({first['ground_truth']})",
        f"quirks repaired: {', '.join(config['repaired']) or 'none'}",
    )


def notes_on(runs: list[Run], tables: dict[str, pandas.DataFrame]) -> list[str]:
    notes = [
        "`best` is the best evaluation of each seed on the test videos, as the official code chooses it; `last` "
        f"involves no choice; `{GAP}` is the selection gap, what that choice adds."
    ]
    if f"last {STAR}" in tables:
        truth = runs[0].last["with_features"]["ground_truth"]
        notes.append(
            f"Some annotated test videos have no features. They count in the figures of each model; those marked {STAR} "
            f"exclude them ({truth})."
        )
    return notes + settings_class(runs[0].config["method"]).notes_on({f"seed {run.seed}": run.last for run in runs})


def latex(runs: list[Run], tables: dict[str, pandas.DataFrame]) -> str:
    """Rows to paste into a LaTeX table."""
    columns = columns_of(runs[0])
    lines = [f"% mAP in %, mean $\\pm$ standard deviation of {len(runs)} seeds: model & {' & '.join(columns)}"]
    for model in (model for model in tables if model != GAP):
        own = statistics_of(tables[model][columns])
        cells = zip(100 * own.loc["mean"], 100 * own.loc["standard deviation"], strict=True)
        texts = [f"{mean:.2f}" + (f" $\\pm$ {deviation:.2f}" if len(runs) > 1 else "") for mean, deviation in cells]
        lines.append(f"{model} & {' & '.join(texts)} \\\\")
    return "\n".join(lines) + "\n"
