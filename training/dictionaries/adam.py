"""Adam (Kingma and Ba, 1412.6980) on some rows of a parameter at a time, so that they stay in the cache meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam

FIRST, SECOND, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Running moments of the gradients of named parameters."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.mean = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.square = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.fused = all(map(_fuses, parameters.values()))

    def move(self, name: str, rows: slice, gradient: Tensor, rate: float, step: int) -> None:
        """One step of some rows, by their gradient; ``step`` counts from 0."""
        adam(
            [self.parameters[name][rows]],
            [gradient],
            [self.mean[name][rows]],
            [self.square[name][rows]],
            [],
            [torch.tensor(float(step), device=gradient.device if self.fused else None)],
            fused=self.fused,
            foreach=False,
            amsgrad=False,
            beta1=FIRST,
            beta2=SECOND,
            lr=rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """The moments by name, as they are: not copies."""
        return {
            f"{what}.{name}": tensor
            for what in ("mean", "square")
            for name, tensor in getattr(self, what).items()
        }


def _fuses(tensor: Tensor) -> bool:
    """Whether this torch has Adam in one kernel for the tensor's device."""
    probe = torch.zeros(1, device=tensor.device)
    try:
        arguments = ([probe], [probe.clone()], [probe.clone()], [probe.clone()], [], [probe.clone()])
        adam(*arguments, fused=True, foreach=False, amsgrad=False, beta1=FIRST, beta2=SECOND, lr=0.0, weight_decay=0.0,
             eps=EPSILON, maximize=False)  # fmt: skip
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return True
