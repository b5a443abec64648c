"""SteerDiT: steers diffusion transformers inside ComfyUI.

The host imports this folder at start, so nothing heavy may be imported here: the nodes load when the host asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes.extension import SteerDiTExtension

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> SteerDiTExtension:
    """Registers the folder `models/steering` and gives the host the pack's nodes."""
    from .host.folders import register_steering_folder
    from .nodes.extension import SteerDiTExtension

    register_steering_folder()
    return SteerDiTExtension()
