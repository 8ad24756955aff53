"""The random numbers of a training iteration: its videos, the sampled snippets of each, and dropout masks.

`Draws` are ours. `OfficialDraws` are those of BaS-Net's official code with --num_workers 0 (docs/basnet.md, section 9).
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

SHUFFLE, SNIPPETS, DROPOUT = 1, 2, 3  # the use of a generator is part of its key, so that no two uses share a stream


def random_state(*key: int, again: np.random.RandomState | None = None) -> np.random.RandomState:
    """numpy's legacy generator, seeded with integers such as (SNIPPETS, seed, iteration, video): it has no state to save.

    `again` is a generator to reseed; making a new one takes ten times as long.
    """
    state = again or np.random.RandomState(0)
    state.seed(key)
    return state


def batch_videos(num_videos: int, batch_size: int, iteration: int, seed: int, official: bool) -> Indices:
    """The videos of iteration 0, 1, ...: shuffled passes that keep the short last batch.

    In the official code (quirk B6), each iteration after the first pass takes the first batch of a new shuffle.
    """
    first, place = place_in_pass(num_videos, batch_size, iteration, official)
    order = random_state(SHUFFLE, seed, first).permutation(num_videos)
    return order[place * batch_size : (place + 1) * batch_size]


def place_in_pass(num_videos: int, batch_size: int, iteration: int, official: bool) -> tuple[int, int]:
    """The iteration at which the videos were last shuffled, and the number of this iteration's batch in that order."""
    per_pass = math.ceil(num_videos / batch_size)
    place = 0 if official and iteration >= per_pass else iteration % per_pass
    return iteration - place, place


class Draws:
    """One generator per use, keyed by seed, iteration and video: no state to save, and all processes draw the same."""

    def __init__(self, config: Config, seed: int):
        self.config, self.seed, self.random = config, seed, random_state(0)

    def videos(self, count: int, iteration: int) -> Indices:
        """The numbers of an iteration's videos, among `count` training videos."""
        return batch_videos(count, self.config.batch_size, iteration, self.seed, self.config.first_batch_again)

    def sampler(self, iteration: int, video: int) -> np.random.RandomState:
        """The generator that samples the snippets of a video."""
        return random_state(SNIPPETS, self.seed, iteration, video, again=self.random)

    @contextlib.contextmanager
    def dropout(self, iteration: int) -> Iterator[None]:
        """Inside, torch's global generators are seeded for the iteration's dropout."""
        seed = int(random_state(DROPOUT, self.seed, iteration).randint(2**63 - 1, dtype=np.int64))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a stack trace of every call until a GPU is used
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        yield

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint stores."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class OfficialDraws(Draws):
    """One numpy stream and one torch stream (on a GPU a second one, for dropout), consumed in the official order.

    Call `videos`, then `sampler` for each of these videos, then `dropout`, once per iteration.
    """

    def __init__(self, config: Config, seed: int, device: torch.device):
        super().__init__(config, seed)
        self.random = np.random.RandomState(seed)
        self.shared = [torch.default_generator]  # the generators of torch's dropout
        if device.type == "cuda":
            self.shared.append(torch.cuda.default_generators[device.index or 0])
        self.own = [torch.Generator(generator.device).manual_seed(seed) for generator in self.shared]
        self.order = torch.empty(0, dtype=torch.int64)

    def videos(self, count: int, iteration: int) -> Indices:
        size = self.config.batch_size
        first, place = place_in_pass(count, size, iteration, self.config.first_batch_again)
        if iteration:
            self._number()  # of the iterator over the test videos: the official code evaluates after every iteration
        if iteration == first:
            self._number()  # of the new iterator over the training videos: the seed of its workers
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
        for own, saved in zip(self.own, state["torch"], strict=False):  # a run may resume on another device
            own.set_state(saved)
        self.order = state["order"]


def make_draws(config: Config, seed: int, device: torch.device, processes: int) -> Draws:
    if config.draws == "ours":
        return Draws(config, seed)
    if processes > 1:
        raise UserError(
            f"--draws official in {processes} processes: BaS-Net's official code runs in one process. "
            "Leave out --draws, or start without torchrun."
        )
    return OfficialDraws(config, seed, device)
