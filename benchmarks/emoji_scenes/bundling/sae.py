"""Trains a sparse autoencoder on activations: BatchTopK while training, a learned threshold for inference.

z = BatchTopK(ReLU(W_enc(s·a − b_dec) + b_enc)),  â = (z W_dec + b_dec) / s, decoder rows of unit norm, tied start;
loss = fraction of variance unexplained + 1/32 · AuxK over dead latents. Source: SAeUron's public recipe and BatchTopK
(Bussmann et al., 2412.06410); the input scale s is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SAEConfig:
    latents: int = 2048
    k: int = 32
    steps: int = 2000
    batch: int = 2048
    rate: float = 1e-3
    aux: float = 1 / 32
    dead_after: int = 200  # steps without firing
    seed: int = 0


@dataclass(frozen=True)
class TrainedSAE:
    """Tensors as a bundle stores them, and how well they do on held-out activations."""

    encoder: Tensor  # (N, d)
    encoder_bias: Tensor  # (N,)
    decoder: Tensor  # (N, d)
    decoder_bias: Tensor  # (d,)
    threshold: Tensor  # (N,)
    input_scale: float
    k: int
    fvu: float  # fraction of variance unexplained
    l0: float  # latents that fire on a token
    dead: float  # share of latents that never fire

    def encode(self, a: Tensor) -> Tensor:
        """Activations (n, d) → latents (n, N), by the inference threshold."""
        pre = F.linear(self.input_scale * a.float() - self.decoder_bias, self.encoder, self.encoder_bias)
        return pre * (pre > self.threshold)

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.decoder + self.decoder_bias) / self.input_scale


def batch_top_k(pre: Tensor, k: int) -> Tensor:
    """Keep the k·n largest positive entries of (n, N)."""
    post = pre.relu().flatten()
    values, index = post.topk(min(post.numel(), k * len(pre)), sorted=False)
    return torch.zeros_like(post).scatter(0, index, values).view_as(pre)


@torch.inference_mode(False)  # a host runs its nodes without gradients
@torch.enable_grad()
def train_sae(
    activations: Tensor, config: SAEConfig = SAEConfig(), progress: Callable[[int, float], None] | None = None
) -> TrainedSAE:
    """Train on activations (n, d), of which a twentieth is held out for the figures. Deterministic by seed.

    Raises ValueError where there is too little to learn from or a value is not finite.
    """
    n, d = activations.shape
    if n < 4 * config.k or not torch.isfinite(activations).all():
        raise ValueError(
            f"cannot train on {n} activations of width {d}: at least {4 * config.k} finite rows are needed"
        )
    g = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(n, generator=g)
    held, rows = order[: max(64, n // 20)], order[max(64, n // 20) :]
    mean = activations[rows[:20_000]].float().mean(0)
    scale = float(math.sqrt(d) / (activations[rows[:20_000]].float() - mean).norm(dim=1).mean())
    decoder = F.normalize(torch.randn(config.latents, d, generator=g), dim=1)
    w = [
        p.requires_grad_()
        for p in (decoder.clone(), torch.zeros(config.latents), decoder.clone(), scale * mean)
    ]
    optimizer = torch.optim.Adam(w, config.rate, betas=(0.9, 0.99))
    idle, threshold = torch.zeros(config.latents), torch.tensor(0.0)
    for step in range(config.steps):
        x = (
            scale
            * activations[
                rows[torch.randint(len(rows), (min(config.batch, len(rows)),), generator=g)]
            ].float()
        )
        encoder, bias, decoder, centre = w
        pre = F.linear(x - centre, encoder, bias)
        z = batch_top_k(pre, config.k)
        error = x - (z @ decoder + centre)
        variance = (x - x.mean(0)).square().sum()
        loss = error.square().sum() / variance
        fired = (z > 0).any(0)
        idle = torch.where(fired, torch.zeros_like(idle), idle + 1)
        dead = idle > config.dead_after
        if dead.any():
            spare = batch_top_k(pre.masked_fill(~dead, -1.0), min(d // 2, int(dead.sum())))
            target = error.detach()
            loss = loss + config.aux * (
                (spare @ decoder - target).square().sum() / target.square().sum().clamp_min(1e-9)
            )
        for group in optimizer.param_groups:
            group["lr"] = config.rate * min(1.0, (step + 1) / 100, 5 * (config.steps - step) / config.steps)
        optimizer.zero_grad()
        loss.backward()
        # The part of the gradient along a decoder row only changes its length, which is held at 1.
        assert decoder.grad is not None
        decoder.grad -= (decoder.grad * decoder.detach()).sum(1, keepdim=True) * decoder.detach()
        optimizer.step()
        with torch.no_grad():
            decoder.copy_(F.normalize(decoder, dim=1))
            smallest = torch.where(z > 0, z, torch.inf).min()
            if torch.isfinite(smallest):
                threshold = smallest if step == 0 else torch.lerp(threshold, smallest, 0.02)
        if progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, float(loss.detach()))
    encoder, bias, decoder, centre = (p.detach() for p in w)
    sae = TrainedSAE(
        encoder,
        bias,
        decoder,
        centre,
        threshold.expand(config.latents).clone(),
        scale,
        config.k,
        0.0,
        0.0,
        float((idle > config.dead_after).float().mean()),
    )
    a = activations[held].float()
    z = sae.encode(a)
    fvu = float((a - sae.decode(z)).square().sum() / (a - a.mean(0)).square().sum())
    return replace(sae, fvu=fvu, l0=float((z > 0).float().sum(1).mean()))
