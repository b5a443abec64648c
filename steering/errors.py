"""The one exception this pack raises on purpose.

Every refusal says four things: where it happened (a file, site or field), what was expected, what was found,
and what to do about it. A message that lacks one of them cannot be built.
"""

from __future__ import annotations


class SteeringError(ValueError):
    """A refusal in plain words.

    Args:
        where: file, site or field, for example ``"demo.safetensors: sites.text.width"``.
        expected: what would have been accepted.
        found: what was there instead.
        remedy: what the user can do.
    """

    def __init__(self, where: str, *, expected: str, found: str, remedy: str) -> None:
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(where, expected, found, remedy)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments need help to cross a process boundary.
        return _rebuild, (type(self), self.where, self.expected, self.found, self.remedy)


class BundleError(SteeringError):
    """A bundle file that cannot be used, or a bundle that must not be written."""


class DownloadError(SteeringError):
    """A file that could not be fetched, or that is not the file that was promised."""


class DownloadCancelled(DownloadError):
    """The user stopped a download; what had arrived is kept for the next attempt."""


def _rebuild(kind: type[SteeringError], where: str, expected: str, found: str, remedy: str) -> SteeringError:
    return kind(where, expected=expected, found=found, remedy=remedy)
