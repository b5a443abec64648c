"""The families that this pack steers in a host are those that bundles are written for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from steerdit.host import families
from steerdit.steering.formats.header import FAMILY_BLOCKS

from .tiny import tiny

ATTENTION_ALONE = ("qwen_image",)
"""Families with no sites for autoencoders."""


def test_every_family_of_bundles_has_a_model_class() -> None:
    assert sorted(families.FAMILIES.values()) == sorted([*FAMILY_BLOCKS, *ATTENTION_ALONE])
    for name in families.FAMILIES.values():
        assert import_module(f".{name}", families.__name__).FAMILY.name == name


@pytest.mark.parametrize("name", FAMILY_BLOCKS)
def test_a_model_has_sites_at_the_blocks_that_bundles_may_name(name: str, tmp_path: Path) -> None:
    dit = tiny(name, tmp_path).model.diffusion_model
    family = families.family_of(dit)
    blocks = dict.fromkeys(site.block for site in family.sites(dit))
    assert (family.name, tuple(blocks)) == (name, FAMILY_BLOCKS[name])
