"""What is written is what is read, to the bit, and only what is asked for is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import BundleError
from steerdit.steering.formats.bundle import open_bundle, verify
from steerdit.steering.formats.header import (
    Base,
    BundleHeader,
    Category,
    GateThresholds,
    Made,
    RateRecord,
    SaeSite,
)
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import Site
from steerdit.steering.standardise import STANDARDISERS

from .bundles import BIND, TEXT, small_header, small_tensors

LETTERS = st.text("abcdefghijäß 火", min_size=1, max_size=12).filter(lambda text: text == text.strip())
NUMBERS = st.floats(0.0, 1e6, allow_nan=False, width=32)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: json.loads(json.dumps(value)) == value)


@st.composite
def categories(draw: st.DrawFn, latents: int) -> Category:
    chosen = draw(st.lists(st.integers(0, latents - 1), min_size=1, max_size=5, unique=True))
    weights = draw(st.lists(NUMBERS, min_size=len(chosen), max_size=len(chosen)).filter(any))
    low, value, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    rate = draw(st.sampled_from([None, RateRecord(value, low, high)]))
    return Category(tuple(chosen), tuple(weights), GateThresholds(draw(NUMBERS), draw(NUMBERS), rate, None))


@st.composite
def headers(draw: st.DrawFn) -> BundleHeader:
    sites = {}
    for site in draw(
        st.lists(st.sampled_from(["text", "double.0.text", "single.37.image"]), min_size=1, unique=True)
    ):
        latents = draw(st.integers(1, 9))
        names = draw(st.lists(LETTERS, max_size=2, unique=True))
        activation = draw(st.sampled_from(["relu", "jumprelu", "topk"]))
        norm = draw(st.sampled_from(list(STANDARDISERS)))
        sites[Site.parse(site)] = SaeSite(
            width=draw(st.integers(1, 5)),
            latents=latents,
            activation=activation,
            k=draw(st.integers(1, latents)) if activation == "topk" else None,
            input_scale=draw(st.floats(1e-6, 1e6)) if norm == "none" else 1.0,
            input_norm=norm,
            categories={name: draw(categories(latents)) for name in names},
        )
    recipe = draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
    digest = draw(st.sampled_from([None, "0f" * 32]))
    return BundleHeader(
        draw(LETTERS), "flux", Base(draw(LETTERS), digest), "MIT", Made("tests", recipe), sites
    )


@settings(deadline=None, max_examples=60)
@given(headers(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 2**31))
def test_headers_and_tensors_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, header: BundleHeader, dtype: torch.dtype, seed: int
) -> None:
    path = tmp_path_factory.mktemp("bundle") / "any.safetensors"
    tensors = small_tensors(header, dtype, seed)
    write_bundle(path, header, tensors)
    bundle = verify(path)
    assert bundle.header == header
    for site in header.sites:
        read = bundle.read_sae(site)
        for part in ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold", "decoder_adapted"):
            written = tensors.get(f"{site}.{part}")
            assert (getattr(read, part) is None) == (written is None)
            if written is not None:
                assert torch.equal(getattr(read, part), written.float())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "small.safetensors"
    write_bundle(target, small_header(), small_tensors(small_header()))
    return target


def test_another_reader_of_safetensors_finds_the_same_tensors(path: Path) -> None:
    tensors = small_tensors(small_header())
    others = safetensors.torch.load_file(path)
    assert others.keys() == tensors.keys()
    assert all(torch.equal(others[name], tensors[name]) for name in tensors)


def test_the_same_bundle_is_the_same_file(path: Path, tmp_path: Path) -> None:
    tensors = dict(reversed(small_tensors(small_header()).items()))
    write_bundle(tmp_path / "again.safetensors", small_header(), tensors)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@settings(deadline=None, max_examples=40)
@given(chosen=st.lists(st.integers(0, 15), unique=True, max_size=16))
def test_chosen_rows_come_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[int]
) -> None:
    target = tmp_path_factory.mktemp("rows") / "small.safetensors"
    tensors = small_tensors(small_header())
    read = write_bundle(target, small_header(), tensors).read_latents(BIND, chosen)
    assert read.indices == tuple(chosen)
    assert torch.equal(read.encoder, tensors[f"{BIND}.encoder"][chosen].float())
    assert torch.equal(read.decoder, tensors[f"{BIND}.decoder"][chosen].float())
    assert read.threshold is not None
    assert read.decoder_adapted is not None
    assert torch.equal(read.threshold, tensors[f"{BIND}.threshold"][chosen].float())
    assert torch.equal(read.decoder_adapted, tensors[f"{BIND}.decoder_adapted"][chosen].float())
    assert torch.equal(read.decoder_bias, tensors[f"{BIND}.decoder_bias"].float())


def test_categories_name_their_latents_once_and_in_rising_order(path: Path) -> None:
    bundle = open_bundle(path)
    assert bundle.categories == ("weapons", "bloody")
    assert bundle.sites[BIND].selected() == (2, 3, 7, 11)
    assert bundle.sites[BIND].selected(("bloody",)) == (3, 11)
    assert bundle.sites[TEXT].selected() == (2, 3, 7)


def test_few_rows_of_a_large_bundle_cost_little_memory(tmp_path: Path) -> None:
    """In a process of its own: peak memory of opening and reading 8 of 65,536 rows of a 134 MB file."""
    site = SaeSite(width=512, latents=65_536, activation="relu")
    header = small_header(sites={TEXT: site})
    zeros = {
        f"text.{part}": torch.zeros(shape, dtype=torch.float16)
        for part, shape in site.tensor_shapes().items()
    }
    write_bundle(tmp_path / "large.safetensors", header, zeros)
    program = """
