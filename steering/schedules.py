"""When a modifier acts: a range of the noise schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import SteeringError


@dataclass(frozen=True)
class Schedule:
    """The part of a sampling run, as fractions of the model's noise schedule: 0 is pure noise, 1 the finished
    picture.

    Raises:
        SteeringError: not 0 <= start <= end <= 1.
    """

    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_percent <= self.end_percent <= 1.0:
            raise SteeringError(
                "schedule",
                expected="0 <= start_percent <= end_percent <= 1",
                found=f"start_percent {self.start_percent}, end_percent {self.end_percent}",
                remedy="Choose a start that is not after the end.",
            )

    def active(self, sigma: float, percent_to_sigma: Callable[[float], float]) -> bool:
        """Whether a model call at noise level `sigma` lies in the range: sigma(start) >= sigma > sigma(end).

        Steps are found by their noise level and never counted, because samplers call the model more than once
        a step. The ends of the schedule are open-ended: start 0 takes the first call and end 1 the last,
        whatever the rounding.

        Args:
            percent_to_sigma: the model's own map from fraction to noise level, decreasing.
        """
        if self.start_percent == self.end_percent:
            return False
        begun = self.start_percent <= 0.0 or sigma <= percent_to_sigma(self.start_percent)
        over = self.end_percent < 1.0 and sigma <= percent_to_sigma(self.end_percent)
        return begun and not over
