"""Dictionary rows as a model that the host manages: it loads them with the diffusion model and counts their memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.ops
from torch import Tensor, nn

from ..steering.competition import TopK
from ..steering.formats.bundle import Bundle
from ..steering.sae import SelectedLatents
from ..steering.sites import Site

# Clones of a patcher hold the patcher that they were cloned from, so an entry lives as long as any model that uses it.
_patchers: WeakValueDictionary[tuple[object, ...], Any] = WeakValueDictionary()


def latents_patcher(bundle: Bundle, site: Site, selected: Sequence[int], whole: bool, topk: TopK) -> Any:
    """A ModelPatcher around the `SelectedLatents` of a bundle's site, one for all who ask for the same.

    Args:
        selected: latents (S) of the dictionary.
        whole: load the whole dictionary beside them.
        topk: how the latents of a TopK dictionary fire.
    """
    key = (bundle.identity, str(bundle.path), bundle.container.stamp, site, tuple(selected), whole, topk)
    patcher = _patchers.get(key)
    if patcher is None:
        latents = SelectedLatents(
            bundle.sites[site],
            bundle.read_latents(site, None if whole else selected),
            selected,
            source=f"{bundle.path}: {site}",
            topk=topk,
            operations=comfy.ops.manual_cast,
            borrow=borrow_from_host,
        )
        # Newer hosts page weights in and out by themselves through this class.
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        patcher = kind(
            latents,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )
        _patchers[key] = patcher
    return patcher


@contextmanager
def borrow_from_host(layer: nn.Linear, like: Tensor) -> Generator[Tensor]:
    """Lends a layer's weight as the host hands it out: brought from wherever it is, and given back after use."""
    held: Any = layer.weight
    as_is = held is not None and held.device.type == "cpu" == like.device.type and held.dtype == like.dtype
    if as_is and not getattr(layer, "weight_function", None):
        yield held  # nothing to bring or to cast, and the host's way of finding that out costs as much as encoding
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    try:
        yield weight
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
