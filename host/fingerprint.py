"""Which model this is, told by its weights: for recordings and directions, which are worth nothing at another model."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from .attach import diffusion_model
from .families import family_of

VALUES = 16
"""How many numbers of each tensor are looked at."""


def fingerprint(model: Any) -> tuple[str, str]:
    """The family of a ModelPatcher, and a SHA-256 over names, shapes, dtypes and some values of its weights.

    Patches, such as a LoRA's, count too. Whether the model or a patch is loaded at the moment makes no difference.

    Raises:
        SteeringError: the family is not supported.
    """
    dit = diffusion_model(model)
    name = family_of(dit).name
    return name, _digest(model, dit, "diffusion_model.", "", name)


def text_fingerprint(clip: Any, part: str | None = None) -> str:
    """A SHA-256 over names, shapes, dtypes and some values of a text encoder's weights and patches.

    Another precision of the same weights has another.

    Args:
        part: one of a CLIP's encoders, such as t5xxl; None, or one that it lacks, means all that it has.
    """
    whole = clip.cond_stage_model
    encoder = getattr(whole, part, None) if part else None
    if encoder is None:
        return _digest(clip.patcher, whole, "", "", "text")
    return _digest(clip.patcher, encoder, f"{part}.", f"{part}.", "text")


def _digest(patcher: Any, module: Any, prefix: str, only: str, start: str) -> str:
    """Of a module of a ModelPatcher's model, which knows the module's weights by names with this prefix.

    Args:
        only: patches to names with this prefix count.
    """
    digest = hashlib.sha256(start.encode())
    backup: dict[str, Any] = getattr(patcher, "backup", {})
    for key, weight in sorted(module.state_dict().items()):
        saved = backup.get(f"{prefix}{key}")  # a loaded patch is in the weights; what was there is here
        original = weight if saved is None else getattr(saved, "weight", saved)
        digest.update(f"\0{key}".encode() + _some(original))
    for key, patches in sorted(getattr(patcher, "patches", {}).items(), key=lambda item: str(item[0])):
        if str(key).startswith(only):
            digest.update(f"\0patch {key}".encode())
            for patch in patches:
                _feed(digest, patch)
    return digest.hexdigest()


def _some(weight: Any) -> bytes:
    """Shape, dtype and evenly spaced values of a tensor."""
    if not isinstance(weight, Tensor):
        return repr(type(weight)).encode()
    text = f"{tuple(weight.shape)} {weight.dtype}".encode()
    if weight.is_meta or weight.numel() == 0:
        return text
    flat = weight.detach().reshape(-1)
    at = torch.linspace(0, flat.numel() - 1, min(VALUES, flat.numel()), dtype=torch.float64).long()
    # Bytes and not numbers, because few operations know the eight-bit kinds.
    raw = flat.view(torch.uint8).view(flat.numel(), -1) if flat.element_size() > 1 else flat.view(torch.uint8)
    return text + raw[at.to(raw.device)].contiguous().cpu().numpy().tobytes()


def _feed(digest: Any, value: Any) -> None:
    """Feeds what a patch consists of: numbers, tensors, and tuples or objects of them."""
    if isinstance(value, Tensor):
        digest.update(_some(value))
    elif isinstance(value, (tuple, list)):
        digest.update(f"[{len(value)}".encode())
        for member in value:
            _feed(digest, member)
    elif isinstance(value, (str, int, float, bool)) or value is None:
        digest.update(f"\0{value!r}".encode())
    else:
        digest.update(type(value).__qualname__.encode())
        for name, member in sorted(getattr(value, "__dict__", {}).items()):
            if isinstance(member, (Tensor, tuple, list, str, int, float)) and name != "loaded_keys":
                _feed(digest, member)
