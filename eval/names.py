"""How names of videos and classes are spelled."""

import difflib
from collections.abc import Iterable


def spellings(video: str) -> tuple[str, str, str]:
    """A video's name, with and without the `v_` that ActivityNet's files begin with and its annotations leave out."""
    return video, f"v_{video}", video.removeprefix("v_")


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """` Did you mean X?` for the end of a message, or nothing where no name is near."""
    spelt = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), spelt, n=1)
    return f" Did you mean {spelt[near[0]]}?" if near else ""
