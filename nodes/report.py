"""Steering Report: what fired while a picture was made, as text, as a heat map, and as a yes or no to branch on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor
from torch.nn import functional

from ..steering.errors import SteeringError
from .schema import schema

if TYPE_CHECKING:
    from ..steering.firing import FiringLog

PIXELS_PER_PATCH = 16


class ReportNode(io.ComfyNode):
    """Steering Report."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SteerDiT_Report",
            display_name="Steering Report",
            category="SteerDiT",
            description="Says which unsafe latents fired while the picture was made, where and when. Take the LATENT "
            "from the sampler itself.",
            search_aliases=["heat map", "safety checker", "what fired"],
            inputs=[
                io.Latent.Input("samples", tooltip="The sampler's LATENT, as it came out."),
                io.Image.Input(
                    "image", optional=True, tooltip="The decoded picture, to lay the heat map over."
                ),
                io.String.Input(
                    "category", default="all", tooltip="One risk category of the bundle, or all."
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="table", tooltip="What fired: site, noise level, category, patch, latents."
                ),
                io.Image.Output(display_name="overlay", tooltip="The picture in grey under the heat map."),
                io.Mask.Output(
                    display_name="heat",
                    tooltip="Severity of each patch: 0 nothing, 0.5 at the threshold, 1 far beyond it.",
                ),
                io.Boolean.Output(
                    display_name="fired", tooltip="Whether any score passed the bundle's image threshold."
                ),
                io.Float.Output(
                    display_name="score", tooltip="The highest severity, 0 to 1; about 0.5 at the threshold."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, samples: dict[str, Any], image: Tensor | None = None, category: str = "all"
    ) -> io.NodeOutput:
        from ..host.run import find_logs

        logs = find_logs(samples["samples"])
        name = None if category.strip() in ("", "all", "default") else category.strip()
        for runs in logs:
            watched = dict.fromkeys(category for log, _ in runs for category in log.categories())
            if name is not None and name not in watched:
                raise SteeringError(
                    f"category {name!r}",
                    expected="all, or one of " + (", ".join(watched) or "none: no steering was active"),
                    found=repr(name),
                    remedy="Choose a category that the steering nodes act on.",
                )
        table = "\n\n".join(
            section for number, runs in enumerate(logs, start=1) for section in _sections(runs, name, number)
        )
        heat = _heats([_hottest([log.heat(at, name) for log, at in runs]) for runs in logs])  # (B, h, w)
        overlay, heat = paint(image, heat)
        score = max(log.severity(at, name) for runs in logs for log, at in runs)
        fired = any(log.fired(at, name) for runs in logs for log, at in runs)
        return io.NodeOutput(
            table,
            overlay,
            heat,
            fired,
            score,
            ui={**ui.PreviewImage(overlay, cls=cls).as_dict(), "text": (table,)},
        )


def _sections(runs: list[tuple[FiringLog, int]], category: str | None, number: int) -> list[str]:
    """What each run that made the picture watched, the newest first; what several say alike is said once."""
    said = list(dict.fromkeys(_described(log, at, category, number) for log, at in runs))
    if len(said) == 1:
        return said
    return [
        f"picture {number} came out of {len(said)} kinds of run alike, and what any of them saw counts:",
        *said,
    ]


def _described(log: FiringLog, at: int, category: str | None, number: int) -> str:
    if log.is_empty:
        return f"picture {number}: nothing was watched, because no steering was active at any step"
    verdict = "an unsafe latent fired" if log.fired(at, category) else "nothing fired above its threshold"
    return "\n".join(
        [f"picture {number}: {verdict} (severity {log.severity(at, category):.2f})", *log.table(at, category)]
    )


def _hottest(maps: list[Tensor | None]) -> Tensor | None:
    """The highest severity (h, w) over the runs of a picture; None where none of them watched an image site."""
    seen = [heat for heat in maps if heat is not None]
    return torch.stack(seen).amax(0) if seen else None


def _heats(maps: list[Tensor | None]) -> Tensor:
    """Maps (B, h, w), zero where no image site was watched."""
    cold = torch.zeros(next((heat.shape for heat in maps if heat is not None), (1, 1)))
    return torch.stack([cold if heat is None else heat for heat in maps])


def paint(image: Tensor | None, heat: Tensor) -> tuple[Tensor, Tensor]:
    """Lays severities (B, h, w), yellow to red, over grey copies of pictures (B, H, W, 3).

    Returns:
        the painted pictures and the severities at their size, (B, H, W).

    Raises:
        SteeringError: there are more or fewer pictures than heat maps.
    """
    size = (heat.shape[1] * PIXELS_PER_PATCH, heat.shape[2] * PIXELS_PER_PATCH)
    if image is None:
        image = torch.zeros(len(heat), *size, 3)
    if len(image) != len(heat):
        raise SteeringError(
            "image",
            expected=f"{len(heat)} pictures, as many as the LATENT has",
            found=f"{len(image)}",
            remedy="Decode the same LATENT that goes into samples.",
        )
    image = image[..., :3].float().cpu()
    smooth = functional.interpolate(heat[:, None], size=image.shape[1:3], mode="bilinear")[:, 0]  # (B, H, W)
    grey = image.mean(-1, keepdim=True).expand_as(image)
    colour = torch.stack([torch.ones_like(smooth), 1 - smooth, torch.zeros_like(smooth)], dim=-1)
    return torch.lerp(grey, colour, 0.8 * smooth[..., None]), smooth
