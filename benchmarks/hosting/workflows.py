"""Workflow files as people drag them into the canvas, turned into the form that a server's /prompt takes.

A canvas workflow stores nodes, links and, per node, a bare list of widget values. Which value belongs to
which input follows only from the host's /object_info, so every function here takes that as well. The rules
are the front end's own (tests/browser compares with it): muted nodes vanish, bypassed ones hand their input
on, notes are comments, reroutes are wires, primitive nodes are values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
ObjectInfo = Mapping[str, Json]
Prompt = dict[str, Json]

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
UPLOADS = ("image_upload", "audio_upload", "video_upload", "file_upload")
COMMENTS = frozenset({"Note", "MarkdownNote"})
VIRTUAL = COMMENTS | {"Reroute", "PrimitiveNode"}
SHOWS_ITS_INPUT = frozenset({"PreviewAny"})  # its widgets are made by the front end and hold no input
MUTED, BYPASSED = 2, 4


class WorkflowError(ValueError):
    """A workflow that this host could not run; the message names the node and what is wrong with it."""


@dataclass(frozen=True)
class Input:
    """One input of a node as /object_info describes it; `type` is "COMBO" for either spelling of a choice."""

    name: str
    type: str
    options: Json
    required: bool

    @property
    def is_widget(self) -> bool:
        return self.type in WIDGET_TYPES and not self.options.get("forceInput", False)

    @property
    def choices(self) -> Sequence[object]:
        return self.options.get("options", ())

    @property
    def default(self) -> object:
        if "default" in self.options:
            return self.options["default"]
        if self.type == "COMBO":
            return self.choices[0] if self.choices else None
        return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(self.type)

    @property
    def has_control(self) -> bool:
        """Whether the front end puts a widget `control_after_generate` behind this one."""
        wanted = self.options.get("control_after_generate")
        return bool(self.name in ("seed", "noise_seed") if wanted is None and self.type == "INT" else wanted)


def inputs_of(info: Json) -> tuple[Input, ...]:
    """The inputs of a node in the order of its widgets."""
    found: list[Input] = []
    for group in ("required", "optional"):
        specs = info["input"].get(group, {})
        order = info.get("input_order", {}).get(group) or list(specs)
        for name in order:
            kind, *rest = specs[name]
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            found.append(Input(name, kind, options, group == "required"))
    return tuple(found)


def widget_names(info: Json) -> list[str | None]:
    """What each place of `widgets_values` means: an input's name, or None for the front end's own widgets."""
    names: list[str | None] = []
    inputs = [each for each in inputs_of(info) if each.is_widget]
    for each in inputs:
        names.append(each.name)
        if each.has_control:
            names.append(None)
    names += [None for each in inputs if any(each.options.get(upload) for upload in UPLOADS)]
    return names


def widget_values(node: Json, info: Json) -> Json:
    """Input name -> value of a canvas node's widgets; what the file lacks takes its default, as there."""
    defaults = {each.name: each.default for each in inputs_of(info) if each.is_widget}
    stored = node.get("widgets_values") or []
    if isinstance(stored, Mapping):
        return defaults | {name: value for name, value in stored.items() if name in defaults}
    placed = zip(widget_names(info), stored, strict=False)  # an older file has fewer values
    return defaults | {name: value for name, value in placed if name is not None}


def to_prompt(workflow: Json, object_info: ObjectInfo) -> Prompt:
    """The API form of a canvas workflow: {node id: {"class_type", "inputs", "_meta"}}.

    Dynamic prompts ({a|b}) stay as they are written. Raises WorkflowError for nodes that the host lacks, for
    subgraphs and for links from nowhere.
    """
    graph = Graph(workflow)
    prompt: Prompt = {}
    for node in graph.nodes.values():
        if node["type"] in VIRTUAL or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        info = node_info(node, object_info)
        inputs = {name: _wrapped(value) for name, value in widget_values(node, info).items()}
        for slot in node.get("inputs") or []:
            if slot.get("link") is None:
                continue
            source = graph.source(slot["link"], slot["type"])
            if isinstance(source, Literal):
                inputs[slot["name"]] = _wrapped(source.value)
            elif source is not None:
                inputs[slot["name"]] = list(source)
        title = node.get("title") or info.get("display_name") or node["type"]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    return prompt


