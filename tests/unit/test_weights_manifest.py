"""Every weight is listed truly: hash, size, licence; what is shipped stays small."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from steerdit.delivery.manifest import FAMILIES, read_manifest
from steerdit.steering.formats.directions import DIRECTION_BLOCKS
from steerdit.steering.formats.fields import LICENSE
from steerdit.steering.formats.header import FAMILY_BLOCKS

ROOT = Path(__file__).resolve().parents[2]
MANIFEST: dict[str, Any] = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((ROOT / "weights_manifest.schema.json").read_text(encoding="utf-8"))
SHIPPED = [weight for weight in MANIFEST["weights"] if "path" in weight["source"]]
LIMIT = 32 * 2**20

GOOD: dict[str, Any] = {
    "name": "emoji-flux-sae",
    "kind": "bundle",
    "family": "flux",
    "file": "emoji.safetensors",
    "source": {"repo_id": "someone/bundles", "filename": "emoji.safetensors"},
    "sha256": "0" * 64,
    "bytes": 1,
    "license": "Apache-2.0",
    "description": "Nothing, for this test.",
}


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_manifest_follows_its_schema() -> None:
    jsonschema.validate(MANIFEST, SCHEMA)


def test_names_and_files_are_unique() -> None:
    for field in ("name", "file"):
        values = [weight[field] for weight in MANIFEST["weights"]]
        assert len(values) == len(set(values)), f"{field} occurs twice"


@pytest.mark.parametrize("weight", SHIPPED, ids=lambda weight: weight["name"])
def test_a_shipped_file_is_what_the_manifest_says(weight: dict[str, Any]) -> None:
    content = (ROOT / weight["source"]["path"]).read_bytes()
    assert len(content) == weight["bytes"]
    assert hashlib.sha256(content).hexdigest() == weight["sha256"]


def test_shipped_weights_are_small_together() -> None:
    assert sum(weight["bytes"] for weight in SHIPPED) <= LIMIT


def test_every_tracked_weight_is_listed() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "*.safetensors"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert set(listing.stdout.split()) == {weight["source"]["path"] for weight in SHIPPED}


def test_a_good_entry_is_accepted() -> None:
    jsonschema.validate({"weights": [GOOD]}, SCHEMA)


@pytest.mark.parametrize("family", [*DIRECTION_BLOCKS, None])
def test_bundles_of_every_family_can_be_listed(family: str | None, tmp_path: Path) -> None:
    document = {"weights": [{**GOOD, "family": family}]}
    jsonschema.validate(document, SCHEMA)
    path = tmp_path / "weights_manifest.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_manifest(path).bundles[0].family == family


def test_the_schema_names_the_families_that_the_reader_knows() -> None:
    assert SCHEMA["$defs"]["weight"]["properties"]["family"]["enum"] == [*FAMILIES, None]


def test_families_with_sites_for_autoencoders_have_the_same_sites_for_directions() -> None:
    assert {family: DIRECTION_BLOCKS[family] for family in FAMILY_BLOCKS} == dict(FAMILY_BLOCKS)


@pytest.mark.parametrize(
    ("license", "sound"),
    [
        ("Apache-2.0", True),
        ("GPL-2.0+", True),
        ("LicenseRef-unknown", True),
        ("(MIT OR Apache-2.0) AND CC-BY-4.0", True),
        ("GPL-2.0-only WITH (Classpath-exception-2.0)", True),
        ("free for all", False),
        ("Apache-2.0 and MIT", False),
        ("Apache-2.0 AND", False),
        ("+", False),
        ("a" * 201, False),
        ("Apache-2.0\n", False),
    ],
)
def test_bundles_and_the_manifest_have_one_grammar_of_licences(license: str, sound: bool) -> None:
    errors = jsonschema.Draft202012Validator(SCHEMA).iter_errors({"weights": [{**GOOD, "license": license}]})
    assert (not list(errors)) is sound or license.endswith("\n")  # Python's $ lets a last line break pass
    assert bool(LICENSE.fullmatch(license)) is sound


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Has Spaces"),
        ("kind", "picture"),
        ("family", "stable-cascade"),
        ("file", "../escape.safetensors"),
        ("file", "weights.ckpt"),
        ("source", {"path": "/etc/weights.safetensors"}),
        ("source", {"path": "a/../../weights.safetensors"}),
        ("source", {"url": "http://insecure.example/weights.safetensors"}),
        ("source", {"repo_id": "someone/bundles"}),
        ("source", {"path": "a.safetensors", "url": "https://both.example/a.safetensors"}),
        ("sha256", "abc"),
        ("bytes", 0),
        ("license", "free for all"),
        ("description", ""),
    ],
)
def test_a_bad_entry_is_refused(field: str, value: object) -> None:
    entry = copy.deepcopy(GOOD)
    entry[field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"weights": [entry]}, SCHEMA)


@pytest.mark.parametrize("field", GOOD)
def test_no_field_may_be_missing(field: str) -> None:
    entry = {name: value for name, value in GOOD.items() if name != field}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"weights": [entry]}, SCHEMA)
