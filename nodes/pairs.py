"""The node that reads pairs of prompts, which directions are estimated from."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.folders import file_fingerprint, list_inputs, resolve_input
from ..host.progress import show_text
from ..steering.errors import SteeringError
from . import offered
from .schema import schema

PAIRS = io.Custom("STEERDIT_PAIRS")
"""PromptPairs."""
ALIASES = ["steering vector", "control vector", "direction", "transfer", "LLM"]
CATEGORY = "SteerDiT/training"


class LoadPairsNode(io.ComfyNode):
    """Load Prompt Pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_LoadPairs",
            display_name="Load Prompt Pairs",
            category=CATEGORY,
            description="Reads pairs of an unsafe prompt and its safe rewrite from the input folder: one pair a line "
            "(category, unsafe, safe), or one prompt a line (prompt, label, category, pair). Checks every line and "
            "leaves duplicates out.",
            search_aliases=[*ALIASES, "csv", "jsonl", "parquet", "dataset"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_inputs(offered.PAIR_SUFFIXES),
                    tooltip="A .jsonl, .csv or .parquet in ComfyUI/input. Press R to see new files.",
                ),
            ],
            outputs=[
                PAIRS.Output(display_name="pairs", tooltip="Connect it to Estimate Direction."),
                io.String.Output(display_name="summary", tooltip="How many there are of each category."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        """Refuses a file that cannot be read when the prompt is queued."""
        from ..training.directions import read_pairs

        if file is None:
            return True  # linked from another node: known only when it runs
        try:
            read_pairs(resolve_input(file, offered.PAIR_SUFFIXES))
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> str:
        try:
            return file_fingerprint(resolve_input(file, offered.PAIR_SUFFIXES))
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from ..training.directions import read_pairs
        from ..training.directions.reports import pairs_report

        pairs = read_pairs(resolve_input(file, offered.PAIR_SUFFIXES))
        report = pairs_report(pairs)
        show_text(cls, report)
        return io.NodeOutput(pairs, report)
