"""Trains the oracle on drawn scenes; measures it on scenes with jitter, and in a style, not trained on."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ...evaluation.artifacts import bank
from .codec import LinearCodec
from .concepts import LABELS, STYLES, Style
from .drawing import Placed
from .oracle import CELLS, Oracle
from .scenes import Scene, SceneSource

STEPS = 2200
FRESH = 50_000_000  # seeds from here on are in no training scene


def targets(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Per cell: is the label's object centred near here (labels, 8, 8), and does the cell count (8, 8 of the same)."""
    truth, counts = np.zeros((len(LABELS), CELLS, CELLS), bool), np.ones((len(LABELS), CELLS, CELLS), bool)
    centre = (np.arange(CELLS) + 0.5) * 128 / CELLS
    for o in scene.objects:
        distance = np.maximum(abs(centre[None] - o.x), abs(centre[:, None] - o.y))
        near = distance <= max(9.0, 0.25 * o.size)
        for label in (o.concept, o.attribute):
            if label:
                i = LABELS.index(label)
                truth[i] |= near
                counts[i] &= near | (distance > 0.7 * o.size)
    return truth, counts | truth


def augment(x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mild turns, shifts, scalings, light and noise → the pictures and the (B, 2, 3) maps of positions."""
    n = len(x)
    r = lambda low, high: torch.rand(n, generator=g) * (high - low) + low  # noqa: E731
    angle, s, mirror = r(-0.12, 0.12), r(0.92, 1.08), (torch.rand(n, generator=g) < 0.5).float() * 2 - 1
    c, q = angle.cos() * s, angle.sin() * s
    theta = torch.stack(
        [torch.stack([c * mirror, -q, r(-0.06, 0.06)], -1), torch.stack([q * mirror, c, r(-0.06, 0.06)], -1)],
        1,
    )
    x = F.grid_sample(
        x,
        F.affine_grid(theta, list(x.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    x = (
        (x - 0.5) * r(0.8, 1.15)[:, None, None, None]
        + 0.5
        + r(-0.07, 0.07)[:, None, None, None]
        + (torch.rand(n, 3, 1, 1, generator=g) - 0.5) * 0.08
    )
    x = x + torch.randn(x.shape, generator=g) * r(0, 0.04)[:, None, None, None]
    soft = torch.rand(n, generator=g) < 0.3
    x[soft] = (
        F.interpolate(F.avg_pool2d(x[soft], 2), scale_factor=2, mode="bilinear") if soft.any() else x[soft]
    )
    return x.clamp(0, 1), theta


def train(
    folder: Path,
    source: SceneSource,
    codec: LinearCodec,
    steps: int = STEPS,
    size: int = 64,
    every: int = 250,
    shards: int = 16,
) -> Path:
    """Train on the drawn shards in ``folder``; resumes from its checkpoint; writes ``oracle.safetensors``."""
    torch.manual_seed(0)
    files = sorted(folder.glob("shard-*.safetensors"))[:shards]
    latents, truth, counts = [], [], []
    for f in files:
        part = load_file(f)["latents"]
        index = int(f.stem.split("-")[1])
        pairs = [targets(source.scene(s)) for s in range(index * len(part), (index + 1) * len(part))]
        latents.append(part)
        truth.append(torch.from_numpy(np.stack([p[0] for p in pairs])))
        counts.append(torch.from_numpy(np.stack([p[1] for p in pairs])))
    z, y, m = torch.cat(latents), torch.cat(truth), torch.cat(counts)
    net, checkpoint, start = Oracle(), folder / "oracle.pt", 0
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.02)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    net.to(memory_format=torch.channels_last).train()
    began, total = time.time(), 0.0
    for step in range(start, steps):
        g = torch.Generator().manual_seed(step)
        rows = torch.randint(len(z), (size,), generator=g)
        x, theta = augment(codec.decode(z[rows].float()), g)
        grid = F.affine_grid(theta, [size, 1, CELLS, CELLS], align_corners=False)
        yt, mt = (F.grid_sample(v[rows].float(), grid, mode="nearest", align_corners=False) for v in (y, m))
        for group in optimizer.param_groups:
            group["lr"] = (
                2e-3
                * min(1, (step + 1) / 200)
                * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, step / steps))))
            )
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(x.contiguous(memory_format=torch.channels_last))
        logits = logits.float()
        cell = F.binary_cross_entropy_with_logits(logits, yt, mt, reduction="sum") / size
        whole = (
            F.binary_cross_entropy_with_logits(
                logits.flatten(2).amax(-1), yt.flatten(2).amax(-1), reduction="sum"
            )
            / size
        )
        loss = 0.3 * cell + whole
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            print(
                f"oracle step {step + 1}/{steps} loss {total / 100:.4f} "
                f"{(time.time() - began) / (step + 1 - start):.3f} s/step",
                flush=True,
            )
            total = 0.0
        if (step + 1) % every == 0 or step + 1 == steps:
            torch.save(
                {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, checkpoint
            )
    net.eval()
    with torch.no_grad():
        real = bank(torch.cat([net.features(codec.decode(part.float())) for part in z[:2048].split(64)]))
    net.save(folder / "oracle.safetensors", real)
    return folder / "oracle.safetensors"


def jittered(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene as no training scene is: each object turned by 8 to 14 degrees, resized, and off the grid."""

    def jitter(o: Placed) -> Placed:
        turn = float(rng.choice((-1, 1)) * rng.uniform(8, 14))
        return replace(
            o,
            angle=turn,
            size=o.size * rng.uniform(0.88, 1.05),
            x=o.x + rng.uniform(-4, 4),
            y=o.y + rng.uniform(-4, 4),
        )

    return replace(scene, objects=tuple(jitter(o) for o in scene.objects))


@torch.no_grad()
def measure(
    oracle: Oracle,
    codec: LinearCodec,
    icons: Path,
    n: int,
    styles: tuple[Style, ...] = STYLES,
    jitter: bool = True,
) -> dict[str, float]:
    """Balanced accuracy per label on n fresh scenes, as the codec shows them."""
    source, hits = SceneSource(icons, styles), np.zeros((len(LABELS), 2, 2))
    for at in range(0, n, 64):
        rngs = [np.random.default_rng(FRESH + i) for i in range(at, min(n, at + 64))]
        scenes = [source.scene(FRESH + i) for i in range(at, min(n, at + 64))]
        if jitter:
            scenes = [jittered(s, rng) for s, rng in zip(scenes, rngs)]
        x = (
            torch.from_numpy(np.stack([np.asarray(s.picture(icons)) for s in scenes]))
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
        seen = (oracle(codec.decode(codec.encode(x))).flatten(2).amax(-1) > 0).numpy()
        for s, row in zip(scenes, seen):
            for i, label in enumerate(LABELS):
                hits[i, int(label in s.labels), int(row[i])] += 1
    return {
        label: float((h[0, 0] / h[0].sum() + h[1, 1] / h[1].sum()) / 2)
        for label, h in zip(LABELS, hits)
        if h[1].sum()
    }
