"""The columns of the kernel benchmark: the same dictionary in our kernels, in bare library calls and in the peers'
own classes, each with the memory layout that its own package gives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ... import kernels
from .. import peers

Run = Callable[[], object]


@dataclass(frozen=True)
class World:
    """Random activations (T, d) and a random dictionary of N latents; of unit variance, as trained ones roughly are."""

    x: Tensor
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor

    @classmethod
    def drawn(cls, tokens: int, d: int, latents: int, dtype: torch.dtype, seed: int) -> World:
        g = torch.Generator().manual_seed(seed)
        rows = torch.randn(latents, d, generator=g).div_(math.sqrt(d)).to(dtype)
        bias = torch.randn(latents, generator=g).mul_(0.1).to(dtype)
        x = torch.randn(tokens, d, generator=g).to(dtype)
        return cls(x, rows, bias, rows.clone(), torch.zeros(d, dtype=dtype))


def product(w: World) -> Run:
    """The bare matrix product of the encoder."""
    return lambda: functional.linear(w.x, w.encoder, w.encoder_bias)


def ours(w: World, k: int) -> Run:
    return lambda: kernels.decode(
        *kernels.encode_topk(w.x, w.encoder, w.encoder_bias, k), w.decoder, w.decoder_bias
    )


def dense(w: World, k: int) -> Run:
    """As most code does it: TopK by the library, scattered into a dense code, decoded by a matrix product."""

    def run() -> Tensor:
        value, index = functional.linear(w.x, w.encoder, w.encoder_bias).relu_().topk(k, sorted=False)
        z = w.x.new_zeros(len(w.x), len(w.encoder)).scatter_(1, index, value)
        return torch.addmm(w.decoder_bias, z, w.decoder)

    return run


def sparsify(w: World, k: int) -> Run:
    module = peers.sparsify()
    config = module.SparseCoderConfig(num_latents=len(w.encoder), k=k, normalize_decoder=False)
    coder = module.SparseCoder(w.x.shape[1], config, dtype=w.x.dtype)
    _fill(coder.encoder.weight, w.encoder)
    _fill(coder.encoder.bias, w.encoder_bias)
    _fill(coder.W_dec, w.decoder)

    def run() -> Tensor:
        found = coder.encode(w.x)
        return coder.decode(found.top_acts, found.top_indices)

    return run


def sae_lens(w: World, k: int) -> Run:
    saes = peers.sae_lens()
    dtype = str(w.x.dtype).removeprefix("torch.")
    sae = saes.TopKSAE(saes.TopKSAEConfig(d_in=w.x.shape[1], d_sae=len(w.encoder), k=k, dtype=dtype))
    _fill(sae.W_enc, w.encoder.T)
    _fill(sae.b_enc, w.encoder_bias)
    _fill(sae.W_dec, w.decoder)
    return lambda: sae.decode(sae.encode(w.x))


def dictionary_learning(w: World, k: int) -> Run:
    module = peers.dictionary_learning()
    # Its own start draws and normalises the weights, which takes minutes at this size and is overwritten anyway.
    coder = module.AutoEncoderTopK(w.x.shape[1], k, k).to(w.x.dtype)
    for layer, weight in ((coder.encoder, w.encoder), (coder.decoder, w.decoder.T)):
        layer.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
    coder.encoder.bias = torch.nn.Parameter(w.encoder_bias.clone(), requires_grad=False)
    return lambda: coder.decode(coder.encode(w.x))


PEERS: dict[str, Callable[[World, int], Run]] = {
    "sparsify": sparsify,
    "sae_lens": sae_lens,
    "dictionary_learning": dictionary_learning,
}


def _fill(parameter: Any, values: Tensor) -> None:
    parameter.data.copy_(values)
