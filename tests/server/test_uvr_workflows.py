"""The workflows of Restrict Flow, posted to a real server with tiny sizes: anchors are made, found by, and restrict."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.install import NEWEST, install
from steerdit.benchmarks.hosting.server import Host, running
from steerdit.benchmarks.hosting.workflows import problems, to_prompt
from steerdit.benchmarks.workflows import uvr as flow
from steerdit.benchmarks.workflows.prompts import as_csv
from steerdit.steering.formats.bundle import open_bundle, verify

TINY: dict[str, dict[str, Any]] = {
    "SteerDiT_SamplePrompts": {"steps": 2, "cfg": 1.0},
    "SteerDiT_CollectAnchors": {"sites": "double.1.attention", "collect_at": "last", "startup_percent": 0.9},
    "SteerDiT_RestrictFlow": {"threshold": "given", "threshold_value": -100.0, "startup_percent": 0.7},
    "SteerDiT_AttentionFlow": {"steps": 2},
    "KSampler": {"steps": 3},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    """A host with the demo's generator and the one that edits."""
    base = tmp_path_factory.mktemp("uvr")
    with running(install(NEWEST), flow.hosted(), base=base, threads=1) as host:
        yield host


def titled(prompt: dict[str, Any], title: str) -> str:
    (number,) = [number for number, node in prompt.items() if node.get("_meta", {}).get("title") == title]
    return number


@pytest.mark.parametrize("name", flow.FILES)
def test_the_host_agrees_and_the_file_is_what_the_script_writes(name: str, world: Host) -> None:
    info = Client(world.url).object_info()
    assert problems(json.loads(flow.FILES[name].read_text(encoding="utf-8")), info) == []
    assert flow.build(name, info) == flow.read(name), "run python -m steerdit.benchmarks.workflows.uvr"


@pytest.mark.parametrize("name", flow.FILES)
def test_what_is_found_is_restricted(name: str, world: Host) -> None:
    client = Client(world.url)
    prompt = to_prompt(flow.read(name), client.object_info())
    for node in prompt.values():
        node["inputs"].update(TINY.get(node["class_type"], {}))
    prompt[titled(prompt, flow.PROMPTS)]["inputs"]["text"] = as_csv(16, flow.DRAWN)
    pictures = {method: titled(prompt, title) for method, title in flow.PICTURES.items()}
    made = client.run(prompt)
    base, restricted = (made.images(number)[0].tobytes() for number in pictures.values())
    assert base != restricted
    found = titled(prompt, flow.FOUND)
    assert "unsafe content was marked" in made.outputs[found]["text"][0]

    file = world.base / "models" / "steering" / f"{flow.BUNDLE}.safetensors"
    verify(file)
    assert [str(site) for site in open_bundle(file).anchors] == ["double.1.attention"]

    # Where nothing is over its threshold, that is the very same picture, and nothing is collected again.
    prompt[titled(prompt, flow.RESTRICT)]["inputs"]["threshold_value"] = 1e6
    again = client.run(prompt)
    assert again.images(pictures["uvr"])[0].tobytes() == base
    ran = {node["class_type"] for number, node in prompt.items() if number not in again.cached}
    assert ran == {
        "SteerDiT_RestrictFlow", "KSampler", "VAEDecode", "SaveImage", "SteerDiT_FlowMask", "PreviewAny",
    }  # fmt: skip
