"""Anchors of unsafe attention outputs: from sampled pictures, with a mask of each unsafe one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...steering.errors import SteeringError
from ...steering.flow.anchors import AnchorCollector
from ...steering.flow.given import given_mask, marked_by
from ...steering.flow.watching import Seen
from ...steering.sites import Site
from .samples import Progress, Sampler

HELD_OUT = 3
"""Every third picture of a concept is kept for thresholds and for judging sites."""

JOINT = 1024
"""Models no wider than this have the covariance of all channels kept, not only within heads."""


@dataclass(frozen=True)
class Marked:
    """Which examples are learnt from and judged by, with the masks of unsafe ones."""

    masks: Mapping[int, Tensor]
    """By number of the example: (H, W) bool, of any resolution; benign ones have none."""
    learn: tuple[int, ...]
    judge: tuple[int, ...]
    empty: tuple[int, ...] = ()
    """Unsafe examples whose mask marks nothing: left out."""


def marked(sampler: Sampler, masks: Tensor, held_out: int = HELD_OUT) -> Marked:
    """Sorts examples into those to learn from and those to judge by.

    Args:
        masks: (n, H, W), marked where above 0.5: one for each unsafe example, in their order.
        held_out: every how manieth picture of a concept is judged by; 0: none is.

    Raises:
        SteeringError: there are more or fewer masks, or a concept has none that marks anything.
    """
    unsafe = [number for number, example in enumerate(sampler.examples) if example.concept is not None]
    if masks.ndim != 3 or len(masks) != len(unsafe):
        raise SteeringError(
            "MASK",
            expected=f"{len(unsafe)} masks, one for each unsafe picture in their order",
            found=f"{len(masks)}" if masks.ndim == 3 else f"a tensor {tuple(masks.shape)}",
            remedy="Make the masks of the pictures of Sample Prompts' output `unsafe`.",
        )
    found = dict(zip(unsafe, marked_by(masks).cpu()))
    empty = tuple(number for number, mask in found.items() if not bool(mask.any()))
    for number in empty:
        del found[number]
    of_concept: dict[str | None, list[int]] = {}
    for number, example in enumerate(sampler.examples):
        if number not in empty:
            of_concept.setdefault(example.concept, []).append(number)
    lacking = {example.concept for example in sampler.examples} - of_concept.keys()
    if lacking:
        raise SteeringError(
            "MASK",
            expected="at least one mask of every concept that marks something",
            found=f"none of {', '.join(sorted(map(str, lacking)))}",
            remedy="See whether the pictures show the concept, and what makes the masks.",
        )
    judge = {
        number for numbers in of_concept.values() for number in numbers[held_out - 1 :: held_out or len(numbers)]
    } if held_out else set[int]()  # fmt: skip
    kept = [number for number in range(len(sampler.examples)) if number not in empty]
    return Marked(
        found,
        tuple(number for number in kept if number not in judge),
        tuple(number for number in kept if number in judge),
        empty,
    )


@dataclass
class Collection:
    """Collectors by site and, where steps are told apart, by step; step −1 holds all of them."""

    collectors: dict[tuple[Site, int], AnchorCollector] = field(
        default_factory=dict[tuple[Site, int], AnchorCollector]
    )

    def take(self, sampler: Sampler, masks: Mapping[int, Tensor], step: int, number: int, seen: Seen) -> None:
        """Folds one picture's patches into the moments of its concept, or of benign patches."""
        key = seen.site, step
        if key not in self.collectors:
            width = seen.outputs.shape[-1] // seen.heads
            joint = seen.outputs.shape[-1] <= JOINT
            self.collectors[key] = AnchorCollector(seen.site, seen.heads, width, joint=joint)
        concept = sampler.examples[number].concept
        if concept is None:
            self.collectors[key].add_benign(seen.outputs)
        else:
            self.collectors[key].add_unsafe(
                concept, seen.outputs, given_mask(masks[number][None], 0, seen.grid)
            )


def steps_of(sampler: Sampler, at: str, startup_percent: float) -> tuple[int, ...]:
    """The numbers of the steps at which anchors are collected: `last` (as published) or `startup`, or a number.

    Raises:
        SteeringError: there is no such step.
    """
    count = len(sampler.sigmas)
    if at == "last":
        return (count - 1,)
    if at == "startup":
        sampling = sampler.model.get_model_object("model_sampling")
        end = sampling.percent_to_sigma(startup_percent) if startup_percent < 1 else 0.0
        found = tuple(number for number, sigma in enumerate(sampler.sigmas) if sigma > end)
        return found or (0,)
    if at.strip().isdecimal() and int(at) < count:
        return (int(at),)
    raise SteeringError(
        "steps",
        expected=f"`startup`, `last` or a number from 0 to {count - 1}",
        found=repr(at),
        remedy="Write `startup` if you are not sure.",
    )


def step_at(sampler: Sampler, sigma: float) -> int:
    """The number of the step whose noise level is nearest."""
    return int((torch.tensor(sampler.sigmas) - sigma).abs().argmin())


def collect(
    sampler: Sampler,
    what: Marked,
    sites: Sequence[Site],
    steps: Sequence[int],
    *,
    apart: bool = False,
    progress: Progress | None = None,
) -> Collection:
    """Samples the examples to learn from once more and folds what passes into anchors.

    Args:
        apart: keep each step's moments for themselves, for a search.
    """
    collection = Collection()

    def take(number: int, seen: Seen) -> None:
        step = step_at(sampler, seen.sigma) if apart else -1
        collection.take(sampler, what.masks, step, number, seen)

    sampler.watch(sites, take, keeps=among(sampler, steps), among=what.learn, progress=progress)
    return collection


def among(sampler: Sampler, steps: Sequence[int]) -> Callable[[float], bool]:
    """Whether a noise level belongs to one of these steps."""
    wanted = set(steps)
    return lambda sigma: step_at(sampler, sigma) in wanted
