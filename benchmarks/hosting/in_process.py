"""Brings the real host into this process, on the CPU: for benchmarks, which need its models but no server."""

from __future__ import annotations

import sys

from .install import install


def boot() -> str:
    """Put the host on the path, with its CPU settings → its version. Call before anything imports ``comfy``."""
    sys.path.insert(0, str(install()))
    argv, sys.argv = sys.argv, [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = argv
    import comfyui_version

    return str(comfyui_version.__version__)
