"""Numbers and names in files that could break what comes after: each is refused by its field, in a short message."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steerdit.delivery.download import download
from steerdit.delivery.manifest import HubFile
from steerdit.steering import Site
from steerdit.steering.errors import DownloadError, SteeringError
from steerdit.steering.formats import bundle as bundles
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.formats.fields import parse_json
from steerdit.steering.formats.foreign import Declared, open_foreign, sidecars
from steerdit.steering.formats.foreign.imported import (
    ImportedBundle,
    Placed,
    import_dictionary,
    parse_latents,
)
from steerdit.steering.formats.foreign.pickles import load_pickle
from steerdit.steering.formats.writing import write_bundle
from steerdit.steering.sites import select_sites

from .bundles import BIND, TEXT, rewrite, small_header, small_tensors


def sound(folder: Path) -> Path:
    path = folder / "sound.safetensors"
    write_bundle(path, small_header(), small_tensors(small_header()))
    return path


def container(path: Path, table: Any) -> Path:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def test_a_key_twice_among_many() -> None:
    text = "{" + ",".join(f'"{number}":0' for number in range(200_000)) + ',"z":0,"z":1}'
    with pytest.raises(SteeringError, match="'z' more than once"):
        parse_json(text, "here")


@pytest.mark.parametrize(
    "table",
    [
        {"\x1b[2J\x1b]0;owned\x07\n": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}},
        {"x" * 500_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 99]}},
        {"__metadata__": {f"{number:x}": "" for number in range(100_000)}},
        {"a": {"x" * 500_000: 1}},
        {"a": {f"{number:x}": 0 for number in range(100_000)}},
    ],
)
def test_a_refusal_is_short_and_printable_whatever_the_file_holds(table: Any, tmp_path: Path) -> None:
    with pytest.raises(SteeringError) as refusal:
        open_bundle(container(tmp_path / "a.safetensors", table))
    message = str(refusal.value).replace(str(tmp_path), "")
    assert len(message) < 1500
    assert message.isprintable()


@pytest.mark.parametrize("name", ["\x1b[2J", "x" * 300_000, "a\nb"])
def test_keys_of_a_header_are_not_repeated_raw(name: str, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document.pop("version")
        document[name] = 1

    with pytest.raises(SteeringError) as refusal:
        open_bundle(rewrite(sound(tmp_path), tmp_path / "b.safetensors", header=change))
    message = str(refusal.value).replace(str(tmp_path), "")
    assert len(message) < 1500
    assert message.isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_scale", 1e-46), ("input_scale", 1e46), ("token", 1e60), ("image", 1e39), ("token", 1e-60),
        ("weights", 1e60), ("weights", 1e-60), ("weights", 0.0),
    ],
)  # fmt: skip
def test_numbers_that_single_precision_cannot_hold(field: str, value: float, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        site = next(it for it in document["sites"].values() if it["categories"])
        category = next(iter(site["categories"].values()))
        if field == "input_scale":
            site[field] = value
        elif field == "weights":
            category[field] = [value] * len(category[field])
        else:
            category["gate"][field] = value

    with pytest.raises(SteeringError, match=field):
        open_bundle(rewrite(sound(tmp_path), tmp_path / "b.safetensors", header=change))


def test_a_category_that_means_all(tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        site = next(it for it in document["sites"].values() if it["categories"])
        site["categories"]["*"] = next(iter(site["categories"].values()))

    with pytest.raises(SteeringError, match="category name"):
        open_bundle(rewrite(sound(tmp_path), tmp_path / "b.safetensors", header=change))


@pytest.mark.parametrize("limits", [{}, {"HASHED_AT_ONCE": 0, "HASHED_ALWAYS": 0}])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_copy_with_zeroed_rows_is_refused(
    part: str, limits: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in limits.items():  # a dictionary too large to be hashed
        monkeypatch.setattr(bundles, name, value)
    path = sound(tmp_path)
    opened = open_bundle(path)
    opened.read_latents(BIND, [1])
    span = opened.container.tensors[f"{BIND}.{part}"]
    content = bytearray(path.read_bytes())
    content[span.start : span.stop] = bytes(span.stop - span.start)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(content)
    with pytest.raises(SteeringError, match=rf"{BIND}\.{part}.*damaged"):
        open_bundle(bad).read_latents(BIND, [1])
    opened.read_latents(BIND, [1])
    assert opened.read_latents(TEXT, [0]).indices == (0,)


def dictionary(
    folder: Path, config: dict[str, Any] | None = None, orientation: str = "auto", **tensors: Any
) -> Any:
    d, draw = 8, torch.Generator().manual_seed(0)
    state = {name: torch.randn(d, d, generator=draw) for name in ("W_enc", "W_dec")}
    state |= {"b_enc": torch.zeros(d), "b_dec": torch.randn(d, generator=draw)}
    path = folder / "sae_weights.safetensors"
    if not path.exists() or tensors:
        save_file({**state, **tensors}, path)
    said = {"d_in": d, "d_sae": d, "architecture": "standard", **(config or {})}
    (folder / "cfg.json").write_text(json.dumps(said))
    return open_foreign(path, Declared(orientation=orientation))


def imported(folder: Path, latents: str = "3", **changes: Any) -> ImportedBundle:
    changes.setdefault("orientation", "encoder d×N, decoder N×d")
    return import_dictionary(dictionary(folder, **changes), Placed("flux", "double.1.image", {"w": latents}))


def test_imports_that_compute_different_things_are_different(tmp_path: Path) -> None:
    found = [
        imported(tmp_path).identity,
        imported(tmp_path, orientation="encoder d×N, decoder d×N").identity,
        imported(tmp_path, orientation="encoder N×d, decoder N×d").identity,
        imported(tmp_path, config={"apply_b_dec_to_input": False}).identity,
        imported(tmp_path, config={"architecture": "topk", "k": 3}).identity,
        imported(
            tmp_path, config={"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}
        ).identity,
    ]
    assert len(set(found)) == len(found)
    assert imported(tmp_path).identity == found[0]


def test_files_beside_a_dictionary_that_decide_what_it_means(tmp_path: Path) -> None:
    names = {path.name for path in sidecars(tmp_path / "sae_weights.safetensors")}
    assert names == {"cfg.json", "config.json", "activation_scaler.json"}


@pytest.mark.parametrize("factor", [1e300, 1e-300, 0.0])
def test_imported_rows_that_single_precision_loses(factor: float, tmp_path: Path) -> None:
    rows = torch.ones(8, 8, dtype=torch.float64) * factor
    found = imported(tmp_path, W_enc=rows)
    with pytest.raises(SteeringError, match=r"finite|zero"):
        found.read_latents(Site.parse("double.1.image"), [3])


@pytest.mark.parametrize("latents", ["9" * 5000, "3-" + "9" * 5000, "3:" + "9" * 5000, "٣"])
def test_latents_that_no_dictionary_has(latents: str) -> None:
    with pytest.raises(SteeringError, match="latents"):
        parse_latents(latents)


def test_weights_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="weights"):
        imported(tmp_path, "3:0")


def test_a_site_of_five_thousand_digits() -> None:
    for read in (Site.parse, lambda name: select_sites(name, [BIND])):
        with pytest.raises(SteeringError, match="double"):
            read("double." + "9" * 5000 + ".image")


def test_tensors_whose_numbers_are_not_in_the_pickle(tmp_path: Path) -> None:
    for name, tensor in (("meta", torch.empty(4, 4, device="meta")), ("view", torch.zeros(1).expand(10**6))):
        torch.save({"W_dec": tensor}, tmp_path / f"{name}.pt")
        with pytest.raises(SteeringError, match="W_dec"):
            load_pickle(tmp_path / f"{name}.pt")


def test_a_folder_of_the_targets_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(DownloadError, match="folder"):
        download(HubFile("owner/name", "a.safetensors", "main"), tmp_path, sha256="0" * 64)
