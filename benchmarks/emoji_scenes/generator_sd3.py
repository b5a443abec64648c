"""A second generator: Stable Diffusion 3's architecture, small, in plain torch, with its checkpoints' names.

Architecture: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", figure 2;
queries and keys are normed as in SD3.5. The host reads everything off the tensors: width = 64 · blocks, heads of 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .generator import LastLayer, VelocityModel, modulated, time_embedding

HEAD = 64


@dataclass(frozen=True)
class SD3Config:
    blocks: int = 3
    context: int = 384
    channels: int = 16
    positions: int = 16  # rows and columns of the table of positions; a smaller picture takes its middle
    naming: int = 2  # blocks behind which the image tokens are made to name what they show

    @property
    def width(self) -> int:
        return HEAD * self.blocks

    @property
    def tag(self) -> str:
        return f"sd3-{self.width}-{self.blocks}"

    def build(self) -> SD3Generator:
        return SD3Generator(self)


def positions(size: int, width: int, longest: float = 100.0) -> Tensor:
    """Sines and cosines of the places of a size × size grid, (1, size², width).

    Wavelengths from 2π to 2π · ``longest`` tokens. A checkpoint carries its table, which the host takes as it is: SD3's
    waves are 100 times as long, which tells 8 × 8 places badly apart, and here the table goes on to be trained.
    """
    waves = longest ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(size, dtype=torch.float64)[:, None] * waves
    line = torch.cat([angles.sin(), angles.cos()], -1)  # (size, width/2)
    columns, rows = line.repeat(size, 1), line.repeat_interleave(size, 0)
    return torch.cat([columns, rows], -1)[None].float()


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HEAD))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (HEAD,), self.weight.to(x.dtype), eps=1e-6)


class Attention(nn.Module):
    def __init__(self, width: int, output: bool) -> None:
        super().__init__()
        self.qkv, self.ln_q, self.ln_k = nn.Linear(width, 3 * width), Norm(), Norm()
        if output:
            self.proj = nn.Linear(width, width)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, w) → q, k, v (B, H, L, 64), q and k normed."""
        q, k, v = rearrange(self.qkv(x), "b l (n h d) -> n b h l d", n=3, d=HEAD)
        return self.ln_q(q), self.ln_k(k), v


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Stream(nn.Module):
    """One stream's half of a joint block; without an output it only gives keys and values to the other."""

    def __init__(self, width: int, output: bool = True) -> None:
        super().__init__()
        self.output, self.attn = output, Attention(width, output)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (6 if output else 2) * width))
        if output:
            self.mlp = MLP(width)

    def modulation(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.adaLN_modulation(vec)[:, None].chunk(6 if self.output else 2, -1)

    def after(self, x: Tensor, attended: Tensor, mod: tuple[Tensor, ...]) -> Tensor:
        x = x + mod[2] * self.attn.proj(attended)
        return x + mod[5] * self.mlp(modulated(x, mod[3], mod[4]))


class JointBlock(nn.Module):
    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.context_block, self.x_block = Stream(width, output=not last), Stream(width)

    def forward(
        self, txt: Tensor, img: Tensor, vec: Tensor, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        tm, im = self.context_block.modulation(vec), self.x_block.modulation(vec)
        t = self.context_block.attn.heads(modulated(txt, tm[0], tm[1]))
        i = self.x_block.attn.heads(modulated(img, im[0], im[1]))
        q, k, v = (torch.cat(pair, 2) for pair in zip(t, i))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
        a = rearrange(a, "b h l d -> b l (h d)")
        ta, ia = a[:, : txt.shape[1]], a[:, txt.shape[1] :]
        out = self.context_block.after(txt, ta, tm) if self.context_block.output else None
        return out, self.x_block.after(img, ia, im)


class Embedder(nn.Module):
    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(d, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class Patches(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, 2h, 2w) → (B, h·w, width)"""
        return self.proj(x).flatten(2).transpose(1, 2)


class SD3Generator(VelocityModel):
    """Stable Diffusion 3, small: the last block's text ends there."""

    def __init__(self, c: SD3Config = SD3Config()) -> None:
        super().__init__()
        self.config = c
        self.x_embedder, self.context_embedder = Patches(c.channels, c.width), nn.Linear(c.context, c.width)
        self.t_embedder, self.y_embedder = Embedder(256, c.width), Embedder(c.context, c.width)
        self.pos_embed = nn.Parameter(positions(c.positions, c.width))
        self.joint_blocks = nn.ModuleList(JointBlock(c.width, i == c.blocks - 1) for i in range(c.blocks))
        self.final_layer = LastLayer(c.width, 4 * c.channels)
        self._start()

    def _start(self) -> None:
        """Gates and output start at zero: every block is the identity, as usual for adaptive layer norm."""
        for name, m in self.named_modules():
            if isinstance(m, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(m.weight.view(len(m.weight), -1))
                assert m.bias is not None
                nn.init.zeros_(m.bias)
                if name.endswith("adaLN_modulation.1") or name == "final_layer.linear":
                    nn.init.zeros_(m.weight)

    def places(self, h: int, w: int) -> Tensor:
        """The middle h × w of the table, (1, h·w, width)."""
        side = self.config.positions
        table, top, left = self.pos_embed.unflatten(1, (side, side)), (side - h) // 2, (side - w) // 2
        return table[:, top : top + h, left : left + w].flatten(1, 2)

    def with_image(
        self, x: Tensor, t: Tensor, context: Tensor, y: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and the image stream (B, h·w/4, width) behind the first blocks, for naming."""
        h, w, text = x.shape[-2] // 2, x.shape[-1] // 2, context.shape[1]
        img, txt = self.x_embedder(x) + self.places(h, w), self.context_embedder(context)
        vec, mask, named = self.t_embedder(time_embedding(t)) + self.y_embedder(y), None, img
        if lengths is not None:  # padded text tokens are not attended to
            padded = torch.arange(text)[None] >= lengths[:, None]
            mask = F.pad(torch.zeros(padded.shape).masked_fill(padded, -1e4), (0, h * w))[:, None, None]
        for i, block in enumerate(self.joint_blocks):
            txt, img = block(txt, img, vec, mask)
            if i + 1 == min(self.config.naming, self.config.blocks):
                named = img
        out = self.final_layer(img, vec)
        return rearrange(out, "b (h w) (p q c) -> b c (h p) (w q)", h=h, p=2, q=2), named
