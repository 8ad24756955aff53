"""What a run shows in the terminal: lines, and below them a bar while it trains. All lines go through here, above the bar."""

import sys
import time
import warnings
from typing import Any

from tqdm import tqdm

from utils import say_now

UNKNOWN = "?"


def say(text: str) -> None:
    tqdm.write(text)
    sys.stdout.flush()


def warn(text: str) -> None:
    with tqdm.external_write_mode(file=sys.stderr):
        say_now(text)


def clock(seconds: float) -> str:
    """`1:05`, `2:01:05`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class Bar(tqdm):
    """tqdm's bar with the time until the end of the run."""

    eta = UNKNOWN

    @property
    def format_dict(self) -> dict[str, Any]:
        return super().format_dict | {"eta": self.eta}


class Progress:
    """Measures steps and evaluations of a run; on a terminal shows the bar, unless `hidden`."""

    def __init__(self, done: int, num_iters: int, interval: int, hidden: bool):
        self.steps, self.evaluations = [0, 0.0], [0, 0.0]  # how many, and their seconds together
        self.steps_to_do = num_iters - done
        self.evaluations_to_do = -(-num_iters // interval) - max(0, done - 1) // interval  # one may be due at once
        form = "{n_fmt}/{total_fmt} |{bar}| {rate_fmt}, eta {eta}{postfix}"
        hidden = hidden or not sys.stderr.isatty()
        self.bar = Bar(initial=done, total=num_iters, bar_format=form, dynamic_ncols=True, unit="it", disable=hidden)
        self.warnings = warnings.catch_warnings()

    def __enter__(self) -> "Progress":
        self.warnings.__enter__()
        if not self.bar.disable:
            warnings.showwarning = lambda *about: warn(warnings.formatwarning(*about[:4]).rstrip())
        self.begun = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self.warnings.__exit__(None, None, None)

    def close(self) -> None:
        self.bar.close()

    def stepped(self) -> float:
        """Count a training step; returns its seconds."""
        seconds = self._count(self.steps)
        self.bar.update()
        return seconds

    def evaluated(self) -> None:
        self._count(self.evaluations)

    def show(self, loss: float | None, rate: float, best: float | None) -> None:
        """Show the last known loss, the learning rate and the best mAP so far, a fraction, in percent."""
        if self.bar.disable:
            return
        left = self.seconds_left()
        self.bar.eta = UNKNOWN if left is None else clock(left)
        known = [f"loss {loss:.4f}"] if loss is not None else []
        known += [f"lr {rate:.1e}", f"best mAP {UNKNOWN if best is None else f'{100 * best:.2f}'}"]
        self.bar.set_postfix_str(", ".join(known), refresh=False)

    def seconds_left(self) -> float | None:
        """Seconds until the end of the run, evaluations included; None before a step and an evaluation are measured."""
        seconds = 0.0
        for (count, spent), to_do in ((self.steps, self.steps_to_do), (self.evaluations, self.evaluations_to_do)):
            if to_do > count == 0:
                return None
            seconds += (to_do - count) * spent / max(1, count)
        return seconds

    def _count(self, measured: list[Any]) -> float:
        now = time.monotonic()
        seconds, self.begun = now - self.begun, now
        measured[0] += 1
        measured[1] += seconds
        return seconds
