"""The workflow that makes a bundle, posted to a real server with tiny sizes: what it saves loads and steers."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.install import NEWEST, install
from steerdit.benchmarks.hosting.server import Host, running
from steerdit.benchmarks.hosting.workflows import problems, to_prompt
from steerdit.benchmarks.workflows import bundle as flow
from steerdit.benchmarks.workflows import demo
from steerdit.benchmarks.workflows.prompts import as_csv
from steerdit.steering.formats.bundle import open_bundle, verify

TINY: dict[str, dict[str, Any]] = {
    "SteerDiT_Record": {"steps": 2, "cfg": 1.0, "tokens_per_image": 8, "buckets": "1"},
    "SteerDiT_Route": {"pairs": 3, "benign": 1},
    "SteerDiT_TrainSAE": {"expansion": 2, "k": 8, "steps": 60, "batch": 128, "rate": 0.003, "more": "warmup = 5"},
    "SteerDiT_Select": {"count": 8, "ratio": 1.2},
    "SteerDiT_Calibrate": {"quantile": 0.6, "folds": 2},
    "SteerDiT_Repel": {"strength": 2.0},
    "KSampler": {"steps": 4},
}  # fmt: skip
COUNTS = {flow.LEARN: 16, flow.JUDGE: 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    base = tmp_path_factory.mktemp("make-bundle")
    with running(install(NEWEST), demo.setup(), base=base, threads=1) as host:
        yield host


def titled(prompt: dict[str, Any], title: str) -> str:
    (number,) = [number for number, node in prompt.items() if node.get("_meta", {}).get("title") == title]
    return number


def tiny(client: Client) -> dict[str, Any]:
    prompt = to_prompt(flow.read(), client.object_info())
    for node in prompt.values():
        node["inputs"].update(TINY.get(node["class_type"], {}))
    for title, count in COUNTS.items():
        prompt[titled(prompt, title)]["inputs"]["text"] = as_csv(count, flow.PROMPTS[title][1])
    return prompt


def test_the_host_agrees_and_the_file_is_what_the_script_writes(world: Host) -> None:
    info = Client(world.url).object_info()
    assert problems(json.loads(flow.FILE.read_text(encoding="utf-8")), info) == []
    assert flow.build(info) == flow.read(), "run python -m steerdit.benchmarks.workflows.bundle"


def test_it_makes_a_bundle_that_steers(world: Host) -> None:
    client = Client(world.url)
    prompt = tiny(client)
    pictures = {name: titled(prompt, title) for name, title in flow.PICTURES.items()}
    made = client.run(prompt)
    base, steered = (made.images(number)[0].tobytes() for number in pictures.values())
    assert base != steered

    file = world.base / "models" / "steering" / f"{flow.BUNDLE}.safetensors"
    verify(file)
    bundle = open_bundle(file)
    assert len(bundle.sites) == flow.PLACES
    assert all(bundle.entry(site).categories for site in bundle.sites)
    assert (bundle.header.base.name, bundle.header.license) == ("emoji-scenes-flux", "Apache-2.0")
    assert file.name in client.models("steering")

    # Nothing is made again but what is steered; at strength 0 that is the very same picture.
    prompt[titled(prompt, flow.REPEL)]["inputs"]["strength"] = 0.0
    again = client.run(prompt)
    assert again.images(pictures["repel"])[0].tobytes() == base
    ran = {node["class_type"] for number, node in prompt.items() if number not in again.cached}
    assert ran == {"SteerDiT_Repel", "KSampler", "VAEDecode", "SaveImage"}


def test_the_docs_name_what_the_workflow_has() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "make-a-bundle.md").read_text(encoding="utf-8")
    for name in ("Record Activations", "Route Sites", "Train SAE", "Select Latents", "Adapt Decoder"):
        assert name in page
    for name in ("Calibrate Gates", "Save SAE Bundle", flow.FILE.name, "--plan", "--shard"):
        assert name in page
