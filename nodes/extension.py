"""What ComfyUI asks a pack for: its list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import NODES


class SteerDiTExtension(ComfyExtension):
    """The pack as the host sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in the order in which the menu lists them."""
        return list(NODES)
