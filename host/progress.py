"""How a long task shows itself on a node, and hears that the user wants to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def byte_progress() -> Callable[[int, int | None], None]:
    """A callback (bytes there, bytes in all) that moves the running node's progress bar."""
    import comfy.utils

    bar: Any = comfy.utils.ProgressBar(1)

    def show(there: int, total: int | None) -> None:
        bar.update_absolute(there, total or there or 1)

    return show


def picture_progress(total: int) -> Callable[[int, Tensor], None]:
    """A callback (steps done, picture (1, H, W, 3)) that moves the running node's bar and shows the picture."""
    import comfy.utils
    from PIL import Image

    bar: Any = comfy.utils.ProgressBar(total)

    def show(done: int, picture: Tensor) -> None:
        plain = Image.fromarray((picture[0] * 255).round().byte().numpy())
        bar.update_absolute(done, total, ("JPEG", plain, max(plain.size)))

    return show


def interrupted() -> bool:
    """Whether the user has pressed Cancel."""
    import comfy.model_management

    return bool(comfy.model_management.processing_interrupted())


def stop_if_interrupted() -> None:
    """Ends the run in the host's own way if the user has pressed Cancel."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()


def show_text(node: Any, text: str) -> None:
    """Writes a text on the running node (a class with `hidden.unique_id`), where a server shows nodes to people."""
    instance: Any = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    node_id = getattr(getattr(node, "hidden", None), "unique_id", None)
    if instance is not None and node_id is not None:
        instance.send_progress_text(text, node_id)
