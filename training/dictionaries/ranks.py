"""One process or many: what they add up. Alone, every sum is what it was."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor

from ...steering.errors import SteeringError


@dataclass(frozen=True)
class Ranks:
    """This process among all that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def total(self, number: int) -> int:
        """The sum of whole numbers."""
        return number if self.world == 1 else int(self.sum(torch.tensor([number], device=device_of_sums())))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return self.total(int(flag)) > 0

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the first one's numbers, in place."""
        if self.world > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def part(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch (B, d) of all."""
        if self.world == 1:
            return batch
        size = len(batch) // self.world
        return batch[self.rank * size : (self.rank + 1) * size]


ALONE = Ranks()


def device_of_sums() -> torch.device:
    """Where tensors have to lie that processes add up."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


@contextmanager
def joined(device: str) -> Generator[tuple[Ranks, torch.device]]:
    """The processes that `torchrun` (or SLURM with its variables) started, and this one's device.

    Args:
        device: cpu, cuda, or auto: cuda where there is one.

    Raises:
        SteeringError: the device is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = chosen_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield ALONE, chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world), chosen
    finally:
        distributed.destroy_process_group()


def chosen_device(device: str, local_rank: int = 0) -> torch.device:
    """The device of a name; with several CUDA devices, the one of this process."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise SteeringError(
            "device",
            expected="auto, cpu or cuda" if device not in ("cpu", "cuda") else "a CUDA device",
            found=repr(device) if device not in ("cpu", "cuda") else "none that torch can use",
            remedy="Choose auto or cpu.",
        )
    return (
        torch.device("cuda", local_rank % torch.cuda.device_count())
        if device == "cuda"
        else torch.device(device)
    )
