"""RestrictFlow: finds what is unsafe in the start-up stage, and from then on restricts what flows there.

After UVR (arXiv 2606.06875). Frozen like all modifiers: what it remembers of a picture lives in the run's `FlowState`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..errors import SteeringError
from ..finite import all_finite, sum_is_finite
from ..schedules import Schedule
from ..sites import Site
from .given import given_mask, require_masks
from .groups import Flow, Group, Weights, groups_of
from .localise import GENERATION, Selection, around, localise, marks_everything
from .memory import Memory, remember
from .noise import Noise, mixed, noise_seed, root_mean_square
from .region import union
from .restrict import Way, restricted
from .score import Detector
from .stacking import stacked
from .step import Acted, Attend, FlowRecord, FlowState, FlowStep

STARTUP = Schedule(0.0, 0.36)
"""t >= 850 of 1000, where FLUX.1-dev's own schedule for 1024 × 1024 is: 11 of 28 steps."""


@dataclass(frozen=True, eq=False)
class RestrictFlow:
    """One restriction, for all the sites at which it localises or restricts.

    A plan holds the same object at each of those sites, with a schedule that covers its own two: `startup`, when it
    localises and mixes in noise, and `active`, when it restricts. The mask comes from the detectors, or is given.

    Raises:
        SteeringError: neither or both of detectors and masks, detectors of other sizes, an empty mask.
    """

    site: Site | None = None
    """Where it localises."""
    detectors: tuple[Detector, ...] = ()
    """One for each concept; a picture's region is the union of what they find."""
    masks: Tensor | None = None
    """(M, H', W') bool, M being 1 or the number of pictures: given in place of what detectors find."""
    sites: frozenset[Site] | None = None
    """Where it restricts; None is everywhere. Blocks before `site` have a mask from the second step on."""
    selection: Selection = GENERATION
    memory: Memory = Memory.UNION
    flow: Flow = Flow.CONTENT
    weights: Weights = Weights()
    renormalise: bool = True
    """Whether attention weights are normalised again after they are multiplied by λ."""
    noise: Noise = Noise()
    heads: tuple[int, ...] | None = None
    """Which heads are restricted; None is all of them."""
    startup: Schedule = STARTUP
    active: Schedule = STARTUP
    noisy: Schedule = Schedule()
    """Where of the start-up stage noise is mixed in."""
    way: Way = Way.GROUPS

    def __post_init__(self) -> None:
        if (self.masks is None) == (not self.detectors) or (self.site is None) == bool(self.detectors):
            raise SteeringError(
                "Restrict Flow",
                expected="either detectors and the attention site where they look, or masks",
                found=f"{len(self.detectors)} detectors, {'no' if self.site is None else 'a'} site, "
                f"{'no' if self.masks is None else 'some'} masks",
                remedy="Connect a bundle with anchors, or a MASK.",
            )
        for site in (*(() if self.site is None else (self.site,)), *(self.sites or ())):
            if not site.is_attention:
                raise SteeringError(
                    f"site {site}",
                    expected="an attention site, such as single.10.attention",
                    found=str(site),
                    remedy="Choose sites that end with `.attention`.",
                )
        sizes = {detector.size for detector in self.detectors}
        if len(sizes) > 1:
            raise SteeringError(
                f"anchors at {self.site}",
                expected="anchors of one model",
                found=" and ".join(f"{heads} heads of width {width}" for heads, width in sorted(sizes)),
                remedy="Use anchors that were collected on the model that is steered.",
            )
        if self.masks is not None:
            require_masks(self.masks)

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(detector.concept for detector in self.detectors)

    def sites_among(self, available: Collection[Site]) -> tuple[Site, ...]:
        """The attention sites at which this must be called, in the order of a forward pass.

        Args:
            available: the model's attention sites.

        Raises:
            SteeringError: the model lacks a site that is asked for.
        """
        wanted = set(available) if self.sites is None else set(self.sites)
        wanted |= set() if self.site is None else {self.site}
        missing = wanted - set(available)
        if missing:
            raise SteeringError(
                ", ".join(map(str, sorted(missing))),
                expected="an attention of this model",
                found="no such place",
                remedy="Use a bundle made for this model, or other sites.",
            )
        return tuple(sorted(wanted))

    def wants(
        self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float], state: FlowState
    ) -> bool:
        """Whether a visit could do anything; where not, the host need not take the detour through it.

        True where it localises now, or where it restricts now and some picture has a region that is not empty.
        """
        return self._localises(site, sigma, percent_to_sigma) or (
            self._restricts(site)
            and self.active.active(sigma, percent_to_sigma)
            and (self.masks is not None or any(not region.is_empty for region in state.regions.values()))
        )

    def __call__(self, attend: Attend, q: Tensor, k: Tensor, v: Tensor, step: FlowStep) -> Tensor:
        """The attention's output (R, L, h·d).

        Args:
            attend: see `Attend`.
            q, k, v: (R, h, L, d), as they go into the attention: after the positions are rotated in.

        Returns:
            The very tensor of `attend(q, k, v, step.mask)` where nothing is restricted.

        Raises:
            SteeringError: anchors of another head count or width, heads that the model lacks, scores that are not
                finite, a mask of another size, references asked for where there are none.
        """
        step.require_shapes(q, k)
        plain: Tensor | None = None
        settled = self.memory is Memory.FIRST and all(image in step.state.regions for image in step.images)
        if self._localises(step.site, step.sigma, step.percent_to_sigma) and not settled:
            plain = attend(q, k, v, step.mask)
            self._localise(plain, q.shape[1], step)
        self._place_masks(step)
        if not (self._restricts(step.site) and step.within(self.active)):
            return attend(q, k, v, step.mask) if plain is None else plain
        groups = [self._groups(image, q, step) for image in step.images]
        noisy = [image for image in step.images if self._is_noisy(image, step)]
        if not any(groups) and not noisy:
            return attend(q, k, v, step.mask) if plain is None else plain
        if plain is None and step.whole_calls:
            plain = attend(q, k, v, step.mask)
        earlier = [one for other, one in step.acted.items() if other is not self]
        if earlier and plain is not None and any(groups):
            out = stacked(
                attend,
                q,
                k,
                v,
                groups,
                earlier,
                renormalise=self.renormalise,
                heads=self.heads,
                mask=step.mask,
                plain=plain,
            )
        else:
            out = restricted(
                attend,
                q,
                k,
                v,
                groups,
                renormalise=self.renormalise,
                mask=step.mask,
                heads=self.heads,
                plain=plain,
                whole_calls=step.whole_calls,
                way=self.way,
            )
        noise = partial(self._with_noise, heads=q.shape[1], images=noisy, step=step) if noisy else None
        if noise is not None:
            # Where anything was restricted the tensor is our own; else it is the host's.
            out = noise(out if any(groups) else out.clone())
        step.acted[self] = Acted(groups, self.renormalise, self.heads, noise)
        # On the CPU, where looking costs a hundredth: groups that are renormalised get averages of values, which their
        # dtype holds unless the model itself has overflowed. A mask may leave nothing to average, and queries that are
        # made wider for DIMENSIONS may overflow.
        averages = self.renormalise and self.way is Way.GROUPS and step.mask is None
        if out.device.type != "cpu" or not averages or noise is not None or earlier:
            _require_held(out, groups, step)
        return out

    def _localises(self, site: Site, sigma: float, percent_to_sigma: Callable[[float], float]) -> bool:
        return site == self.site and self.startup.active(sigma, percent_to_sigma)

    def _restricts(self, site: Site) -> bool:
        return self.sites is None or site in self.sites

    def _localise(self, out: Tensor, heads: int, step: FlowStep) -> None:
        """Looks at each row's picture and keeps its region."""
        grid = step.layout.image
        for detector in self.detectors:
            detector.require(heads, out.shape[-1] // heads, step.where)
        patches = out[:, grid.span]
        scores = torch.stack([detector.score(patches) for detector in self.detectors], 1)  # (R, C, P)
        scores = scores.float().cpu().unflatten(-1, grid.size)
        step.require_finite(scores)
        whole: dict[Detector, None] = {}
        for image, own in zip(step.images, scores):
            found = [
                localise(one, detector.threshold, self.selection)
                for one, detector in zip(own, self.detectors)
            ]
            whole |= {one: None for region, one in zip(found, self.detectors) if marks_everything(region)}
            remember(step.state, image, union(found), self.memory, self.selection.ring)
        if step.observe is not None:
            regions = tuple(step.state.regions[image] for image in step.images)
            thresholds = torch.tensor([detector.threshold for detector in self.detectors])
            step.observe(
                FlowRecord(
                    step.site,
                    step.sigma,
                    step.images,
                    self.concepts,
                    thresholds,
                    scores,
                    regions,
                    _warnings(tuple(whole), step.where),
                )
            )

    def _place_masks(self, step: FlowStep) -> None:
        """Given masks become regions when a picture is first met."""
        if self.masks is None:
            return
        new = [image for image in dict.fromkeys(step.images) if image not in step.state.regions]
        size = step.layout.image.size
        for image in new:
            step.state.keep(image, around(given_mask(self.masks, image, size), self.selection.ring))
        if new and step.observe is not None:
            regions = tuple(step.state.regions[image] for image in new)
            nothing = torch.zeros(len(new), 0, *size)
            step.observe(FlowRecord(step.site, step.sigma, tuple(new), (), torch.zeros(0), nothing, regions))

    def _groups(self, image: int, q: Tensor, step: FlowStep) -> tuple[Group, ...]:
        """The groups of a picture on q's device; made once for each layout."""
        region = step.state.regions.get(image)
        if region is None or region.is_empty:
            return ()
        if self.flow is Flow.REFERENCE and not step.layout.references:
            raise SteeringError(
                step.where,
                expected="reference latents, whose flow is to be restricted",
                found="none",
                remedy="Connect a ReferenceLatent, or restrict the flow of content.",
            )
        _require_heads(self.heads, q.shape[1], step.where)
        key = image, step.layout, q.shape[2], q.device
        if key not in step.state.groups:
            found = groups_of(step.layout, region, self.weights, self.flow, q.shape[2])
            step.state.groups[key] = tuple(group.to(q.device) for group in found)
        return step.state.groups[key]

    def _is_noisy(self, image: int, step: FlowStep) -> bool:
        region = step.state.regions.get(image)
        noisy = self.noise.alpha > 0 and step.within(self.startup) and step.within(self.noisy)
        return noisy and region is not None and not region.is_empty

    def _with_noise(self, out: Tensor, heads: int, images: Collection[int], step: FlowStep) -> Tensor:
        """The output, written to: with noise in the core of these pictures."""
        for row, image in enumerate(step.images):
            if image not in images:
                continue
            core = step.state.regions[image].core.flatten().nonzero()[:, 0]
            rows = (step.layout.image.start + core).to(out.device)
            seed = noise_seed(step.seed, image, step.site, step.sigma)
            spread = root_mean_square(out[row, step.layout.image.span]) if self.noise.matched else 1.0
            out[row, rows] = mixed(out[row], rows, self.noise.alpha, seed, spread, self.heads, heads)
        return out


def _warnings(whole: Sequence[Detector], where: str) -> tuple[str, ...]:
    """What to tell of detectors that mark all of a picture."""
    if not whole:
        return ()
    named = ", ".join(f"{detector.concept} ({detector.threshold:g})" for detector in whole)
    return (
        f"The whole picture is marked at {where} by the threshold of {named}: nothing safe is left that it could be "
        "told from. Calibrate again, or give a higher one.",
    )


def _require_held(out: Tensor, groups: Sequence[Sequence[Group]], step: FlowStep) -> None:
    """Refuses restricted outputs (R, L, h·d) that their dtype could not hold; the others are the host's own."""
    found = [out[row, group.at] for row, own in enumerate(groups) for group in own]
    if not found or bool(
        torch.stack([sum_is_finite(part) for part in found]).all()
    ):  # one wait for the device
        return
    if not all(map(all_finite, found)):
        raise SteeringError(
            step.where,
            expected=f"numbers that {out.dtype} can hold",
            found="an overflow after the flow was restricted",
            remedy="The model itself overflows here, or the weights are too large. Lower the weight of safe "
            "neighbours, or run the model in bfloat16 or float32.",
        )


def _require_heads(heads: tuple[int, ...] | None, count: int, where: str) -> None:
    if heads is not None and not (heads and set(heads) <= set(range(count))):
        raise SteeringError(
            where,
            expected=f"heads from 0 to {count - 1}",
            found=", ".join(map(str, heads)) or "none",
            remedy="Choose heads that the model has.",
        )
