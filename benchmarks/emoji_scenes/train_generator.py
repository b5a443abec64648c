"""Trains a generator by rectified flow: resumable, with an exponential average of the weights."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .dataset import PARTS, Batch, Shards
from .generator import GeneratorConfig
from .generator_sd3 import SD3Config
from .scenes import FINE, PAIRS, Layout

RATE, WARMUP, DROP, DECAY = 2e-3, 200, 0.1, 0.999
CHANGED = 3.0
NAMING = 0.05  # weight of naming what each token shows, beside the velocity


@dataclass(frozen=True)
class Lesson:
    """A stretch of training on one layout of scenes."""

    layout: Layout
    noisy: float  # shift of the logit-normal times towards noise, where the layout of a scene is decided
    steps: int  # the cosine's length
    until: int  # where to stop
    peak: float = 1.0  # share of the full rates: those of a beginning would undo much of what is known
    name: str = ""  # of its checkpoint, where another lesson has the same shards


COURSE = (
    Lesson(FINE, 0.0, 7000, 3500),
    Lesson(Layout(), 0.4, 10000, 10000),
    Lesson(PAIRS, 0.4, 7000, 7000, 0.4),
)


# What the finished generator learns next, from triples; rates that rise once more part what is named from what is not.
EDITING = Lesson(PAIRS, 0.4, 3600, 3600, 0.4)
EDITING_COURSE = (EDITING, Lesson(PAIRS, 0.4, 1500, 1500, 0.4, "again"))
Config = GeneratorConfig | SD3Config
COURSES: dict[str, tuple[Config, tuple[Lesson, ...]]] = {
    "flux": (GeneratorConfig(), COURSE),
    # SD3 samples at sigmas shifted by 3 where FLUX shifts by e^1.15 ≈ 3.2, so the times to learn are the same.
    "sd3": (SD3Config(), (Lesson(PAIRS, 0.4, 12000, 12000),)),
}


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine to 2 %."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = min(1.0, (step - WARMUP) / max(1, steps - WARMUP))
    return 0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))


def train(
    folder: Path, empty: tuple[Tensor, Tensor], lesson: Lesson, begin: Path | None = None, size: int = 32,
    config: Config = GeneratorConfig(), seed: int = 0, every: int = 500,
) -> Path:  # fmt: skip
    """Train one lesson on the shards in ``folder`` → its checkpoint; resumes from it; it starts from ``begin``.

    ``empty`` are the states (L, 384) and the pool (384,) of the empty prompt, which replaces a tenth of the captions.
    """
    torch.manual_seed(seed)
    shards, net = Shards(folder), config.build()
    naming = nn.ModuleList(nn.Linear(config.width, n) for n in PARTS)
    hidden = [p for name, p in net.named_parameters() if p.ndim == 2 and is_hidden(name)]
    chosen = {id(p) for p in hidden}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, 0.02, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW(
            [p for p in (*net.parameters(), *naming.parameters()) if id(p) not in chosen],
            RATE,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        ),
    ]
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    tag = config.tag
    checkpoint, start = folder / f"{'-'.join(filter(None, ('generator', tag, lesson.name)))}.pt", 0
    if begin is not None:
        grow(net, start_of(begin))
    average = {k: v.clone() for k, v in net.state_dict().items()}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        naming.load_state_dict(state["naming"])
        for o, held in zip(optimizers, state["optimizers"]):
            o.load_state_dict(held)
        average, start = state["average"], state["step"]
    forward = torch.compile(net.with_image)
    began, total, missed = time.time(), 0.0, 0.0
    for step in range(start, lesson.until):
        batch = shards.batch(step, size, seed)
        g = torch.Generator().manual_seed(seed * 7_000_003 + step)
        drop = torch.rand(size, generator=g) < DROP
        context, y, lengths = batch.context, batch.pooled, batch.lengths.clone()
        context[drop], y[drop], lengths[drop] = 0.0, empty[1], empty[0].shape[0]
        context[drop, : empty[0].shape[0]] = empty[0]
        t = (lesson.noisy + torch.randn(size, generator=g)).sigmoid()
        noise = torch.randn(batch.latents.shape, generator=g)
        at = t[:, None, None, None]
        for o, peak in zip(optimizers, peaks):
            o.param_groups[0]["lr"] = lesson.peak * peak * rate(step, lesson.steps)
        with torch.autocast("cpu", torch.bfloat16):
            noisy = (1 - at) * batch.latents + at * noise
            velocity, image = forward(noisy, t, context, y, lengths, *batch.references)
        missed_by = (velocity.float() - (noise - batch.latents)).square()
        loss = (missed_by * weights_of(batch)).mean()
        # A small model left to the velocity alone is slow to learn that the tokens of a thing must agree on where it
        # lies: they are made to say which piece of what they are. The heads are thrown away.
        told = torch.cat([batch.parts, *batch.reference_parts], 1)
        named = torch.stack(
            [
                F.cross_entropy(head(image.float()).flatten(0, 1), told[..., i].flatten())
                for i, head in enumerate(naming)
            ]
        ).sum()
        (loss + NAMING * rate(step, lesson.steps) * named).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        decay = min(DECAY, (step + 1) / (step + 10))
        for k, v in net.state_dict().items():
            average[k].lerp_(v, 1 - decay)
        total, missed = total + loss.item(), missed + named.item()
        if (step + 1) % 100 == 0:
            print(
                f"{tag} step {step + 1}/{lesson.until} loss {total / 100:.4f} naming {missed / 100:.3f} "
                f"{(time.time() - began) / (step + 1 - start):.3f} s/step",
                flush=True,
            )
            total, missed = 0.0, 0.0
        if (step + 1) % every == 0 or step + 1 == lesson.until:
            partial = checkpoint.with_suffix(".part")
            torch.save(
                {
                    "net": net.state_dict(),
                    "naming": naming.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "average": average,
                    "step": step + 1,
                    "config": asdict(config),
                },
                partial,
            )
            partial.replace(checkpoint)
    return checkpoint


def weights_of(batch: Batch) -> Tensor | float:
    """What an error counts, (B, 1, 16, 16): 1, and where an edit changes its reference, which is little, CHANGED."""
    if not batch.references:
        return 1.0
    apart = (batch.latents - batch.references[0]).abs().amax(1, keepdim=True) > 0.05
    changed = F.max_pool2d(apart.float(), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)  # whole tokens
    return 1 + (CHANGED - 1) * changed


def is_hidden(name: str) -> bool:
    """Is a matrix of this name between hidden states, and no modulation? Muon is for those."""
    return "_blocks." in name and ".lin." not in name and "adaLN" not in name


def grow(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights of a generator as deep or less deep: blocks it lacks stay as they start, which is the identity."""
    missing, unexpected = net.load_state_dict(weights, strict=False)
    lacking = [name for name in missing if not name.startswith(("double_blocks.", "single_blocks."))]
    if lacking or unexpected:
        raise ValueError(f"the weights to begin from are of another generator: {[*lacking, *unexpected][:4]}")


def start_of(begin: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of an exported generator."""
    if begin.suffix == ".safetensors":
        return {k: v.float() for k, v in load_file(begin).items()}
    return torch.load(begin, weights_only=True)["net"]


def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights in float16, under the names of the architecture's checkpoints."""
    average = torch.load(checkpoint, weights_only=True)["average"]
    save_file({k: v.half().contiguous() for k, v in average.items()}, out)
