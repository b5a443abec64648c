"""Directions in a bundle: what is written is what is read, and whatever is damaged is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.steering.directions import DirectionSet
from steerdit.steering.errors import BundleError, SteeringError
from steerdit.steering.formats.bundle import Bundle, open_bundle, verify
from steerdit.steering.formats.categories import RateRecord
from steerdit.steering.formats.directions import (
    DIRECTION_BLOCKS,
    MAPS,
    Alignment,
    Anchors,
    Direction,
    DirectionSite,
    Encoder,
)
from steerdit.steering.formats.header import BundleHeader
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site

from . import damage
from .bundles import BIND, TEXT, rewrite, small_header, small_tensors
from .directions import SITE, small_directions

WORDS = st.text("abcdefghijäß 火", min_size=1, max_size=12).filter(lambda text: text == text.strip())
SHA256 = st.sampled_from(["ab" * 32, "0" * 64])
SHARES = st.floats(0, 1)


def tensors_of(sites: dict[Site, DirectionSet]) -> dict[str, Tensor]:
    return {
        f"{site}.{part}": tensor
        for site, one in sites.items()
        for part, tensor in (("direction", one.vectors), ("direction_mean", one.mean))
    }


def direction_bundle(folder: Path, **changes: Any) -> Bundle:
    """Directions at `text` and no autoencoder."""
    header = small_header(sites={}, directions={TEXT: SITE}, **changes)
    return write_bundle(folder / "directions.safetensors", header, tensors_of({TEXT: small_directions()}))


@st.composite
def direction_sites(draw: st.DrawFn) -> DirectionSite:
    def encoder() -> Encoder:
        return Encoder(draw(WORDS), draw(st.none() | SHA256), draw(st.none() | st.integers(0, 99)))

    def anchors() -> Anchors:
        return Anchors(draw(SHA256), draw(st.integers(1, 10**6)))

    def rate() -> RateRecord | None:
        low, value, high = sorted(draw(st.tuples(SHARES, SHARES, SHARES)))
        return draw(st.sampled_from([None, RateRecord(value, low, high)]))

    numbers = st.floats(-1e6, 1.0)
    alignment = Alignment(
        draw(st.sampled_from(MAPS)), encoder(), anchors(), draw(numbers), draw(numbers),
        draw(st.none() | st.floats(-1, 1)),
    )  # fmt: skip
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    return DirectionSite(
        width=draw(st.integers(1, 6)),
        encoder=encoder(),
        directions=tuple(
            Direction(name, draw(st.floats(0, 1e6, width=32)), draw(st.none() | SHARES), rate(), rate())
            for name in names
        ),
        alignment=draw(st.sampled_from([None, alignment])),
        benign=draw(st.sampled_from([None, anchors()])),
    )


@settings(deadline=None, max_examples=60)
@given(
    direction_sites(),
    direction_sites(),
    st.sampled_from(list(DIRECTION_BLOCKS)),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    st.integers(0, 2**31),
)
def test_headers_and_tensors_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    text: DirectionSite,
    block: DirectionSite,
    family: str,
    dtype: torch.dtype,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("bundle") / "any.safetensors"
    at = {"flux": {Site.parse("single.2.image"): block}, "sd3": {Site.parse("joint.2.text"): block}}
    about = {TEXT: text, **at.get(family, {})}
    sites = {site: small_directions(seed, one) for site, one in about.items()}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_of(sites).items()}
    header = small_header(family=family, sites={}, directions=about)
    write_bundle(path, header, tensors)
    bundle = verify(path)
    assert bundle.header == header
    for site in about:
        read = DirectionSet.of_bundle(bundle, site)
        assert read.about == about[site]
        assert torch.equal(read.vectors, tensors[f"{site}.direction"].float())
        assert torch.equal(read.mean, tensors[f"{site}.direction_mean"].float())


def test_directions_stand_beside_autoencoders_even_at_one_site(tmp_path: Path) -> None:
    header = small_header(directions={TEXT: SITE, BIND: SITE})
    tensors = {**small_tensors(header), **tensors_of({TEXT: small_directions(1), BIND: small_directions(2)})}
    bundle = write_bundle(tmp_path / "both.safetensors", header, tensors)
    assert verify(bundle.path).header == header
    alone = write_bundle(tmp_path / "sae.safetensors", small_header(), small_tensors(small_header()))
    for site in header.sites:
        assert torch.equal(bundle.read_sae(site).encoder, alone.read_sae(site).encoder)
    assert torch.equal(DirectionSet.of_bundle(bundle, BIND).vectors, small_directions(2).vectors)


def test_a_bundle_without_directions_says_nothing_of_them(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "sae.safetensors", small_header(), small_tensors(small_header()))
    assert '"directions"' not in bundle.container.metadata["steerdit"]
    with pytest.raises(
        BundleError, match="expected directions at some site, found text, where there are none"
    ):
        bundle.read_directions(TEXT)


def test_a_site_without_directions_is_refused_with_those_that_have_some(tmp_path: Path) -> None:
    bundle = direction_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"directions at text, found double\.1\.image"):
        DirectionSet.of_bundle(bundle, BIND)
    with pytest.raises(BundleError, match=r"one of the sites"):
        bundle.read_latents(TEXT)


def change_row(document: dict[str, Any], **fields: Any) -> None:
    document["directions"]["text"]["directions"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["directions"]["text"].pop("encoder"), r"directions\.text: expected the key 'encoder'"),
        (lambda d: d["directions"]["text"]["encoder"].update(fingerprint="x"), r"encoder\.fingerprint: expected a sha"),
        (lambda d: d["directions"]["text"]["encoder"].update(layer=-1), r"encoder\.layer: expected a whole number"),
        (lambda d: d["directions"]["text"]["alignment"].update(kind="magic"), r"alignment\.kind: expected 'procr"),
        (lambda d: d["directions"]["text"]["alignment"].update(r2=1.5), r"alignment\.r2: .*at most|alignment\.r2"),
        (lambda d: d["directions"]["text"]["alignment"].pop("null"), r"alignment: expected the key 'null'"),
        (lambda d: d["directions"]["text"]["alignment"]["anchors"].update(sha256="0"), r"anchors\.sha256"),
        (lambda d: d["directions"]["text"]["alignment"]["anchors"].update(count=0), r"anchors\.count"),
        (lambda d: change_row(d, threshold=1.5), r"directions\[0\]\.threshold: expected a finite number, 0 to 1"),
        (lambda d: change_row(d, weight=-1), r"directions\[0\]\.weight: expected a finite number, at least 0"),
        (lambda d: change_row(d, name="all"), r"directions\[0\].*a category name"),
        (lambda d: change_row(d, name="bloody"), r"directions: expected at least one direction, and each name once"),
        (lambda d: d["directions"]["text"].update(directions=[]), r"expected at least one direction"),
        (lambda d: d["directions"]["text"].update(width=9), r"text\.direction: expected shape \[3, 9\]"),
        (lambda d: d.update(directions={}), r"sites: expected at least one site"),
        (lambda d: d.update(family="wan22"), r"family: expected 'flux' or 'sd3' or 'flux2'"),
        (lambda d: d["directions"].update({"joint.1.text": d["directions"].pop("text")}), r"which family flux has"),
        (lambda d: d["directions"]["text"].update(extra=1), r"only the keys"),
    ],
)  # fmt: skip
def test_every_field_is_checked_by_name(tmp_path: Path, change: Any, message: str) -> None:
    path = rewrite(direction_bundle(tmp_path).path, tmp_path / "changed.safetensors", header=change)
    with pytest.raises(BundleError, match=message):
        open_bundle(path)


def test_sites_that_a_family_steers_by_directions_alone_hold_no_autoencoder(tmp_path: Path) -> None:
    header = small_header(family="wan", sites={TEXT: small_header().sites[TEXT]}, directions={TEXT: SITE})
    tensors = {**small_tensors(header), **tensors_of({TEXT: small_directions()})}
    with pytest.raises(BundleError, match=r"a site in none, which family wan has"):
        write_bundle(tmp_path / "wan.safetensors", header, tensors)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return direction_bundle(tmp_path_factory.mktemp("sound")).path


def read(path: Path) -> tuple[BundleHeader, DirectionSet]:
    bundle = open_bundle(path)
    found = DirectionSet.of_bundle(bundle, TEXT)
    verify(path)
    return bundle.header, found


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "m.safetensors"
    damage.change_byte(sound, path, data)
    try:
        header, directions = read(path)
    except SteeringError:
        return
    expected, whole = read(sound)
    assert header == expected
    assert torch.equal(directions.vectors, whole.vectors)
    assert torch.equal(directions.mean, whole.mean)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_cut_file_is_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "c.safetensors"
    damage.cut_short(sound, path, data)
    with pytest.raises(BundleError):
        open_bundle(path)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_value_in_any_field_is_taken_or_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def change(document: dict[str, Any]) -> None:
        damage.change_field(document["directions"], data)

    path = rewrite(sound, tmp_path_factory.mktemp("field") / "f.safetensors", header=change)
    try:
        _, directions = read(path)
    except SteeringError:
        return
    assert all(direction.weight >= 0 for direction in directions.about.directions)


def test_directions_that_cannot_be_read_back_are_not_written(tmp_path: Path) -> None:
    header, target = small_header(sites={}, directions={TEXT: SITE}), tmp_path / "new.safetensors"
    sound = tensors_of({TEXT: small_directions()})
    for name, tensor, message in (
        ("text.direction", torch.zeros(8, 3), r"expected shape \[3, 8\]"),
        ("text.direction", torch.full((3, 8), float("inf")), "found NaN or infinite"),
        ("text.direction_mean", torch.zeros(8, dtype=torch.float64), "found torch.float64"),
        ("text.decoder", torch.zeros(8), "belongs to none"),
    ):
        with pytest.raises(BundleError, match=message):
            write_bundle(target, header, {**sound, name: tensor})
    with pytest.raises(BundleError, match=r"the tensor text\.direction, as directions at text needs"):
        write_bundle(target, header, {"text.direction_mean": sound["text.direction_mean"]})
    assert not list(tmp_path.iterdir())
