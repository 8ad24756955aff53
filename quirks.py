"""What the official codes do that nobody would expect, by id (docs/quirks.md).

`--compat official` reproduces every quirk, `--compat fixed` repairs all that are REPAIRABLE, `--fix B1,B4` a chosen few. The
default is official where there is an official number to reproduce, else fixed (recipes.py).
"""

import re
from collections.abc import Mapping
from typing import Any

from utils import UserError

REPAIRABLE = {
    "basnet": {
        "B1": "a video whose only predicted class is number 0 yields no detection",
        "B2": "a video where no class passes the threshold yields no detection",
        "B3": "the class term of a proposal's score is the thresholded score, so always 1",
        "B4": "non-maximum suppression adds one second to lengths and intersections",
        "B6": "after the first pass every batch is the first batch of a new shuffle",
    },
    "um": {
        "O2": "non-maximum suppression adds one second to lengths and intersections",
        "L1": "the uncertainty loss averages over channels and takes its norm over snippets",
        "L2": "background snippets are picked among those that the mask has dropped",
        "L8": "overlaps are rounded to single precision in scoring",
    },
    "backtal": {
        "B2": "non-maximum suppression adds one second to lengths and intersections",
        "B5": "a proposal that is the first frame alone is none",
        "B6": "what surrounds a proposal on its right is one frame short",
        "B15": "a video where no class passes the threshold yields no detection",
    },
    "asm_loc": {
        "Q2": "the best model of a step has to beat those of all earlier steps",
        "Q4": "training videos of ActivityNet are stretched by proposals of classes that they do not have",
        "Q8": "non-maximum suppression adds one second to lengths and intersections",
        "Q28": "durations are ignored: a video lasts as long as its rows",
    },
}

LOSING = {"basnet": ("B1", "B2"), "um": (), "backtal": ("B5", "B15"), "asm_loc": ()}  # may leave a class without a detection


def repaired(method: str, compat: str, fix: str) -> tuple[str, ...]:
    """The ids that a run repairs, in order."""
    known = REPAIRABLE[method]
    wanted = [name.upper() for name in re.sub(r"[\s'\"\[\]()]", "", fix).split(",") if name]  # a list in options.py, too
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(
            f"--fix {fix}: {', '.join(unknown)} cannot be chosen; expected ids among {', '.join(known)} "
            "separated by commas (docs/quirks.md says what each one is)."
        )
    return tuple(name for name in known if name in wanted or compat == "fixed")


def notes_on_lost(method: str, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What quirks took from the results of `records`, by their names."""
    lost = {name: record["lost"] for name, record in records.items() if record.get("lost")}
    notes = []
    for quirk in LOSING[method]:
        counts = ", ".join(f"{counts[quirk]} (`{name}`)" for name, counts in lost.items() if quirk in counts)
        if counts:
            notes.append(
                f"Quirk {quirk} of the official code ({REPAIRABLE[method][quirk]}) leaves classes of test videos without a "
                f"detection: {counts}. --fix {quirk} keeps them."
            )
    return notes
