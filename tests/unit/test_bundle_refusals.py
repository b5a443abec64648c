"""Whatever file is given, the answer is the bundle or a refusal in plain words; nothing else comes out."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from steerdit.steering.errors import BundleError
from steerdit.steering.formats import bundle as bundles
from steerdit.steering.formats.bundle import open_bundle, verify
from steerdit.steering.formats.writing import write_bundle

from .bundles import HUGE, TEXT, container, rewrite, small_header, small_tensors

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sound") / "sound.safetensors"
    write_bundle(target, small_header(), small_tensors(small_header()))
    return target


def torch_file(path: Path, zipped: bool) -> bytes:
    torch.save({"encoder": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


IMPOSTORS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "pickle": (lambda path: pickle.dumps({"encoder": [1.0] * 50}), "a Python pickle"),
    "torch.save": (lambda path: torch_file(path, True), "a zip archive"),
    "old torch.save": (lambda path: torch_file(path, False), "a Python pickle"),
    "web page": (lambda path: b"<!DOCTYPE html><html><body>404: Not Found</body></html>", "a web page"),
    "lfs pointer": (
        lambda path: b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "a Git LFS pointer",
    ),
    "gguf": (lambda path: b"GGUF\x03\x00\x00\x00" + bytes(64), "a GGUF file"),
    "json": (lambda path: b'{"error": "gated repository"}', "bare JSON"),
    "nothing": (lambda path: b"", "an empty file"),
    "crumb": (lambda path: b"\x00\x01\x02", "only 3 bytes"),
    "zeros": (lambda path: bytes(4096), "bytes that begin with"),
    "table longer than the file": (
        lambda path: struct.pack("<Q", 10**6) + b'{"a":1}',
        "a table of 1000000 bytes",
    ),
    "table of 2^63 bytes": (
        lambda path: struct.pack("<Q", 2**63) + b"{" + bytes(99),
        f"a table of {2**63} bytes",
    ),
    "endless brackets": (
        lambda path: container(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
        "nested too deeply",
    ),
    "endless digits": (lambda path: container(b'{"a":' + b"9" * 10**6 + b"}"), "text that cannot be read"),
    "bytes that are no text": (lambda path: container(b'{"a":"\xff\xfe"}'), "text that cannot be read"),
    "duplicated tensor": (lambda path: container(b'{"a":{},"a":{}}'), "'a' more than once"),
    "not a table": (lambda path: container(b"{}"), "0 tensors"),
    "a tensor of 2^400 items": (
        lambda path: container(json.dumps({"a": tensor("F32", [2**40] * 8, 0, 4)}).encode(), bytes(4)),
        r"\[0, 4\]",
    ),
    "a tensor of unknown type": (
        lambda path: container(json.dumps({"a": tensor("F17", [1], 0, 4)}).encode(), bytes(4)),
        "found 'F17'",
    ),
    "a tensor past the end": (
        lambda path: container(json.dumps({"a": tensor("F32", [9], 0, 36)}).encode(), bytes(4)),
        "is cut short",
    ),
    "hidden bytes between tensors": (
        lambda path: container(json.dumps({"a": tensor("F32", [1], 64, 68)}).encode(), bytes(68)),
        "from byte",
    ),
    "hidden bytes at the end": (
        lambda path: container(json.dumps({"a": tensor("F32", [1], 0, 4)}).encode(), bytes(999)),
        "the end of the file at byte",
    ),
    "tensors that overlap": (
        lambda path: container(
            json.dumps({"a": tensor("F32", [1], 0, 4), "b": tensor("F32", [1], 0, 4)}).encode(), bytes(4)
        ),
        "one after the other",
    ),
}


def tensor(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_files_of_another_kind_are_called_by_their_name(tmp_path: Path, kind: str) -> None:
    make, message = IMPOSTORS[kind]
    path = tmp_path / "renamed.safetensors"
    content = make(path)
    path.write_bytes(content)
    with pytest.raises(BundleError, match=message) as refusal:
        open_bundle(path)
    assert str(path) in refusal.value.where
    assert refusal.value.remedy


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        with pytest.raises(BundleError, match=r"expected a readable \.safetensors file"):
            open_bundle(path)


def test_a_plain_model_file_is_told_from_a_bundle(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {"weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors", {"format": "pt"}
    )
    with pytest.raises(
        BundleError, match=r"expected a SteerDiT bundle .* found 1 tensors and the metadata keys: format"
    ):
        open_bundle(tmp_path / "lora.safetensors")


def weapons(document: dict[str, Any]) -> dict[str, Any]:
    return document["sites"]["text"]["categories"]["weapons"]


def site(document: dict[str, Any], name: str = "text") -> dict[str, Any]:
    return document["sites"][name]


def renamed(mapping: dict[str, Any], old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


NAN = float("nan")
HEADERS: dict[str, tuple[Change, str]] = {
    "format": (lambda d: d.update(format="other.bundle"), r": format: expected 'steerdit\.bundle'"),
    "no format": (lambda d: d.pop("format"), "expected a SteerDiT header"),
    "newer version": (
        lambda d: d.update(version=2),
        r": version: expected at most 1, found 2\. Update the SteerDiT",
    ),
    "newer version, other fields": (
        lambda d: [d.clear(), d.update(format="steerdit.bundle", version=9)],
        "Update",
    ),
    "version as text": (lambda d: d.update(version="1"), r": version: expected a whole number"),
    "version as truth": (lambda d: d.update(version=True), r": version: expected a whole number"),
    "unknown family": (
        lambda d: d.update(family="qwen"),
        r": family: expected 'flux' or 'sd3', found 'qwen'",
    ),
    "family as list": (lambda d: d.update(family=[]), r": family: "),
    "empty name": (lambda d: d.update(name=""), r": name: expected a non-empty text"),
    "name with a bell": (lambda d: d.update(name="a\ab"), r": name: expected printable"),
    "name that no terminal takes": (lambda d: d.update(name="\ud800"), r": name: expected printable"),
    "missing licence": (lambda d: d.pop("license"), r"expected the key 'license'"),
    "licence": (lambda d: d.update(license="<script>"), r": license: expected an SPDX"),
    "unknown field": (
        lambda d: d.update(extra=1),
        r": extra: expected only the keys .* found the key 'extra'",
    ),
    "base digest": (lambda d: d["base"].update(sha256="abc"), r": base\.sha256: expected a sha256"),
    "recipe": (lambda d: d["made"].update(recipe=[]), r": made\.recipe: expected an object"),
    "no sites": (lambda d: d.update(sites={}), r": sites: expected at least one site"),
    "sites as list": (lambda d: d.update(sites=[1]), r": sites: expected an object"),
    "unknown site": (
        lambda d: renamed(d["sites"], "text", "triple.1.image"),
        r": sites\.triple\.1\.image: expected",
    ),
    "site with endless index": (
        lambda d: renamed(d["sites"], "text", f"double.{'9' * 9999}.image"),
        "9999|10012",
    ),
    "site of another family": (
        lambda d: renamed(d["sites"], "text", "joint.1.image"),
        "a site in text, double",
    ),
    "kind": (lambda d: site(d).update(kind="lens"), r": sites\.text\.kind: expected 'sae', found 'lens'"),
    "no kind": (lambda d: site(d).pop("kind"), r": sites\.text: expected the key 'kind'"),
    "activation": (
        lambda d: site(d).update(activation="gelu"),
        r": sites\.text\.activation: expected 'relu' or",
    ),
    "width zero": (lambda d: site(d).update(width=0), r": sites\.text\.width: expected a whole number"),
    "width of another model": (
        lambda d: site(d).update(width=3072),
        r"text\.decoder: expected shape \[12, 3072\]",
    ),
    "width as fraction": (
        lambda d: site(d).update(width=6.0),
        r": sites\.text\.width: expected a whole number",
    ),
    "latents": (lambda d: site(d).update(latents=13), r"text\.decoder: expected shape \[13, 6\]"),
    "topk without k": (lambda d: site(d).update(activation="topk", k=None), r": sites\.text\.k: expected"),
    "k too large": (lambda d: site(d).update(activation="topk", k=13), r": sites\.text\.k: .*1 to 12"),
    "input scale zero": (lambda d: site(d).update(input_scale=0), r": sites\.text\.input_scale: "),
    "input scale huge": (
        lambda d: site(d).update(input_scale=HUGE),
        r": sites\.text\.input_scale: |cannot be read",
    ),
    "jumprelu without thresholds": (
        lambda d: site(d).update(activation="jumprelu"),
        r"text\.threshold: expected the",
    ),
    "thresholds without jumprelu": (
        lambda d: site(d, "double.1.image").update(activation="relu"),
        "belongs to none",
    ),
    "latent out of range": (
        lambda d: weapons(d).update(latents=[2, 12, 3]),
        r"weapons\.latents\[1\]: .*0 to 11",
    ),
    "latent negative": (lambda d: weapons(d).update(latents=[2, -1, 3]), r"weapons\.latents\[1\]: "),
    "latent twice": (
        lambda d: weapons(d).update(latents=[2, 2, 3]),
        r"weapons\.latents: expected at least one",
    ),
    "no latents": (
        lambda d: weapons(d).update(latents=[], weights=[]),
        r"weapons\.latents: expected at least one",
    ),
    "weight negative": (
        lambda d: weapons(d).update(weights=[1, -0.5, 1]),
        r"weapons\.weights\[1\]: expected a finite",
    ),
    "weight NaN": (lambda d: weapons(d).update(weights=[1, NAN, 1]), "expected finite numbers, found NaN"),
    "weight infinite": (lambda d: weapons(d).update(weights=[1, float("inf"), 1]), "found Infinity"),
    "weights too few": (lambda d: weapons(d).update(weights=[1]), r"weapons\.weights: expected 3 weights"),
    "gate NaN": (lambda d: weapons(d)["gate"].update(token=NAN), "expected finite numbers, found NaN"),
    "gate null": (
        lambda d: weapons(d)["gate"].update(token=None),
        r"weapons\.gate\.token: expected a finite",
    ),
    "gate negative": (
        lambda d: weapons(d)["gate"].update(image=-1),
        r"weapons\.gate\.image: expected a finite",
    ),
    "no gate": (lambda d: weapons(d).pop("gate"), r"categories\.weapons: expected the key 'gate'"),
    "rate above one": (
        lambda d: weapons(d)["gate"].update(recall={"value": 1.1, "ci": [0, 1]}),
        r"recall\.value: ",
    ),
    "interval turned": (
        lambda d: weapons(d)["gate"].update(recall={"value": 0.5, "ci": [1, 0]}),
        r"recall\.ci: ",
    ),
    "category without name": (lambda d: renamed(site(d)["categories"], "weapons", ""), "non-empty text"),
    "category with comma": (
        lambda d: renamed(site(d)["categories"], "weapons", "a,b"),
        "category name without comma",
    ),
    "category called all": (
        lambda d: renamed(site(d)["categories"], "weapons", "All"),
        "category name without comma",
    ),
    "category like a removal": (
        lambda d: renamed(site(d)["categories"], "weapons", "-a"),
        "category name without",
    ),
    "tensor not listed": (lambda d: d["tensors"].pop("text.decoder"), "a tensor the header does not list"),
    "tensor listed, not there": (
        lambda d: d["tensors"].update({"text.more": d["tensors"]["text.decoder"]}),
        r"tensors\.text\.more: expected a tensor",
    ),
    "listed shape": (
        lambda d: d["tensors"]["text.decoder"].update(shape=[6, 12]),
        r"text\.decoder: expected shape",
    ),
    "listed dtype": (
        lambda d: d["tensors"]["text.decoder"].update(dtype="F32"),
        r"text\.decoder: expected dtype F32",
    ),
    "unreadable dtype": (
        lambda d: d["tensors"]["text.decoder"].update(dtype="F8_E4M3"),
        "'F32' or 'F16' or 'BF16'",
    ),
    "listed digest": (
        lambda d: d["tensors"]["text.decoder"].update(sha256="0"),
        r"text\.decoder\.sha256: expected",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_wrong_header_is_refused_by_field(sound: Path, tmp_path: Path, case: str) -> None:
    change, message = HEADERS[case]
    path = rewrite(sound, tmp_path / "wrong.safetensors", header=change)
    with pytest.raises(BundleError, match=message) as refusal:
        open_bundle(path)
    assert str(refusal.value).startswith(str(path))
    assert refusal.value.remedy


def test_a_header_changed_without_its_digest_is_refused(sound: Path, tmp_path: Path) -> None:
    def higher(document: dict[str, Any]) -> None:
        weapons(document)["gate"]["token"] = 99.0

    path = rewrite(sound, tmp_path / "edited.safetensors", header=higher, sign=False)
    with pytest.raises(BundleError, match="steerdit_sha256: expected the header's digest"):
        open_bundle(path)


def test_a_missing_tensor_is_named_with_those_that_are_there(sound: Path, tmp_path: Path) -> None:
    header = small_header()
    tensors = small_tensors(header)
    tensors["spare"] = tensors.pop("text.encoder")
    content = sound.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    safetensors.torch.save_file(
        tensors, tmp_path / "a.safetensors", json.loads(content[8 : 8 + length])["__metadata__"]
    )
    with pytest.raises(
        BundleError, match=r"text\.encoder: expected the tensor text\.encoder.*only text\.decoder"
    ):
        open_bundle(tmp_path / "a.safetensors")


def test_not_a_number_in_a_large_file_is_refused_where_it_is_read_and_only_there(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "HASHED_AT_ONCE", 0)
    monkeypatch.setattr(bundles, "HASHED_ALWAYS", 0)

    def spoil(body: bytearray) -> None:
        span = open_bundle(sound).container.tensors["text.encoder"]
        row_five = span.start - (sound.stat().st_size - len(body)) + 5 * 6 * 2
        body[row_five : row_five + 2] = b"\x00\x7e"  # NaN in float16

    path = rewrite(sound, tmp_path / "nan.safetensors", body=spoil)
    bundle = open_bundle(path)
    bundle.read_latents(TEXT, [2, 3, 7])
    with pytest.raises(BundleError, match=r"text\.encoder: expected finite numbers, found 1 NaN or infinite"):
        bundle.read_latents(TEXT, [2, 5])
    with pytest.raises(BundleError, match=r"text\.encoder: expected bytes with sha256"):
        bundle.read_sae(TEXT)


def test_verify_finds_a_number_that_is_not_finite_even_where_hashes_agree(
    sound: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(sound)
    name = "double.1.image.decoder_adapted"
    span = bundle.container.tensors[name]
    spoiled = bytearray(sound.read_bytes()[span.start : span.stop])
    spoiled[-2:] = b"\x00\x7c"  # infinity in float16

    def spoil(body: bytearray) -> None:
        offset = span.start - (sound.stat().st_size - len(body))
        body[offset : offset + len(spoiled)] = spoiled

    def agree(document: dict[str, Any]) -> None:
        import hashlib

        document["tensors"][name]["sha256"] = hashlib.sha256(spoiled).hexdigest()

    path = rewrite(sound, tmp_path / "inf.safetensors", header=agree, body=spoil)
    with pytest.raises(
        BundleError, match=r"decoder_adapted: expected finite numbers, found 1 NaN or infinite"
    ):
        verify(path)
