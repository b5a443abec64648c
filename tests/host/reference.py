"""An independent account of what a steered run should give: float64, one prompt at a time, naive loops.

Nothing here uses SteerDiT's mathematics or the host's samplers. The diffusion model is a float64 copy of the
host's; plain torch forward hooks change what its blocks return; Euler, Heun and classifier-free guidance are
written out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from safetensors.torch import load_file
from torch import Tensor

from steerdit.steering.formats.bundle import Bundle

from .tiny import GRID, sigmas


@dataclass(frozen=True)
class Edit:
    """What a Repel or Blend node should do."""

    bundle: Bundle
    method: str = "repel"
    strength: float = 1.0
    gate: str = "token"
    keep_norm: bool = True
    form: str = "default"
    categories: tuple[str, ...] = ("weapons", "bloody")
    sites: tuple[str, ...] | None = None

    def stored(self, site: str) -> dict[str, Tensor]:
        """The file's tensors of a site, by the last part of their names."""
        tensors = load_file(self.bundle.path).items()
        return {
            name.rpartition(".")[2]: tensor.double()
            for name, tensor in tensors
            if name.startswith(site + ".")
        }

    def codes(self, site: str, a: Tensor) -> list[Tensor]:
        """All codes (N) of each token."""
        part = self.stored(site)
        sae = next(entry for at, entry in self.bundle.sites.items() if str(at) == site)
        codes = []
        for token in a:
            pre = part["encoder"] @ (sae.input_scale * token - part["decoder_bias"]) + part["encoder_bias"]
            if sae.activation == "jumprelu":
                code = torch.where(pre > part["threshold"], pre, 0.0)
            else:
                code = pre.clamp(min=0)
                if sae.activation == "topk":
                    kept = sorted(range(len(code)), key=lambda f: -float(code[f]))[: sae.k]
                    code = torch.stack([code[f] if f in kept else code[f] * 0 for f in range(len(code))])
            codes.append(code)
        return codes

    def at(self, site: str, a: Tensor) -> Tensor:
        """The tokens (L, d) of one picture after the edit, token by token from the equations."""
        if site not in (self.sites or map(str, self.bundle.sites)):
            return a
        part, codes = self.stored(site), self.codes(site, a)
        sae = next(entry for at, entry in self.bundle.sites.items() if str(at) == site)

        def score(name: str, code: Tensor) -> float:
            category = sae.categories[name]
            return sum(w * float(code[f]) for f, w in zip(category.latents, category.weights, strict=True))

        result = []
        for token, code in zip(a, codes, strict=True):
            open_names = []
            for name in self.categories:
                gate = sae.categories[name].gate
                if self.gate == "always":
                    is_open = any(float(code[f]) > 0 for f in sae.categories[name].latents)
                elif self.gate == "token":
                    is_open = score(name, code) > gate.token
                else:
                    is_open = max(score(name, other) for other in codes) > gate.image
                if is_open:
                    open_names.append(name)
            acting = sorted(
                {f for name in open_names for f in sae.categories[name].latents if float(code[f]) > 0}
            )
            result.append(self._token(token, code, acting, bool(open_names), part, sae.input_scale))
        return torch.stack(result)

    def _token(
        self, a: Tensor, code: Tensor, acting: list[int], is_open: bool, part: dict[str, Tensor], scale: float
    ) -> Tensor:
        if self.form == "paper":
            if not is_open:
                return a
            if self.method == "repel":
                decoded = part["decoder_bias"] / scale
                for f in acting:
                    decoded = decoded + code[f] * part["decoder"][f] / scale
                return a - self.strength * (decoded - a)
            decoded = part["decoder_bias"] / scale
            for f in range(len(code)):
                decoded = decoded + code[f] * part["decoder_adapted"][f] / scale
            return (1 - self.strength) * a + self.strength * decoded
        changed = a.clone()
        for f in acting:
            if self.method == "repel":
                changed = changed - self.strength * code[f] * part["decoder"][f] / scale
            else:
                changed = (
                    changed
                    + self.strength * code[f] * (part["decoder_adapted"][f] - part["decoder"][f]) / scale
                )
        if self.keep_norm and acting:
            changed = changed / changed.square().sum().sqrt() * a.square().sum().sqrt()
        return changed


