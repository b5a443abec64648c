"""The real front end in a real browser: it knows our nodes, opens our workflows and reads them as we do."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from steerdit.benchmarks.hosting.browser import FrontEnd
from steerdit.benchmarks.hosting.canvas import Canvas
from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.workflows import Json, to_prompt

OUT = Path(__file__).with_name("out")
ORANGE = (255, 128, 0)


def colours(path: Path, box: tuple[float, float, float, float]) -> list[tuple[int, tuple[int, ...]]]:
    """(count, colour) of what a screenshot shows inside (x, y, width, height)."""
    left, top, width, height = box
    part = Image.open(path).convert("RGB").crop((int(left), int(top), int(left + width), int(top + height)))
    return part.getcolors(1 << 24)


def test_a_dropped_workflow_runs_and_its_picture_appears(front_end: FrontEnd, client: Client) -> None:
    info = client.object_info()
    canvas = Canvas(info)
    orange = canvas.add(
        "EmptyImage", (0, 0), {"width": 96, "height": 64, "color": 0xFF8000}, title="An orange"
    )
    save = canvas.add("SaveImage", (400, 0), {"images": orange["IMAGE"], "filename_prefix": "seen"})
    note = canvas.note("# A note\n\nNothing to run.", (0, -220), (300, 120), title="Read me")
    canvas.group("All of it", [orange, save])
    workflow = canvas.as_json()

    front_end.drop("orange.json", json.dumps(workflow), 3)
    assert front_end.unknown_nodes() == []
    assert front_end.complaints() == []
    assert front_end.prompt() == to_prompt(workflow, info)
    assert {note.data["id"]: "MarkdownNote"}.items() <= front_end.nodes().items()

    front_end.fit_view()
    assert front_end.pictures(save.data["id"]) == []
    front_end.press_run()
    (picture,) = front_end.wait_for(lambda: front_end.pictures(save.data["id"]), "the saved picture")
    assert (picture.width, picture.height) == (96, 64)
    front_end.screenshot(OUT / "orange.png")
    seen = {colour: count for count, colour in colours(OUT / "orange.png", picture.box)}
    assert seen.get(ORANGE, 0) > 5000, "the picture is on the screen"
    assert front_end.complaints() == []


def test_an_unknown_node_would_be_seen(front_end: FrontEnd, client: Client) -> None:
    """What the other tests find absent does appear where it should."""
    canvas = Canvas(client.object_info())
    canvas.add("EmptyImage", (0, 0))
    workflow = canvas.as_json()
    workflow["nodes"][0]["type"] = "SteerDiT_NotWrittenYet"
    front_end.drop("unknown.json", json.dumps(workflow), 1)
    assert front_end.unknown_nodes() == ["SteerDiT_NotWrittenYet"]
    front_end.wait_for(front_end.complaints, "a complaint")


def test_our_nodes_look_as_they_should(front_end: FrontEnd, client: Client) -> None:
    info = client.object_info()
    workflow = steering(info)
    front_end.drop("steering.json", json.dumps(workflow), len(workflow["nodes"]))
    assert front_end.unknown_nodes() == []
    assert sorted(front_end.widget_choices(1, "bundle")) == ["elsewhere.safetensors", "near.safetensors"]
    assert front_end.prompt() == to_prompt(workflow, info)
    front_end.fit_view()
    front_end.screenshot(OUT / "nodes.png")
    saved = front_end.serialized()
    kept = {node["id"]: node["widgets_values"] for node in saved["nodes"] if node.get("widgets_values")}
    assert kept == {
        str(n["id"]) if "1" in kept else n["id"]: n["widgets_values"]
        for n in workflow["nodes"]
        if n["widgets_values"]
    }
    # Boxes of their default size hold their widgets: the canvas makes none of them larger.
    sizes = {str(node["id"]): node["size"] for node in saved["nodes"]}
    for node in workflow["nodes"]:
        assert sizes[str(node["id"])][1] <= node["size"][1] + 1, node["type"]


def steering(info: dict[str, Json]) -> Json:
    canvas = Canvas(info)
    bundle = canvas.add("SteerDiT_LoadBundle", (0, 0), {"bundle": "near.safetensors"})
    model = canvas.add("ModelSamplingFlux", (0, 150))
    repel = canvas.add("SteerDiT_Repel", (360, 0), {"bundle": bundle["bundle"], "strength": 1.5})
    blend = canvas.add("SteerDiT_Blend", (720, 0), {"model": repel["model"], "bundle": bundle["bundle"]})
    canvas.add("SteerDiT_Report", (1080, 0))
    canvas.add("SteerDiT_DownloadBundle", (0, 400))
    canvas.groups.clear()
    workflow = {
        "last_node_id": 6,
        "last_link_id": 3,
        "nodes": canvas.nodes,
        "links": canvas.links,
        "version": 0.4,
    }
    assert model.data["id"] == 2
    assert blend.data["id"] == 4
    return workflow


def test_the_front_end_reads_odd_workflows_as_we_do(front_end: FrontEnd, client: Client) -> None:
    """Muted and bypassed nodes, reroutes, primitive values, seeds with a control behind them, uploads."""
    info = client.object_info()
    workflow = odd_workflow(info)
    front_end.drop("odd.json", json.dumps(workflow), len(workflow["nodes"]))
    front_end.fit_view()
    front_end.screenshot(OUT / "odd.png")
    ours, theirs = to_prompt(workflow, info), front_end.prompt()
    assert ours == theirs


def odd_workflow(info: dict[str, Json]) -> Json:
    canvas = Canvas(info)
    model = canvas.add("UNETLoader", (0, 0))
    bundle = canvas.add("SteerDiT_LoadBundle", (0, 150), {"bundle": "near.safetensors"})
    repel = canvas.add(
        "SteerDiT_Repel", (350, 0), {"model": model["MODEL"], "bundle": bundle["bundle"]}, mode=4
    )
    blend = canvas.add(
        "SteerDiT_Blend", (700, 0), {"model": repel["model"], "bundle": bundle["bundle"]}, mode=4
    )
    clip = canvas.add("CLIPLoader", (0, 300), {"type": "flux"}) if "flux" in str(info["CLIPLoader"]) else None
    assert clip is not None
    text = canvas.add(
        "CLIPTextEncode", (350, 500), {"clip": clip["CLIP"], "text": "a glass of milk\non a table"}
    )
    muted = canvas.add("CLIPTextEncode", (350, 700), {"clip": clip["CLIP"], "text": "unused"}, mode=2)
    latent = canvas.add("EmptyLatentImage", (350, 900), {"width": 128, "height": 128})
    sampler = canvas.add(
        "KSampler",
        (1050, 0),
        {
            "model": blend["model"], "positive": text["CONDITIONING"], "negative": muted["CONDITIONING"],
            "latent_image": latent["LATENT"], "seed": 2**50 + 1, "steps": 7, "cfg": 3.5, "sampler_name": "heun",
        },
        control="increment",
    )  # fmt: skip
    other = canvas.add("LoadImage", (0, 900))
    scaled = canvas.add("ImageScale", (350, 1100), {"image": other["IMAGE"], "width": 64, "crop": "center"})
    canvas.add("SaveImage", (700, 1100), {"images": scaled["IMAGE"]})
    report = canvas.add("SteerDiT_Report", (1400, 0), {"samples": sampler["LATENT"]})
    canvas.add("PreviewImage", (1750, 0), {"images": report["overlay"]})
    with_wires(canvas, sampler.data, latent.data)
    return {
        "last_node_id": len(canvas.nodes), "last_link_id": len(canvas.links), "nodes": canvas.nodes,
        "links": canvas.links, "version": 0.4,
    }  # fmt: skip


def with_wires(canvas: Canvas, sampler: Json, latent: Json) -> None:
    """Puts a reroute between latent and sampler, and a primitive node in front of the sampler's steps."""
    slots = {slot["name"]: position for position, slot in enumerate(sampler["inputs"])}
    old = next(link for link in canvas.links if link[3] == sampler["id"] and link[4] == slots["latent_image"])
    reroute, number = len(canvas.nodes) + 1, len(canvas.links) + 1
    canvas.links.append([number, reroute, 0, sampler["id"], slots["latent_image"], "LATENT"])
    sampler["inputs"][slots["latent_image"]]["link"] = number
    old[3:5] = [reroute, 0]
    canvas.nodes.append({
        "id": reroute, "type": "Reroute", "pos": [800, 900], "size": [75, 26], "flags": {}, "order": 90, "mode": 0,
        "inputs": [{"name": "", "type": "*", "link": old[0]}],
        "outputs": [{"name": "LATENT", "type": "LATENT", "links": [number]}],
        "properties": {"showOutputText": True, "horizontal": False},
    })  # fmt: skip
    primitive, number = reroute + 1, number + 1
    canvas.links.append([number, primitive, 0, sampler["id"], slots["steps"], "INT"])
    sampler["inputs"][slots["steps"]]["link"] = number
    canvas.nodes.append({
        "id": primitive, "type": "PrimitiveNode", "pos": [700, 500], "size": [210, 82], "flags": {}, "order": 91,
        "mode": 0, "inputs": [], "properties": {"Run widget replace on values": False},
        "outputs": [{"name": "INT", "type": "INT", "widget": {"name": "steps"}, "links": [number]}],
        "widgets_values": [11, "fixed"],
    })  # fmt: skip
