"""Whether a modifier acts: the scores of risk categories, and the gates that they open.

    s_c = Σ_{f ∈ H_c} w_f z_f        score of category c at one token; H_c are its latents, w_f their weights
    always   c is open at a token    where any latent of H_c fires
    token    c is open at a token    where s_c > τ_token
    image    c is open in a picture  where max over its tokens of s_c > τ_image

A latent acts where it fires and any chosen category that holds it is open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


class Reading(NamedTuple):
    """What a gate sees in the codes of R rows of L tokens, with C categories over S latents."""

    scores: Tensor
    """(R, L, C)"""
    open: Tensor
    """(R, L, C) bool: the gate of a category is open at a token."""
    highest: Tensor
    """(R, C) scores."""
    opened: Tensor
    """(R, C) bool: the gate is open at any token."""
    codes: Tensor
    """(R, L, S)"""
    members: Tensor
    """(C, S) bool"""

    def verdict(self) -> tuple[bool, bool]:
        """Whether all scores are finite, and whether any gate is open. Waits for the device, once."""
        highest, opened = torch.stack([self.highest, self.opened.to(self.highest)]).flatten(1).tolist()
        return all(map(math.isfinite, highest)), any(opened)

    @property
    def acting(self) -> Tensor:
        """(R, L, S): the codes that act, zero elsewhere. Made when it is asked for: at closed gates nobody does."""
        allowed = (
            self.open.to(self.codes) @ self.members.to(self.codes) > 0
        )  # some open category holds the latent
        return torch.where(allowed, self.codes, torch.zeros_like(self.codes))


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
        """Scores the codes z (R, L, S) and opens the gates."""
        scores = z @ self.weights.to(z).T  # (R, L, C)
        highest = scores.amax(1)  # a NaN is above all
        if self.kind is GateKind.ALWAYS:
            is_open = (z != 0).to(z) @ self.members.to(z).T > 0
            opened = is_open.any(1)
        elif self.kind is GateKind.TOKEN:
            is_open = scores > self.token.to(z)
            opened = is_open.any(1)
        else:
            opened = highest > self.image.to(z)
            is_open = opened[:, None].expand_as(scores)
        return Reading(scores, is_open, highest, opened, z, self.members)
