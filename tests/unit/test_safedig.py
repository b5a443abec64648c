"""The transfer benchmark's own promises: nothing of the target leaks, results are kept whole, figures add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerdit.benchmarks.emoji_scenes.concepts import ATTRIBUTES, CATEGORIES, UNSAFE_THINGS
from steerdit.benchmarks.safedig import tables
from steerdit.benchmarks.safedig.arms import ARMS, HEADLINE, SAFEDIG, UNADAPTED, cell_name
from steerdit.benchmarks.safedig.cells import Cell, difference
from steerdit.benchmarks.safedig.claims import Rotation, differences, of_rotation, overall, pooled, table
from steerdit.benchmarks.safedig.prompting import ATTACKS, SETS, WORDS, group_of, judged, recorded
from steerdit.benchmarks.safedig.ranking import VARIANTS, agreements, sites_of
from steerdit.benchmarks.safedig.settings import Sizes
from steerdit.benchmarks.safedig.sharing import without
from steerdit.benchmarks.store import Budget, OutOfTime, Store
from steerdit.steering.sites import Site
from steerdit.training.routing.ranking import Candidate, Terms, rank

from .recordings import recording

SITES = tuple(Site.parse(name) for name in ("text", "double.0.text", "double.0.image", "double.1.image"))


def named(text: str, category: str) -> bool:
    return any(word in text for word in WORDS[category])


@pytest.mark.parametrize("target", CATEGORIES)
def test_no_source_prompt_names_the_target(target: str) -> None:
    source = tuple(name for name in CATEGORIES if name != target)
    samples = recorded(source, pairs=12, benign=12, seed=5)
    assert target not in {s.category for s in samples}
    assert not [s.text for s in samples if named(s.text, target)]


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_safe_rewrite_names_no_risk(category: str) -> None:
    samples = recorded((category,), pairs=20, benign=4, seed=5)
    for s in samples:
        assert named(s.text, category) == (s.label == "unsafe"), s.text
    pairs = [s.pair for s in samples if s.label == "unsafe"]
    assert len(set(pairs)) == 20
    assert sorted(pairs) == sorted(s.pair for s in samples if s.label == "safe")


def test_a_category_is_recorded_alike_whatever_is_recorded_beside_it() -> None:
    alone = set(recorded(("alcohol",), 8, 4, 5))
    assert alone <= set(recorded(CATEGORIES, 8, 4, 5))


def test_groups_are_the_things_of_a_category() -> None:
    samples = [s for s in recorded(CATEGORIES, 60, 0, 5) if s.label == "unsafe"]
    for category in CATEGORIES:
        found = {group_of(s) for s in samples if s.category == category}
        things = {c.name for c in UNSAFE_THINGS if c.category == category}
        assert found == (things or {""}), category
    assert {a.name for a in ATTRIBUTES} < set(CATEGORIES)


@pytest.mark.parametrize("target", CATEGORIES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_change_the_words_and_nothing_else(attack: str, target: str) -> None:
    plain, changed = judged("target", target, 20, 7), judged(attack, target, 20, 7)
    assert all(p.category == target for p in changed)
    assert sum(a.text != b.text for a, b in zip(plain, changed)) >= 15
    if attack != "synonyms":  # which may name another thing of the category
        assert [replace(a, text="") for a in plain] == [replace(b, text="") for b in changed]
    if attack in ("order", "hidden"):
        assert all(named(p.text, target) for p in changed)


def test_a_misspelling_only_swaps_letters() -> None:
    for plain, wrong in zip(judged("target", "weapons", 40, 7), judged("misspelt", "weapons", 40, 7)):
        assert sorted(plain.text) == sorted(wrong.text) or len(wrong.text) == len(plain.text) + 1


def test_source_prompts_have_all_categories_but_the_target() -> None:
    found = [p.category for p in judged("source", "alcohol", 30, 7)]
    assert len(found) == 30
    assert set(found) == set(CATEGORIES) - {"alcohol"}


def test_a_category_taken_out_leaves_what_was_recorded_of_the_others(tmp_path: Path) -> None:
    whole = recording(tmp_path / "whole")
    found = without(whole, "weapons", tmp_path / "fewer")
    assert {s.category for s in found.manifest.samples} == {"bloody", None}
    assert [s for s in whole.manifest.samples if s.category != "weapons"] == list(found.manifest.samples)
    for site in whole.sites:
        mine, theirs = found.read(site), whole.read(site)
        of = torch.tensor([whole.manifest.samples[i].category != "weapons" for i in theirs.sample.tolist()])
        assert torch.equal(mine.tokens, theirs.tokens[of])
        assert torch.equal(mine.sigma, theirs.sigma[of])
        texts = [found.manifest.samples[i].text for i in mine.sample.tolist()]
        assert texts == [whole.manifest.samples[i].text for i in theirs.sample[of].tolist()]
    assert len(found.pairs(next(iter(found.sites))).unsafe)
    again = without(whole, "weapons", tmp_path / "fewer")
    assert again.manifest == found.manifest


def test_results_are_kept_by_their_inputs(tmp_path: Any) -> None:
    store = Store(tmp_path, Budget(None))
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"value": len(made)}

    assert store.result("cells", {"site": SITES[0], "sizes": Sizes()}, make)["value"] == 1
    assert store.result("cells", {"site": SITES[0], "sizes": Sizes()}, make)["value"] == 1
    assert store.result("cells", {"site": SITES[1], "sizes": Sizes()}, make)["value"] == 2
    assert store.result("cells", {"site": SITES[0], "sizes": Sizes(n=9)}, make)["value"] == 3
    assert not list(tmp_path.rglob("*.part"))


def test_a_result_that_fails_leaves_nothing(tmp_path: Any) -> None:
    store = Store(tmp_path, Budget(None))

    def broken() -> dict[str, Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.result("cells", {"a": 1}, broken)
    assert store.found("cells", {"a": 1}) is None
    assert store.result("cells", {"a": 1}, lambda: {"value": 1})["value"] == 1


def test_a_spent_budget_gives_what_is_there_and_makes_nothing(tmp_path: Any) -> None:
    Store(tmp_path, Budget(None)).result("cells", {"a": 1}, lambda: {"value": 1})
    spent = Store(tmp_path, Budget(0))
    assert spent.result("cells", {"a": 1}, lambda: {"value": 2})["value"] == 1
    with pytest.raises(OutOfTime):
        spent.result("cells", {"a": 2}, lambda: {"value": 2})


def test_sizes_of_a_trial_do_not_count() -> None:
    assert Sizes().counts
    assert not Sizes().with_cells_of(24).counts
    assert Sizes().with_cells_of(208) == Sizes()
    assert Sizes(n=1, few=1, judged_by=1).recorded == Sizes().recorded
    assert Sizes(n=1, few=1, judged_by=1).routed == Sizes().routed
    assert Sizes(routing_pairs=1).routed != Sizes().routed


def a_cell(hits: int, n: int = 200, kept: bool = True) -> Cell:
    return Cell((True,) * hits + (False,) * (n - hits), (kept,) * n, (1.0,) * n, ("same",) * n, 0.5)


def test_a_cell_comes_back_from_json() -> None:
    made = {"unsafe": [True], "kept": [False], "strangeness": [0.5], "digests": ["x"], "seconds": 1.0}
    assert Cell.of(json.loads(json.dumps(made))) == Cell((True,), (False,), (0.5,), ("x",), 1.0)
    more = made | {"opened": [True], "gates": {"text": [False]}}
    found = Cell.of(json.loads(json.dumps(more)))
    assert (found.opened, found.gates) == ((True,), {"text": (False,)})


def test_differences_are_of_the_same_pictures() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(400) < 0.5, rng.random(400) < 0.3
    found = difference(a.tolist(), b.tolist())
    apart = a.astype(float) - b
    assert found.value == pytest.approx(apart.mean())
    error = 1.96 * apart.std() / 20
    assert found.low == pytest.approx(apart.mean() - error, abs=0.02)
    assert found.high == pytest.approx(apart.mean() + error, abs=0.02)
    same = difference(a.tolist(), a.tolist())
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def measured(values: list[float]) -> dict[Candidate, Terms]:
    return {
        Candidate(site, operator): Terms(v, v, v, 0.0, 0.0)
        for (site, operator), v in zip([(s, o) for s in SITES for o in ("repel", "blend")], values)
    }


def test_a_ranking_like_the_gain_agrees() -> None:
    terms = measured([8, 7, 6, 5, 4, 3, 2, 1])
    found = agreements(terms, {c: t.semantic or 0.0 for c, t in terms.items()})
    assert found["published"].spearman == pytest.approx(1.0)
    assert found["published"].top_in_best_quarter
    assert set(found) == set(VARIANTS)


def test_chosen_sites_do_not_meet() -> None:
    ranked = rank(measured([8, 7, 6, 5, 4, 3, 2, 1]))
    best, worst = (set(sites_of(choice, ranked)) for choice in ("routed", "random"))
    assert not best & worst
    assert sites_of("routed", ranked)[0] == SITES[0]
    assert sites_of("worst", ranked)[-1] == SITES[-1]


def whole_rotation() -> Rotation:
    cells = {f"base | {prompts}": a_cell(180) for prompts in SETS}
    for name, arm in ARMS.items():
        for method in arm.methods:
            for prompts in arm.sets(method):
                cells[cell_name(name, method, prompts)] = a_cell(60 if name == "SafeDIG" else 100)
    return Rotation("flux", "weapons", cells, ())


def test_claims_hold_and_fail_by_their_bounds() -> None:
    r = whole_rotation()
    claims, left_out = of_rotation(r)
    assert claims["a.flux.weapons.target"].holds
    assert claims["a.flux.weapons.target"].value == pytest.approx(0.3)
    assert left_out == ["b of flux.weapons: the gain of every candidate"]
    bad = {**r.cells, cell_name("SafeDIG", HEADLINE, "target"): a_cell(91)}
    assert not of_rotation(replace(r, cells=bad))[0]["a.flux.weapons.target"].holds


def test_a_claim_with_a_missing_cell_is_left_out_and_named() -> None:
    r = whole_rotation()
    gone = cell_name("SafeDIG", HEADLINE, "mixed")
    claims, left_out = of_rotation(replace(r, cells={k: v for k, v in r.cells.items() if k != gone}))
    assert any(gone in line for line in left_out)
    assert not any("benign_kept" in name for name in claims)
    assert "a.flux.weapons.target" in claims


def test_all_rotations_pool_their_pictures() -> None:
    r = whole_rotation()
    other = replace(
        r, target="alcohol", cells={**r.cells, cell_name("SafeDIG", HEADLINE, "target"): a_cell(20)}
    )
    claims, _ = overall([r, other], "flux")
    assert claims["a.flux.overall.target"].value == pytest.approx(80 / 400)
    assert claims["a.flux.overall.target"].n == 400
    assert claims["a.flux.overall.identical_benign"].n == 400
    assert claims["a.flux.overall.benign_kept_mixed"].holds


def test_every_arm_is_set_against_safedig() -> None:
    found = differences(whole_rotation())
    assert found["arm minus SafeDIG"]["unadapted, blend"]["value"] == pytest.approx(0.2)
    assert "unsafe rate, latents" in found["counterfactual minus plain"]
    rows = table(whole_rotation())
    assert rows["SafeDIG | blend | benign"]["identical"]["value"] == 1.0
    assert rows["SafeDIG | repel | target"]["unsafe"]["value"] == pytest.approx(0.3)


def test_safedig_differs_from_the_unadapted_only_by_what_the_target_gave() -> None:
    assert replace(SAFEDIG, chosen="source", adapted="source") == UNADAPTED


def test_recipes_with_the_same_gate_share_it() -> None:
    site = SITES[0]
    same = (
        SAFEDIG,
        replace(SAFEDIG, stability=False),
        replace(SAFEDIG, adapted="source", lesson="safe side"),
    )
    assert len({recipe.gate_at(site) for recipe in same}) == 1
    others = (SAFEDIG, UNADAPTED, replace(SAFEDIG, crossing=True), replace(SAFEDIG, selector="flips"))
    assert len({recipe.gate_at(site) for recipe in others}) == len(others)


def test_cells_of_all_rotations_are_joined_picture_by_picture() -> None:
    r = whole_rotation()
    few = "no stability term | blend | target"
    one = replace(r, cells={**r.cells, few: a_cell(5, 50)})
    other = replace(one, target="alcohol", cells={**one.cells, "base | target": a_cell(20)})
    found = pooled([one, other], "flux", few=50)
    assert {len(of.unsafe) for of in found.cells.values()} == {100}
    assert found.cells["base | target"].unsafe_rate.value == pytest.approx(0.7)
    assert found.cells[few].unsafe_rate.value == pytest.approx(0.1)
    gone = replace(other, cells={k: v for k, v in other.cells.items() if k != few})
    assert few not in pooled([one, gone], "flux", few=50).cells


def test_tables_have_a_column_for_each_rotation() -> None:
    r = whole_rotation()
    every = pooled([r], "flux", few=50)
    found = {
        "rotations": {r.name: {"cells": table(r), "routing": {}}},
        "pooled": {"flux": {"cells": table(every), "differences": differences(every)}},
    }
    lines = tables.transfer(found)
    assert lines[0].endswith("flux.weapons |")
    assert any(line.startswith("| SafeDIG, repel, target | 30.0% (") for line in lines)
    assert not any("benign" in line for line in lines)
    assert tables.arms(found)[0].endswith("| flux |")
    assert any("upper bound, blend | " in line for line in tables.differences(found))


def test_few_pictures_stay_out_of_the_table_of_a_rotation() -> None:
    cells = {"base | target": a_cell(100), "SafeDIG | blend | target": a_cell(5, 50)}
    assert set(table(Rotation("flux", "weapons", cells, ()), least=200)) == {"base | target"}
