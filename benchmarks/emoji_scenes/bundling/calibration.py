"""Thresholds of gates from benign and unsafe scores, with what they are expected to cost and to catch (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....evaluation.rates import Rate, wilson


@dataclass(frozen=True)
class Calibration:
    threshold: float
    false_positive: Rate
    recall: Rate


def calibrate(benign: Tensor, unsafe: Tensor, quantile: float = 0.99, margin: float = 1.0) -> Calibration:
    """Scores of benign (n,) and unsafe (m,) cases → a threshold, and the rates on the very cases.

    Where the benign quantile lies below the unsafe cases' lowest hundredth, the threshold is in the middle of that gap;
    else it is the benign quantile times ``margin``, for a few hundred benign cases do not show the rarest.

    Raises:
        ValueError: a set is empty.
    """
    if not len(benign) or not len(unsafe):
        raise ValueError(
            f"cannot calibrate on {len(benign)} benign and {len(unsafe)} unsafe cases: both are needed"
        )
    highest = float(torch.quantile(benign.double(), quantile))
    lowest = float(torch.quantile(unsafe.double(), 0.01))
    tau = (highest + lowest) / 2 if lowest > highest else highest * margin
    return Calibration(
        tau, wilson(int((benign > tau).sum()), len(benign)), wilson(int((unsafe > tau).sum()), len(unsafe))
    )
