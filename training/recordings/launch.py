"""Which part of the work this process has, whatever launched it. Needs no host and no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from ...steering.errors import SteeringError

LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
"""Where torchrun (and Ray Train), SLURM and Open MPI say which of how many processes this is."""
LOCAL = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Which of the processes of its machine it is."""
DEVICES = "CUDA_VISIBLE_DEVICES"


def shard_named(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which part of the work `i/n` means, or, without a text, which one the launcher of this process gives it.

    Raises:
        SteeringError: it cannot be read, or is not 0 <= i < n.
    """
    if text is not None:
        index, slash, count = text.partition("/")
        where = "--shard"
        found = (index, count) if slash else (text, "")
    else:
        known = next((names for names in LAUNCHERS if all(name in environment for name in names)), None)
        if known is None:
            return 0, 1
        where, found = "/".join(known), (environment[known[0]], environment[known[1]])
    if not all(word.strip().isdecimal() for word in found) or not int(found[0]) < int(found[1]):
        raise SteeringError(
            where,
            expected="i/n with 0 <= i < n, such as 0/4",
            found="/".join(found),
            remedy="Number the processes from 0.",
        )
    return int(found[0]), int(found[1])


def take_own_device(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Leaves a process that was launched beside others on a machine one GPU of its own, as the host uses the first.

    Call before anything touches a GPU. Where a launcher has already given each process its own, nothing changes.

    Returns:
        the device, if one was chosen.
    """
    local = next((environment[name] for name in LOCAL if environment.get(name, "").isdecimal()), None)
    visible = [name for name in environment.get(DEVICES, "").split(",") if name.strip()]
    if local is None or len(visible) == 1 or (not visible and "LOCAL_RANK" not in environment):
        return None
    environment[DEVICES] = visible[int(local) % len(visible)] if visible else local
    return environment[DEVICES]
