"""What is random in a training iteration: its videos, the rows shown of each, and what dropout keeps.

`Draws` are ours. `OfficialDraws` are those of BaS-Net's official program with --num_workers 0 (docs/basnet.md, section 9).
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from config import Config
from dataset.video import Indices
from utils import UserError

SHUFFLE, ROWS, DROPOUT = 1, 2, 3  # what a generator is for is part of its key, so that no two uses share a stream


def random_state(*key: int, again: np.random.RandomState | None = None) -> np.random.RandomState:
    """numpy's legacy generator keyed by integers such as (ROWS, seed, iteration, video): no state to carry or to save.

    Making one takes ten times as long as giving `again` one a new key.
    """
    state = again or np.random.RandomState(0)
    state.seed(key)
    return state


def batch_videos(num_videos: int, batch_size: int, iteration: int, seed: int, official: bool) -> Indices:
    """Which videos iteration 0, 1, ... trains on: shuffled passes, the short last batch kept.

    Officially (quirk B6) only the first pass is one: later iterations each take the first batch of a new shuffle.
    """
    first, place = place_in_pass(num_videos, batch_size, iteration, official)
    order = random_state(SHUFFLE, seed, first).permutation(num_videos)
    return order[place * batch_size : (place + 1) * batch_size]


def place_in_pass(num_videos: int, batch_size: int, iteration: int, official: bool) -> tuple[int, int]:
    """The iteration that shuffled the videos of this one, and which batch of that shuffle this one takes."""
    per_pass = math.ceil(num_videos / batch_size)
    place = 0 if official and iteration >= per_pass else iteration % per_pass
    return iteration - place, place


class Draws:
    """A generator for every use, keyed by seed, iteration and video: nothing to save, and every process draws the same."""

    def __init__(self, config: Config, seed: int):
        self.config, self.seed, self.random = config, seed, random_state(0)

    def videos(self, count: int, iteration: int) -> Indices:
        """Which of so many training videos an iteration trains on."""
        return batch_videos(count, self.config.batch_size, iteration, self.seed, self.config.first_batch_again)

    def sampler(self, iteration: int, video: int) -> np.random.RandomState:
        """The generator that chooses the rows of a video."""
        return random_state(ROWS, self.seed, iteration, video, again=self.random)

    @contextlib.contextmanager
    def dropout(self, iteration: int) -> Iterator[None]:
        """Inside, torch's own generators are those of an iteration's dropout."""
        seed = int(random_state(DROPOUT, self.seed, iteration).randint(2**63 - 1, dtype=np.int64))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a stack trace of every call until a GPU is used
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        yield

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class OfficialDraws(Draws):
    """One stream of numpy and one of torch (on a GPU a second, for dropout), consumed in the official order.

    `videos`, the samplers of these videos in turn and `dropout` have to be called once an iteration, in this order.
    """

    def __init__(self, config: Config, seed: int, device: torch.device):
        super().__init__(config, seed)
        self.random = np.random.RandomState(seed)
        self.shared = [torch.default_generator]  # that torch's dropout draws from
        if device.type == "cuda":
            self.shared.append(torch.cuda.default_generators[device.index or 0])
        self.own = [torch.Generator(generator.device).manual_seed(seed) for generator in self.shared]
        self.order = torch.empty(0, dtype=torch.int64)

    def videos(self, count: int, iteration: int) -> Indices:
        size = self.config.batch_size
        first, place = place_in_pass(count, size, iteration, self.config.first_batch_again)
        if iteration:
            self._number()  # for the iterator over the test videos, which are evaluated after every iteration
        if iteration == first:
            self._number()  # for the new iterator over the training videos: a seed of workers
            self.order = torch.randperm(count, generator=torch.Generator().manual_seed(self._number()))
        return self.order[place * size : (place + 1) * size].numpy()

    def _number(self) -> int:
        return int(torch.empty((), dtype=torch.int64).random_(generator=self.own[0]))

    def sampler(self, iteration: int, video: int) -> np.random.RandomState:
        return self.random

    @contextlib.contextmanager
    def dropout(self, iteration: int) -> Iterator[None]:
        for own, shared in zip(self.own, self.shared, strict=True):
            shared.set_state(own.get_state())
        yield
        for own, shared in zip(self.own, self.shared, strict=True):
            own.set_state(shared.get_state())

    def state(self) -> dict[str, Any]:
        numpy = self.random.get_state(legacy=False)["state"]
        numbers = torch.tensor([*numpy["key"].tolist(), numpy["pos"]])
        return {"numpy": numbers, "torch": [own.get_state() for own in self.own], "order": self.order}

    def restore(self, state: dict[str, Any]) -> None:
        *key, place = state["numpy"].tolist()
        self.random.set_state(("MT19937", np.array(key, dtype=np.uint32), place, 0, 0.0))
        for own, saved in zip(self.own, state["torch"], strict=False):  # a run may go on on another device
            own.set_state(saved)
        self.order = state["order"]


def make_draws(config: Config, seed: int, device: torch.device, processes: int) -> Draws:
    if config.draws == "ours":
        return Draws(config, seed)
    if processes > 1:
        raise UserError(
            f"--draws official in {processes} processes: follows the official program of BaS-Net, which is one process. "
            "Leave out --draws, or use no torchrun."
        )
    return OfficialDraws(config, seed, device)
