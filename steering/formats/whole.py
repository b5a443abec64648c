"""Files that are whole or not there: nothing half-written ever takes the place of something whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BundleError, SteeringError


@contextmanager
def whole_file(path: Path, error: type[SteeringError] = BundleError) -> Generator[Path]:
    """A name beside a file to write it under; where the block ends well, it takes the file's place.

    Folders are made as needed. Nothing stays under the other name.

    Raises:
        SteeringError: as `error`, the system did not let it be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as reason:
        raise error(
            str(path),
            expected="to write the file",
            found=reason.strerror or str(reason),
            remedy="Check the folder's permissions and the free space.",
        ) from reason
    finally:
        # Where a folder is none, there is nothing either; what was refused is to be heard.
        with suppress(OSError):
            partial.unlink(missing_ok=True)
