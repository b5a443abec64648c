"""One process at a time at a piece of work on disk, on any machine that sees the folder."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..steering.errors import SteeringError

POLL = 0.1
BUSY = {errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.ESTALE}
"""What a lock that another holds, or has just removed, says."""


@contextmanager
def alone(path: Path, work: str, patience: float = 0.0) -> Generator[None]:
    """Holds a lock file while the block runs. A process that is no more holds nothing, however it ended.

    Where a file system has no locks, everybody is let in.

    Args:
        path: the lock file, in a folder that is there.
        work: what is done there, for the message.
        patience: seconds to wait for another that is about to end.

    Raises:
        SteeringError: another process, or another call in this one, is at it.
    """
    end = time.monotonic() + patience
    while (handle := _taken(path, work)) is None:
        if time.monotonic() >= end:
            raise SteeringError(
                str(path.parent),
                expected=f"one {work} at a time in this folder",
                found="another that is running",
                remedy="Wait until it ends, or choose another folder. Processes that share a recording need a "
                "number each, --shard 0/4 to --shard 3/4.",
            )
        time.sleep(POLL)
    try:
        yield
    finally:
        if os.name == "posix":  # as long as it is locked: whoever opened it before sees that it is gone
            path.unlink(missing_ok=True)
            os.close(handle)
        else:
            os.close(handle)
            with suppress(OSError):  # the next one has it open
                path.unlink()


def _taken(path: Path, work: str) -> int | None:
    """The open, locked file; None where another has it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as reason:
        if os.name == "nt" and path.exists():  # its last holder is removing it
            return None
        raise SteeringError(
            str(path.parent),
            expected=f"a folder in which a {work} can write",
            found=reason.strerror or str(reason),
            remedy="Check its permissions and the free space.",
        ) from reason
    try:
        _lock(handle)
    except OSError as reason:
        if reason.errno in BUSY:
            os.close(handle)
            return None
        return handle  # no locks here
    with suppress(FileNotFoundError):
        if os.name != "posix" or os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    os.close(handle)  # its last holder has removed it meanwhile
    return _taken(path, work)


if os.name == "posix":
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
else:
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