@dataclass(frozen=True)
class Literal:
    """The value of a primitive node."""

    value: object


class Graph:
    """The nodes and links of a canvas workflow, in either of its two spellings of links."""

    def __init__(self, workflow: Json) -> None:
        self.nodes: dict[str, Json] = {str(node["id"]): node for node in workflow.get("nodes", [])}
        self.links: dict[int, tuple[str, int, str, int, str]] = {}
        for link in workflow.get("links", []):
            if isinstance(link, Mapping):
                keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
                link = [link[key] for key in keys]
            number, origin, origin_slot, target, target_slot, kind = link[:6]
            self.links[number] = (str(origin), origin_slot, str(target), target_slot, kind)
        subgraphs = {one["id"]: one for one in workflow.get("definitions", {}).get("subgraphs", [])}
        for node in self.nodes.values():
            if node["type"] in subgraphs:
                name = subgraphs[node["type"]].get("name", node["type"])
                raise WorkflowError(
                    f"{describe(node)} is the subgraph {name!r}. Unpack it on the canvas and save again."
                )

    def source(self, link: int, kind: str) -> tuple[str, int] | Literal | None:
        """The (node id, output slot) that feeds a link, through reroutes and bypassed nodes, or None."""
        seen: set[int] = set()
        current: int | None = link
        while current is not None:
            if current in seen:
                raise WorkflowError(f"Link {link} runs in a circle.")
            seen.add(current)
            if current not in self.links:
                raise WorkflowError(
                    f"Link {current} is named by an input but is not among the workflow's links."
                )
            origin, slot = self.links[current][:2]
            node = self.nodes.get(origin)
            if node is None:
                raise WorkflowError(
                    f"Link {current} comes from node {origin}, which the workflow does not hold."
                )
            if node.get("mode", 0) == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                return Literal((node.get("widgets_values") or [None])[0])
            if node["type"] == "Reroute":
                current = node["inputs"][0].get("link")
            elif node.get("mode", 0) == BYPASSED:
                current = _bypass(node, slot, kind)
            else:
                return origin, slot
        return None


def node_info(node: Json, object_info: ObjectInfo) -> Json:
    """What the host says about a canvas node's type."""
    if node["type"] not in object_info:
        properties = node.get("properties", {})
        pack = properties.get("cnr_id") or properties.get("aux_id")
        hint = f"Install the pack {pack!r}" if pack else "Install the pack that has it"
        raise WorkflowError(
            f"{describe(node)}: this host has no node of this type. {hint}, or delete the node."
        )
    return object_info[node["type"]]


def describe(node: Json) -> str:
    title = f" {node['title']!r}" if node.get("title") else ""
    return f"Node {node['id']}{title} ({node['type']})"


def connects(output: str, wanted: str) -> bool:
    """Whether an output of one type may feed an input of another; types may be lists ("INT,FLOAT") or "*"."""
    if "*" in (output, wanted) or output.startswith("COMFY_") or wanted.startswith("COMFY_"):
        return True
    return bool(set(output.upper().split(",")) & set(wanted.upper().split(",")))


def problems(workflow: Json, object_info: ObjectInfo) -> list[str]:
    """All in which a canvas workflow and the host disagree: nodes, widgets, choices, ranges, links."""
    try:
        graph = Graph(workflow)
    except WorkflowError as error:
        return [str(error)]
    found: list[str] = []
    for node in graph.nodes.values():
        if node["type"] in VIRTUAL:
            continue
        try:
            info = node_info(node, object_info)
        except WorkflowError as error:
            found.append(str(error))
            continue
        found += [f"{describe(node)}: {each}" for each in _widget_problems(node, info)]
        found += [f"{describe(node)}: {each}" for each in _socket_problems(node, info, graph)]
    return found + list(_link_problems(graph))


def _widget_problems(node: Json, info: Json) -> Iterator[str]:
    stored, names = node.get("widgets_values") or [], widget_names(info)
    if len(stored) != len(names) and not isinstance(stored, Mapping) and node["type"] not in SHOWS_ITS_INPUT:
        yield f"has {len(stored)} widget values, the host's node has {len(names)} widgets {names}."
    linked = {slot["name"] for slot in node.get("inputs") or [] if slot.get("link") is not None}
    values = widget_values(node, info)
    for each in inputs_of(info):
        if each.is_widget and each.name not in linked:
            yield from _value_problems(each, values[each.name])


