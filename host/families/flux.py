"""FLUX.1: double blocks with two streams, then single blocks on the joint sequence `text | image | reference`."""

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


class Flux:
    """FLUX.1 dev, schnell, Kontext and Fill."""

    name = "flux"

    def require(self, dit: Any) -> None:
        """Refuses the other models of FLUX.1's class, by their settings."""
        params = dit.params  # older hosts lack the newer fields
        found = None
        if getattr(params, "global_modulation", False):
            found = "a FLUX.2 model (global modulation)"
        elif getattr(params, "yak_mlp", False) or getattr(params, "txt_norm", False):
            found = "an Ovis-Image model (gated MLP, normalised text)"
        elif getattr(params, "vec_in_dim", None) is None:
            found = "a model without pooled text, such as LongCat-Image"
        if found is not None:
            raise SteeringError(
                "MODEL",
                expected="a FLUX.1 model",
                found=found,
                remedy="It has FLUX.1's class but is another model, where a bundle for FLUX.1 means nothing.",
            )

    def sites(self, dit: Any) -> tuple[Site, ...]:
        """`text`, then text and image stream of each double and each single block."""
        blocks = {"double": len(dit.double_blocks), "single": len(dit.single_blocks)}
        return (
            Site("text"),
            *(
                Site(block, index, stream)
                for block, depth in blocks.items()
                for index in range(depth)
                for stream in ("text", "image")
            ),
        )

    def positions(self, dit: Any) -> tuple[Site, ...]:
        """Text and image are bound in the last double block, the image is rendered in the last single block."""
        bound, rendered = len(dit.double_blocks) - 1, len(dit.single_blocks) - 1
        return (
            Site("text"),
            Site("double", bound, "text"),
            Site("double", bound, "image"),
            Site("single", rendered, "image"),
        )

    def width(self, dit: Any, site: Site) -> int:
        """The text encoder's width (4096 for T5-XXL) at `text`, the model's own in the blocks."""
        if site.block == "text":
            return dit.params.context_in_dim
        if site.is_attention:
            return attention_width(self.name, site, self.attention_sites(dit), dit.hidden_size)
        blocks = {"double": len(dit.double_blocks), "single": len(dit.single_blocks)}
        if site.block not in blocks or site.index not in range(blocks[site.block]):
            raise no_such_site(
                self.name,
                site,
                f"text, double.0 to double.{blocks['double'] - 1} or single.0 to single.{blocks['single'] - 1}",
            )
        return dit.hidden_size

    def layout(self, dit: Any, x: Tensor, context: Tensor, references: Sequence[Tensor] = ()) -> Layout:
        """References lie behind the picture, one after another; how they are numbered moves none of them."""
        require_pictures(x)
        patch = dit.patch_size
        return Layout(context.shape[1], grid_of(x, patch), tuple(grid_of(one, patch) for one in references))

    def text(self, context: Tensor) -> slice:
        """All tokens of the conditioning: T5's alone."""
        return slice(0, context.shape[1])

    def block(self, dit: Any, site: Site) -> nn.Module:
        """The module whose outputs the site is in."""
        return getattr(dit, f"{site.block}_blocks")[site.index]

    def slot(self, site: Site) -> tuple[str, int]:
        """`double_block` or `single_block`, by the index in its own list."""
        assert site.index is not None
        return f"{site.block}_block", site.index

    def span(self, site: Site, outputs: dict[str, Any], options: dict[str, Any], layout: Layout) -> Span:
        """Double blocks have outputs for each stream; single blocks one sequence, `text | image | reference`."""
        joint = site.block == "single"
        output = "img" if joint or site.stream != "text" else "txt"
        available = outputs[output].shape[1]
        if output == "txt":
            return Span(output, 0, available)
        # Another pack may have added tokens to the text. Newer hosts say where it ends in a joint sequence.
        text = options.get("img_slice", (layout.text,))[0] if joint else 0
        image = text + layout.image
        spans = {"text": (0, text), "image": (text, image), "reference": (image, available)}
        start, stop = spans[site.stream or ""]
        require_tokens(site, start, stop, available)
        # The references may be there no more, where a node has cached what they say.
        require_count(site, (image, image + layout.reference), available)
        return Span(output, start, stop)

    def attention_sites(self, dit: Any) -> tuple[Site, ...]:
        """One in each double and each single block."""
        blocks = {"double": len(dit.double_blocks), "single": len(dit.single_blocks)}
        return tuple(Site(block, i, "attention") for block, depth in blocks.items() for i in range(depth))

    def joint_text(self, site: Site, inputs: dict[str, Any], layout: Layout) -> int:
        """Double blocks get text of its own; before single blocks newer hosts say where it ends."""
        if site.block == "double":
            return inputs["txt"].shape[1]
        return (inputs.get("transformer_options") or {}).get("img_slice", (layout.text,))[0]


FAMILY = Flux()
