"""Takes the planned tokens out of the model while it samples: a modifier that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.modifiers import Step
from ...steering.sites import Site
from .plan import TokenPlan
from .writer import SiteRows

TOLERANCE = 1e-5
"""How far, in part, a noise level may lie from the one in the schedule that it is taken for."""


class ShardInHand:
    """The rows of one shard, filled while its samples are made.

    A noise level that a sampler visits more than once is kept as it was seen first; those between the schedule's are
    not kept. The tensors have their final size from the beginning.
    """

    def __init__(self, plan: TokenPlan, number: int) -> None:
        manifest = plan.manifest
        self.plan, self.number = plan, number
        self.first, self.stop = manifest.ranges()[number]
        self.sites: dict[Site, SiteRows] = {}
        self._starts: dict[Site, np.ndarray] = {}
        self._missing: dict[Site, np.ndarray] = {}
        dtype = getattr(torch, manifest.settings.dtype)
        for site, count in plan.rows(number).items():
            counts = plan.counts(site)[self.first : self.stop]
            ends = counts.cumsum().reshape(counts.shape)
            self._starts[site], self._missing[site] = ends - counts, counts > 0
            self.sites[site] = SiteRows(
                torch.empty(count, manifest.sites[site], dtype=dtype),
                torch.empty(count, dtype=torch.int32),
                torch.empty(count, dtype=torch.float32),
                torch.empty(count, dtype=torch.int32),
            )

    def step_of(self, sigma: float) -> int | None:
        """The number of a noise level in the schedule."""
        sigmas = self.plan.manifest.sigmas
        step = min(range(len(sigmas)), key=lambda at: abs(sigmas[at] - sigma))
        return step if abs(sigmas[step] - sigma) <= TOLERANCE * sigmas[step] else None

    def take(self, site: Site, sigma: float, tokens: Tensor, samples: Sequence[int]) -> None:
        """Keeps what is planned of tokens (R, L, d), whose rows belong to these samples.

        Raises:
            SteeringError: the picture has other tokens than planned, or a number that cannot be kept.
        """
        step = self.step_of(sigma)
        if step is None:
            return
        missing, starts = self._missing[site], self._starts[site]
        rows: list[int] = []
        for row, sample in enumerate(samples):
            if missing[sample - self.first, step]:
                missing[sample - self.first, step] = False
                rows.append(row)
        if not rows:
            return
        places = [self.plan.places(site, samples[row], step) for row in rows]
        which, at = np.repeat(rows, list(map(len, places))), np.concatenate(places)
        if int(at.max()) >= tokens.shape[1]:
            raise SteeringError(
                f"site {site} at sigma {sigma:.4g}",
                expected=f"at least {int(at.max()) + 1} tokens, as planned",
                found=f"{tokens.shape[1]}",
                remedy="Another node changes how many tokens the model sees. Record without it.",
            )
        device = tokens.device
        taken = tokens[torch.from_numpy(which).to(device), torch.from_numpy(at).to(device)]  # (n, d), a copy
        kept = self.sites[site]
        taken = taken.to(kept.tokens.dtype).cpu()
        if not taken.isfinite().all():
            raise SteeringError(
                f"site {site} at sigma {sigma:.4g}",
                expected=f"numbers that {kept.tokens.dtype} can hold",
                found="NaN or infinite numbers",
                remedy="Record in bfloat16 or float32; if it stays, the model itself overflows here.",
            )
        done = 0
        level = self.plan.manifest.sigmas[step]
        for row, at_row in zip(rows, places):
            start = int(starts[samples[row] - self.first, step])
            span = slice(start, start + len(at_row))
            kept.tokens[span] = taken[done : done + len(at_row)]
            kept.sample[span] = samples[row]
            kept.sigma[span] = level
            kept.position[span] = torch.from_numpy(at_row).int()
            done += len(at_row)

    def rows(self) -> Mapping[Site, SiteRows]:
        """All rows.

        Raises:
            SteeringError: the sampler did not visit a noise level of its schedule.
        """
        for site, missing in self._missing.items():
            if missing.any():
                sample, step = np.argwhere(missing)[0]
                raise SteeringError(
                    f"site {site}, sample {self.first + int(sample)}",
                    expected=f"a call of the model at sigma {self.plan.manifest.sigmas[step]:.6g} of the schedule",
                    found="none",
                    remedy="Choose a sampler that steps through its schedule, such as euler or dpmpp_2m, and record "
                    "without nodes that skip calls of the model.",
                )
        return self.sites


class Gatherer:
    """Stands at the sites of a model and hands on what passes to the shard in hand.

    Args:
        look: called at each visit with the step and the samples' numbers, before anything is kept.
    """

    width = None

    def __init__(self, look: Callable[[int | None, Sequence[int]], None]) -> None:
        self.look = look
        self.shard: ShardInHand | None = None
        self.samples: list[int] = []
        """Which samples of the shard are being made."""

    def __call__(self, tokens: Tensor, step: Step) -> Tensor:
        assert self.shard is not None
        samples = [self.shard.first + self.samples[image] for image in step.images]
        self.look(self.shard.step_of(step.sigma), samples)
        self.shard.take(step.site, step.sigma, tokens, samples)
        return tokens
