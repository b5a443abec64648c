"""The sparse autoencoder classes of other projects, without what those projects need to train language models.

Importing these packages as a whole would bring data sets, experiment trackers and whole language model libraries.
Their encode and decode need none of that, so each package is entered past its `__init__`: a bare module that knows
where the package lies, through which its own modules are imported unchanged. They are installed without dependencies
(requirements-dev-alone.txt).
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, cuda, nn


@cache
def sae_lens() -> Any:
    """SAELens (PyPI `sae-lens`): its `saes` package, every architecture registered as the package itself does."""
    _stand_in_for_hooks()
    _enter("sae_lens", __version__=version("sae-lens"), logger=logging.getLogger("sae_lens"))
    saes, registry = import_module("sae_lens.saes"), import_module("sae_lens.registry")
    for name, sae, config in (
        ("standard", saes.StandardSAE, saes.StandardSAEConfig),
        ("gated", saes.GatedSAE, saes.GatedSAEConfig),
        ("topk", saes.TopKSAE, saes.TopKSAEConfig),
        ("abstopk", saes.AbsTopKSAE, saes.AbsTopKSAEConfig),
        ("jumprelu", saes.JumpReLUSAE, saes.JumpReLUSAEConfig),
        ("transcoder", saes.Transcoder, saes.TranscoderConfig),
        ("skip_transcoder", saes.SkipTranscoder, saes.SkipTranscoderConfig),
        ("matching_pursuit", saes.MatchingPursuitSAE, saes.MatchingPursuitSAEConfig),
    ):
        registry.register_sae_class(name, sae, config)
    return saes


@cache
def sparsify() -> Any:
    """EleutherAI's sparsify (PyPI `eai-sparsify`): `SparseCoder` and `SparseCoderConfig`."""
    os.environ.setdefault(
        "SPARSIFY_DISABLE_TRITON", "0" if cuda.is_available() else "1"
    )  # else it decodes nowhere
    _enter("sparsify")
    return import_module("sparsify.sparse_coder")


@cache
def dictionary_learning() -> Any:
    """dictionary_learning (PyPI `dictionary-learning`): its dictionaries, gathered from the modules that hold them."""
    _enter("dictionary_learning")
    places = ("dictionary", "trainers.top_k", "trainers.batch_top_k", "trainers.matryoshka_batch_top_k")
    modules = [import_module(f"dictionary_learning.{place}") for place in places]
    return SimpleNamespace(**{
        name: value for module in modules for name, value in vars(module).items() if isinstance(value, type)
    })  # fmt: skip


def _enter(package: str, **attributes: object) -> None:
    """Lets a package's modules be imported without running its `__init__`."""
    found = find_spec(package)
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError(
            f"The peer {package} is not installed: pip install --no-deps -r requirements-dev-alone.txt"
        )
    bare = ModuleType(package)
    bare.__path__ = list(found.submodule_search_locations)
    vars(bare).update(attributes)
    sys.modules[package] = bare


def _stand_in_for_hooks() -> None:
    """TransformerLens's hook points, of which SAELens's classes are made: without hooks they are identities."""

    class HookPoint(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    class HookedRootModule(nn.Module):
        def setup(self) -> None:
            """There is nothing to name."""

    for name, content in (
        ("transformer_lens", {"__path__": []}),
        ("transformer_lens.hook_points", {"HookPoint": HookPoint}),
        ("transformer_lens.HookedTransformer", {"HookedRootModule": HookedRootModule}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
