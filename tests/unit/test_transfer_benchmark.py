"""The benchmark of directions: what it asks, chooses and claims, without a generator."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from PIL import Image

from steerdit.benchmarks.emoji_scenes.concepts import CATEGORIES
from steerdit.benchmarks.emoji_scenes.pairs import HELD_OUT_THINGS, world_pairs
from steerdit.benchmarks.emoji_scenes.prompts import Prompt
from steerdit.benchmarks.store import Budget, OutOfTime, Store
from steerdit.benchmarks.transfer import choice, claims, plan, tables
from steerdit.benchmarks.transfer.cells import Asked, Cell
from steerdit.benchmarks.transfer.curves import draw
from steerdit.benchmarks.transfer.methods import Method, modifier
from steerdit.benchmarks.transfer.prompting import BENIGN, OTHER_NAMES, SETS, chosen_on, gate_texts, judged
from steerdit.benchmarks.transfer.settings import ANCHORS, CARRIED, MAPS, SOURCES, STRENGTHS, Sizes
from steerdit.benchmarks.transfer.states import Remembered
from steerdit.steering.directions import DirectionSet
from steerdit.steering.formats.directions import GLOBAL, Direction, DirectionSite, Encoder
from steerdit.steering.modifiers import Step
from steerdit.steering.sites import Site
from steerdit.training.directions import encode_anchors, estimate_directions
from steerdit.training.directions.sources import token_means

from .encoders import Toy, benign, pairs

STEP = Step(Site("text"), math.inf)


def everything_judged(n: int = 40) -> list[Prompt]:
    return [p for name in SETS for p in judged(name, n)]


@pytest.mark.parametrize("name", [*CATEGORIES, *(c + OTHER_NAMES for c in CATEGORIES)])
def test_judged_things_are_in_no_pair(name: str) -> None:
    asked = judged(name, 40)
    things = {thing for p in asked for thing in p.benign}
    assert things
    assert things <= set(HELD_OUT_THINGS)
    assert {p.kind for p in asked} == {"unsafe", "mixed"}
    assert asked[:10] == judged(name, 10)
    learnt = {
        text for pair in world_pairs(80).select(held_out=False).pairs for text in (pair.unsafe, pair.safe)
    }
    if name in choice.BOUNDED:
        assert not learnt & {p.text for p in asked}


@pytest.mark.parametrize("name", SETS)
def test_nothing_that_is_chosen_on_is_judged(name: str) -> None:
    taken = everything_judged()
    asked = chosen_on(name, 30, taken)
    assert len(asked) == 30
    assert not {p.text for p in asked} & {p.text for p in taken}
    if name != BENIGN:
        assert not {thing for p in asked for thing in p.benign} & set(HELD_OUT_THINGS)


def test_gates_are_set_on_other_benign_prompts() -> None:
    texts = gate_texts(100, everything_judged())
    assert len(set(texts)) == 100
    assert not set(texts) & {p.text for p in everything_judged()}


def directions(source: str, seed: int, threshold: float | None = 0.2) -> DirectionSet:
    names = (*CATEGORIES, GLOBAL)
    vectors = torch.randn(len(names), 12, generator=torch.Generator().manual_seed(seed))
    about = DirectionSite(12, Encoder("toy"), tuple(Direction(name, threshold=threshold) for name in names))
    return DirectionSet(about, vectors, torch.zeros(12), source)


def tokens(*towards: Any) -> Any:
    return torch.stack([3 * one for one in towards])[None]


def test_random_directions_act_where_the_carried_ones_do() -> None:
    of = {CARRIED: directions(CARRIED, 0), "random": directions("random", 1, threshold=None)}
    unsafe = of[CARRIED].only(CATEGORIES).unsafe
    nothing = tokens(-unsafe.sum(0))
    for operator in STRENGTHS:
        borrowed = modifier(Method("random", "gated", operator, 2.0), of)
        assert borrowed(nothing, STEP) is nothing
        risky = tokens(unsafe[2])
        opened = [
            bool(x) for x in of[CARRIED].only(CATEGORIES).open(of[CARRIED].only(CATEGORIES).scores(risky))[0]
        ]
        changed = borrowed(risky, STEP)
        assert any(opened)
        if operator == "add":
            assert changed is not risky
            moved = (changed - risky)[0, 0]
            span = of["random"].vectors[[i for i, is_open in enumerate(opened) if is_open]]
            left = moved - torch.linalg.lstsq(span.T, moved[:, None]).solution[:, 0] @ span
            assert left.norm() < 1e-4 * moved.norm()


def test_methods_say_which_directions_act() -> None:
    of = {CARRIED: directions(CARRIED, 0)}
    risky = torch.randn(1, 4, 12, generator=torch.Generator().manual_seed(3))
    moved = modifier(Method(CARRIED, GLOBAL, "add", 2.0), of)(risky, STEP) - risky
    torch.testing.assert_close(moved, 2 * of[CARRIED].vectors[-1].expand_as(moved), atol=1e-5, rtol=1e-5)
    moved = modifier(Method(CARRIED, "multi", "add", 2.0), of)(risky, STEP) - risky
    torch.testing.assert_close(
        moved, 2 * of[CARRIED].vectors[:4].mean(0).expand_as(moved), atol=1e-5, rtol=1e-5
    )
    alone = modifier(Method(CARRIED, "bloody", "add", 1.0), of)(risky, STEP) - risky
    own = of[CARRIED].vectors[CATEGORIES.index("bloody")]
    torch.testing.assert_close(alone, own.expand_as(alone), atol=1e-5, rtol=1e-5)


def test_token_means_are_read_once_and_stay(tmp_path: Any) -> None:
    toy, anchors = Toy("source", 20, 0), benign(60)
    first = encode_anchors(Remembered(toy, Store(tmp_path, Budget(None))), (1,), anchors)[0]
    torch.testing.assert_close(first.means, token_means(toy, anchors.texts, (1,))[0])
    again = Remembered(toy, Store(tmp_path, Budget(0)))
    assert torch.equal(encode_anchors(again, (1,), anchors)[0].means, first.means)
    with pytest.raises(OutOfTime):
        encode_anchors(again, (0,), anchors)
    kept = estimate_directions(Remembered(toy, Store(tmp_path, Budget(None))), 1, pairs()).directions
    torch.testing.assert_close(kept.vectors, estimate_directions(toy, 1, pairs()).directions.vectors)


def a_cell(
    category: str | None, hits: int, n: int = 104, kept: int | None = None, digest: str = "same"
) -> Cell:
    risks = [(category,) if category and i < hits else () for i in range(n)]
    match = [i < (n if kept is None else kept) for i in range(n)]
    return Cell(tuple(risks), tuple(match), (1.0,) * n, (digest,) * n, (True,) * n)


def test_the_weakest_of_nearly_equal_methods_that_keep_benign_pictures_is_chosen() -> None:
    base = {name: a_cell(name, 50, 52) for name in choice.BOUNDED} | {BENIGN: a_cell(None, 0, 104)}
    cells: dict[Method, dict[str, Cell]] = {}
    outcomes = ((30, 104), (0, 90), (0, 104), (0, 104))  # unsafe pictures of each category, benign ones kept
    for method, (hits, benign_kept) in zip(choice.tried(CARRIED), outcomes, strict=True):
        cells[method] = {name: a_cell(name, hits, 52) for name in choice.BOUNDED} | {
            BENIGN: a_cell(None, 0, 104, benign_kept)
        }
    found = choice.chosen(base, cells)
    assert (found.operator, found.strength) == ("project_out", 4.0)


CHOICES = {source: Method(source, "gated", "project_out", 2.0) for source in choice.CHOOSERS}


def known(after: int, native: int, random: int, benign_kept: int = 104) -> dict[Asked, Cell]:
    """All cells of an architecture in which methods leave so many unsafe pictures of 104."""
    cells: dict[Asked, Cell] = {}
    asked = [
        *plan.of_base(), *plan.of_headlines(CHOICES), *plan.of_selectivity(CHOICES), *plan.of_curves(),
        *plan.of_other_names(CHOICES),
    ]  # fmt: skip
    for one in asked:
        category = one.prompts.removesuffix(OTHER_NAMES)
        if category == BENIGN:
            cells[one] = a_cell(None, 0, kept=104 if one.method is None else benign_kept)
            continue
        hits = {None: 100, "native": native, "random": random}.get(
            None if one.method is None else one.method.source, after
        )
        if one.method is not None and one.method.form in CATEGORIES and one.method.form != category:
            hits = 90
        cells[one] = a_cell(category, hits)
    return cells


def test_claims_hold_where_they_should_and_fail_where_they_should() -> None:
    good, without = claims.of_architecture(claims.Results("flux", known(5, 3, 98), CHOICES))
    assert without == []
    assert {name for name, claim in good.items() if not claim.holds} == set()
    wanted = {
        f"a.flux.{c}.{what}" for c in choice.BOUNDED for what in ("unsafe", "artifacts", "share_of_native")
    }
    assert wanted | {"a.flux.benign_caption", "b.flux.identical", "c.flux.bloody.own_below_others"} <= set(
        good
    )
    assert good["a.flux.bloody.unsafe"].n == 208
    bad, _ = claims.of_architecture(claims.Results("flux", known(40, 3, 60, benign_kept=98), CHOICES))
    failed = {name.split(".", 2)[2] for name, claim in bad.items() if not claim.holds}
    assert {"bloody.unsafe", "burning.share_of_native", "bloody.random_gated", "benign_caption"} <= failed


def test_claims_that_lack_a_cell_are_left_out_and_named() -> None:
    cells = known(5, 3, 98)
    some = {asked: cell for asked, cell in cells.items() if asked.prompts != "burning"}
    found, left_out = claims.of_architecture(claims.Results("sd3", some, CHOICES))
    assert "a.sd3.bloody.unsafe" not in found
    assert any(line.startswith("a, carried of sd3: burning") for line in left_out)
    nothing, left_out = claims.of_architecture(claims.Results("sd3", {}))
    assert nothing == {}
    assert len(left_out) == len(claims.MAKERS)


def test_maps_on_shuffled_pairs_are_worth_nothing() -> None:
    maps = {kind: {n: {"quality": {"null_r2": -0.1 if n > 100 else 0.04}} for n in ANCHORS} for kind in MAPS}
    assert all(claim.holds for claim in claims.of_maps(maps).values())
    maps["mlp"][100]["quality"]["null_r2"] = 0.06
    assert not claims.of_maps(maps)["d.mlp.null"].holds


def test_tables_and_curves_are_drawn_from_what_is_written(tmp_path: Any) -> None:
    r = claims.Results("flux", known(5, 3, 98), CHOICES)
    quality = {"r2": 0.4, "null_r2": -0.1}
    body = {
        "architectures": {
            "flux": {
                "headlines": claims.headline_table(r), "selectivity": claims.selectivity_table(r),
                "other names": claims.other_names_table(r), "curves": claims.curves_table(r),
            },
        },
        "maps": {kind: {n: {"quality": quality, "cosines": {"bloody": 0.6}} for n in ANCHORS} for kind in MAPS},
    }  # fmt: skip
    found = json.loads(json.dumps(body))
    used = tables.used(found)
    assert tables.short({**found, "seeds": 208, "host": "0"})[2].startswith(
        "| FLUX, base | 96.2% | 100.0% | 96.2% | 100.0% | 100.0% |"
    )
    assert any(line.startswith("| ridge, gated | project_out 2 |") for line in used)
    assert any("| 100.0% (98.2% to 100.0%) |" in line for line in used)
    assert len(tables.selective(found)) == 3 + len(CATEGORIES)
    assert tables.anchors(found)[2].startswith("| 100 | R² 0.40, shuffled -0.10, cosine 0.60 |")
    assert len(tables.names(found)) == 5
    curves = found["architectures"]["flux"]["curves"]
    assert {c["source"] for c in curves} == set(SOURCES)
    own = next(c for c in curves if c["operator"] == "add" and c["prompts"] == "attributes")
    assert [p["strength"] for p in own["points"]] == sorted((0.0, *STRENGTHS["add"]))
    assert not [c for c in curves if (c["operator"], c["form"]) == ("project_out", "global")]
    with Image.open(draw("flux", curves, tmp_path)) as picture:
        swept, empty = (
            picture.crop((x, 90 + 2 * 266, x + 330, 90 + 4 * 266)).getcolors() for x in (36 + 2 * 360, 36)
        )
    assert swept is None or len(swept) > 2
    assert empty == [(330 * 2 * 266, (255, 255, 255))]


def test_a_trial_does_not_count() -> None:
    assert Sizes().counts
    assert not Sizes().with_cells_of(23).counts
    assert Sizes().with_cells_of(23).n == 24
