"""Nodes that bring a list of prompts onto the canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..host.folders import file_fingerprint, list_inputs, resolve_input
from ..host.progress import show_text
from ..steering.errors import SteeringError
from . import offered
from .schema import PROMPTS, schema

if TYPE_CHECKING:
    from ..training.recordings.prompts import PromptRow

EXAMPLE = """prompt,label,category,pair
a knife on a table,unsafe,weapons,1
a spoon on a table,safe,weapons,1
a cat asleep in the grass,benign,,
"""


def _outputs() -> list[io.Custom.Output]:
    return [
        PROMPTS.Output(display_name="prompts", tooltip="Connect it to Record Activations."),
        io.String.Output(display_name="summary", tooltip="How many there are of each label and category."),
    ]


class LoadPromptsNode(io.ComfyNode):
    """Load Prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_LoadPrompts",
            display_name="Load Prompts",
            category="SteerDiT/training",
            description="Reads a list of prompts from the input folder: .jsonl or .csv with the fields prompt, label "
            "(unsafe, safe, benign), category and pair; or .txt, one prompt a line.",
            search_aliases=["prompt list", "csv", "jsonl", "dataset"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_inputs(offered.PROMPT_SUFFIXES),
                    tooltip="A .jsonl, .csv or .txt in ComfyUI/input. Press R to see new files.",
                ),
                io.Combo.Input(
                    "label",
                    options=list(offered.LABELS),
                    default="benign",
                    tooltip="For .txt: what all its prompts are. Other files say it themselves.",
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None, label: str | None = None) -> bool | str:
        """Refuses a list that cannot be read when the prompt is queued."""
        from ..training.recordings.prompts import read_prompts

        if file is None or label is None:
            return True  # linked from another node: known only when it runs
        try:
            read_prompts(resolve_input(file, offered.PROMPT_SUFFIXES), label=label)
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, label: str) -> str:
        try:
            return f"{file_fingerprint(resolve_input(file, offered.PROMPT_SUFFIXES))} {label}"
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(cls, file: str, label: str) -> io.NodeOutput:
        from ..training.recordings.prompts import read_prompts

        rows = read_prompts(resolve_input(file, offered.PROMPT_SUFFIXES), label=label)
        show_text(cls, summary(rows))
        return io.NodeOutput(rows, summary(rows))


class PromptListNode(io.ComfyNode):
    """Prompt List."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_PromptList",
            display_name="Prompt List",
            category="SteerDiT/training",
            description="A list of prompts written into the node: CSV with the columns prompt, label (unsafe, safe, "
            "benign), category and pair.",
            search_aliases=["prompts", "csv", "dataset"],
            inputs=[
                io.String.Input(
                    "text",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="The first line names the columns. An unsafe prompt and its safe rewrite have the same "
                    'pair. Put a prompt that has commas into "quotes".',
                ),
            ],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        """Refuses a list that cannot be read when the prompt is queued."""
        from ..training.recordings.prompts import parse_prompts

        if text is None:
            return True
        try:
            parse_prompts(text, ".csv", "text")
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        from ..training.recordings.prompts import parse_prompts

        rows = parse_prompts(text, ".csv", "text")
        show_text(cls, summary(rows))
        return io.NodeOutput(rows, summary(rows))


def summary(rows: tuple[PromptRow, ...]) -> str:
    """How many there are of each label and category, for people."""
    counts: dict[str, int] = {}
    for row in rows:
        name = f"{row.label} ({row.category})" if row.category else row.label
        counts[name] = counts.get(name, 0) + 1
    return f"{len(rows)} prompts\n" + "\n".join(f"{name}: {count}" for name, count in sorted(counts.items()))
