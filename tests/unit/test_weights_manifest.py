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
