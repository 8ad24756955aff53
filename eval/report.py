"""Results as text: the official record file and the report of a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config import Config


def best_record_text(record: Mapping[str, Any]) -> str:
    """The official best_record file: fractions, four decimals."""
    lines = [f"Step: {record['iteration']}", f"Test_acc: {record['test_acc']:.2f}", f"average_mAP: {record['average_mAP']:.4f}"]
    return "\n".join(lines + [f"mAP@{tiou}: {value:.4f}" for tiou, value in record["mAP"].items()]) + "\n"


def report(records: Mapping[str, Mapping[str, Any]], evaluations: int, config: "Config", seed: int) -> str:
    """A Markdown table of records by name, in percent, with what the numbers mean."""
    first = records[next(iter(records))]
    header = ["model", "iteration", *first["mAP"], *(f"avg {name}" for name in first["averages"]), "video acc", "cls mAP"]
    rows = []
    for name, record in records.items():
        values = [*record["mAP"].values(), *record["averages"].values(), record["test_acc"], record["classification_mAP"]]
        rows.append([name, str(record["iteration"]), *(f"{100 * value:.2f}" for value in values)])
    notes = [
        f"{config.method} ({config.ablation}) on {config.dataset}, streams {'+'.join(config.streams)}, seed {seed}. "
        f"mAP in % at each tIoU, protocol {config.protocol} ({first['ground_truth']}), "
        f"quirks repaired: {', '.join(config.repaired) or 'none'}."
    ]
    if "best" in records:
        notes.append(
            f"`best` is the best of {evaluations} evaluations on the test videos, as the official code chooses it (quirk B9); "
            "`last` involves no choice."
        )
    return table(header, rows) + "\n" + "\n".join(notes) + "\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that is aligned in a terminal too."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "".join("| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |\n" for line in lines)
