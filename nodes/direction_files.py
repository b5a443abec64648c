"""Nodes that bring directions to files and back: bundles of ours, control vectors and plain safetensors of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.folders import file_fingerprint, list_vectors, new_file, resolve_vector
from ..host.progress import show_text
from ..steering.errors import SteeringError
from . import offered
from .schema import BUNDLE, DIRECTION, schema

if TYPE_CHECKING:
    from ..steering.directions import DirectionSet

ALIASES = ["steering vector", "control vector", "direction", "gguf", "repeng"]


class SaveBundleNode(io.ComfyNode):
    """Save Bundle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_SaveBundle",
            display_name="Save Bundle",
            category="SteerDiT",
            description="Writes directions as a bundle into models/steering, with the evidence of how they came about: "
            "whose states they live among, the map and its held-out R², the hash of the benign anchors. What was "
            "written can be used at once.",
            search_aliases=[*ALIASES, "export"],
            is_output_node=True,
            inputs=[
                DIRECTION.Input(
                    "direction",
                    tooltip="Directions among the states of the generator: from Transfer Direction, or "
                    "from Estimate Direction at the generator's own text encoder.",
                ),
                io.String.Input(
                    "name",
                    default="directions",
                    tooltip="The file's name in models/steering, without .safetensors.",
                ),
                io.Combo.Input(
                    "family",
                    options=list(offered.TEXT_FAMILIES),
                    default=offered.TEXT_FAMILIES[0],
                    tooltip="The kind of generator that they steer.",
                ),
                io.String.Input(
                    "site",
                    default="text",
                    tooltip="Where they act: `text`, or a block's stream such as "
                    "`double.18.text`, if that is where they were estimated.",
                ),
                io.String.Input(
                    "base",
                    default="not said",
                    tooltip="The checkpoint or text encoder that they were made for.",
                ),
                io.String.Input(
                    "license",
                    default="LicenseRef-unknown",
                    tooltip="Under which they may be used: an SPDX expression, such as Apache-2.0.",
                ),
                io.Boolean.Input(
                    "replace",
                    default=False,
                    tooltip="Replace a file of that name; otherwise it is left alone.",
                ),
            ],
            outputs=[
                BUNDLE.Output(
                    display_name="bundle", tooltip="Connect it to Steer Conditioning or Steer Direction."
                ),
                io.String.Output(display_name="file", tooltip="As Load Steering Bundle lists it."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        direction: DirectionSet,
        name: str,
        family: str,
        site: str,
        base: str,
        license: str,
        replace: bool,
    ) -> io.NodeOutput:
        from ..host.conditioning import require_kind
        from ..steering.direction_files import save_directions
        from ..steering.formats.header import Base
        from ..steering.sites import Site

        where = Site.parse(site.strip())
        if where == Site("text"):
            require_kind([direction.about.encoder.name], family, direction.source)
        path = new_file(name, ".safetensors")
        bundle = save_directions(
            path,
            {where: direction},
            name=path.stem,
            family=family,
            base=Base(base.strip()),
            license=license.strip(),
            replace=replace,
        )
        show_text(cls, f"{path.name}: {', '.join(direction.names)}")
        return io.NodeOutput(bundle, path.name)


class ImportDirectionNode(io.ComfyNode):
    """Import Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_ImportDirection",
            display_name="Import Direction",
            category="SteerDiT",
            description="Reads a direction that another project made: a GGUF control vector (repeng, llama.cpp) or "
            "a plain safetensors file. You say what it stands for.",
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_vectors(),
                    tooltip="A .gguf or .safetensors file in models/steering. Press R to see new files.",
                ),
                io.String.Input(
                    "category", default="unsafe", tooltip="The risk category that it stands for."
                ),
                io.Int.Input(
                    "layer",
                    default=-1,
                    min=-1,
                    max=10_000,
                    tooltip="Which of the file's directions, by the file's own numbers; -1 where it holds but one.",
                ),
                io.Boolean.Input(
                    "points_to_safe",
                    default=True,
                    tooltip="Whether adding it makes texts safer. Off: it is turned round.",
                ),
                io.String.Input(
                    "encoder",
                    default="",
                    tooltip="The language model that it was made in; empty: as the file says.",
                ),
                io.Int.Input(
                    "hidden_state",
                    default=-1,
                    min=-1,
                    max=10_000,
                    tooltip="The hidden state that it lives in, 0 being the embedding; -1: as the file numbers it. "
                    "repeng counts blocks from 0, so that its layer l is hidden state l + 1.",
                ),
            ],
            outputs=[
                DIRECTION.Output(
                    display_name="direction", tooltip="Connect it to Transfer Direction, or to Save Bundle."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> str:
        try:
            return f"{file_fingerprint(resolve_vector(file))} {sorted(others.items())}"
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(
        cls, file: str, category: str, layer: int, points_to_safe: bool, encoder: str, hidden_state: int
    ) -> io.NodeOutput:
        from ..steering.direction_files import import_direction

        directions = import_direction(
            resolve_vector(file),
            category=category.strip(),
            layer=None if layer < 0 else layer,
            hidden_state=None if hidden_state < 0 else hidden_state,
            points_to_safe=points_to_safe,
            encoder=encoder.strip(),
        )
        return io.NodeOutput(directions)


class ExportDirectionNode(io.ComfyNode):
    """Export Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_ExportDirection",
            display_name="Export Direction",
            category="SteerDiT",
            description="Writes one category's direction for other programs: as a GGUF control vector (repeng, "
            "llama.cpp) or as plain safetensors. It points to the safe side.",
            search_aliases=[*ALIASES, "save"],
            is_output_node=True,
            inputs=[
                DIRECTION.Input("direction", tooltip="From Estimate Direction or Transfer Direction."),
                io.String.Input(
                    "category", default="global", tooltip="Which of its directions: a category, or `global`."
                ),
                io.String.Input(
                    "name",
                    default="direction",
                    tooltip="The file's name in models/steering, without its ending.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(offered.VECTOR_ENDINGS),
                    default=offered.VECTOR_ENDINGS[0],
                    tooltip=".gguf needs the package gguf: `python -m pip install gguf`.",
                ),
                io.Int.Input(
                    "layer",
                    default=-1,
                    min=-1,
                    max=10_000,
                    tooltip="Its number in the file; -1: the hidden state that it lives in.",
                ),
                io.Boolean.Input(
                    "replace",
                    default=False,
                    tooltip="Replace a file of that name; otherwise it is left alone.",
                ),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The file that was written.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, direction: DirectionSet, category: str, name: str, format: str, layer: int, replace: bool
    ) -> io.NodeOutput:
        from ..steering.direction_files import export_direction

        path = new_file(name, format)
        export_direction(path, direction, category, None if layer < 0 else layer, replace=replace)
        show_text(cls, path.name)
        return io.NodeOutput(str(path))
