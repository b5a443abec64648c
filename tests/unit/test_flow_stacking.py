"""Several restrictions of one attention: their weights multiply in every order, and nothing of any of them is lost."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.steering.flow.groups import Flow, Weights, groups_of
from steerdit.steering.flow.localise import around
from steerdit.steering.flow.modifier import RestrictFlow
from steerdit.steering.flow.noise import Noise, mixed, noise_seed
from steerdit.steering.flow.step import Acted, FlowState
from steerdit.steering.schedules import Schedule

from . import flows
from .restrictions import QUIET, core_of, masked

LAYOUT = flows.layout(3, (4, 5), [(2, 3), (3, 2)])
HEADS, WIDTH = 3, 4
ALWAYS = {"startup": Schedule(), "active": Schedule()}
PATCHES = st.sets(st.integers(0, 19), max_size=6)


def acting(
    modifiers: list[RestrictFlow], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    """One visit of modifiers one around another, as the host makes it."""
    acted: dict[Any, Acted] = {}
    attend = flows.attend
    for number, modifier in enumerate(modifiers):
        step = flows.step(
            LAYOUT, range(q.shape[0]), state=FlowState(), mask=mask, whole_calls=number > 0, acted=acted
        )

        def around_it(
            q: Tensor, k: Tensor, v: Tensor, of: Tensor | None, modifier: Any = modifier, step: Any = step,
            before: Any = attend, whole: Tensor = q,
        ) -> Tensor:  # fmt: skip
            if q is whole and of is mask:
                return modifier(before, q, k, v, step)
            return flows.attend(q, k, v, of)

        attend = around_it
    return attend(q, k, v, mask)


def expected(
    modifiers: list[RestrictFlow], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Their weights multiplied, pair by pair and head by head, in float64 with the whole matrix."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.mT / q.shape[-1] ** 0.5
    shares = (scores if mask is None else scores + mask.double()).softmax(-1)
    biased, scaled = torch.ones_like(shares), torch.ones_like(shares)
    for one in modifiers:
        assert one.masks is not None
        cores = [one.masks[row if len(one.masks) > 1 else 0] for row in range(q.shape[0])]
        groups = [groups_of(LAYOUT, around(core, 1), one.weights, one.flow, LAYOUT.tokens) for core in cores]
        factors = flows.factors_of(groups, LAYOUT.tokens).double()[:, None]
        heads = list(range(HEADS)) if one.heads is None else list(one.heads)
        (biased if one.renormalise else scaled)[:, heads] *= factors
    shares = shares * biased * scaled / (shares * biased).sum(-1, keepdim=True)
    return (shares @ v).transpose(1, 2).flatten(2)


@st.composite
def restrictions(draw: st.DrawFn) -> RestrictFlow:
    weight = st.sampled_from((0.0, 0.2, 0.4, 1.0))
    marks = [core_of(draw(PATCHES)) for _ in range(draw(st.integers(1, 2)))]
    marks[0][1, 2] = True
    return RestrictFlow(
        masks=torch.stack(marks),
        noise=QUIET,
        flow=draw(st.sampled_from(list(Flow))),
        weights=Weights(draw(weight), draw(weight), draw(st.sampled_from((1.0, 1.05, 20.0)))),
        renormalise=draw(st.booleans()),
        heads=draw(st.sampled_from((None, (0,), (0, 2), (1, 2)))),
        **ALWAYS,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(restrictions(), min_size=2, max_size=3), st.booleans(), st.integers(0, 99))
def test_weights_multiply(modifiers: list[RestrictFlow], with_mask: bool, seed: int) -> None:
    q, k, v = flows.qkv(seed, 2, HEADS, LAYOUT.tokens, WIDTH)
    mask = None
    if with_mask:
        mask = torch.randn(2, 1, 1, LAYOUT.tokens, generator=torch.Generator().manual_seed(seed))
    wanted = expected(modifiers, q, k, v, mask)
    for order in itertools.permutations(modifiers):
        torch.testing.assert_close(acting(list(order), q, k, v, mask).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [None, (1,)])
def test_noise_of_an_earlier_one_stays(heads: tuple[int, ...] | None) -> None:
    q, k, v = flows.qkv(3, 1, HEADS, LAYOUT.tokens, WIDTH)
    noisy = RestrictFlow(masks=core_of({6, 7})[None], noise=Noise(0.5, matched=False), heads=heads, **ALWAYS)
    later = masked(core_of({12})[None], flow=Flow.REFERENCE, **ALWAYS)
    wanted = expected([noisy, later], q, k, v)
    rows = LAYOUT.image.start + torch.tensor([6, 7])
    seed = noise_seed(5, 0, flows.SITE, 1.0)
    wanted[0, rows] = mixed(wanted[0].float(), rows, 0.5, seed, 1.0, heads, HEADS).double()
    for order in ([noisy, later], [later, noisy]):
        torch.testing.assert_close(acting(order, q, k, v).double(), wanted, rtol=1e-5, atol=1e-5)


def test_who_restricts_nothing_leaves_what_another_did() -> None:
    q, k, v = flows.qkv(3, 2, HEADS, LAYOUT.tokens, WIDTH)
    one = masked(core_of({6})[None], **ALWAYS)
    nothing = masked(core_of({6})[None], weights=Weights(1.0, 1.0, 1.0), **ALWAYS)
    alone = acting([one], q, k, v)
    torch.testing.assert_close(acting([nothing, one], q, k, v), alone)
    torch.testing.assert_close(acting([one, nothing], q, k, v), alone)
