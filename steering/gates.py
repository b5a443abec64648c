"""Whether a modifier acts: the scores of risk categories, and the gates that they open.

    s_c = Σ_{f ∈ H_c} w_f z_f        score of category c at one token; H_c are its latents, w_f their weights
    always   c is open at a token    where any latent of H_c fires
    token    c is open at a token    where s_c > τ_token
    image    c is open in a picture  where max over its tokens of s_c > τ_image
    both     c is open at a token    where s_c > τ_token, in a picture where max over its tokens of s_c > τ_image

A latent acts where it fires and any chosen category that holds it is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from .formats.header import Category


class GateKind(str, Enum):
    """What has to be over its threshold."""

    ALWAYS = "always"
    TOKEN = "token"
    IMAGE = "image"
    BOTH = "both"


class Reading(NamedTuple):
    """What a gate sees in the codes of R rows of L tokens, with C categories over S latents.

    What only an open gate or a report needs is made when it is asked for: most visits are of closed gates.
    """

    kind: GateKind
    scores: Tensor
    """(R, L, C)"""
    highest: Tensor
    """(R, C) scores."""
    place: Tensor
    """(R, C) the token of each."""
    thresholds: Tensor
    """(C) what the kind asks of a token's score, or of a picture's highest."""
    codes: Tensor
    """(R, L, S)"""
    members: Tensor
    """(C, S) bool"""
    floor: Tensor | None = None
    """(C) of `both`: what the token's own score has to pass besides."""

    @property
    def open(self) -> Tensor:
        """(R, L, C) bool: the gate of a category is open at a token."""
        if self.kind in (GateKind.IMAGE, GateKind.BOTH):
            pictures = (self.highest > self.thresholds)[:, None].expand_as(self.scores)
            return pictures if self.floor is None else pictures & (self.scores > self.floor)
        if self.kind is GateKind.TOKEN:
            return self.scores > self.thresholds
        return (self.codes != 0).to(self.codes) @ self.members.to(self.codes).T > 0

    @property
    def acting(self) -> Tensor:
        """(R, L, S): the codes that act, zero elsewhere."""
        # Some open category holds the latent.
        allowed = self.open.to(self.codes) @ self.members.to(self.codes) > 0
        return torch.where(allowed, self.codes, torch.zeros_like(self.codes))

    @property
    def counts(self) -> Tensor:
        """(R, S) at how many tokens each latent fired."""
        return self.codes.bool().sum(1)


class _Moved(NamedTuple):
    """A gate's numbers where codes are and in their dtype."""

    weights: Tensor
    """(S, C)"""
    thresholds: Tensor
    """(C) of the gate's kind; of `both` the higher of the two, which some token of an open picture passes."""
    limits: tuple[float, ...]
    """The same as numbers."""
    floor: Tensor | None
    """(C)"""


@dataclass(frozen=True, eq=False)
class Gate:
    """The gates of the chosen categories at one site."""

    kind: GateKind
    names: tuple[str, ...]
    """(C)"""
    weights: Tensor
    """(C, S): w_f where the category holds the latent."""
    members: Tensor
    """(C, S) bool: f ∈ H_c."""
    token: Tensor
    """(C): τ_token."""
    image: Tensor
    """(C): τ_image."""
    _moved: dict[tuple[torch.device, torch.dtype], _Moved] = field(
        default_factory=dict[tuple[torch.device, torch.dtype], _Moved], init=False, repr=False
    )

    @classmethod
    def over(cls, kind: GateKind | str, categories: dict[str, Category], latents: Sequence[int]) -> Gate:
        """The gates of `categories` over codes whose columns are these latents (S) of the dictionary."""
        column = {latent: position for position, latent in enumerate(latents)}
        weights = torch.zeros(len(categories), len(latents))
        members = torch.zeros(len(categories), len(latents), dtype=torch.bool)
        for row, category in enumerate(categories.values()):
            columns = [column[latent] for latent in category.latents]
            weights[row, columns] = torch.tensor(category.weights)
            members[row, columns] = True
        return cls(
            kind=GateKind(kind),
            names=tuple(categories),
            weights=weights,
            members=members,
            token=torch.tensor([category.gate.token for category in categories.values()]),
            image=torch.tensor([category.gate.image for category in categories.values()]),
        )

    def read(self, z: Tensor) -> Reading:
        """Scores the codes z (R, L, S)."""
        moved = self._like(z)
        scores = z @ moved.weights  # (R, L, C)
        highest, place = scores.max(1)  # a NaN is above all
        return Reading(self.kind, scores, highest, place, moved.thresholds, z, self.members, moved.floor)

    def is_open(self, reading: Reading, highest: list[list[float]]) -> bool:
        """Whether any gate is open, by a reading and its highest scores as numbers."""
        if self.kind is GateKind.ALWAYS:
            return bool(reading.open.any())
        limits = self._like(reading.codes).limits
        return any(score > limit for row in highest for score, limit in zip(row, limits))

    def _like(self, z: Tensor) -> _Moved:
        """The numbers for codes like z."""
        key = z.device, z.dtype
        if key not in self._moved:
            with torch.inference_mode(False):  # kept for calls in either mode
                self._moved[key] = self._move(z)
        return self._moved[key]

    def _move(self, z: Tensor) -> _Moved:
        thresholds, floor = self.token, None
        if self.kind is GateKind.IMAGE:
            thresholds = self.image
        elif self.kind is GateKind.BOTH:
            thresholds, floor = torch.maximum(self.image, self.token), self.token.to(z)
        thresholds = thresholds.to(z)
        return _Moved(self.weights.to(z).T, thresholds, tuple(thresholds.tolist()), floor)
