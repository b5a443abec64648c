"""Trains the generator by rectified flow: resumable, with an exponential average of the weights."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .dataset import Shards
from .generator import Generator, GeneratorConfig

RATE, WARMUP, DROP, DECAY = 2e-3, 200, 0.1, 0.998


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine to 2 %."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = min(1.0, (step - WARMUP) / max(1, steps - WARMUP))
    return (0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi)))))


def train(folder: Path, empty: tuple[Tensor, Tensor], steps: int, size: int = 32, config: GeneratorConfig = GeneratorConfig(), seed: int = 0, every: int = 500, compiled: bool = True) -> Path:
    """Train on the shards in ``folder``; checkpoints and log there; resumes from the last checkpoint. ``empty`` = states and pool of ""."""
    torch.manual_seed(seed)
    shards, net = Shards(folder), Generator(config)
    hidden = [p for name, p in net.named_parameters() if p.ndim == 2 and "_blocks." in name and ".lin." not in name]
    chosen = {id(p) for p in hidden}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, 0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW([p for p in net.parameters() if id(p) not in chosen], RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    average = {k: v.clone() for k, v in net.state_dict().items()}
    tag = f"{config.width}-{config.double}-{config.single}"
    checkpoint, start = folder / f"generator-{tag}.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        for o, held in zip(optimizers, state["optimizers"]):
            o.load_state_dict(held)
        average, start = state["average"], state["step"]
    forward = torch.compile(net) if compiled else net
    began, total = time.time(), 0.0
    for step in range(start, steps):
        batch = shards.batch(step, size, seed)
        g = torch.Generator().manual_seed(seed * 7_000_003 + step)
        drop = torch.rand(size, generator=g) < DROP
        context, y, lengths = batch.context, batch.pooled, batch.lengths.clone()
        context[drop], y[drop], lengths[drop] = 0.0, empty[1], empty[0].shape[0]
        context[drop, : empty[0].shape[0]] = empty[0]
        t = torch.randn(size, generator=g).sigmoid()
        noise = torch.randn(batch.latents.shape, generator=g)
        at = t[:, None, None, None]
        for o, peak in zip(optimizers, peaks):
            o.param_groups[0]["lr"] = peak * rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            velocity = forward((1 - at) * batch.latents + at * noise, t, context, y, lengths)
        loss = (velocity.float() - (noise - batch.latents)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        decay = min(DECAY, (step + 1) / (step + 10))
        for k, v in net.state_dict().items():
            average[k].lerp_(v, 1 - decay)
        total += loss.item()
        if (step + 1) % 100 == 0:
            print(f"{tag} step {step + 1}/{steps} loss {total / 100:.4f} {(time.time() - began) / (step + 1 - start):.3f} s/step", flush=True)
            total = 0.0
        if (step + 1) % every == 0 or step + 1 == steps:
            partial = checkpoint.with_suffix(".part")
            torch.save({"net": net.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "average": average, "step": step + 1, "config": asdict(config)}, partial)
            partial.replace(checkpoint)
    out = folder / f"generator-{tag}.safetensors"
    save_file({k: v.half().contiguous() for k, v in average.items()}, out)
    return out
