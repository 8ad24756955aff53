"""Published figures beside those of a run, and whether the two can be compared."""

from pathlib import Path
from typing import Any

from tools.report.runs import Run
from utils import read_json

FIGURES = Path(__file__).resolve().parent.parent.parent / "docs" / "published.json"


def published(run: Run) -> dict[str, Any]:
    """Rows of published mAP by tIoU, their source, and a sentence on comparing them with the run."""
    if not FIGURES.exists():  # the project is installed without its pages
        return {"rows": [], "source": "", "sentence": "Published figures are in docs/published.json, which is not installed."}
    content = read_json(FIGURES, "published figures", "Restore docs/published.json.").get(run.dataset)
    if content is None:
        return {"rows": [], "source": "", "sentence": f"No figures are published for the data set {run.dataset}."}
    method = run.config.method if run.config else None
    rows = [row for name, row in content["methods"].items() if method in (None, name)]
    if not rows:
        sentence = f"No figures of {method} are published for the data set {run.dataset}."
    elif run.config is None:
        sentence = (
            "The method of these detections is not known, so the rows of several papers are shown. A row can be compared only "
            f"if it was scored under the same protocol as these detections ({run.protocol})."
        )
    else:
        sentence = _compared(run, rows[0])
    tious = list(map("{:g}".format, content["tiou"]))
    rows = [row | {"mAP": dict(zip(tious, row["mAP"], strict=True))} for row in rows]
    return {"rows": rows, "source": content["source"], "sentence": sentence}


def _compared(run: Run, row: dict[str, Any]) -> str:
    name, usual = row["name"], row["protocols"]
    if not usual:
        return f"The ground truth under which {name} was scored is not known exactly, so compare with caution."
    if run.protocol not in usual:
        return (
            f"Not comparable: {name} was scored under {' or '.join(usual)}, this run under {run.protocol}, whose ground truth "
            "differs."
        )
    return (
        f"Comparable: {name} was scored under {run.protocol} too. Compare it with the best evaluation, because the official "
        "code also selects its model on the test videos. Other features or settings than the published ones make a difference."
    )
