"""Which host this is."""

from __future__ import annotations


def host_version() -> str:
    """ComfyUI's version."""
    import comfyui_version

    return str(comfyui_version.__version__)