import resource, sys, torch
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.sites import Site
from steerdit.steering.standardise import STANDARDISERS
torch.zeros(1).half().float()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bundle = open_bundle(sys.argv[1])
rows = bundle.read_latents(Site.parse("text"), [0, 1, 2, 3, 30000, 30001, 60000, 65535])
assert rows.encoder.shape == (8, 512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 10_000  # kilobytes; both matrices are 134 MB


@pytest.mark.parametrize("latents", [[16], [-1], [3, 3]])
def test_rows_that_are_not_there_are_refused(path: Path, latents: list[int]) -> None:
    with pytest.raises(
        BundleError, match=r"small\.safetensors: double\.1\.image: expected latents from 0 to 15"
    ):
        open_bundle(path).read_latents(BIND, latents)


def test_a_site_that_is_not_there_is_refused_with_those_that_are(path: Path) -> None:
    with pytest.raises(BundleError, match=r"text, double\.1\.image, found double\.2\.image"):
        open_bundle(path).read_latents(Site.parse("double.2.image"))


def test_a_file_that_changes_after_opening_is_refused(path: Path) -> None:
    bundle = open_bundle(path)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(BundleError, match="expected the file that was opened"):
        bundle.read_latents(TEXT, [1])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    before = path.read_bytes()
    tensors = small_tensors(small_header())
    del tensors["text.encoder"]
    with pytest.raises(
        BundleError, match=r"small\.safetensors: text\.encoder: expected the tensor text\.encoder"
    ):
        write_bundle(path, small_header(), tensors)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    header, target = small_header(), tmp_path / "new.safetensors"
    tensors = small_tensors(header)
    nan = {**tensors, "text.decoder": torch.full((12, 6), float("nan"))}
    wrong = {**tensors, "text.decoder": torch.zeros(6, 12)}
    double = {**tensors, "text.decoder": torch.zeros(12, 6, dtype=torch.float64)}
    extra = {**tensors, "text.threshold": torch.zeros(12)}
    for these, message in [
        (nan, "found NaN or infinite"),
        (wrong, r"expected shape \[12, 6\]"),
        (double, "found torch.float64"),
        (extra, "belongs to none"),
    ]:
        with pytest.raises(BundleError, match=message):
            write_bundle(target, header, these)
    for recipe in ({"path": Path()}, {"pair": (1, 2)}, {1: "one"}, {"loss": float("nan")}):
        with pytest.raises(BundleError, match=r"new\.safetensors"):
            write_bundle(target, small_header(made=Made("tests", recipe)), tensors)
    with pytest.raises(BundleError, match=r"ending with \.safetensors"):
        write_bundle(tmp_path / "new.pt", header, tensors)
    assert not list(tmp_path.iterdir())
