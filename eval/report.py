"""Results as text: figures and averages of a record, AP per class, one row per protocol."""

import re
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from eval.table import Table, size

if TYPE_CHECKING:
    import pandas

    from eval.eval_detection import DetectionScore


def averages_from(record: Mapping[str, Any], first: str) -> dict[str, float]:
    """Average mAPs of a record by tIoU range. `first` leads, or that over all thresholds if `first` is not covered."""
    known, tious = record["averages"], list(record["mAP"])
    name = next((name for name in (first, f"{tious[0]}:{tious[-1]}") if name in known), "all")
    return {name: known.get(name, fmean(record["mAP"].values()))} | known


def figures(record: Mapping[str, Any], first: str) -> dict[str, float]:
    """The figures of a record that a report prints, by column name; `first` is the range of the leading average."""
    averages = {f"avg {name}": value for name, value in averages_from(record, first).items()}
    accuracies = {"video acc": record["test_acc"], "top-1": record["top1"], "cls mAP": record["classification_mAP"]}
    return record["mAP"] | averages | accuracies | record["average_recall"]


def per_class(scores: Mapping[str, "DetectionScore"], found: Table) -> "pandas.DataFrame":
    """AP of every class under every protocol, with its numbers of ground truths and detections."""
    import pandas  # imported here because the import takes half a second

    places = {name: number for number, name in enumerate(found.labels)}
    rows = []
    for protocol, score in scores.items():
        for number, label in enumerate(score.labels):
            row = {"protocol": protocol, "class": label, "ground truths": int((score.truth.label == number).sum())}
            row["detections"] = int((found.label == places.get(label, -1)).sum())
            rows.append(row | {f"AP@{tiou:g}": value for tiou, value in zip(score.tiou, score.ap[number], strict=True)})
            rows[-1]["mean"] = score.ap[number].mean()
    return pandas.DataFrame(rows)


def per_class_text(frame: "pandas.DataFrame") -> str:
    """The table of `per_class` as Markdown, AP in percent."""
    names = [name for name in frame.columns if name.startswith("AP@") or name == "mean"]
    shown = frame.assign(**{name: (100 * frame[name]).map("{:.2f}".format) for name in names})
    return table(list(shown.columns), [[str(value) for value in row] for row in shown.itertuples(index=False)])


def per_class_csv(frame: "pandas.DataFrame") -> str:
    """The table of `per_class` as CSV. A name that a spreadsheet would compute begins with an apostrophe."""
    return frame.assign(**{name: frame[name].map(csv_cell) for name in ("protocol", "class")}).to_csv(index=False)


def csv_cell(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else name


def as_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line; names of letters, digits and usual signs stay as they are."""
    return re.sub(r"[\\|<`\[]", r"\\\g<0>", " ".join(re.split(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", text)))


def protocols_text(scores: Mapping[str, "DetectionScore"]) -> str:
    """A Markdown table of one row per protocol: its ground truth, and mAP in percent."""
    first = next(iter(scores.values()))
    header = ["protocol", "videos", "ground truths", "hash", *(f"{tiou:g}" for tiou in first.tiou)]
    header += [f"avg {name}" for name in first.averages]
    rows = [
        [name, *map(str, size(score.truth)), score.ground_truth]
        + [f"{100 * value:.2f}" for value in (*score.mAP, *score.averages.values())]
        for name, score in scores.items()
    ]
    return table(header, rows)


def unmatched_text(scores: Mapping[str, "DetectionScore"], otherwise: Mapping[str, "DetectionScore"]) -> str:
    """Notes about unmatched detections, and the scores with the other treatment of unlisted videos."""
    said: dict[str, list[str]] = {}
    for name, score in scores.items():
        for note in score.notes:
            said.setdefault(note, []).append(name)
    text = "".join(f"{', '.join(names)}: {note}\n" for note, names in said.items())
    if otherwise:
        text += f"With --unlisted {next(iter(otherwise.values())).unlisted}:\n{protocols_text(otherwise)}"
    return text


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, aligned for the terminal."""
    header, rows = [as_markdown(cell) for cell in header], [[as_markdown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "".join("| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |\n" for line in lines)
