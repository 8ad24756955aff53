"""Distributed training: each process takes its share of every batch and of the test videos; torchrun starts the processes.

The results do not depend on the number of processes, except for rounding. Only rank 0 writes files.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils import UserError

T = TypeVar("T")
TIMEOUT = datetime.timedelta(minutes=30)  # long enough for one process to read its features while the others wait


def _integer(name: str, default: int | None, least: int, end: int) -> int:
    """The environment variable `name`, at least `least` and below `end`; without a `default` it has to be set."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        value = int(text or "")
    except ValueError:
        value = None
    if value is None or not least <= value < end:
        bounds = f"from {least} to {end - 1}" if end < 2**31 else f"of at least {least}"
        _refuse(name, f"an integer {bounds}" + (f", as WORLD_SIZE is {end}" if name.endswith("RANK") else ""))
    return value


def _refuse(name: str, expected: str) -> NoReturn:
    found = os.environ.get(name)
    raise UserError(
        f"{name} in the environment {'is not set' if found is None else f'is {found!r}'}; expected {expected}. Start several "
        "processes with torchrun, which sets it, or one process without WORLD_SIZE, RANK and LOCAL_RANK."
    )


class Team:
    def __init__(self) -> None:
        self.size = _integer("WORLD_SIZE", 1, 1, 2**31)
        several = self.size > 1
        self.rank = _integer("RANK", None if several else 0, 0, self.size)
        self.local_rank = _integer("LOCAL_RANK", 0, 0, self.size)  # of the only process on its machine, if nothing says so
        if several:
            _integer("MASTER_PORT", None, 1, 2**16)
            if not os.environ.get("MASTER_ADDR"):
                _refuse("MASTER_ADDR", "the address of the machine of rank 0")

    @contextlib.contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Join the process group; if another process ends, this one raises UserError."""
        if self.size == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        self.talk = dist.new_group(backend="gloo", timeout=TIMEOUT)  # for objects, without GPU synchronization
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error).lower() or "nccl" in str(error).lower():
                raise UserError(
                    f"process {self.rank} of {self.size} lost another one; see the message of that process. Saved files are "
                    "complete: continue with --resume, with any number of processes."
                ) from None
            raise
        finally:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's contiguous part of `count` items."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def every(self) -> slice:
        """This process's items if items are assigned round-robin."""
        return slice(self.rank, None, self.size)

    def agreed(self, value: T) -> T:
        """Broadcast rank 0's value."""
        values: list[Any] = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, group=self.talk)
        return values[0]

    def any(self, flag: bool) -> bool:
        """True if the flag of any process is True."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, group=self.talk)
        return bool(flags)

    def gathered(self, value: T) -> list[T]:
        """The values of all processes on rank 0; an empty list on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, values, group=self.talk)
        return values or []

    def total(self, values: Tensor) -> Tensor:
        """Sum `values` over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share_buffers(self, module: nn.Module) -> None:
        """Broadcast rank 0's buffers (batch-norm statistics), which the checkpoint stores."""
        for buffer in module.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)

    def training_together(self, module: nn.Module, in_parts: bool = False) -> nn.Module:
        """`module` wrapped to average gradients over the processes; `in_parts` if some parameters may get no gradient."""
        return DistributedDataParallel(module, find_unused_parameters=in_parts) if self.size > 1 else module
