"""The weights of a gate against closed forms and a plain logistic regression."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.training.gates import weights as weights_module
from steerdit.training.gates.weights import WeightRule, fit_bags, fit_logistic, highest_of_bags


@given(seed=st.integers(0, 1000), bags=st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_highest_of_bags_is_the_argmax_of_each(seed: int, bags: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    bag = torch.cat([torch.arange(bags), torch.randint(bags, (20,), generator=draw)])
    score = torch.randint(5, (len(bag),), generator=draw).float()
    found = highest_of_bags(score, bag, bags)
    for number in range(bags):
        own = (bag == number).nonzero()[:, 0]
        assert found[number] == own[score[own].argmax()]


def test_logistic_regression_is_the_minimum_of_its_loss() -> None:
    draw = torch.Generator().manual_seed(0)
    x, label = torch.rand(300, 4, generator=draw), torch.rand(300, generator=draw) < 0.3
    x[label, :2] += 0.4
    rule = WeightRule(steps=4000, ridge=1e-2)
    found = fit_logistic(x, label, rule)

    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        positive = torch.nn.functional.softplus(w[:4])  # another way to keep weights above 0
        margin = torch.where(label, 1.0, -1.0) * (x.double() @ positive + w[4])
        each = torch.nn.functional.softplus(-margin)
        value = (each[label].mean() + each[~label].mean()) / 2 + rule.ridge * positive.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    assert torch.allclose(found, torch.nn.functional.softplus(w[:4]).detach().float(), atol=2e-2)


def test_a_latent_of_one_token_in_an_unsafe_bag_gets_the_weight() -> None:
    draw = torch.Generator().manual_seed(1)
    bag = torch.arange(200).repeat_interleave(6)
    unsafe = bag < 100
    z = torch.rand(1200, 5, generator=draw)  # four latents say nothing
    z[:, 2] = 0
    z[torch.arange(100) * 6 + 3, 2] = 1.0
    weights = fit_bags(z, bag, unsafe)
    assert (weights >= 0).all()
    assert abs(float(weights.mean()) - 1) < 1e-5
    assert weights[2] > 0.8 * weights.sum()
    best = torch.zeros(200).scatter_reduce(0, bag, z @ weights, "amax")
    assert best[:100].min() > best[100:].max()


def test_where_nothing_tells_apart_all_weigh_the_same() -> None:
    weights = fit_bags(torch.zeros(12, 3), torch.arange(4).repeat_interleave(3), torch.arange(12) < 6)
    assert weights.tolist() == [1.0, 1.0, 1.0]


def test_a_long_recording_is_learnt_from_in_part() -> None:
    assert weights_module._some(10, 3.0).all()
    few = weights_module._some(1000, 0.25)
    assert int(few.sum()) == 250
    assert torch.equal(few, weights_module._some(1000, 0.25))
