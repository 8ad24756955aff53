"""Spelling of video and class names."""

import difflib
from collections.abc import Iterable


def spellings(video: str) -> tuple[str, str, str]:
    """A video's name as given, with `v_` and without: ActivityNet's feature files have that prefix, its annotations do not."""
    return video, f"v_{video}", video.removeprefix("v_")


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """` Did you mean X?` to append to a message; empty if no name is close."""
    spelt = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), spelt, n=1)
    return f" Did you mean {spelt[near[0]]}?" if near else ""