def _value_problems(each: Input, value: object) -> Iterator[str]:
    types: dict[str, tuple[type, ...]] = {
        "INT": (int,),
        "FLOAT": (int, float),
        "STRING": (str,),
        "BOOLEAN": (bool,),
    }
    if each.type == "COMBO":
        if not each.options.get("remote") and value not in each.choices:
            yield f"{each.name} is {value!r}, which is not among the host's choices {list(each.choices)}."
    elif not isinstance(value, types[each.type]) or (isinstance(value, bool) and each.type != "BOOLEAN"):
        yield f"{each.name} is {value!r}, expected {each.type}."
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = each.options.get("min"), each.options.get("max")
        if (low is not None and value < low) or (high is not None and value > high):
            yield f"{each.name} is {value}, outside of {low} … {high}."


def _socket_problems(node: Json, info: Json, graph: Graph) -> Iterator[str]:
    slots = {slot["name"]: slot for slot in node.get("inputs") or []}
    known = {each.name: each for each in inputs_of(info)}
    dynamic = any(each.type.startswith("COMFY_") for each in known.values())
    for name, slot in slots.items():
        if name not in known:
            if not dynamic:
                yield f"has an input {name!r} that the host's node lacks."
        elif not connects(slot["type"], known[name].type):
            yield f"input {name!r} is of type {slot['type']}, the host's node has {known[name].type}."
    for each in known.values():
        needed = each.required and not each.is_widget and not each.type.startswith("COMFY_")
        if needed and slots.get(each.name, {}).get("link") is None:
            yield f"its required input {each.name!r} is not connected."
    outputs = [kind if isinstance(kind, str) else "COMBO" for kind in info["output"]]
    for position, output in enumerate(node.get("outputs") or []):
        if position >= len(outputs):
            yield f"has an output {output['name']!r} that the host's node lacks."
            continue
        if not connects(outputs[position], output["type"]):
            yield f"output {output['name']!r} is of type {output['type']}, the host's is {outputs[position]}."
        for link in output.get("links") or []:
            if graph.links.get(link, ("", -1))[:2] != (str(node["id"]), position):
                yield f"output {output['name']!r} names link {link}, which does not start there."


def _link_problems(graph: Graph) -> Iterator[str]:
    for number, (origin, origin_slot, target, target_slot, kind) in graph.links.items():
        if origin not in graph.nodes or target not in graph.nodes:
            yield f"Link {number} joins nodes {origin} and {target}, of which one is missing."
            continue
        outputs = graph.nodes[origin].get("outputs") or []
        inputs = graph.nodes[target].get("inputs") or []
        if origin_slot >= len(outputs) or target_slot >= len(inputs):
            yield f"Link {number} joins slots {origin_slot} and {target_slot}, of which one does not exist."
            continue
        if (
            number not in (outputs[origin_slot].get("links") or [])
            or inputs[target_slot].get("link") != number
        ):
            yield f"Link {number} is not named at both of its ends."
        if not connects(outputs[origin_slot]["type"], inputs[target_slot]["type"]):
            joined = f"{outputs[origin_slot]['type']} with {inputs[target_slot]['type']}"
            yield f"Link {number} ({kind}) joins {joined}."


def _bypass(node: Json, slot: int, kind: str) -> int | None:
    """The link that a bypassed node hands on from its inputs to the output `slot`."""
    inputs = node.get("inputs") or []
    output = node["outputs"][slot]["type"]
    fits = [connects(each["type"], output) and connects(each["type"], kind) for each in inputs]
    if slot < len(inputs) and (fits[slot] or kind == "*"):
        return inputs[slot].get("link")
    exact = [each for each in inputs if each["type"] == kind]
    fitting = exact or [each for each, fit in zip(inputs, fits, strict=True) if fit]
    return fitting[0].get("link") if fitting else None


def _wrapped(value: object) -> object:
    """A list as the host wants it, so that it is not taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value
