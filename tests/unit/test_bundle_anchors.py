"""Anchors in a bundle: what is written is what is read, and whatever is damaged is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import BundleError, SteeringError
from steerdit.steering.flow.anchors import Anchors
from steerdit.steering.flow.score import ScoreKind
from steerdit.steering.formats.anchors import (
    ANCHOR_BLOCKS,
    AnchorConcept,
    AnchorSite,
    AnchorThreshold,
    anchor_site_of,
    anchor_tensors,
)
from steerdit.steering.formats.bundle import Bundle, open_bundle, verify
from steerdit.steering.formats.categories import RateRecord
from steerdit.steering.formats.header import BundleHeader
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site

from . import damage
from .bundles import HUGE, TEXT, rewrite, small_header, small_tensors

AT, LAST = Site.parse("single.10.attention"), Site.parse("double.1.attention")
WORDS = st.text("abcdefghijäß 火", min_size=1, max_size=12).filter(lambda text: text == text.strip())
SHARES = st.floats(0, 1)
THRESHOLDS = {
    "weapon": (
        AnchorThreshold("dot", 0.3),
        AnchorThreshold("whitened", -1.5, True, RateRecord(0.01, 0.0, 0.03), RateRecord(0.9, 0.8, 1.0), 0.93),
    )
}


def small_anchors(site: Site = AT, entry: AnchorSite | None = None, seed: int = 0) -> Anchors:
    """Any anchors that fit the entry."""
    g = torch.Generator().manual_seed(seed)
    concepts = ("weapon", "blood") if entry is None else entry.concepts
    n, h, d = (2, 3, 4) if entry is None else (entry.anchors, entry.heads, entry.head_width)
    each = len(concepts), n, h
    means = torch.randn(*each, d, generator=g)
    if entry is not None and not entry.benign_patches:
        return Anchors(site, concepts, means)
    rest = (torch.randn(*size, generator=g) for size in ((*each, d), each, (h, d)))
    return Anchors(site, concepts, means, *rest)


def about(anchors: Anchors) -> AnchorSite:
    return anchor_site_of(anchors, {"weapon": 160, "blood": 90}, 5000, THRESHOLDS, 0.2)


def anchor_bundle(folder: Path, **changes: Any) -> Bundle:
    """Anchors at two attentions and nothing else."""
    kept = {site: small_anchors(site, seed=seed) for seed, site in enumerate((AT, LAST))}
    header = small_header(
        sites={}, **{"anchors": {site: about(one) for site, one in kept.items()}, **changes}
    )
    tensors = {name: tensor for one in kept.values() for name, tensor in anchor_tensors(one).items()}
    return write_bundle(folder / "anchors.safetensors", header, tensors)


@st.composite
def anchor_sites(draw: st.DrawFn) -> AnchorSite:
    def rate() -> RateRecord | None:
        low, value, high = sorted(draw(st.tuples(SHARES, SHARES, SHARES)))
        return draw(st.sampled_from([None, RateRecord(value, low, high)]))

    def threshold(score: str, several: bool) -> AnchorThreshold:
        values = st.floats(-0.99, 1.0) if score == "cosine" else st.floats(-1e6, 1e6)
        return AnchorThreshold(score, draw(values), several, rate(), rate(), draw(st.none() | SHARES))

    kinds = st.tuples(st.sampled_from([kind.value for kind in ScoreKind]), st.booleans())
    return AnchorSite(
        heads=draw(st.integers(1, 4)),
        head_width=draw(st.integers(1, 5)),
        anchors=draw(st.integers(1, 3)),
        rows=tuple(
            AnchorConcept(
                name,
                draw(st.integers(1, 10**9)),
                tuple(threshold(*kind) for kind in draw(st.lists(kinds, unique=True, max_size=4))),
            )
            for name in draw(st.lists(WORDS, min_size=1, max_size=3, unique=True))
        ),
        benign_patches=draw(st.sampled_from([0, 12, 10**9])),
        startup_end=draw(st.none() | SHARES),
    )


@settings(deadline=None, max_examples=40)
@given(anchor_sites(), anchor_sites(), st.sampled_from(list(ANCHOR_BLOCKS)), st.integers(0, 2**31))
def test_headers_and_tensors_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, one: AnchorSite, other: AnchorSite, family: str, seed: int
) -> None:
    path = tmp_path_factory.mktemp("bundle") / "any.safetensors"
    block = ANCHOR_BLOCKS[family][-1]
    entries = {Site(block, 10, "attention"): one, Site(block, 2, "attention"): other}
    kept = {site: small_anchors(site, entry, seed) for site, entry in entries.items()}
    header = small_header(family=family, sites={}, anchors=entries)
    write_bundle(path, header, {n: t for each in kept.values() for n, t in anchor_tensors(each).items()})
    bundle = verify(path)
    assert bundle.header == header
    assert list(bundle.anchors) == list(entries)  # the first is the best, whatever its place in the model
    for site, expected in kept.items():
        found = bundle.read_anchors(site)
        assert (found.site, found.concepts) == (site, expected.concepts)
        for part in ("means", "contrasts", "offsets", "benign"):
            one_part, other_part = getattr(found, part), getattr(expected, part)
            assert (one_part is None) == (other_part is None)
            assert one_part is None or torch.equal(one_part, other_part)


def test_one_concept_takes_some_kilobytes(tmp_path: Path) -> None:
    entry = AnchorSite(24, 128, 1, (AnchorConcept("weapon", 160),), 5000)
    anchors = small_anchors(AT, entry)
    header = small_header(sites={}, anchors={AT: entry})
    bundle = write_bundle(tmp_path / "flux.safetensors", header, anchor_tensors(anchors))
    assert bundle.path.stat().st_size < 64 * 2**10


def test_thresholds_are_found_by_score() -> None:
    entry = about(small_anchors())
    assert entry.threshold("weapon", "dot") == 0.3
    assert entry.threshold("weapon", "whitened", several=True) == -1.5
    assert entry.threshold("weapon", "whitened") is None
    assert entry.threshold("blood", "dot") is None
    assert entry.threshold("nude", "dot") is None


def test_anchors_stand_beside_autoencoders(tmp_path: Path) -> None:
    anchors = small_anchors()
    header = small_header(anchors={AT: about(anchors)})
    bundle = write_bundle(
        tmp_path / "both.safetensors", header, {**small_tensors(header), **anchor_tensors(anchors)}
    )
    assert verify(bundle.path).header == header
    assert torch.equal(bundle.read_anchors(AT).means, anchors.means)
    bundle.read_sae(TEXT)


def test_a_bundle_without_anchors_says_nothing_of_them(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "sae.safetensors", small_header(), small_tensors(small_header()))
    assert '"anchors"' not in bundle.container.metadata["steerdit"]
    with pytest.raises(
        BundleError, match=r"anchors at some attention, found single\.10\.attention, where there are none"
    ):
        bundle.read_anchors(AT)


def test_an_attention_that_the_bundle_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"anchors at single\.10\.attention, double\.1\.attention, found single\.3"
    ):
        anchor_bundle(tmp_path).read_anchors(Site.parse("single.3.attention"))


def site_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["anchors"][str(AT)]


def weapon(document: dict[str, Any]) -> dict[str, Any]:
    return site_of(document)["concepts"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: site_of(d).pop("heads"), r"attention: expected the key 'heads'"),
        (lambda d: site_of(d).update(heads=0), r"heads: expected a whole number, 1 to"),
        (lambda d: site_of(d).update(heads=4), r"attention\.anchor: expected shape \[2, 2, 4, 4\], as its site says"),
        (lambda d: site_of(d).update(head_width=8), r"anchor: expected shape \[2, 2, 3, 8\]"),
        (lambda d: site_of(d).update(anchors=65), r"anchors: expected a whole number, 1 to 64"),
        (lambda d: site_of(d).update(benign_patches=0), r"anchor_\w+'?: expected listed tensors"),
        (lambda d: site_of(d).update(startup_end=1.5), r"startup_end: expected a finite number, 0 to 1"),
        (lambda d: site_of(d).update(concepts=[]), r"expected at least one concept, and each name once"),
        (lambda d: site_of(d)["concepts"][1].update(name="weapon"), r"each name once, found weapon, weapon"),
        (lambda d: weapon(d).update(name="none"), r"a category name without comma"),
        (lambda d: weapon(d).update(patches=0), r"concepts\[0\]\.patches: expected a whole number, at least 1|1 to"),
        (lambda d: weapon(d)["thresholds"][0].update(score="mean"), r"score: expected 'dot' or 'cosine' or 'whitened'"),
        (lambda d: weapon(d)["thresholds"][0].update(several="no"), r"several: expected true or false"),
        (lambda d: weapon(d)["thresholds"][0].update(score="cosine", value=-1), r"does not mark everything"),
        (lambda d: weapon(d)["thresholds"][0].update(score="cosine", value=2), r"a finite number, -1 to 1"),
        (lambda d: weapon(d)["thresholds"][0].update(value=HUGE), r"value: expected a finite number"),
        (lambda d: weapon(d)["thresholds"].append(weapon(d)["thresholds"][0]), r"one threshold for each score"),
        (lambda d: weapon(d)["thresholds"][1].update(auc=2), r"auc: expected a finite number, 0 to 1"),
        (lambda d: weapon(d)["thresholds"][1].update(recall={"value": 2, "ci": [0, 1]}), r"recall\.value"),
        (lambda d: d["anchors"].update({"single.10.image": d["anchors"].pop(str(AT))}), r"expected an attention"),
        (lambda d: d["anchors"].update({"joint.1.attention": d["anchors"].pop(str(AT))}), r"which family flux has"),
        (lambda d: d.update(anchors={}), r"sites: expected at least one site"),
        (lambda d: d.update(family="wan"), r"family: expected 'flux' or 'sd3' or 'qwen_image'"),
        (lambda d: site_of(d).update(extra=1), r"only the keys"),
    ],
)  # fmt: skip
def test_every_field_is_checked_by_name(tmp_path: Path, change: Any, message: str) -> None:
    path = rewrite(anchor_bundle(tmp_path).path, tmp_path / "changed.safetensors", header=change)
    with pytest.raises(BundleError, match=message):
        open_bundle(path)


def test_autoencoders_and_directions_are_at_no_attention(tmp_path: Path) -> None:
    header = small_header(sites={AT: small_header().sites[TEXT]})
    with pytest.raises(BundleError, match=r"expected a site with tokens, not an attention, found single\.10"):
        write_bundle(tmp_path / "wrong.safetensors", header, small_tensors(header))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return anchor_bundle(tmp_path_factory.mktemp("sound")).path


def read(path: Path) -> tuple[BundleHeader, Anchors]:
    bundle = open_bundle(path)
    found = bundle.read_anchors(AT)
    verify(path)
    return bundle.header, found


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "m.safetensors"
    damage.change_byte(sound, path, data)
    try:
        header, anchors = read(path)
    except SteeringError:
        return
    expected, whole = read(sound)
    assert header == expected
    assert torch.equal(anchors.means, whole.means)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_cut_file_is_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "c.safetensors"
    damage.cut_short(sound, path, data)
    with pytest.raises(BundleError):
        open_bundle(path)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_value_in_any_field_is_taken_or_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def change(document: dict[str, Any]) -> None:
        damage.change_field(document["anchors"], data)

    path = rewrite(sound, tmp_path_factory.mktemp("field") / "f.safetensors", header=change)
    try:
        header, anchors = read(path)
    except SteeringError:
        return
    for row in header.anchors[AT].rows:
        for one in row.thresholds:
            anchors.detector(row.name, ScoreKind(one.score), min(one.value, 0.99), several=one.several)
