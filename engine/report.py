"""The report of a run."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from config import Config
from eval.report import as_markdown, averages_from, figures, table
from eval.table import unknown_text

WIDTH, LONGEST = 80, 24  # characters of a line in the terminal, and of a model's name there
EXPLODED = 2  # times the loss of a network that finds all classes equally likely: above it, a loss has left its range


def exploded(record: Mapping[str, Any], config: Config) -> list[str]:
    """The losses of a record that have left their range, in words."""
    return [
        f"{name} is {record[name]:.4g}, where equally likely classes give {usual:.4g}"
        for name, usual in config.uniform_losses.items()
        if 0 < EXPLODED * usual < record.get(name, 0)
    ]


def explosion(records: Sequence[Mapping[str, Any]], config: Config) -> str:
    """A warning if the loss of an evaluation in `records` has left its range, else an empty text."""
    found = [record for record in records if exploded(record, config)]
    if not found:
        return ""
    times = f" and at {len(found) - 1} later evaluations" if len(found) > 1 else ""
    return (
        f"warning: the loss has left its range at iteration {found[0]['iteration']}{times}: "
        f"{'; '.join(exploded(found[0], config))}. The numbers of this run are of weights that have exploded; lower --lr "
        "(docs/running.md).\n"
    )


def report(records: Mapping[str, Mapping[str, Any]], evaluations: int, config: Config, seed: int) -> str:
    """A Markdown table of records by name, in percent, followed by notes on the numbers."""
    first = records[next(iter(records))]
    header = ["model", "iteration", *figures(first, config.PAPER_AVERAGE)]
    rows = []
    for name, record in records.items():
        values = figures(record, config.PAPER_AVERAGE).values()
        rows.append([name, str(record["iteration"]), *(f"{100 * value:.2f}" for value in values)])
        if record["with_features"]:
            score = record["with_features"]
            found = [*score["mAP"].values(), *averages_from(score, config.PAPER_AVERAGE).values()]
            cells = [f"{100 * value:.2f}" for value in found]
            rows.append([f"{name} *", str(record["iteration"]), *cells, *[""] * (len(values) - len(cells))])
    run, scoring, quirks = setting_of(records, config, seed)
    notes = notes_on(records, evaluations, config)
    return table(header, rows) + "\n" + "\n".join([f"{run}. mAP in % at each tIoU, {scoring}, {quirks}.", *notes]) + "\n"


def brief_report(records: Mapping[str, Mapping[str, Any]], evaluations: int, config: Config, seed: int) -> str:
    """The figures of a report that a reader looks for first, in lines of at most WIDTH characters."""
    columns = {}
    for name, record in records.items():
        name = name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}"
        columns[name] = {"iterations": str(record["iteration"])} | percent(record, config)
        columns[name]["video accuracy"] = f"{100 * record['test_acc']:.2f}"
        if record["with_features"]:
            columns[f"{name} *"] = percent(record["with_features"], config)
    rows = [[row, *(column.get(row, "") for column in columns.values())] for row in next(iter(columns.values()))]
    run, scoring, quirks = setting_of(records, config, seed)
    lines = [f"{run}.", f"{scoring},", f"{quirks}.", *notes_on(records, evaluations, config)]
    return table(["in %", *columns], rows) + "\n" + "\n".join(textwrap.fill(line, WIDTH) for line in lines) + "\n"


def percent(scores: Mapping[str, Any], config: Config) -> dict[str, str]:
    """mAP at each threshold and its averages, for a reader."""
    values = {f"mAP at tIoU {tiou}": value for tiou, value in scores["mAP"].items()}
    values |= {f"average {name}": value for name, value in averages_from(scores, config.PAPER_AVERAGE).items()}
    return {name: f"{100 * value:.2f}" for name, value in values.items()}


def setting_of(records: Mapping[str, Mapping[str, Any]], config: Config, seed: int) -> tuple[str, str, str]:
    """What the figures are of: the run, the ground truth, the repaired quirks."""
    first = records[next(iter(records))]
    return (
        f"{as_markdown(config.title)}, streams {'+'.join(config.streams)}, seed {seed}, precision {config.precision}",
        f"protocol {as_markdown(first['protocol'])} ({first['ground_truth']})",
        f"quirks repaired: {', '.join(config.repaired) or 'none'}",
    )


def notes_on(records: Mapping[str, Mapping[str, Any]], evaluations: int, config: Config) -> list[str]:
    """What to know about the figures."""
    first = records[next(iter(records))]
    notes = config.notes_on(records)
    if first["with_features"]:
        notes.append(
            "Some annotated test videos have no features. They count in the figures of each model; those "
            f"marked * exclude them ({first['with_features']['ground_truth']})."
        )
    if "best" in records:
        notes.append(
            f"`best` is the best of {evaluations} evaluations on the test videos by mAP (--choose_by {config.choose_by}), as "
            "in the official codes; `last` involves no choice."
        )
    unknown = {name: record["unknown_labels"] for name, record in records.items() if record.get("unknown_labels")}
    notes += [f"`{name}`: {as_markdown(unknown_text(labels))}" for name, labels in unknown.items()]
    return notes
