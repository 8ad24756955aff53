"""The actions of a video as text: a table, subtitles, and the files of annotation programs. Standard library only."""

import csv
import html
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree

from eval.report import csv_cell, table


class Action(NamedTuple):
    start: float  # seconds
    end: float
    label: str
    score: float


@dataclass(frozen=True)
class Timeline:
    """The actions of a video by their start."""

    video: str
    seconds: float
    actions: Sequence[Action]
    media: str  # the video's file, as the written files refer to it
    fps: float


def clock(seconds: float, decimals: int = 1, hours: bool = False) -> str:
    """`mm:ss.s`, or `h:mm:ss.s` from an hour on or if `hours`."""
    units = round(max(0.0, seconds) * 10**decimals)
    whole, rest = divmod(units, 10**decimals)
    minutes = f"{whole // 60 % 60:02}:{whole % 60:02}.{rest:0{decimals}}"
    return f"{whole // 3600:02}:{minutes}" if hours or whole >= 3600 else minutes


def plain(text: str) -> str:
    """Text on one line, without characters that a text file or XML may not have."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]+", " ", text).strip()


def terminal(timeline: Timeline) -> str:
    rows = [
        [f"{clock(action.start)} - {clock(action.end)}", action.label, f"{action.score:.3f}"] for action in timeline.actions
    ]
    return table(["time", "class", "score"], rows) if rows else "no action found\n"


CSV_HEADER = "video,start,end,class,score\n"


def csv_rows(timeline: Timeline) -> str:
    """One line for each action; names that a spreadsheet would compute begin with an apostrophe."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for action in timeline.actions:
        writer.writerow([csv_cell(timeline.video), action.start, action.end, csv_cell(action.label), action.score])
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------------------- subtitles


def vtt(timeline: Timeline) -> str:
    """WebVTT."""
    lines = ["WEBVTT", ""]
    for action in timeline.actions:
        if round(1000 * action.end) > round(1000 * max(0.0, action.start)):
            text = html.escape(plain(action.label), quote=False)
            lines += [f"{clock(action.start, 3, True)} --> {clock(action.end, 3, True)}", f"{text} ({action.score:.2f})", ""]
    return "\n".join(lines)


ASS_HEAD = """[Script Info]
Title: {title}
ScriptType: v4.00+
PlayResX: 640
PlayResY: 360

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, OutlineColour, Bold, BorderStyle, Outline, Alignment, MarginL, MarginR, MarginV
Style: Default,Arial,18,&H00FFFFFF,&H00000000,0,1,2,2,10,10,10

[Events]
Format: Layer, Start, End, Style, Text
"""


def ass(timeline: Timeline) -> str:
    """Advanced SubStation Alpha, which has no way to write a brace or a backslash."""

    def shown(text: str) -> str:
        return plain(text).translate(str.maketrans("{}\\", "()/"))

    lines = [
        f"Dialogue: 0,{clock(action.start, 2, True).removeprefix('0')},{clock(action.end, 2, True).removeprefix('0')},Default,"
        f"{shown(action.label)} ({action.score:.2f})\n"
        for action in timeline.actions
    ]
    return ASS_HEAD.format(title=shown(timeline.video)) + "".join(lines)


# --------------------------------------------------------------------------------------------------- annotation programs


def rows_apart(actions: Sequence[Action]) -> list[list[Action]]:
    """Actions in as few rows as the most that overlap, so that none in a row do."""
    rows: list[list[Action]] = []
    for action in sorted(actions, key=lambda action: action.start):
        row = next((row for row in rows if row[-1].end <= action.start), None)
        rows.append([action]) if row is None else row.append(action)
    return rows


