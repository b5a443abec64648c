"""Writes workflow files for the canvas from a description in Python.

    canvas = Canvas(client.object_info())
    model = canvas.add("UNETLoader", (0, 0), {"unet_name": "tiny.safetensors"})
    canvas.add("SteerDiT_Repel", (320, 0), {"model": model["MODEL"], "strength": 1.0})
    canvas.save(path)

Values are checked against what the host says of each node: a file made here opens without a complaint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .workflows import Input, Json, ObjectInfo, WorkflowError, connects, inputs_of, problems

Point = tuple[float, float]
ROW, TITLE, MULTILINE, PREVIEW, WIDTH = 24, 30, 90, 240, 300


@dataclass(frozen=True)
class Output:
    """An output of a node on the canvas, to be given as a value to another node's input."""

    node: int
    slot: int
    type: str


@dataclass
class Node:
    """A node on the canvas; `node["NAME"]` or `node[0]` is one of its outputs."""

    data: Json
    outputs: dict[str, Output] = field(default_factory=dict[str, Output])

    def __getitem__(self, key: str | int) -> Output:
        return list(self.outputs.values())[key] if isinstance(key, int) else self.outputs[key]

    @property
    def right(self) -> float:
        return float(self.data["pos"][0] + self.data["size"][0])

    @property
    def bottom(self) -> float:
        return float(self.data["pos"][1] + self.data["size"][1])


class Canvas:
    def __init__(self, object_info: ObjectInfo) -> None:
        self.object_info = object_info
        self.nodes: list[Json] = []
        self.links: list[list[object]] = []
        self.groups: list[Json] = []

    def add(
        self,
        kind: str,
        at: Point,
        inputs: Mapping[str, object] | None = None,
        *,
        size: Point | None = None,
        title: str | None = None,
        color: str | None = None,
        mode: int = 0,
        properties: Json | None = None,
        control: str = "fixed",
    ) -> Node:
        """Put a node of type `kind` on the canvas.

        inputs: its widgets' values, and `Output`s of other nodes for links.
        control: what the front end does with seeds after a run (fixed, randomize, increment or decrement).
        Raises WorkflowError for an unknown node or input, or a link between types that do not fit.
        """
        if kind not in self.object_info:
            raise WorkflowError(f"The host has no node {kind!r}.")
        inputs = inputs or {}
        info, number = self.object_info[kind], len(self.nodes) + 1
        specs = inputs_of(info)
        unknown = set(inputs) - {each.name for each in specs}
        if unknown:
            raise WorkflowError(
                f"{kind} has no input {sorted(unknown)}; it has {[each.name for each in specs]}."
            )
        # The canvas lists sockets first and widgets' own sockets behind them.
        slots: list[Json] = []
        for each in sorted(specs, key=lambda each: each.is_widget):
            slot: Json = {"name": each.name, "type": each.type, "link": None}
            if each.is_widget:
                slot["widget"] = {"name": each.name}
            elif not each.required:
                slot["shape"] = 7  # drawn as optional
            given = inputs.get(each.name)
            if isinstance(given, Output):
                slot["link"] = self._link(given, number, len(slots), each, kind)
            slots.append(slot)
        values = {name: value for name, value in inputs.items() if not isinstance(value, Output)}
        outputs = [kind if isinstance(kind, str) else "COMBO" for kind in info["output"]]
        data: Json = {
            "id": number,
            "type": kind,
            "pos": [float(at[0]), float(at[1])],
            "size": list(size or _size(specs, len(outputs), bool(info.get("output_node")))),
            "flags": {},
            "order": number - 1,
            "mode": mode,
            "inputs": slots,
            "outputs": [
                {"name": name, "type": kind, "links": []}
                for name, kind in zip(info["output_name"], outputs, strict=True)
            ],
            "properties": {"Node name for S&R": kind, "cnr_id": _pack(info), **(properties or {})},
            "widgets_values": _widget_list(specs, values, control),
        }
        if title:
            data["title"] = title
        if color:
            data["color"] = data["bgcolor"] = color
        self.nodes.append(data)
        return Node(
            data,
            {
                n: Output(number, i, t)
                for i, (n, t) in enumerate(zip(info["output_name"], outputs, strict=True))
            },
        )

    def note(self, text: str, at: Point, size: Point, *, title: str = "") -> Node:
        """Put a note with Markdown on the canvas."""
        number = len(self.nodes) + 1
        data: Json = {
            "id": number, "type": "MarkdownNote", "pos": [float(at[0]), float(at[1])], "size": list(size),
            "flags": {}, "order": number - 1, "mode": 0, "inputs": [], "outputs": [], "properties": {},
            "widgets_values": [text],
        }  # fmt: skip
        if title:
            data["title"] = title
        self.nodes.append(data)
        return Node(data)

    def group(self, title: str, nodes: Iterable[Node], *, color: str = "#3f789e", margin: float = 20) -> None:
        """Draw a titled frame around nodes."""
        members = list(nodes)
        left = min(node.data["pos"][0] for node in members) - margin
        top = min(node.data["pos"][1] for node in members) - TITLE - 2 * margin - 10
        right = max(node.right for node in members) + margin
        bottom = max(node.bottom for node in members) + margin
        self.groups.append({
            "id": len(self.groups) + 1, "title": title, "bounding": [left, top, right - left, bottom - top],
            "color": color, "font_size": 24, "flags": {},
        })  # fmt: skip

    def as_json(self) -> Json:
        """The workflow; raises WorkflowError with all that the host would object to."""
        workflow: Json = {
            "id": "00000000-0000-0000-0000-000000000000",
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        found = problems(workflow, self.object_info)
        if found:
            raise WorkflowError("The host would not take this workflow:\n" + "\n".join(found))
        return workflow

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _link(self, source: Output, target: int, slot: int, wanted: Input, kind: str) -> int:
        if not connects(source.type, wanted.type):
            raise WorkflowError(f"{kind}: {wanted.name} takes {wanted.type}, not {source.type}.")
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, target, slot, source.type])
        self.nodes[source.node - 1]["outputs"][source.slot]["links"].append(number)
        return number


def _widget_list(specs: Sequence[Input], values: Json, control: str) -> list[object]:
    listed: list[object] = []
    uploads: list[object] = []
    for each in specs:
        if not each.is_widget:
            continue
        listed.append(values.get(each.name, each.default))
        if each.has_control:
            listed.append(control)
        if each.options.get("image_upload"):
            uploads.append("image")
    return listed + uploads


def _size(specs: Sequence[Input], outputs: int, shows: bool) -> Point:
    widgets = [each for each in specs if each.is_widget]
    tall = [each for each in widgets if each.options.get("multiline")]
    rows = max(len(specs) - len(widgets), outputs) + len(widgets) + sum(each.has_control for each in widgets)
    return (WIDTH, ROW * rows + MULTILINE * len(tall) + (PREVIEW if shows else 0) + 16)


def _pack(info: Json) -> str:
    module = str(info.get("python_module", ""))
    return module.removeprefix("custom_nodes.") if module.startswith("custom_nodes.") else "comfy-core"
