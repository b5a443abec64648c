"""The workflow that carries directions, posted to a real server with tiny sizes: what it saves loads and steers."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.install import NEWEST, install
from steerdit.benchmarks.hosting.server import Host, running
from steerdit.benchmarks.hosting.workflows import problems, to_prompt
from steerdit.benchmarks.workflows import directions as flow
from steerdit.steering.formats.bundle import open_bundle, verify
from steerdit.steering.sites import Site
from steerdit.training.directions import benign_anchors, read_anchors, read_pairs
from steerdit.training.directions.tables import Row

ANCHORS, SHALLOW = 150, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    base = tmp_path_factory.mktemp("transfer-direction")
    with running(install(NEWEST), flow.setup(), base=base, threads=1) as host:
        yield host


def titled(prompt: dict[str, Any], title: str) -> str:
    (number,) = [number for number, node in prompt.items() if node.get("_meta", {}).get("title") == title]
    return number


def some_anchors() -> list[str]:
    texts = read_anchors().texts
    return list(texts[:: len(texts) // ANCHORS])[:ANCHORS]


def tiny(client: Client) -> dict[str, Any]:
    """The workflow with few anchors, a shallow layer, few benign prompts and few steps."""
    prompt = to_prompt(flow.read(), client.object_info())
    text = "prompt,label\n" + "".join(f'"{said}",benign\n' for said in some_anchors())
    prompt["anchors"] = {"class_type": "SteerDiT_PromptList", "inputs": {"text": text}}
    prompt[titled(prompt, flow.ALIGN)]["inputs"] |= {"anchors": ["anchors", 0], "floor": 0.0}
    prompt[titled(prompt, flow.ESTIMATE)]["inputs"]["layer"] = SHALLOW
    prompt[titled(prompt, flow.BENIGN)]["inputs"]["text"] = flow.benign_prompts(40)
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 4
    return prompt


def test_the_host_agrees_and_the_file_is_what_the_script_writes(world: Host) -> None:
    info = Client(world.url).object_info()
    assert problems(json.loads(flow.FILE.read_text(encoding="utf-8")), info) == []
    assert flow.build(info) == flow.read(), "run python -m steerdit.benchmarks.workflows.directions"


def test_it_makes_directions_that_steer(world: Host) -> None:
    client = Client(world.url)
    prompt = tiny(client)
    pictures = {name: titled(prompt, title) for name, title in flow.PICTURES.items()}
    made = client.run(prompt)
    base, steered = (made.images(number)[0].tobytes() for number in pictures.values())
    scores = made.text(titled(prompt, flow.SCORES))
    assert "bloody" in scores
    assert ("open," in scores) == (base != steered)

    file = world.base / "models" / "steering" / f"{flow.BUNDLE}.safetensors"
    verify(file)
    about = open_bundle(file).directions[Site("text")]
    assert set(about.names) == {"weapons", "alcohol", "bloody", "burning", "global"}
    assert about.alignment is not None
    assert (about.alignment.kind, about.alignment.source.layer) == ("ridge", SHALLOW)
    used = benign_anchors(Row("", {"prompt": text, "label": "benign"}) for text in some_anchors())
    assert (about.alignment.anchors.sha256, about.alignment.anchors.count) == (used.sha256, len(used))

    # Whatever the gates say, and without them: at strength 0 it is the very same picture, at 3 it is not.
    steer = prompt[titled(prompt, flow.STEER)]["inputs"]
    steer |= {"weights": "uniform", "strength": 0.0}
    again = client.run(prompt)
    assert again.images(pictures["steered"])[0].tobytes() == base
    ran = {node["class_type"] for number, node in prompt.items() if number not in again.cached}
    assert ran <= {"SteerDiT_SteerConditioning", "PreviewAny", "KSampler", "VAEDecode", "SaveImage"}
    steer["strength"] = 3.0
    assert client.run(prompt).images(pictures["steered"])[0].tobytes() != base


def test_the_pairs_are_those_of_the_world() -> None:
    pairs = read_pairs(flow.PAIRS)
    assert not any(pair.held_out for pair in pairs.pairs)
    assert min(pairs.counts().values()) >= flow.PAIRED - 2
    assert not any("penguin" in pair.unsafe or "bicycle" in pair.unsafe for pair in pairs.pairs)
