"""Any byte changed, any file cut, any field replaced: the bundle reads as it was or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import BundleError, SteeringError
from steerdit.steering.formats.bundle import Bundle, LatentTensors, open_bundle, verify
from steerdit.steering.formats.writing import write_bundle

from . import damage
from .bundles import BIND, TEXT, container, rewrite, small_header, small_tensors


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sound") / "sound.safetensors"
    write_bundle(target, small_header(), small_tensors(small_header()))
    return target


def everything(bundle: Bundle) -> list[LatentTensors]:
    return [bundle.read_sae(TEXT), bundle.read_sae(BIND)]


def same(one: list[LatentTensors], other: list[LatentTensors]) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for these, those in zip(one, other, strict=True)
        for a, b in zip(these[1:], those[1:], strict=True)
    )


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_any_changed_byte_is_refused_or_changes_nothing(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "m.safetensors"
    damage.change_byte(sound, path, data)
    try:
        bundle = open_bundle(path)
        read = everything(bundle)
        verify(path)
    except SteeringError:
        return
    assert bundle.header == open_bundle(sound).header
    assert same(read, everything(open_bundle(sound)))


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_cut_file_is_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "c.safetensors"
    damage.cut_short(sound, path, data)
    with pytest.raises(BundleError):
        open_bundle(path)


@settings(deadline=None, max_examples=150)
@given(junk=st.binary(max_size=300), table=st.binary(max_size=200))
def test_junk_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes, table: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "j.safetensors"
    for content in (junk, container(b"{" + table, junk)):
        path.write_bytes(content)
        with pytest.raises(BundleError):
            open_bundle(path)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_value_in_any_field_is_taken_or_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    def change(document: dict[str, Any]) -> None:
        damage.change_field(document, data)

    path = rewrite(sound, tmp_path_factory.mktemp("field") / "f.safetensors", header=change)
    try:
        bundle = open_bundle(path)
        everything(bundle)
    except SteeringError:
        return
    assert all(0 <= latent < site.latents for site in bundle.sites.values() for latent in site.selected())
