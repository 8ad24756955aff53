"""Model files that carry the settings of their training: weights in the safetensors format, all else in its metadata.

A plain state dict, which the official codes read and write, has no settings; they are looked for beside it.
"""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from methods.recipes import OF_ONE_START
from utils import UserError, atomic_write

SUFFIX = ".safetensors"
BLANK = b"0" * 8  # stands for the checksum while it is computed
CHECKSUM = b'"checksum":"'
MOST_HEADER = 100_000_000  # bytes, the limit of the format's own library
FACTS = ("dataset", "modal", "len_feature", "timing", "fps", "snippet_frames", "tiou_thresholds", "protocol")


def write_model(path: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write weights with what they were trained with; `settings` are those of the run's config file."""
    origin = settings.get("provenance", {})
    parts: dict[str, Any] = {
        "config": {name: value for name, value in settings.items() if name not in OF_ONE_START},
        "classes": settings["classes"],
        "dataset": {name: settings[name] for name in FACTS},
        "record": record,
        "versions": {name: value for name, value in origin.items() if name not in ("command", "device", "git_revision")},
    }
    metadata = {name: json.dumps(value) for name, value in parts.items()}
    metadata |= {"format": "pt", "protocol": str(record.get("protocol", settings["protocol"])), "checksum": BLANK.decode()}
    metadata |= {"seed": str(settings.get("seed_used", settings["seed"])), "revision": origin.get("git_revision", "unknown")}
    data = safetensors.torch.save({name: value.contiguous() for name, value in weights.items()})
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": metadata} | json.loads(data[8:size]), separators=(",", ":"))  # the library shuffles it
    header += " " * (-len(header) % 8)
    with atomic_write(path, "wb") as stream:
        stream.writelines(sealed(len(header).to_bytes(8, "little") + header.encode(), memoryview(data)[size:]))


def sealed(start: bytes, rest: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """The header, of which a blank checksum is filled in, and the weights of a file."""
    check = zlib.crc32(rest, zlib.crc32(start))
    return start.replace(CHECKSUM + BLANK, CHECKSUM + f"{check:08x}".encode(), 1), rest


def read_model(path: str | Path) -> dict[str, Any]:
    """Weights as `network` and settings as `config`, if there are any; raises almost any exception on a damaged file."""
    data = Path(path).read_bytes()
    place = data.find(CHECKSUM, 0, 8 + int.from_bytes(data[:8], "little"))
    if place >= 0:
        start, end = place + len(CHECKSUM), place + len(CHECKSUM) + len(BLANK)
        own = zlib.crc32(memoryview(data)[end:], zlib.crc32(BLANK, zlib.crc32(memoryview(data)[:start])))
        if data[start:end] != f"{own:08x}".encode():
            raise ValueError("its checksum is wrong")
    weights = {name: value.clone() for name, value in safetensors.torch.load(data).items()}
    settings = settings_in(path)
    if settings and place < 0:
        raise ValueError("its checksum is missing")
    return {"network": weights} | ({"config": settings} if settings else {})


def settings_in(path: str | Path) -> Mapping[str, Any]:
    """The settings in the metadata of a safetensors file, of which only the header is read; {} if it has none."""
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > MOST_HEADER:
            raise ValueError(f"its header claims {size:,} bytes")
        header = json.loads(stream.read(size))
    settings = json.loads(header.get("__metadata__", {}).get("config", "{}"))
    if not isinstance(settings, Mapping):
        raise ValueError("the settings in its metadata are not an object")
    return settings


def settings_beside(path: Path) -> tuple[Path, Mapping[str, Any]]:
    """The settings of a plain state dict's training, and their file; {} if there is none.

    They are in the .safetensors of the same name, in a .json of the same name (tools/leftthomas.py), or in the config of
    the run of the same seed, which lies beside the model or in the folder of outputs that has the name of the model's folder.
    """
    if (twin := path.with_suffix(SUFFIX)).is_file() and twin != path:
        try:
            return twin, settings_in(twin)
        except (OSError, ValueError, RecursionError, AttributeError, TypeError) as error:
            raise UserError(
                f"{twin}: cannot be read ({str(error)[:200]}); expected the settings of {path.name}, which lies beside it. It "
                "is damaged: copy it again, or move it away and give the settings as flags."
            ) from None
    if settings := _settings_of_json(twin := path.with_suffix(".json")):
        return twin, settings
    folder = path.resolve().parent
    if seed := re.search(r"seed_(-?\d+)", path.stem):
        outputs = Path(*({"models": "outputs", "model": "output"}.get(part, part) for part in folder.parts))
        for file in (place / name for place in (folder, outputs) for name in (f"config_{seed[0]}.json", "config.json")):
            settings = _settings_of_json(file)
            where = settings.get("model_path")
            if settings.get("seed") == int(seed[1]) and isinstance(where, str) and Path(where).name == folder.name:
                return file, settings
    return path, {}


def _settings_of_json(path: Path) -> Mapping[str, Any]:
    settings = read_settings(path)
    return {name: value for name, value in settings.items() if name not in OF_ONE_START} if "method" in settings else {}


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} if there is none that can be read."""
    if not path.is_file():  # nor is a pipe read, which may never end
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}
