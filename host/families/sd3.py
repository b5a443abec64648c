"""Stable Diffusion 3 and 3.5: joint blocks with two streams. The conditioning is 77 CLIP tokens, then those of T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...steering.errors import SteeringError
from ...steering.sites import Site
from . import (
    Layout,
    Span,
    attention_width,
    grid_of,
    no_such_site,
    require_count,
    require_pictures,
    require_tokens,
)

CLIP_TOKENS = 77
CLIP_WIDTH = 768 + 1280
"""Of the released models: CLIP-L's and CLIP-G's states side by side; the host fills T5's 4096 up with zeros."""


class SD3:
    """SD3 medium, SD3.5 medium and large."""

    name = "sd3"

    def require(self, dit: Any) -> None:
        """Nothing else has its class."""

    def sites(self, dit: Any) -> tuple[Site, ...]:
        """`text`, then both streams of each joint block; the last block has no text output."""
        last = len(dit.joint_blocks) - 1
        streams = (Site("joint", index, stream) for index in range(last + 1) for stream in ("text", "image"))
        return Site("text"), *(site for site in streams if site != Site("joint", last, "text"))

    def positions(self, dit: Any) -> tuple[Site, ...]:
        """Bound in the middle block, rendered in the last but one. Ours: the paper's for SD3.5 are not public."""
        last = len(dit.joint_blocks) - 1
        bound = last // 2
        return (
            Site("text"),
            Site("joint", bound, "text"),
            Site("joint", bound, "image"),
            Site("joint", max(last - 1, bound + 1), "image"),
        )

    def width(self, dit: Any, site: Site) -> int:
        """The text encoder's width (4096 for T5-XXL) at `text`, the model's own in the blocks."""
        if site.block == "text":
            return getattr(dit.context_embedder, "in_features", dit.hidden_size)
        if site.is_attention:
            return attention_width(self.name, site, self.attention_sites(dit), dit.hidden_size)
        last = len(dit.joint_blocks) - 1
        if site.block != "joint" or site.index not in range(last + 1) or site.stream == "reference":
            raise no_such_site(self.name, site, f"text, or joint.0 to joint.{last} with stream text or image")
        if site.index == last and site.stream == "text":
            raise no_such_site(
                self.name,
                site,
                f"the text stream of joint.0 to joint.{last - 1}: the last block has no text output",
            )
        return dit.hidden_size

    def layout(self, dit: Any, x: Tensor, context: Tensor, references: Sequence[Tensor] = ()) -> Layout:
        """There are no references: the host hands this model none."""
        require_pictures(x)
        return Layout(context.shape[1], grid_of(x, dit.patch_size))

    def text(self, context: Tensor) -> slice:
        """T5's tokens, behind CLIP's; SteeringError where there are none.

        CLIP's are never fewer than 77: a shorter conditioning is all of another text encoder's, which a model may have
        been trained with alone.
        """
        if context.shape[1] < CLIP_TOKENS:
            return slice(0, context.shape[1])
        if context.shape[1] == CLIP_TOKENS:
            raise SteeringError(
                "site text",
                expected=f"T5 tokens after the {CLIP_TOKENS} CLIP tokens of the conditioning",
                found=f"{context.shape[1]} tokens",
                remedy="Load the T5 text encoder as well, or leave the site out (`-text`).",
            )
        return slice(CLIP_TOKENS, context.shape[1])

    def block(self, dit: Any, site: Site) -> nn.Module:
        """The module whose outputs the site is in."""
        return dit.joint_blocks[site.index]

    def slot(self, site: Site) -> tuple[str, int]:
        """The host calls joint blocks `double_block`."""
        assert site.index is not None
        return "double_block", site.index

    def span(self, site: Site, outputs: dict[str, Any], options: dict[str, Any], layout: Layout) -> Span:
        """Each stream is an output of its own."""
        output = "txt" if site.stream == "text" else "img"
        available = outputs[output].shape[1]
        stop = available if output == "txt" else layout.image
        require_tokens(site, 0, stop, available)
        require_count(site, (stop,), available)
        return Span(output, 0, stop)

    def attention_sites(self, dit: Any) -> tuple[Site, ...]:
        """One in each joint block; the attention of SD3.5 medium's pictures among themselves is none."""
        return tuple(Site("joint", index, "attention") for index in range(len(dit.joint_blocks)))

    def joint_text(self, site: Site, inputs: dict[str, Any], layout: Layout) -> int:
        """The block's own text."""
        return inputs["txt"].shape[1]


FAMILY = SD3()
