"""Load and Download Steering Bundle in a running ComfyUI, with a loopback hub."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.benchmarks.hosting.client import Client, ExecutionError, InterruptError, PromptError
from steerdit.benchmarks.hosting.install import install
from steerdit.benchmarks.hosting.server import Setup, running
from steerdit.steering.formats.bundle import verify
from steerdit.steering.formats.header import SaeSite
from steerdit.steering.formats.writing import write_bundle

from ..unit.bundles import TEXT, small_header, small_tensors
from ..unit.hub import Hub, serving

PACK = Path(__file__).resolve().parents[2]
BIG = "/someone/bundles/resolve/main/flux/big.safetensors"


@dataclass
class World:
    client: Client
    hub: Hub
    steering: Path
    """models/steering of the running host"""
    big: bytes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    folder = tmp_path_factory.mktemp("bundles")
    site = SaeSite(width=256, latents=8192, activation="relu")
    header = small_header(name="big", sites={TEXT: site})
    tensors = {f"text.{part}": torch.randn(shape).half() for part, shape in site.tensor_shapes().items()}
    write_bundle(folder / "big.safetensors", header, tensors)
    write_bundle(folder / "shared" / "small.safetensors", small_header(), small_tensors(small_header()))
    big = (folder / "big.safetensors").read_bytes()
    setup = Setup(packs={"steerdit": PACK}, extra_model_paths={"steering": folder / "shared"})
    with serving(Hub({BIG: big})) as hub:
        environment = {
            **{name: "" for name in os.environ if name.lower().endswith("_proxy")},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "home"),
        }
        with running(install(), setup, threads=1, environment=environment, base=folder / "host") as host:
            # extra_model_paths come first, so that is where downloads go
            yield World(Client(host.url), hub, folder / "shared", big)


def prompt_to_download(sha256: str = "", file: str = "flux/big.safetensors") -> dict[str, Any]:
    inputs = {"source": "repository", "repository": "someone/bundles", "file": file, "sha256": sha256}
    return {"1": {"class_type": "SteerDiT_DownloadBundle", "inputs": inputs}}


def prompt_to_load(name: str) -> dict[str, Any]:
    """Loads a bundle; Preview as Text makes the host run it."""
    return {
        "1": {"class_type": "SteerDiT_LoadBundle", "inputs": {"bundle": name}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def test_the_combo_lists_bundles_and_a_sound_one_loads(world: World) -> None:
    options = world.client.object_info()["SteerDiT_LoadBundle"]["input"]["required"]["bundle"]
    assert "small.safetensors" in str(options)
    assert world.client.models("steering") == ["small.safetensors"]
    assert "Bundle(header=" in world.client.run(prompt_to_load("small.safetensors")).text(2)


def test_a_bad_file_is_refused_when_the_prompt_is_queued(world: World) -> None:
    (world.steering / "page.safetensors").write_bytes(b"<!DOCTYPE html>" + bytes(500))
    with pytest.raises(
        PromptError, match=r"page\.safetensors: expected a \.safetensors file, found a web page"
    ):
        world.client.run(prompt_to_load("page.safetensors"))
    with pytest.raises(PromptError, match=r"expected one of .*small\.safetensors, found no such file"):
        world.client.run(prompt_to_load("gone.safetensors"))


def test_a_download_is_cancelled_taken_up_again_and_kept(world: World) -> None:
    world.hub.slow = 0.02
    failure: list[BaseException] = []

    def follow() -> None:
        try:
            world.client.run(prompt_to_download())
        except InterruptError as stopped:
            failure.append(stopped)

    thread = threading.Thread(target=follow)
    thread.start()
    while not world.hub.gets() or world.hub.gets()[0].sent < len(world.big) // 4:
        time.sleep(0.01)
    world.client.interrupt()
    thread.join(60)
    assert failure
    (partial,) = world.steering.glob(".big.safetensors.*.part")
    assert 0 < partial.stat().st_size < len(world.big)
    have = partial.stat().st_size

    world.hub.slow = 0.0
    fractions: list[float] = []
    world.client.run(
        prompt_to_download(), lambda progress: fractions.append(progress.step / max(1, progress.steps))
    )
    assert world.hub.gets()[1].range == f"bytes={have}-"
    assert max(fractions) == 1.0
    assert verify(world.steering / "big.safetensors").name == "big"
    assert "big.safetensors" in world.client.models("steering")

    world.client.free()
    before = len(world.hub.gets())
    world.client.run(prompt_to_download(hashlib.sha256(world.big).hexdigest()))
    assert len(world.hub.gets()) == before


def test_what_cannot_be_fetched_ends_the_run_with_the_reason(world: World) -> None:
    with pytest.raises(ExecutionError, match=r"hf download someone/bundles missing\.safetensors"):
        world.client.run(prompt_to_download(file="missing.safetensors"))
    with pytest.raises(ExecutionError, match="Copy both names from the repository's page"):
        world.client.run(prompt_to_download(file="../evil.safetensors"))
