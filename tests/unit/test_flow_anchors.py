"""Anchors from streamed moments, and scores from anchors, held against the formulas written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.steering.errors import SteeringError
from steerdit.steering.flow.anchors import PICTURES, AnchorCollector, Anchors, clusters
from steerdit.steering.flow.moments import Moments
from steerdit.steering.flow.score import PUBLISHED, Detector, ScoreKind

from .flows import SITE

HEADS, WIDTH, PATCHES = 2, 4, 20


def pictures(
    seed: int, count: int, shift: float = 2.0, heads: int = HEADS, width: int = WIDTH
) -> list[tuple[Tensor, Tensor]]:
    """Outputs (P, h·d) far from zero, whose unsafe patches are moved, with their masks (P)."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.randn(heads * width, heads * width, generator=g)
    away = shift * torch.randn(heads * width, generator=g)
    found = []
    for _ in range(count):
        mask = torch.rand(PATCHES, generator=g) < 0.4
        mask[0] = True
        found.append(
            (torch.randn(PATCHES, heads * width, generator=g) @ spread + 10 + mask[:, None] * away, mask)
        )
    return found


def collected(seen: list[tuple[Tensor, Tensor]], joint: bool = False, **more: int) -> AnchorCollector:
    collector = AnchorCollector(SITE, more.get("heads", HEADS), more.get("width", WIDTH), joint=joint)
    for outputs, mask in seen:
        collector.add_unsafe("blade", outputs, mask)
    return collector


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31), st.lists(st.integers(0, 7), min_size=1, max_size=5), st.sampled_from([0.0, 1e4])
)
def test_moments_of_parts_are_moments_of_the_whole(seed: int, sizes: list[int], offset: float) -> None:
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(size, 2, 3, generator=g, dtype=torch.float64) + offset for size in sizes]
    whole, joined = Moments.of(torch.cat(parts)), Moments.none(2, 3)
    for part in parts:
        joined.add(Moments.of(part))
    assert joined.count == whole.count
    torch.testing.assert_close(joined.mean, whole.mean)
    torch.testing.assert_close(joined.scatter, whole.scatter, rtol=1e-7, atol=1e-7)
    if whole.count > 1:
        x = torch.cat(parts)[:, 1]
        torch.testing.assert_close(whole.scatter[1] / (whole.count - 1), x.T.cov(), rtol=1e-7, atol=1e-7)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.booleans(), st.floats(0.0, 1.0))
