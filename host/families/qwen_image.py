"""Qwen-Image and Qwen-Image-Edit: joint blocks with two streams. Only their attention is restricted or watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from ...steering.errors import SteeringError
from ...steering.sites import Site
from . import Layout, Span, attention_width, grid_of, no_such_site


class QwenImage:
    """Qwen-Image and Qwen-Image-Edit, also the later ones that take several pictures."""

    name = "qwen_image"

    def require(self, dit: Any) -> None:
        """Refuses models that make several pictures as layers of one."""
        if getattr(getattr(dit, "time_text_embed", None), "use_additional_t_cond", False):
            raise SteeringError(
                "MODEL",
                expected="Qwen-Image or Qwen-Image-Edit",
                found="a Qwen-Image model of layers",
                remedy="SteerDiT does not know how its layers lie among the tokens.",
            )

    def sites(self, dit: Any) -> tuple[Site, ...]:
        """None but `attention_sites`."""
        return ()

    def positions(self, dit: Any) -> tuple[Site, ...]:
        """There are none."""
        self._refuse(Site("text"), dit)

    def width(self, dit: Any, site: Site) -> int:
        """The model's own at the attention of its blocks."""
        if not site.is_attention:
            self._refuse(site, dit)
        return attention_width(self.name, site, self.attention_sites(dit), dit.inner_dim)

    def layout(self, dit: Any, x: Tensor, context: Tensor, references: Sequence[Tensor] = ()) -> Layout:
        """References lie behind the picture, one after another; how they are numbered moves none of them.

        Raises:
            SteeringError: the latents (R, C, T, H, W) are of more than one picture each.
        """
        for latents in (x, *references):
            if latents.ndim == 5 and latents.shape[2] != 1:
                raise SteeringError(
                    "LATENT",
                    expected="latents of one picture each, (B, C, 1, H, W)",
                    found=str(tuple(latents.shape)),
                    remedy="Use an empty latent of one picture.",
                )
        patch = dit.patch_size
        return Layout(context.shape[1], grid_of(x, patch), tuple(grid_of(one, patch) for one in references))

    def text(self, context: Tensor) -> slice:
        """All tokens of the conditioning."""
        return slice(0, context.shape[1])

    def block(self, dit: Any, site: Site) -> nn.Module:
        """The module whose attention it is."""
        return dit.transformer_blocks[site.index]

    def slot(self, site: Site) -> tuple[str, int]:
        """The host calls joint blocks `double_block`."""
        assert site.index is not None
        return "double_block", site.index

    def span(self, site: Site, outputs: dict[str, Any], options: dict[str, Any], layout: Layout) -> Span:
        """There is none: `width` has refused every site that needs one."""
        raise no_such_site(self.name, site, "the attention of a joint block")

    def attention_sites(self, dit: Any) -> tuple[Site, ...]:
        """One in each joint block."""
        return tuple(Site("joint", index, "attention") for index in range(len(dit.transformer_blocks)))

    def joint_text(self, site: Site, inputs: dict[str, Any], layout: Layout) -> int:
        """The block's own text."""
        return inputs["txt"].shape[1]

    def _refuse(self, site: Site, dit: Any) -> NoReturn:
        sites = self.attention_sites(dit)
        raise no_such_site(self.name, site, f"{sites[0]} to {sites[-1]}, the attention alone")


FAMILY = QwenImage()
