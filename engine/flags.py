"""The parser and the argument types of options.py and of the methods' files.

Standard library only.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, NoReturn, TypeVar

from config import Config
from eval.names import did_you_mean
from eval.reading import InputError, is_text, short

Group = argparse.ArgumentParser | argparse._ArgumentGroup
T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser whose errors suggest similar names."""

    def __init__(self, owners: Callable[[str], list[str]] = lambda flag: [], **settings: Any):
        """`owners(flag)` returns the methods that have a flag unknown to this parser."""
        usage = "main.py [FLAGS] (train and evaluate) or main_eval.py --model_file FILE [FLAGS] (evaluate)"
        super().__init__(usage=usage, allow_abbrev=False, **settings)
        self.owners = owners

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            text = f"{value!r} is none of {', '.join(names)}.{did_you_mean(str(value), names)}"
            raise argparse.ArgumentError(action, text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse names that UTF-8 cannot write: a report names the folders of its run, and is the last thing to be written."""
        words = [*(sys.argv[1:] if args is None else args), os.getcwd()]
        if odd := [word for word in words if not is_text(word)]:
            shown = odd[0].encode(errors="backslashreplace").decode()
            self.error(f"{shown}: is not UTF-8; expected names in UTF-8. Rename the file or folder, or name another.")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
            message = f"{message}." + "".join(f" {flag}:{hint}" for flag in flags if (hint := self._hint(flag)))
        super().error(message)

    def _hint(self, flag: str) -> str:
        """A hint for an unknown flag: the methods that have it, or a flag with a similar name."""
        owners = self.owners(flag.lstrip("-"))
        if owners:
            return f" a flag of --method {' or '.join(owners)}."
        near = did_you_mean(flag.lstrip("-"), [name.lstrip("-") for name in self._option_string_actions])
        return near.replace("mean ", "mean --")

    def check_default(self, action: argparse.Action, file: str) -> None:
        """Parse a default, which may be edited in `file`, like a value on the command line."""
        if action.default in (None, argparse.SUPPRESS) or action.nargs == 0:
            return
        try:
            action.default = self.checked(action, action.default)
        except ValueError as error:
            self.error(f"{file}: the default {action.default!r} of {action.option_strings[0]}: {error}")

    def checked(self, action: argparse.Action, value: Any) -> Any:
        """A value of a file, parsed like one on the command line; raises a ValueError that says what is wrong with it."""
        text = str(list(value)) if isinstance(value, list | tuple) else "none" if value is None else str(value)
        try:
            if value is None and action.default is None:
                return None
            value = action.type(text) if callable(action.type) else text if action.choices is None else value
            self._check_value(action, value)
        except (ValueError, argparse.ArgumentTypeError, argparse.ArgumentError) as error:
            raise ValueError(error.message if isinstance(error, argparse.ArgumentError) else str(error)) from None
        return value

    def take(self, settings: Mapping[str, Any], source: object) -> dict[str, Any]:
        """Make `settings`, which were read from a file, the defaults of their flags; returns those that have a flag."""
        taken = {}
        for action in self._actions:
            if action.dest in settings and action.nargs != 0:
                try:
                    action.default = taken[action.dest] = self.checked(action, settings[action.dest])
                except ValueError as error:
                    raise InputError(
                        f"{source}: the setting {action.dest} is {short(settings[action.dest])}: {error}. Correct it, or name "
                        "another --model_file."
                    ) from None
        return taken


def own_flags(kind: type[Config]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a method's settings that are flags (config.flag), by name of the flag."""
    return {field.name: field for field in dataclasses.fields(kind) if "help" in field.metadata}


def add_own_flags(group: Group, kind: type[Config]) -> None:
    for name, field in own_flags(kind).items():
        group.add_argument(f"--{name}", default=field.default, help=field.metadata["help"], **field.metadata["parsing"])


def optional(kind: Callable[[str], T]) -> Callable[[str], T | None]:
    return lambda text: None if text == "none" else kind(text)


def positive_integer(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def at_most(most: int, kind: Callable[[str], int] = positive_integer) -> Callable[[str], int]:
    """`kind` up to a bound that no machine or video reaches."""

    def integer(text: str) -> int:
        value = kind(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{value} is more than {most}")
        return value

    return integer


def positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1000000, or is 0")
    return value


def not_negative_integer(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def not_negative_number(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1000000")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def seed(text: str) -> int:
    value = int(text)
    if not -1 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not in -1..4294967295")
    return value


MOST_SEEDS = 10_000
MOST_THREADS = 1_024  # or processes


def seed_list(text: str) -> tuple[int, ...]:
    """Seeds from `0-9` or `0,3,7-9`."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part, re.ASCII)
        if match is None:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a seed nor a range of seeds such as 0-9")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < min(2**32, first + MOST_SEEDS - len(seeds)):
            raise argparse.ArgumentTypeError(
                f"{part} is not in order, not in 0..4294967295, or makes more than {MOST_SEEDS} seeds"
            )
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice")
    return tuple(seeds)


def interval(text: str) -> str:
    if text != "epoch" and not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither epoch nor a number of iterations")
    return text if text == "epoch" else str(int(text))


def device(text: str) -> str:
    kind, _, number = text.partition(":")
    if text in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isascii() and number.isdigit()):
        return text
    hint = did_you_mean(text, ("auto", "cpu", "cuda"))
    raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N.{hint}")


def file_name(text: str) -> str:
    if not PurePath(text).name:
        raise argparse.ArgumentTypeError(f"{text!r} is not a file name")
    return text
