"""The generator: FLUX's architecture, small, in plain differentiable torch, with its checkpoints' names.

The host's own blocks write in place and its fused rotary embedding has no gradient, so the weights are trained here and
loaded there; a test holds the two forwards against each other. Architecture: black-forest-labs/flux, ``model.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEAD = 128  # the host derives the number of heads as width / 128
AXES = (16, 56, 56)


@dataclass(frozen=True)
class GeneratorConfig:
    width: int = 256
    double: int = 2
    single: int = 3
    context: int = 384
    channels: int = 16

    @property
    def tag(self) -> str:
        """Names its checkpoints."""
        return f"{self.width}-{self.double}-{self.single}"

    def build(self) -> Generator:
        return Generator(self)


class VelocityModel(nn.Module):
    """What a generator of either architecture is to its training: the velocity ε − x₀ of rectified flow."""

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, y: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """The velocity (B, 16, h, w) at latents (B, 16, h, w) and times (B,)."""
        return self.with_image(x, t, context, y, lengths)[0]

    def with_image(
        self, x: Tensor, t: Tensor, context: Tensor, y: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and the image stream (B, h·w/4, width) at a depth where it should know what it shows.

        Args:
            context: text states (B, T, 384).
            y: pooled state (B, 384).
            lengths: real tokens of each text (B,); None where none is padded.
        """
        raise NotImplementedError


def time_embedding(t: Tensor) -> Tensor:
    """Times in [0, 1] (B,) → (B, 256)."""
    freqs = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128)
    args = 1000 * t[:, None].float() * freqs
    return torch.cat([args.cos(), args.sin()], -1)


def rotary(ids: Tensor) -> Tensor:
    """Positions (L, 3) → rotations (L, 64, 2, 2)."""
    parts = []
    for axis, dim in enumerate(AXES):
        omega = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = ids[:, axis, None].double() * omega
        parts.append(torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1))
    return rearrange(torch.cat(parts, 1).float(), "l d (i j) -> l d i j", i=2)


