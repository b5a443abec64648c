"""Flow Mask: what Restrict Flow has marked in a picture, for nodes that inpaint, censor or branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..steering.errors import SteeringError
from ..steering.flow.given import on_pixels
from .schema import schema

if TYPE_CHECKING:
    from ..steering.flow.log import FlowLog
    from ..steering.flow.region import Region

PIXELS_PER_PATCH = 16
CORE, RING = (1.0, 0.15, 0.1), (1.0, 0.8, 0.1)


class FlowMaskNode(io.ComfyNode):
    """Flow Mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_FlowMask",
            display_name="Flow Mask",
            category="SteerDiT",
            description="What Restrict Flow has marked while the picture was made, as a MASK for any node that "
            "inpaints or censors, and as a picture. Take the LATENT from the sampler itself.",
            search_aliases=["UVR", "inpaint", "censor", "blur", "safety", "segment"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampler's LATENT, as it came out."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The decoded picture, to lay the mask over and to size it by.",
                ),
                io.Boolean.Input(
                    "ring",
                    default=False,
                    tooltip="Whether the patches around what is marked belong to the mask.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask", tooltip="1 where unsafe content was marked, of the image's size."
                ),
                io.Image.Output(
                    display_name="overlay", tooltip="The picture in grey; marked in red, the ring in yellow."
                ),
                io.Boolean.Output(
                    display_name="found", tooltip="Whether anything was marked in any picture."
                ),
                io.String.Output(display_name="table", tooltip="What was seen, where, at which noise level."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], image: Tensor | None = None, ring: bool = False
    ) -> io.NodeOutput:
        from ..host.run import find_flows

        found = [_newest(runs) for runs in find_flows(samples["samples"])]
        regions = [log.region(at) for log, at in found]
        core, around = (_stacked(regions, part) for part in ("core", "ring"))  # (B, h, w)
        overlay, core, around = paint(image, core, around)
        table = "\n\n".join(
            "\n".join([f"picture {number}: {_verdict(region)}", *log.lines(at)])
            for number, ((log, at), region) in enumerate(zip(found, regions), start=1)
        )
        marked = any(region is not None and not region.is_empty for region in regions)
        return io.NodeOutput(
            torch.maximum(core, around) if ring else core,
            overlay,
            marked,
            table,
            ui={**ui.PreviewImage(overlay, cls=cls).as_dict(), "text": (table,)},
        )


def _newest(runs: list[tuple[FlowLog, int]]) -> tuple[FlowLog, int]:
    """The newest run that made the picture and looked at its attention."""
    for log, at in runs:
        if not log.is_empty:
            return log, at
    raise SteeringError(
        "LATENT",
        expected="the output of a sampler whose MODEL went through Restrict Flow, which looked at the picture",
        found="a run in which it never looked",
        remedy="Connect a sampler behind Restrict Flow whose steps begin before its startup_percent.",
    )


def _verdict(region: Region | None) -> str:
    return "nothing unsafe was found" if region is None or region.is_empty else "unsafe content was marked"


def _stacked(regions: list[Region | None], part: str) -> Tensor:
    empty = torch.zeros(next((region.core.shape for region in regions if region is not None), (1, 1)))
    return torch.stack([empty if region is None else getattr(region, part).float() for region in regions])


def paint(image: Tensor | None, core: Tensor, ring: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lays a core and its ring (B, h, w), red and yellow, over grey copies of pictures (B, H, W, 3).

    Returns:
        the painted pictures, and core and ring at their size, (B, H, W) of 0 and 1.

    Raises:
        SteeringError: there are more or fewer pictures than masks.
    """
    size = (core.shape[1] * PIXELS_PER_PATCH, core.shape[2] * PIXELS_PER_PATCH)
    if image is None:
        image = torch.zeros(len(core), *size, 3)
    if len(image) != len(core):
        raise SteeringError(
            "image",
            expected=f"{len(core)} pictures, as many as the LATENT has",
            found=f"{len(image)}",
            remedy="Decode the same LATENT that goes into samples.",
        )
    image = image[..., :3].float().cpu()
    core, ring = (on_pixels(mask, (image.shape[1], image.shape[2])) for mask in (core, ring))
    painted = image.mean(-1, keepdim=True).expand_as(image)
    for mask, colour in ((core, CORE), (ring, RING)):
        painted = torch.lerp(painted, torch.tensor(colour).expand_as(painted), 0.6 * mask[..., None])
    return painted, core, ring
