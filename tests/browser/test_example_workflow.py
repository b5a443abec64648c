"""The example workflow, by hand: dropped on the canvas of the real front end, run, and looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from steerdit.benchmarks.emoji_scenes import weights
from steerdit.benchmarks.hosting.browser import FrontEnd, find_browser, opened
from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.install import NEWEST, install
from steerdit.benchmarks.hosting.server import Host, running
from steerdit.benchmarks.hosting.workflows import BYPASSED, problems, to_prompt
from steerdit.benchmarks.workflows import demo, directions

OUT = Path(__file__).with_name("out")
WORKFLOWS = sorted(demo.FILE.parent.glob("*.json"))


@pytest.fixture(scope="module")
def demo_host(tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    """With what each workflow asks for; the generator stands for the model that edits, which is not run here."""
    base, editor = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("models") / weights.EDITOR
    shutil.copy(weights.path("generator"), editor)
    setup = directions.setup()
    models = {**setup.models, "diffusion_models": [weights.path("generator"), editor]}
    with running(install(NEWEST), replace(setup, models=models), base=base, threads=1) as host:
        yield host


@pytest.fixture
def page(demo_host: Host) -> Generator[FrontEnd]:
    if find_browser() is None:
        pytest.skip(
            "needs Chromium and chromedriver on the PATH (Debian: apt install chromium chromium-driver)"
        )
    with opened(demo_host.url, size=(2200, 1400)) as page:
        yield page


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_the_host_agrees_with_the_workflow(demo_host: Host, file: Path) -> None:
    assert problems(json.loads(file.read_text(encoding="utf-8")), Client(demo_host.url).object_info()) == []


def test_the_committed_workflow_is_what_the_script_writes(demo_host: Host) -> None:
    written = demo.build(Client(demo_host.url).object_info())
    assert written == demo.read(), "run python -m steerdit.benchmarks.workflows.demo"


def test_the_host_offers_the_workflow_among_its_templates(demo_host: Host) -> None:
    client = Client(demo_host.url)
    assert demo.FILE.stem in client.get("/workflow_templates")["steerdit"]
    served = client.get(f"/api/workflow_templates/steerdit/{demo.FILE.name}")
    assert served == demo.read()


def test_the_workflow_opens_runs_and_shows_its_pictures(demo_host: Host, page: FrontEnd) -> None:
    workflow = demo.read()
    ids = {node["title"]: node["id"] for node in workflow["nodes"] if node.get("title")}
    pictures = {method: ids[f"Picture: {title}"] for method, title in demo.METHODS.items()}
    page.drop(demo.FILE.name, json.dumps(workflow), len(workflow["nodes"]))
    assert page.unknown_nodes() == []
    assert page.complaints() == []
    assert page.prompt() == to_prompt(workflow, Client(demo_host.url).object_info())

    page.fit_view()
    page.press_run()
    for node in (*pictures.values(), ids[demo.REPORT]):
        page.wait_for(lambda node=node: page.pictures(node), f"the picture of node {node}", timeout=180)
    page.wait_for(lambda: page.idle(), "the end of the run", timeout=60)
    page.screenshot(OUT / "repel-demo.png")
    assert page.complaints() == []

    shot = Image.open(OUT / "repel-demo.png").convert("RGB")
    for node in pictures.values():
        (shown,) = page.pictures(node)
        assert (shown.width, shown.height) == (128, 128)
        left, top, width, height = map(round, shown.box)
        colours = shot.crop((left, top, left + width, top + height)).getcolors(1 << 24)
        assert len(colours) > 300, "a picture, not an empty box, is on the screen"


def test_bypassed_steering_is_no_steering(demo_host: Host) -> None:
    """As when people press Ctrl-B on the node to compare."""
    client, workflow = Client(demo_host.url), demo.read()
    for node in workflow["nodes"]:
        if node["type"] in ("SteerDiT_Repel", "SteerDiT_Blend"):
            node["mode"] = BYPASSED
    prompt = to_prompt(workflow, client.object_info())
    report = {number for number, node in prompt.items() if node["class_type"] == "SteerDiT_Report"}
    for number in [n for n, node in prompt.items() if any(v and v[0] in report for v in links(node))]:
        del prompt[number]
    for number in report:  # nothing is steered, so there is nothing to report
        del prompt[number]
    result = client.run(prompt)
    saved = [number for number, node in prompt.items() if node["class_type"] == "SaveImage"]
    assert len(saved) == len(demo.METHODS)
    assert len({result.images(number)[0].tobytes() for number in saved}) == 1


def links(node: dict[str, object]) -> list[list[object]]:
    inputs = node["inputs"]
    assert isinstance(inputs, dict)
    return [value for value in inputs.values() if isinstance(value, list)]