def rotate(x: Tensor, pe: Tensor) -> Tensor:
    """Apply rotations (L, 64, 2, 2) to heads (B, H, L, 128)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    return (
        torch.stack([pe[..., 0, 0] * a + pe[..., 0, 1] * b, pe[..., 1, 0] * a + pe[..., 1, 1] * b], -1)
        .flatten(-2)
        .to(x.dtype)
    )


def token_ids(grid: tuple[int, int], *references: tuple[int, int]) -> Tensor:
    """Positions (L, 3) of a picture's tokens and, behind them, of its references' (the host's method "offset").

    References have 1 on the first axis; each lies beside or below the ones before, whichever keeps the whole squarer.

    Args:
        grid: height and width of the picture, in tokens.
        references: theirs in latents, which are two to a token, as the host counts them.
    """
    parts, below, beside = [_grid(0, *grid)], 0, 0
    for height, width in references:
        top, left = (0, beside) if height + below > width + beside else (below, 0)
        part = _grid(1, height // 2, width // 2)
        part[:, 1] += (top + 1) // 2
        part[:, 2] += (left + 1) // 2
        parts.append(part)
        below, beside = max(below, height + top), max(beside, width + left)
    return torch.cat(parts)


def _grid(index: int, height: int, width: int) -> Tensor:
    at = [torch.full((height * width,), index), torch.arange(height).repeat_interleave(width)]
    return torch.stack([*at, torch.arange(width).repeat(height)], 1).float()


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (HEAD,), self.scale.to(x.dtype))


class QKNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Norm(), Norm()


def heads(qkv: Tensor, norm: QKNorm) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, 3·w) → q, k, v (B, H, L, 128), q and k normed."""
    q, k, v = rearrange(qkv, "b l (n h d) -> n b h l d", n=3, d=HEAD)
    return norm.query_norm(q), norm.key_norm(k), v


def attend(q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Tensor | None) -> Tensor:
    out = F.scaled_dot_product_attention(
        rotate(q, pe), rotate(k, pe), v, attn_mask=None if mask is None else mask.to(q.dtype)
    )
    return rearrange(out, "b h l d -> b l (h d)")


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Embedder(nn.Module):
    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(d, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class Modulation(nn.Module):
    def __init__(self, width: int, n: int) -> None:
        super().__init__()
        self.n, self.lin = n, nn.Linear(width, n * width)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(F.silu(vec))[:, None].chunk(self.n, -1)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.norm, self.proj = nn.Linear(width, 3 * width), QKNorm(), nn.Linear(width, width)


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
    )


class DoubleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(width, 6), Modulation(width, 6)
        self.img_attn, self.txt_attn = Attention(width), Attention(width)
        self.img_mlp, self.txt_mlp = mlp(width), mlp(width)

    def forward(
        self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        im, tm = self.img_mod(vec), self.txt_mod(vec)
        t = heads(self.txt_attn.qkv(modulated(txt, tm[0], tm[1])), self.txt_attn.norm)
        i = heads(self.img_attn.qkv(modulated(img, im[0], im[1])), self.img_attn.norm)
        q, k, v = (torch.cat(pair, 2) for pair in zip(t, i))
        a = attend(q, k, v, pe, mask)
        ta, ia = a[:, : txt.shape[1]], a[:, txt.shape[1] :]
        img = img + im[2] * self.img_attn.proj(ia)
        img = img + im[5] * self.img_mlp(modulated(img, im[3], im[4]))
        txt = txt + tm[2] * self.txt_attn.proj(ta)
        txt = txt + tm[5] * self.txt_mlp(modulated(txt, tm[3], tm[4]))
        return img, txt


class SingleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 3)
        self.linear1, self.linear2, self.norm = (
            nn.Linear(width, 7 * width),
            nn.Linear(5 * width, width),
            QKNorm(),
        )

    def forward(self, x: Tensor, vec: Tensor, pe: Tensor, mask: Tensor | None) -> Tensor:
        w = x.shape[-1]
        shift, scale, gate = self.modulation(vec)
        qkv, h = self.linear1(modulated(x, shift, scale)).split([3 * w, 4 * w], -1)
        a = attend(*heads(qkv, self.norm), pe, mask)
        return x + gate * self.linear2(torch.cat([a, F.gelu(h, approximate="tanh")], -1))


class LastLayer(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, -1)
        return self.linear(modulated(x, shift, scale))


class Generator(VelocityModel):
    """FLUX, small."""

    def __init__(self, c: GeneratorConfig = GeneratorConfig()) -> None:
        super().__init__()
        self.config = c
        self.img_in, self.txt_in = nn.Linear(4 * c.channels, c.width), nn.Linear(c.context, c.width)
        self.time_in, self.vector_in = Embedder(256, c.width), Embedder(c.context, c.width)
        self.double_blocks = nn.ModuleList(DoubleBlock(c.width) for _ in range(c.double))
        self.single_blocks = nn.ModuleList(SingleBlock(c.width) for _ in range(c.single))
        self.final_layer = LastLayer(c.width, 4 * c.channels)
        self._start()

    def _start(self) -> None:
        """Gates and output start at zero: every block is the identity, as usual for adaptive layer norm."""
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)
        for m in self.modules():
            if isinstance(m, Modulation):
                nn.init.zeros_(m.lin.weight)
        for lin in (self.final_layer.linear, self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(lin.weight)

    def with_image(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        y: Tensor,
        lengths: Tensor | None = None,
        *references: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and the image stream behind the double blocks.

        Args:
            references: latents (B, 16, h', w') to be edited: their tokens follow those of ``x``, as in FLUX.1 Kontext.
        """
        h, w, text = x.shape[-2] // 2, x.shape[-1] // 2, context.shape[1]
        patches = [rearrange(z, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2) for z in (x, *references)]
        img = self.img_in(torch.cat(patches, 1))
        txt, vec = self.txt_in(context), self.time_in(time_embedding(t)) + self.vector_in(y)
        sizes = [(z.shape[-2], z.shape[-1]) for z in references]
        ids = torch.cat([torch.zeros(text, 3), token_ids((h, w), *sizes)])
        pe, mask = rotary(ids), None
        if lengths is not None:  # padded text tokens are not attended to
            padded = torch.arange(text)[None] >= lengths[:, None]
            mask = F.pad(torch.zeros(padded.shape).masked_fill(padded, -1e4), (0, img.shape[1]))[
                :, None, None
            ]
        for double in self.double_blocks:
            img, txt = double(img, txt, vec, pe, mask)
        joint = torch.cat([txt, img], 1)
        for single in self.single_blocks:
            joint = single(joint, vec, pe, mask)
        out = self.final_layer(joint[:, text : text + h * w], vec)
        return rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", h=h, p=2, q=2), img


@torch.no_grad()
def sample(
    net: VelocityModel,
    noise: Tensor,
    context: Tensor,
    y: Tensor,
    lengths: Tensor,
    empty: tuple[Tensor, Tensor],
    steps: int = 20,
    cfg: float = 3.0,
) -> Tensor:
    """Euler with classifier-free guidance, for a look while training; everything that is measured runs in the host."""
    x, n = noise, len(noise)
    none, none_y = empty[0].expand(n, -1, -1), empty[1].expand(n, -1)
    times = torch.linspace(1, 0, steps + 1)
    for t, after in zip(times[:-1], times[1:]):
        at = t.expand(n)
        v = net(x, at, context, y, lengths)
        v0 = net(x, at, none, none_y)
        x = x + (after - t) * (v0 + cfg * (v - v0))
    return x
