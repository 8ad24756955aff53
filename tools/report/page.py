"""Writes the page: one HTML file with style, scripts and numbers inside, and shards of videos beside it if they are many."""

import html
from pathlib import Path
from typing import Any

from tools.report.pack import as_script
from utils import atomic_write

HERE = Path(__file__).resolve().parent
SCRIPTS = (
    "localize.js",
    "judge.js",
    "live.js",
    "charts.js",
    "timeline.js",
    "overview.js",
    "sections.js",
    "film.js",
    "sliders.js",
    "shown.js",
    "player.js",
    "page.js",
)
MOST_INSIDE = 7_000_000  # bytes of videos that the page itself holds
SHARD = 2_000_000  # bytes of one shard


def write_page(path: Path, numbers: dict[str, Any], videos: list[dict[str, Any]]) -> list[Path]:
    """Returns the files written, the page first."""
    texts = [as_script(video) for video in videos]
    shards = shards_of([len(text) for text in texts])
    inside = sum(map(len, texts)) <= MOST_INSIDE
    folder = path.with_name(f"{path.stem}_files")
    place = {number: shard for shard, numbers in enumerate(shards) for number in numbers}
    index = [
        {"name": video["name"], "shard": place[number], "labels": sorted({row[0] for row in video["truth"]})}
        for number, video in enumerate(videos)
    ]
    lists = ["[" + ",".join(texts[number] for number in numbers) + "]" for numbers in shards]
    files = [path]
    if not inside:
        for number, text in enumerate(lists):
            files.append(folder / f"videos_{number}.js")
            with atomic_write(files[-1]) as stream:
                stream.write(f"receiveVideos({number}, {text});\n")
    addresses = [] if inside else [f"{folder.name}/{file.name}" for file in files[1:]]
    blocks = "".join(
        f'<script type="application/json" id="videos-{number}">{text}</script>\n' for number, text in enumerate(lists)
    )
    data = as_script(numbers | {"videos": index, "shards": addresses, "name": path.stem})
    with atomic_write(path) as stream:
        stream.write(assembled(numbers["title"], data, blocks if inside else ""))
    return files


def assembled(title: str, data: str, blocks: str) -> str:
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (HERE / "page.css").read_text(encoding="utf-8"),
        "DATA": f'<script type="application/json" id="numbers">{data}</script>\n{blocks}',
        "SCRIPT": "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    pieces = (HERE / "page.html").read_text(encoding="utf-8").split("%%")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def shards_of(sizes: list[int]) -> list[list[int]]:
    """Numbers of the videos of each shard, in their order; a shard holds at least one video, and about SHARD bytes."""
    shards: list[list[int]] = [[]]
    held = 0
    for number, size in enumerate(sizes):
        if shards[-1] and held + size > SHARD:
            shards.append([])
            held = 0
        shards[-1].append(number)
        held += size
    return shards