def eaf(timeline: Timeline) -> str:
    """ELAN: one tier for each class, and further ones where actions of a class overlap, which ELAN allows in no tier."""
    root = ElementTree.Element("ANNOTATION_DOCUMENT", AUTHOR="", DATE=now().isoformat(), FORMAT="3.0", VERSION="3.0")
    header = ElementTree.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    address = quote(timeline.media)
    ElementTree.SubElement(
        header, "MEDIA_DESCRIPTOR", MEDIA_URL=address, MIME_TYPE="video/mp4", RELATIVE_MEDIA_URL=f"./{address}"
    )
    order, count = ElementTree.SubElement(root, "TIME_ORDER"), 0
    times: list[tuple[int, str]] = []
    taken: set[str] = set()
    for label in dict.fromkeys(action.label for action in timeline.actions):
        for number, row in enumerate(rows_apart([action for action in timeline.actions if action.label == label]), 1):
            name = plain(label) if number == 1 else f"{plain(label)} {number}"
            while name in taken:
                name += " "
            taken.add(name)
            tier = ElementTree.SubElement(root, "TIER", LINGUISTIC_TYPE_REF="action", TIER_ID=name)
            for action in row:
                count += 1
                slots = {"TIME_SLOT_REF1": f"ts{2 * count - 1}", "TIME_SLOT_REF2": f"ts{2 * count}"}
                times += [(round(1000 * max(0.0, time)), slot) for time, slot in zip(action[:2], slots.values(), strict=True)]
                own = ElementTree.SubElement(ElementTree.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", slots)
                own.set("ANNOTATION_ID", f"a{count}")
                ElementTree.SubElement(own, "ANNOTATION_VALUE").text = f"{plain(label)} {action.score:.3f}"
    for time, slot in sorted(times):
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
    ElementTree.SubElement(
        root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="action", TIME_ALIGNABLE="true"
    )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def label_studio(timeline: Timeline) -> str:
    """A Label Studio task with predictions for <TimelineLabels name="actions" toName="video">; its frames begin at 1."""
    result = [
        {
            "id": f"action{number}",
            "type": "timelinelabels",
            "from_name": "actions",
            "to_name": "video",
            "score": action.score,
            "value": {
                "ranges": [
                    {"start": 1 + int(max(0.0, action.start) * timeline.fps), "end": 1 + int(action.end * timeline.fps)}
                ],
                "timelinelabels": [action.label],
            },
        }
        for number, action in enumerate(timeline.actions, 1)
    ]
    best = max((action.score for action in timeline.actions), default=0.0)
    prediction = {"model_version": "basnet", "score": best, "result": result}
    return json.dumps([{"data": {"video": timeline.media}, "predictions": [prediction]}], indent=1) + "\n"


def via(timeline: Timeline) -> str:
    """A project of the VGG Image Annotator 3: one temporal segment for each action."""
    labels = list(dict.fromkeys(action.label for action in timeline.actions))
    attributes: dict[str, Any] = {
        "1": {"aname": "class", "type": 4, "options": {str(number): label for number, label in enumerate(labels)}},
        "2": {"aname": "score", "type": 1, "options": {}},
    }
    for attribute in attributes.values():
        attribute |= {"anchor_id": "FILE1_Z2_XY0", "desc": "", "default_option_id": ""}
    segments = {
        f"1_{number:08}": {
            "vid": "1",
            "flg": 0,
            "z": [round(max(0.0, action.start), 3), round(action.end, 3)],
            "xy": [],
            "av": {"1": str(labels.index(action.label)), "2": f"{action.score:.3f}"},
        }
        for number, action in enumerate(timeline.actions, 1)
    }
    project = {"pid": "__VIA_PROJECT_ID__", "rev": "__VIA_PROJECT_REV_ID__", "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__"}
    project |= {"pname": timeline.video, "creator": "", "data_format_version": "3.1.1"}
    content = {
        "project": project | {"created": int(1000 * now().timestamp()), "vid_list": ["1"]},
        "config": {
            "file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
            "ui": {
                "file_content_align": "center",
                "file_metadata_editor_visible": True,
                "spatial_metadata_editor_visible": False,
                "temporal_segment_metadata_editor_visible": True,
                "spatial_region_label_attribute_id": "",
                "gtimeline_visible_row_count": "4",
            },
        },
        "attribute": attributes,
        "file": {"1": {"fid": "1", "fname": timeline.media, "type": 4, "loc": 1, "src": ""}},
        "metadata": segments,
        "view": {"1": {"fid_list": ["1"]}},
    }
    return json.dumps(content, indent=1) + "\n"


def now() -> datetime:
    return datetime.now(UTC)


# ------------------------------------------------------------------------------------------------------------------ page

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px sans-serif; max-width: 860px; margin: 1em auto }}
video {{ width: 100%; max-height: 60vh; background: #000 }}
.row {{ display: flex; margin: 3px 0 }}
.name {{ width: 150px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }}
.line {{ position: relative; flex: 1; height: 18px; background: #eee }}
.line button {{ position: absolute; height: 100%; border: 0; padding: 0; background: #06c; cursor: pointer }}
</style>
<h1>{title}</h1>
<video id="video" controls preload="metadata" src="{source}">
<track default kind="subtitles" srclang="en" label="actions" src="data:text/vtt;charset=utf-8,{subtitles}">
</video>
{rows}
<p>Click on an action to play it. Darker ones have higher scores.</p>
<script>
document.querySelectorAll("button").forEach(button => button.onclick = () => {{
  const video = document.getElementById("video");
  video.currentTime = button.dataset.start;
  video.play();
}});
</script>
</html>
"""


def page(timeline: Timeline) -> str:
    """A page that plays the video beside its actions, which play when they are clicked."""
    best = max((action.score for action in timeline.actions), default=1.0)
    rows = []
    for label in dict.fromkeys(action.label for action in timeline.actions):
        bars = []
        for action in sorted((a for a in timeline.actions if a.label == label), key=lambda action: action.score):
            left, right = (100 * min(max(time / timeline.seconds, 0.0), 1.0) for time in (action.start, action.end))
            strength = max(0.1, action.score / best) if best > 0 else 1.0
            title = html.escape(f"{clock(action.start)} - {clock(action.end)}  {action.score:.3f}")
            style = f"left:{left:.3f}%;width:{right - left:.3f}%;opacity:{min(1.0, strength):.2f}"
            bars.append(f'<button data-start="{max(0.0, action.start):.3f}" title="{title}" style="{style}"></button>')
        name = html.escape(plain(label))
        rows.append(
            f'<div class="row"><div class="name" title="{name}">{name}</div><div class="line">{"".join(bars)}</div></div>'
        )
    return PAGE.format(
        title=html.escape(plain(timeline.video)),
        source=html.escape(quote(timeline.media)),
        subtitles=quote(vtt(timeline)),
        rows="\n".join(rows) or "<p>No action found.</p>",
    )


WRITERS: Mapping[str, tuple[str, Callable[[Timeline], str]]] = {  # by name of the format: ending of the file, writer
    "vtt": (".vtt", vtt),
    "ass": (".ass", ass),
    "eaf": (".eaf", eaf),
    "labelstudio": (".labelstudio.json", label_studio),
    "via": (".via.json", via),
    "html": (".html", page),
}


def address(video: Path, folder: Path) -> str:
    """The path of a video's file from a folder, with slashes."""
    try:
        return str(PurePosixPath(*Path(os.path.relpath(video.resolve(), folder.resolve())).parts))
    except ValueError:  # on another drive
        return video.resolve().as_posix()
