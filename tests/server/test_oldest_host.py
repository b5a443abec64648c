"""The oldest host that the pack supports steers as the newest does: through its server, and in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.install import OLDEST, OVERRIDE, found, install
from steerdit.benchmarks.hosting.server import running
from steerdit.benchmarks.hosting.workflows import Prompt, to_prompt
from steerdit.benchmarks.workflows import demo

ROOT = Path(__file__).resolve().parents[2]
LOADER = Path(__file__).with_name("small_flux_loader.py")
STEPS = 6


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[Client]:
    setup = demo.setup()
    setup = replace(setup, packs={**setup.packs, LOADER.name: LOADER})
    base = tmp_path_factory.mktemp("oldest-demo")
    with running(install(OLDEST), setup, base=base, threads=1) as host:
        yield Client(host.url)


def example(client: Client, **changes: object) -> Prompt:
    """The example workflow in few steps, with a loader that knows the demo's model; changes go to Repel and Blend."""
    prompt = to_prompt(demo.read(), client.object_info())
    for node in prompt.values():
        if node["class_type"] == "UNETLoader":
            node["class_type"] = "Tests_LoadSmallFlux"
            del node["inputs"]["weight_dtype"]
        elif node["class_type"] == "KSampler":
            node["inputs"]["steps"] = STEPS
        elif node["class_type"] in ("SteerDiT_Repel", "SteerDiT_Blend"):
            node["inputs"].update(changes)
    return prompt


def made_by(client: Client, prompt: Prompt) -> dict[str, bytes]:
    """The pixels by method, and what the report's `table` says."""
    result = client.run(prompt)
    ids = {node["_meta"]["title"]: number for number, node in prompt.items()}
    made = {
        method: result.images(ids[f"Picture: {title}"])[0].tobytes() for method, title in demo.METHODS.items()
    }
    return {**made, "table": result.text(ids["Table"]).encode()}


def test_it_is_the_oldest(client: Client) -> None:
    assert client.get("/system_stats")["system"]["comfyui_version"] == found(install(OLDEST)) == OLDEST


def test_the_example_workflow_is_steered(client: Client) -> None:
    made = made_by(client, example(client))
    assert len({made[method] for method in demo.METHODS}) == 3
    assert b"an unsafe latent fired" in made["table"]
    assert b"weapons" in made["table"]


def test_strength_zero_changes_no_pixel_and_still_reports(client: Client) -> None:
    made = made_by(client, example(client, strength=0.0))
    assert len({made[method] for method in demo.METHODS}) == 1
    assert b"an unsafe latent fired" in made["table"]


def test_edits_and_identities_hold_in_it() -> None:
    """The tests of tests/host that compare with an account of our own, with this host in the process."""
    # Not `python -m pytest`: that puts the root on the path, where our `nodes` would hide the host's.
    pytest_itself = Path(sys.executable).with_name("pytest" + Path(sys.executable).suffix)
    done = subprocess.run(
        [pytest_itself, "-q", "tests/host/test_agreement.py", "tests/host/test_identity.py"],
        cwd=ROOT,
        env={**os.environ, OVERRIDE: str(install(OLDEST))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