def test_anchors_are_the_formulas(seed: int, joint: bool, shrinkage: float) -> None:
    seen = pictures(seed, 6)
    anchors = collected(seen, joint).anchors(shrinkage=shrinkage)
    unsafe = torch.cat([outputs[mask] for outputs, mask in seen]).double()
    benign = torch.cat([outputs[~mask] for outputs, mask in seen]).double()
    assert anchors.contrasts is not None
    assert anchors.offsets is not None
    assert anchors.benign is not None
    torch.testing.assert_close(anchors.means[0, 0].flatten().double(), unsafe.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(anchors.benign.flatten().double(), benign.mean(0), rtol=1e-5, atol=1e-5)
    width = HEADS * WIDTH if joint else WIDTH
    score = torch.zeros(PATCHES, dtype=torch.float64)
    x = seen[0][0].double()
    for at in range(0, HEADS * WIDTH, width):
        own = slice(at, at + width)
        a, b = unsafe[:, own], benign[:, own]
        pooled = (a.T.cov() * (len(a) - 1) + b.T.cov() * (len(b) - 1)) / (len(a) + len(b) - 2)
        pooled = (1 - shrinkage) * pooled + shrinkage * torch.diag(pooled.diagonal())
        pooled += 1e-6 * pooled.diagonal().mean() * torch.eye(width)
        w = torch.linalg.inv(pooled) @ (a.mean(0) - b.mean(0))
        score += (x[:, own] - (a.mean(0) + b.mean(0)) / 2) @ w
    found = anchors.detector("blade", ScoreKind.WHITENED, 0.0).score(seen[0][0])
    torch.testing.assert_close(found.double(), score, rtol=1e-3, atol=1e-3)


def test_the_mean_anchor_says_what_all_anchors_say_in_the_mean() -> None:
    seen = pictures(3, 5)
    detector = collected(seen).anchors().detector("blade", ScoreKind.DOT, 0.5)
    x = seen[0][0]
    each = [
        x.view(PATCHES, HEADS, WIDTH).mul(anchor.view(HEADS, WIDTH)).sum(-1).mean(-1) / math.sqrt(WIDTH)
        for outputs, mask in seen
        for anchor in outputs[mask]
    ]
    torch.testing.assert_close(detector.score(x), torch.stack(each).mean(0), rtol=1e-5, atol=1e-4)


def test_the_cosine_is_relative_to_benign_patches() -> None:
    seen = pictures(4, 4)
    anchors = collected(seen).anchors()
    assert anchors.benign is not None
    x = seen[1][0].view(PATCHES, HEADS, WIDTH)
    expected = torch.cosine_similarity(x - anchors.benign, anchors.means[0, 0] - anchors.benign, dim=-1).mean(
        -1
    )
    found = anchors.detector("blade", ScoreKind.COSINE, 0.5).score(seen[1][0])
    torch.testing.assert_close(found, expected)
    assert found.abs().max() <= 1 + 1e-6
    patch = anchors.benign.flatten()[None]
    assert (
        anchors.detector("blade", ScoreKind.COSINE, 0.5).score(patch).item() == 0
    )  # no NaN where nothing differs


@pytest.mark.parametrize("kind", list(ScoreKind))
def test_chosen_heads_alone_are_asked(kind: ScoreKind) -> None:
    seen = pictures(5, 6)
    anchors = collected(seen).anchors(several=2)
    x = seen[0][0]
    changed = x.clone()
    changed[:, WIDTH:] = 7.0
    one = anchors.detector("blade", kind, 0.5, heads=(0,))
    assert torch.equal(one.score(x), one.score(changed))
    per_head = [anchors.detector("blade", kind, 0.5, heads=(head,)).score(x) for head in range(HEADS)]
    whole = anchors.detector("blade", kind, 0.5).score(x)
    joined = sum(per_head) if kind is ScoreKind.WHITENED else sum(per_head) / HEADS
    torch.testing.assert_close(whole, joined, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(ScoreKind))
def test_coarse_outputs_are_scored_in_single_precision(kind: ScoreKind) -> None:
    detector = collected([*pictures(6, 4, 3.0)]).anchors().detector("blade", kind, 0.5)
    x = torch.randn(2, 300, HEADS * WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    torch.testing.assert_close(detector.score(x), detector.score(x.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", list(ScoreKind))
def test_several_anchors_score_as_the_nearest_of_them(kind: ScoreKind) -> None:
    seen = [*pictures(6, 4, 3.0), *pictures(7, 4, 3.0)]
    anchors = collected(seen).anchors(several=2)
    assert anchors.means.shape == (1, 3, HEADS, WIDTH)
    several = anchors.detector("blade", kind, 0.5, several=True)
    x = seen[0][0]
    single = [
        Detector(
            "blade", kind, 0.5, several.probes[n : n + 1],
            None if several.offsets is None else several.offsets[n : n + 1], several.centre,
        ).score(x)
        for n in range(2)
    ]  # fmt: skip
    torch.testing.assert_close(several.score(x), torch.maximum(*single), rtol=1e-5, atol=1e-5)


def test_whitened_anchors_find_what_the_mean_does_not() -> None:
    """Unsafe and benign differ where the variance is small: the raw product is blind to it."""
    g = torch.Generator().manual_seed(0)
    scale = torch.tensor([10.0, 10.0, 10.0, 0.2])
    collector = AnchorCollector(SITE, 1, 4)
    held_out = []
    for number in range(20):
        mask = torch.arange(PATCHES) < 8
        outputs = torch.randn(PATCHES, 4, generator=g) * scale + 5
        outputs[mask, 3] += 1.0
        held_out.append((outputs, mask)) if number > 15 else collector.add_unsafe("blade", outputs, mask)
    anchors = collector.anchors()
    whitened = anchors.detector("blade", ScoreKind.WHITENED, 0.0)
    right = torch.cat([(whitened.score(outputs) >= 0) == mask for outputs, mask in held_out])
    assert right.float().mean() > 0.95
    dot = anchors.detector("blade", ScoreKind.DOT, 0.0)
    inside = torch.cat([dot.score(outputs)[mask] for outputs, mask in held_out])
    outside = torch.cat([dot.score(outputs)[~mask] for outputs, mask in held_out])
    assert abs((inside[:, None] > outside).float().mean() - 0.5) < 0.15


def test_parts_of_the_prompts_join() -> None:
    seen = pictures(8, 6)
    whole, one, other = collected(seen), collected(seen[:2]), collected(seen[2:])
    one.merge(other)
    assert one.patches == whole.patches
    assert one.benign_patches == whole.benign_patches
    for found, expected in zip(vars(one.anchors(2)).values(), vars(whole.anchors(2)).values()):
        if isinstance(found, Tensor):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        SteeringError, match=r"expected another part with 2 heads of width 4 there, found .* 4 heads"
    ):
        one.merge(AnchorCollector(SITE, 4, 2))


def test_memory_does_not_grow_with_the_pictures() -> None:
    collector = AnchorCollector(SITE, 1, 2)
    for number in range(PICTURES + 50):
        collector.add_unsafe("blade", torch.full((2, 2), float(number)), torch.tensor([True, False]))
    assert len(collector._pictures["blade"]) == PICTURES
    assert collector.patches == {"blade": PICTURES + 50}


def test_concepts_with_fewer_clusters_repeat_their_mean() -> None:
    collector = collected(pictures(9, 5))
    collector.add_unsafe("blood", *pictures(10, 1)[0])
    anchors = collector.anchors(several=3)
    assert anchors.means.shape[:2] == (2, 4)
    assert torch.equal(anchors.means[1, 2], anchors.means[1, 0])
    assert torch.equal(anchors.means[1, 3], anchors.means[1, 0])


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_clusters_are_settled_and_the_same_each_time(seed: int, points: int, count: int) -> None:
    x = torch.randn(points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centres = clusters(x, count)
    assert len(centres) == min(count, points)
    own = torch.cdist(x, centres).argmin(1)
    for number, centre in enumerate(centres):
        assert bool((own == number).any())
        torch.testing.assert_close(centre, x[own == number].mean(0))
    assert torch.equal(centres, clusters(x, count))


def test_equal_points_make_one_cluster() -> None:
    assert clusters(torch.ones(6, 2), 3).tolist() == [[1.0, 1.0]]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "mask", "message"),
    [
        (
            torch.ones(6, 8),
            torch.zeros(6),
            "mask of blade: expected at least one unsafe patch, found an empty mask",
        ),
        (
            torch.ones(6, 8),
            torch.ones(2, 4),
            "mask of blade: expected 6 patches, as the picture has, found 8",
        ),
        (
            torch.ones(6, 4),
            torch.ones(6),
            r"expected outputs of 2 heads of width 4, found a tensor of shape \[6, 4\]",
        ),
        (
            torch.full((6, 8), math.nan),
            torch.ones(6),
            "found NaN or infinite numbers in the model's attention",
        ),
    ],
)
def test_pictures_that_cannot_be_are_refused(outputs: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        AnchorCollector(SITE, HEADS, WIDTH).add_unsafe("blade", outputs, mask)


def test_what_was_not_collected_is_refused_by_name() -> None:
    with pytest.raises(SteeringError, match="expected unsafe pictures with their masks, found none"):
        AnchorCollector(SITE, HEADS, WIDTH).anchors()
    collector = AnchorCollector(SITE, HEADS, WIDTH)
    collector.add_unsafe("blade", torch.randn(6, 8), torch.ones(6))  # no benign patch at all
    alone = collector.anchors()
    alone.detector("blade", ScoreKind.DOT, 0.3)
    for kind in (ScoreKind.COSINE, ScoreKind.WHITENED):
        with pytest.raises(
            SteeringError, match=f"benign patches, which the {kind.value} score is relative to"
        ):
            alone.detector("blade", kind, 0.3)
    with pytest.raises(SteeringError, match="expected several anchors of each concept, found its mean alone"):
        alone.detector("blade", ScoreKind.DOT, 0.3, several=True)
    with pytest.raises(SteeringError, match="expected one of the concepts blade, found 'blood'"):
        alone.detector("blood", ScoreKind.DOT, 0.3)


def sound() -> Anchors:
    return collected(pictures(0, 2)).anchors()


@pytest.mark.parametrize(
    ("kind", "threshold", "message"),
    [
        (
            ScoreKind.COSINE,
            -1.0,
            r"above -1 and below 1, as a cosine is, found -1\.0, which marks everything",
        ),
        (ScoreKind.COSINE, 1.5, r"found 1\.5, which marks nothing"),
        (ScoreKind.DOT, -math.inf, "a finite number, found -inf, which marks everything"),
        (ScoreKind.WHITENED, math.nan, "a finite number, found NaN"),
    ],
)
def test_thresholds_that_mark_everything_or_nothing_are_refused(
    kind: ScoreKind, threshold: float, message: str
) -> None:
    with pytest.raises(SteeringError, match=f"threshold of blade: expected .*{message}"):
        sound().detector("blade", kind, threshold)


def test_another_models_heads_are_refused_by_number() -> None:
    detector = sound().detector("blade", ScoreKind.DOT, 0.3)
    detector.require(2, 4, "single.1.attention")
    with pytest.raises(
        SteeringError, match="2 heads of width 4, as the anchors of blade have, found 4 heads of width 2"
    ):
        detector.require(4, 2, "single.1.attention")
    for heads in ((), (2,), (-1,)):
        with pytest.raises(SteeringError, match="heads of blade: expected heads from 0 to 1"):
            sound().detector("blade", ScoreKind.DOT, 0.3, heads=heads)


def test_published_thresholds() -> None:
    assert PUBLISHED == {"nude": 0.6, "pikachu": 0.35, "blood": 0.5, "weapon": 0.3}
