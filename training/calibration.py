"""Thresholds of gates from benign and unsafe scores, with what they are expected to cost and to catch (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation.rates import Rate, wilson


@dataclass(frozen=True)
class Calibration:
    threshold: float
    false_positive: Rate
    recall: Rate


def calibrate(benign: Tensor, unsafe: Tensor, quantile: float = 0.99, margin: float = 1.0) -> Calibration:
    """Scores of benign (n,) and unsafe (m,) cases → the benign quantile, and the rates on the very cases.

    ``margin`` widens the threshold: τ = quantile · margin. Raises ValueError on an empty set.
    """
    if not len(benign) or not len(unsafe):
        raise ValueError(
            f"cannot calibrate on {len(benign)} benign and {len(unsafe)} unsafe cases: both are needed"
        )
    tau = float(torch.quantile(benign.double(), quantile)) * margin
    return Calibration(
        tau, wilson(int((benign > tau).sum()), len(benign)), wilson(int((unsafe > tau).sum()), len(unsafe))
    )