class Reference:
    """A float64 copy of a MODEL's diffusion model that is steered by hooks."""

    def __init__(
        self,
        family: str,
        model: Any,
        edits: Sequence[Edit],
        gap: tuple[float, float] = (2.0, -1.0),
        foreign: tuple[str, float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            gap: the edits act where gap[0] >= sigma > gap[1].
            foreign: a block such as `double.1` whose image output another pack multiplies.
            options: transformer_options that another pack has set.
        """
        self.family, self.edits, self.gap = family, edits, gap
        self.foreign, self.options = foreign, options or {}
        self.dit = copy.deepcopy(model.model.diffusion_model).double()
        self.format = model.model.latent_format
        self.multiplier = 1000.0 if family == "sd3" else 1.0

    def edited(self, site: str, a: Tensor) -> Tensor:
        """The tokens (1, L, d) after all edits."""
        for edit in self.edits:
            a = edit.at(site, a[0])[None]
        return a

    def _hook(self, block: str, index: int) -> Callable[..., Any]:
        image = GRID[0] * GRID[1]

        def joint_pair(img: Tensor, txt: Tensor | None) -> tuple[Tensor, Tensor | None]:
            if self.foreign and self.foreign[0] == f"{block}.{index}":
                img = img * self.foreign[1]
            if not self.acts:
                return img, txt
            pieces = [self.edited(f"{block}.{index}.image", img[:, :image])]
            if img.shape[1] > image:
                pieces.append(self.edited(f"{block}.{index}.reference", img[:, image:]))
            return torch.cat(pieces, 1), None if txt is None else self.edited(f"{block}.{index}.text", txt)

        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            if block == "double":
                return joint_pair(*output)
            if block == "joint":
                img, txt = joint_pair(output[1], output[0])
                return txt, img
            txt, img = output[:, : self.text], output[:, self.text :]
            img, txt = joint_pair(img, txt)
            return torch.cat([txt, img], 1)

        return hook

    def velocity(self, x: Tensor, sigma: float, conditioning: Any, steered: bool) -> Tensor:
        """The model's output for one picture (1, 16, H, W) and one prompt."""
        text, extra = conditioning[0]
        text = text.double()
        self.acts = steered and self.gap[0] >= sigma > self.gap[1]
        if self.acts:
            skip = 77 if self.family == "sd3" else 0
            text = torch.cat([text[:, :skip], self.edited("text", text[:, skip:])], 1)
        self.text = text.shape[1]
        kwargs: dict[str, Any] = {}
        if "reference_latents" in extra:
            kwargs["ref_latents"] = [
                self.format.process_in(one).double() for one in extra["reference_latents"]
            ]
        with ExitStack() as hooks:
            for block, name in (
                ("double", "double_blocks"),
                ("single", "single_blocks"),
                ("joint", "joint_blocks"),
            ):
                for index, module in enumerate(getattr(self.dit, name, [])):
                    handle = module.register_forward_hook(self._hook(block, index), with_kwargs=True)
                    hooks.callback(handle.remove)
            hooks.callback(setattr, comfy.model_management, "in_training", False)
            comfy.model_management.in_training = True  # the host's other rotary embedding takes float64
            t = torch.tensor([sigma * self.multiplier])
            y = extra["pooled_output"].double()
            return self.dit(x, t, context=text, y=y, transformer_options=dict(self.options), **kwargs)

    def sample(
        self,
        start: Tensor,
        positive: Any,
        negative: Any,
        model: Any,
        *,
        cfg: float,
        sampler: str,
        steps: int = 3,
    ) -> Tensor:
        """The latent (B, 16, H, W) that sampling should give."""
        levels = list(sigmas(model, steps))
        pictures = []
        for picture in start.double():
            x = picture[None] * levels[0]

            def slope(x: Tensor, sigma: float) -> Tensor:
                guided = self.velocity(x, sigma, positive, steered=True)
                if cfg != 1.0:
                    plain = self.velocity(x, sigma, negative, steered=False)
                    guided = plain + cfg * (guided - plain)
                return guided

            for now, then in zip(levels, levels[1:], strict=False):
                d = slope(x, now)
                ahead = x + (then - now) * d
                if sampler == "heun" and then > 0:
                    d = (d + slope(ahead, then)) / 2
                    ahead = x + (then - now) * d
                x = ahead
            pictures.append(self.format.process_out(x))
        return torch.cat(pictures)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, over the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())
