"""From a source encoder to a target over benign anchors: what is carried, how it is judged, what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.directions import DirectionSet
from steerdit.steering.errors import SteeringError
from steerdit.training.directions.align import (
    AnchorStates,
    FittedMap,
    align,
    encode_anchors,
    fit_map,
    part,
    require_quality,
)
from steerdit.training.directions.estimate import estimate_directions, pair_means
from steerdit.training.directions.layers import best_layer, choose_layer, score_layers
from steerdit.training.directions.maps import Network
from steerdit.training.directions.pairs import Pair, PromptPairs
from steerdit.training.directions.sources import Layer
from steerdit.training.directions.transport import calibrate, joint_thresholds, transport

from .encoders import LATENT, Toy, benign, pairs


class TextOnly(Toy):
    """An encoder whose output alone can be seen."""

    def __init__(self, name: str, width: int, seed: int) -> None:
        super().__init__(name, width, seed)
        self.layers = (None,)


SOURCE, TARGET = Toy("source", 20, 0), Toy("target", 16, 1, bend=0.05)


@pytest.fixture(scope="module")
def native() -> DirectionSet:
    return estimate_directions(TARGET, None, pairs()).directions


@pytest.fixture(scope="module")
def maps() -> dict[str, FittedMap]:
    anchors = benign(600)
    (x,), (y,) = encode_anchors(SOURCE, (1,), anchors), encode_anchors(TARGET, (None,), anchors)
    return {kind: fit_map(x, y, kind) for kind in ("procrustes", "ridge", "mlp")}


@pytest.mark.parametrize("kind", ["procrustes", "ridge", "mlp"])
def test_a_direction_arrives_near_the_targets_own(
    kind: str, maps: dict[str, FittedMap], native: DirectionSet
) -> None:
    carried = transport(estimate_directions(SOURCE, 1, pairs()).directions, maps[kind])
    cosines = F.cosine_similarity(carried.vectors, native.vectors)
    assert cosines.min() > (0.5 if kind == "procrustes" else 0.8)
    alignment = carried.about.alignment
    assert alignment is not None
    assert (alignment.kind, alignment.source.name, carried.about.encoder.name) == (kind, "source", "target")
    assert alignment.anchors.sha256 == benign(600).sha256
    assert alignment.null < 0.05 < alignment.r2
    assert carried.about.encoder.layer is None


def test_its_length_is_beta_times_that_of_the_source(maps: dict[str, FittedMap]) -> None:
    directions, fitted = estimate_directions(SOURCE, 1, pairs()).directions, maps["ridge"]
    carried = transport(directions, fitted)
    torch.testing.assert_close(carried.vectors.norm(dim=1), fitted.beta * directions.vectors.norm(dim=1))
    anchors = benign(600)
    norms = []
    for encoder, layer in ((SOURCE, 1), (TARGET, None)):
        (states,) = encode_anchors(encoder, (layer,), anchors)
        norms.append((states.means - states.means.mean(0)).norm(dim=1).median())
    assert fitted.beta == pytest.approx(float(norms[1] / norms[0]), rel=1e-5)
    longer = transport(replace(directions, vectors=3 * directions.vectors), fitted)
    torch.testing.assert_close(longer.vectors, 3 * carried.vectors)


def test_only_the_linear_part_is_carried(maps: dict[str, FittedMap]) -> None:
    fitted = maps["ridge"]
    g = torch.Generator().manual_seed(0)
    v = 0.01 * torch.randn(20, generator=g)
    a = (
        fitted.standard_source.centre + fitted.standard_source.scale * torch.randn(5, 20, generator=g)
    ).float()
    step = fitted(a + v) - fitted(a)
    torch.testing.assert_close(step, fitted.step(v).expand_as(step), atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(fitted.step(torch.zeros(20)), torch.zeros(16))
    network = maps["mlp"]
    assert isinstance(network.transform, Network)
    raw = network.around * network.standard_source.scale + network.standard_source.centre
    differences = (network((raw + v).float()) - network(raw.float())).double().mean(0)
    torch.testing.assert_close(network.step(v).double(), differences, atol=1e-4, rtol=1e-2)


def test_shuffled_pairs_carry_nothing_and_the_same_seed_gives_the_same_map(
    maps: dict[str, FittedMap],
) -> None:
    for fitted in maps.values():
        quality = fitted.quality
        assert quality.null_r2 <= 0.05
        assert abs(quality.null_cosine) < 0.3
        assert quality.r2 > 0.3
        assert quality.contrast is not None
        assert quality.contrast > 0.6
    anchors = benign(600)
    (x,), (y,) = encode_anchors(SOURCE, (1,), anchors), encode_anchors(TARGET, (None,), anchors)
    again, ridge = fit_map(x, y, "ridge").transform, maps["ridge"].transform
    assert isinstance(again, torch.Tensor)
    assert isinstance(ridge, torch.Tensor)
    assert torch.equal(again, ridge)


def test_parts_do_not_share_anchors_nor_categories() -> None:
    anchors = benign(300)
    parts = part(anchors)
    numbers = torch.cat(list(parts)).tolist()
    assert sorted(numbers) == list(range(len(anchors)))
    seen = [{anchors.categories[i] for i in numbers.tolist()} - {None} for numbers in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert all(seen)
    plain = part(benign(100, categories=False))
    assert [len(numbers) for numbers in plain] == [80, 10, 10]


def test_states_of_anchors_come_from_benign_anchors_alone() -> None:
    anchors = benign(50)
    (states,) = encode_anchors(SOURCE, (1,), anchors)
    with pytest.raises(TypeError, match="encode_anchors"):
        AnchorStates(anchors, states.encoder, states.means, object())
    with pytest.raises(AttributeError):
        encode_anchors(SOURCE, (1,), ["a bloody cat"])  # type: ignore[arg-type]


def test_what_cannot_be_aligned_is_refused() -> None:
    anchors = benign(100)
    (x,), (y,) = encode_anchors(SOURCE, (1,), anchors), encode_anchors(TARGET, (None,), anchors)
    with pytest.raises(SteeringError, match="expected the same anchors on both sides"):
        fit_map(x, encode_anchors(TARGET, (None,), benign(90))[0])
    with pytest.raises(SteeringError, match="expected at least 40, found 30"):
        fit_map(x.subset(range(30)), y.subset(range(30)))
    with pytest.raises(SteeringError, match="one of procrustes, ridge, mlp"):
        fit_map(x, y, "affine")
    with pytest.raises(
        SteeringError, match=r"map from source to target: expected a held-out R² at least 0.1 above"
    ):
        align(anchors, SOURCE, 0, TARGET, None)
    good = fit_map(x, y)
    with pytest.raises(SteeringError, match="held-out R²"):
        require_quality(good, floor=1.0)
    unsure = replace(good, quality=replace(good.quality, r2=float("nan")))
    with pytest.raises(SteeringError, match="held-out R²"):
        require_quality(unsure)
    with pytest.raises(SteeringError, match="and nan of shuffled pairs"):
        require_quality(fit_map(x, y, null=False))


class Deaf(Toy):
    """All texts are one to it."""

    def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[torch.Tensor]:
        for text in texts:
            yield torch.ones(len(layers), len(text.split()), self.width)


@pytest.mark.parametrize("kind", ["ridge", "procrustes", "mlp"])
def test_encoders_that_do_not_tell_anchors_apart_are_refused(kind: str) -> None:
    deaf, toy, anchors = Deaf("deaf", 20, 0), Toy("toy", 16, 1), benign()
    for source, target in ((deaf, toy), (toy, deaf)):
        with pytest.raises(SteeringError, match="anchors in deaf: expected states that differ"):
            align(anchors, source, 1, target, None, kind)


def test_fitting_a_network_can_be_stopped() -> None:
    class Stopped(Exception):
        pass

    anchors, told = benign(), list[tuple[int, int]]()

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        if total < len(anchors) and done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        align(anchors, Toy("s", 20, 0), 1, Toy("t", 16, 1), None, "mlp", progress=progress)
    assert told[-3:] == [(1, 60), (2, 60), (3, 60)]


def test_a_map_is_named_before_anything_is_read() -> None:
    class Unread(Toy):
        def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[torch.Tensor]:
            raise AssertionError

    with pytest.raises(SteeringError, match="one of procrustes, ridge, mlp"):
        align(benign(100), Unread("source", 20, 0), 1, TARGET, None, "affine")


def test_directions_are_carried_only_from_where_the_map_begins(maps: dict[str, FittedMap]) -> None:
    fitted = maps["ridge"]
    for encoder, layer in ((Toy("source", 20, 5), 1), (SOURCE, None), (Toy("wide", 30, 0), 1)):
        directions = estimate_directions(encoder, layer, pairs()).directions
        with pytest.raises(SteeringError, match="expected directions of source at layer 1, of width 20"):
            transport(directions, fitted)
    directions = estimate_directions(SOURCE, 1, pairs()).directions
    # Files of other projects do not say whose directions they hold beyond a name and a layer.
    unsaid = replace(directions.about.encoder, name="said so", fingerprint=None)
    carried = transport(replace(directions, about=replace(directions.about, encoder=unsaid)), fitted)
    assert torch.equal(carried.vectors, transport(directions, fitted).vectors)
    for other in (replace(unsaid, layer=0), replace(unsaid, layer=None)):
        with pytest.raises(SteeringError, match="where the map begins"):
            transport(replace(directions, about=replace(directions.about, encoder=other)), fitted)
    nothing = replace(fitted, transform=torch.zeros(16, 20, dtype=torch.float64))
    with pytest.raises(
        SteeringError, match="direction 'bloody': expected a direction that the map carries over"
    ):
        transport(estimate_directions(SOURCE, 1, pairs()).directions, nothing)


def test_gates_open_for_one_benign_text_in_a_hundred(native: DirectionSet) -> None:
    anchors = benign(500)
    calibrated = calibrate(native, TARGET, None, anchors)
    tokens = [states[0] for states in TARGET.states(anchors.texts, (None,))]
    torch.testing.assert_close(calibrated.mean, torch.cat(tokens).mean(0))
    opened = torch.stack([calibrated.open(states[None])[0] for states in map(calibrated.scores, tokens)])
    for share, one in zip(opened.double().mean(0), calibrated.about.directions):
        assert one.false_positive is not None
        assert float(share) == pytest.approx(one.false_positive.value, abs=0.003)
        assert 0.004 <= one.false_positive.value <= 0.012
    assert calibrated.about.benign is not None
    assert calibrated.about.benign.sha256 == anchors.sha256
    risky = ["a bloody cat on a chair", "a burning boat by lamp"]
    scores = [calibrated.scores(states) for states in (s[0] for s in TARGET.states(risky, (None,)))]
    assert [bool(calibrated.open(s[None])[0, i]) for i, s in enumerate(scores)] == [True, True]
    strict = calibrate(native, TARGET, None, anchors, quantile=1.0)
    assert all(one.false_positive and one.false_positive.value == 0 for one in strict.about.directions)


def test_gates_are_calibrated_without_holding_all_tokens(native: DirectionSet) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    most = 0

    class Watched(Toy):
        def states(self, texts: Sequence[str], layers: Sequence[Layer]) -> Iterator[torch.Tensor]:
            nonlocal most
            for states in super().states(texts, layers):
                held.append(weakref.ref(states))
                most = max(most, sum(one() is not None for one in held))
                yield states

    told: list[tuple[int, int]] = []
    target = Watched("target", 16, 1, bend=0.05)
    anchors = benign(200)
    found = calibrate(native, target, None, anchors, progress=lambda *done: told.append(done))
    assert torch.equal(found.thresholds, calibrate(native, TARGET, None, anchors).thresholds)
    assert most <= 5  # of 200: what loops still hold
    assert told == [(n, 2 * len(anchors)) for n in range(1, 2 * len(anchors) + 1)]
    for quantile in (-0.1, 1.1, float("nan")):
        with pytest.raises(SteeringError, match="quantile: expected a share from 0 to 1"):
            calibrate(native, TARGET, None, anchors, quantile=quantile)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 60), st.integers(1, 5), st.floats(0.5, 1.0), st.integers(0, 1000))
def test_joint_thresholds_let_as_many_rows_pass_as_they_may(
    n: int, c: int, quantile: float, seed: int
) -> None:
    scores = torch.randn(n, c, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # with ties
    most = (1 - quantile) * n + 1e-9

    def passing(rank: int) -> int:
        return int((scores > scores.sort(0, descending=True).values[rank]).any(1).sum())

    found = joint_thresholds(scores, quantile)
    allowed = [rank for rank in range(n) if all(passing(r) <= most for r in range(rank + 1))]
    assert torch.equal(found, scores.double().sort(0, descending=True).values[allowed[-1]])


def test_gates_open_jointly_for_one_benign_text_in_fifty(native: DirectionSet) -> None:
    anchors = benign(500)
    calibrated = calibrate(native, TARGET, None, anchors, quantile=0.98, joint=True)
    categories = calibrated.only([name for name in calibrated.names if name != "global"])
    opened = [
        bool(categories.open(categories.scores(states)).any())
        for states in TARGET.states(anchors.texts, (None,))
    ]
    assert 0.01 <= sum(opened) / len(opened) <= 0.02
    alone = calibrate(native, TARGET, None, anchors, quantile=0.98)
    assert bool((calibrated.thresholds >= alone.thresholds).all())
    assert "global" not in alone.names or calibrated.thresholds[-1] == alone.thresholds[-1]


def test_gates_are_calibrated_by_the_directions_own_encoder(native: DirectionSet) -> None:
    for encoder, layer in ((SOURCE, None), (TARGET, 1)):
        with pytest.raises(SteeringError, match="expected target at layer None, where the directions live"):
            calibrate(native, encoder, layer, benign(50))
    about = replace(native.about, encoder=replace(native.about.encoder, fingerprint=None))
    unsaid = replace(native, about=about)
    assert calibrate(unsaid, TARGET, None, benign(50)).about.benign is not None
    with pytest.raises(SteeringError, match=r"of width 16, found wide at layer None, of width 30"):
        calibrate(unsaid, Toy("wide", 30, 0), None, benign(50))


def test_the_layer_that_says_something_is_chosen() -> None:
    anchors, given_pairs = benign(300), pairs()
    sources = encode_anchors(SOURCE, (0, 1), anchors)
    (target,) = encode_anchors(TARGET, (None,), anchors)
    unsafe, safe = pair_means(SOURCE, (0, 1), given_pairs)
    scores = score_layers(sources, target, unsafe, safe, given_pairs)
    assert best_layer(scores).layer == 1
    assert scores[1].auroc > 0.95
    assert scores[1].score > scores[0].score
    assert choose_layer(SOURCE, given_pairs, TARGET, None, anchors)[0] == 1
    assert choose_layer(SOURCE, given_pairs) == (1, [])
    assert choose_layer(TextOnly("text", 16, 1), given_pairs, TARGET, None, anchors) == (None, [])
    close = [scores[1]._replace(layer=layer, contrast=c) for layer, c in ((3, 0.5), (5, 0.49), (7, 0.3))]
    assert best_layer(close).layer == 5
    few = PromptPairs((*given_pairs.pairs, Pair("new", "new", "a new cat", "a cat")))
    with pytest.raises(SteeringError, match="category 'new': pairs: expected at least 4 pairs, found 1"):
        choose_layer(SOURCE, few, TARGET, None, anchors)
    with pytest.raises(SteeringError, match="expected one that tells unsafe from safe"):
        best_layer([scores[0]._replace(r2=-1.0, contrast=None)])


def test_widths_of_the_toys_suffice() -> None:
    assert LATENT < TARGET.width < SOURCE.width
