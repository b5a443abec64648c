"""Save SAE Bundle: what was made of each site, as one file that steering nodes load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..host.folders import new_file
from ..host.progress import show_text
from ..steering.errors import SteeringError
from .schema import BUNDLE, PARTS, schema

if TYPE_CHECKING:
    from ..training.assembling import Part


class SaveSaeBundleNode(io.ComfyNode):
    """Save SAE Bundle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_SaveSAEBundle",
            display_name="Save SAE Bundle",
            category="SteerDiT/training",
            description="Writes autoencoders with their selected latents and calibrated gates as a bundle into "
            "models/steering. What was written can be used at once.",
            search_aliases=["export", "bundle", "safetensors"],
            is_output_node=True,
            inputs=[
                PARTS.Input("parts", tooltip="From Calibrate Gates."),
                io.String.Input(
                    "name",
                    default="my-bundle",
                    tooltip="The file's name in models/steering, without .safetensors.",
                ),
                io.String.Input(
                    "base",
                    default="",
                    tooltip="Name of the checkpoint that was recorded; empty: as the training says.",
                ),
                io.String.Input(
                    "license",
                    default="",
                    tooltip="Under which the bundle may be used: an SPDX expression, such as Apache-2.0; empty: as the "
                    "training says.",
                ),
                io.Boolean.Input(
                    "replace",
                    default=False,
                    tooltip="Replace a file of that name; otherwise it is left alone.",
                ),
            ],
            outputs=[
                BUNDLE.Output(display_name="bundle", tooltip="Connect it to Repel or Blend."),
                io.String.Output(display_name="file", tooltip="As Load Steering Bundle lists it."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, parts: tuple[Part, ...], name: str, base: str, license: str, replace: bool
    ) -> io.NodeOutput:
        from ..steering.formats.header import Base
        from ..training.assembling import write_parts

        path = new_file(name, ".safetensors")
        if path.exists() and not replace:
            raise SteeringError(
                str(path),
                expected="a new name",
                found="a file of that name",
                remedy="Choose another name, or switch replace on.",
            )
        kept = [part for part in parts if part.categories]
        bundle = write_parts(
            path,
            kept,
            name=path.stem,
            base=Base(base.strip()) if base.strip() else None,
            license=license.strip(),
        )
        said = [f"{part.site}: {', '.join(part.categories) or 'left out, no latents'}" for part in parts]
        show_text(cls, "\n".join([path.name, *said]))
        return io.NodeOutput(bundle, path.name)
