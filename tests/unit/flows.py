"""Attention for tests: as a host makes it, and once more with the whole matrix in float64."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from steerdit.steering.flow.groups import Group
from steerdit.steering.flow.layout import FlowLayout, TokenGrid
from steerdit.steering.flow.step import Acted, FlowRecord, FlowState, FlowStep
from steerdit.steering.sites import Site

SITE = Site.parse("single.1.attention")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As the host does: fused attention, heads side by side."""
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if mask is not None and mask.ndim < 4:
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)


def dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factors: Tensor,
    *,
    renormalise: bool = True,
    mask: Tensor | None = None,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """The whole matrix in float64: softmax, times λ, normalised again or not. factors: (R, L, L)."""
    q, k, v, factors = (x.double() for x in (q, k, v, factors))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    weights = scores.softmax(-1)
    changed = weights * factors[:, None]
    if renormalise:
        changed = changed / changed.sum(-1, keepdim=True)
    if heads is not None:
        kept = weights.clone()
        kept[:, list(heads)] = changed[:, list(heads)]
        changed = kept
    return (changed @ v).transpose(1, 2).flatten(2)


def factors_of(groups: Sequence[Sequence[Group]], length: int) -> Tensor:
    """λ as a matrix (R, L, L)."""
    found = torch.ones(len(groups), length, length)
    for row, own in enumerate(groups):
        for group in own:
            found[row, group.rows] = group.weights
    return found


def qkv(
    seed: int,
    rows: int,
    heads: int,
    length: int,
    width: int,
    shared: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """q (R, h, L, d), and k and v with one head for each `shared` of q's."""
    g = torch.Generator().manual_seed(seed)
    sizes = heads, heads // shared, heads // shared
    q, k, v = (torch.randn(rows, count, length, width, generator=g).to(dtype) for count in sizes)
    return 2 * q, k, v


def layout(
    text: int, size: tuple[int, int], references: Sequence[tuple[int, int]] = (), gap: int = 0
) -> FlowLayout:
    """text | image | references, with as many tokens of nobody between text and image."""
    image = TokenGrid(text + gap, *size)
    found, start = [], image.stop
    for reference in references:
        found.append(TokenGrid(start, *reference))
        start = found[-1].stop
    return FlowLayout(slice(0, text), image, tuple(found))


def step(
    where: FlowLayout,
    images: Sequence[int] = (0,),
    *,
    site: Site = SITE,
    sigma: float = 1.0,
    state: FlowState | None = None,
    mask: Tensor | None = None,
    seed: int | None = 5,
    observe: Callable[[FlowRecord], None] | None = None,
    whole_calls: bool = False,
    acted: dict[Hashable, Acted] | None = None,
) -> FlowStep:
    """A visit, in a model whose noise level falls from 1 to 0."""
    return FlowStep(
        site, sigma, lambda percent: 1 - percent, tuple(images), where, state or FlowState(), mask, seed, observe,
        whole_calls, {} if acted is None else acted,
    )  # fmt: skip
