"""The joint attention of a block, restricted or watched: an override around whatever override is there.

While a block with an attention site runs, its attention is handed to the plan's modifiers with `attend`, a way to ask
for it. What the model or another pack would have done is asked for unchanged; what a modifier asks anew goes through
the other pack's override as well. All other attention passes untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from ..steering.errors import SteeringError
from ..steering.flow.layout import FlowLayout, TokenGrid
from ..steering.flow.step import Acted, FlowModifier, FlowRecord, FlowState, FlowStep
from ..steering.sites import Site
from .families import Family, Layout

OVERRIDE = "optimized_attention_override"
REFERENCES = "reference_image_num_tokens"
NAMES = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")
"""Of the host's attention functions, in their order."""
UNKNOWN = ("enable_gqa", "scale", "skip_output_reshape")
"""What no joint attention of the supported families asks for."""


@dataclass
class Attentions:
    """The attention sites of one call of the model."""

    at: Mapping[Site, Sequence[FlowModifier]]
    family: Family
    layout: Layout
    sigma: float
    percent_to_sigma: Callable[[float], float]
    count: int
    """The rows of the call."""
    rows: slice | list[int]
    """Those that are steered."""
    images: tuple[int, ...]
    """The picture of each of them."""
    state: Callable[[FlowModifier], FlowState]
    """What the run remembers for a modifier."""
    seed: int | None = None
    observe: Callable[[FlowModifier, FlowRecord], None] | None = None
    whole: bool = True
    """Whether the rows are whole pictures, not crops."""
    visited: set[Site] = field(default_factory=set[Site])
    _running: tuple[Site, FlowLayout] | None = None

    def override_around(self, earlier: Any) -> Callable[..., Tensor]:
        """The attention override of this call; `earlier` is another pack's, or None."""

        def override(func: Any, *args: Any, **kwargs: Any) -> Tensor:
            if self._running is None:
                return func(*args, **kwargs) if earlier is None else earlier(func, *args, **kwargs)
            return self._visit(*self._running, Asked(func, earlier, args, kwargs))

        return override

    def block_around(self, earlier: Any, site: Site) -> Callable[..., dict[str, Any]]:
        """The replacement of the site's block; `earlier` is another pack's, or None."""

        def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            self._running = site, self._laid_out(site, args)
            try:
                return extra["original_block"](args) if earlier is None else earlier(args, extra)
            finally:
                self._running = None

        return block

    def _laid_out(self, site: Site, inputs: dict[str, Any]) -> FlowLayout:
        """The tokens of a block's joint attention."""
        layout = flow_layout(self.family.joint_text(site, inputs, self.layout), self.layout)
        told = (inputs.get("transformer_options") or {}).get(REFERENCES)
        if told is not None and list(told) != [grid.count for grid in layout.references]:
            raise _other_tokens(
                site,
                f"references of {', '.join(str(grid.count) for grid in layout.references) or 'no'} tokens",
                f"{', '.join(map(str, told)) or 'none'}, as the model says",
            )
        return layout

    def _visit(self, site: Site, layout: FlowLayout, asked: Asked) -> Tensor:
        """The attention (B, L, h·d) after the site's modifiers: what the host asked for where they change nothing."""
        q, k, v = asked.by_head()
        if not _is_joint(site, layout, q.shape[-2], k.shape[-2]):
            return asked.whole()
        self._require_known(site, asked, q)
        self.visited.add(site)
        modifiers = [
            modifier
            for modifier in self.at[site]
            if modifier.wants(site, self.sigma, self.percent_to_sigma, self.state(modifier))
        ]
        if not modifiers:
            return asked.whole()
        rows = self.rows
        every = isinstance(rows, slice) and rows == slice(None)
        mine = (q, k, v) if every else (q[rows], k[rows], v[rows])
        mask = asked.mask_of(rows, self.count, site)
        found: list[Tensor] = []

        def unchanged() -> Tensor:
            if not found:
                whole = asked.whole()
                found.extend((whole, whole if every else whole[rows]))
            return found[1]

        result = self._modified(modifiers, site, layout, asked, mine, mask, unchanged)
        if found and result is found[1]:
            return found[0]
        if every:
            return result
        if found:
            out = found[0].clone()
        else:
            out = result.new_empty(self.count, *result.shape[1:])
            steered = set(range(self.count)[rows] if isinstance(rows, slice) else rows)
            others = contiguous([row for row in range(self.count) if row not in steered])
            out[others] = asked.again(
                q[others], k[others], v[others], asked.mask_of(others, self.count, site)
            )
        out[rows] = result
        return out

    def _modified(
        self,
        modifiers: Sequence[FlowModifier],
        site: Site,
        layout: FlowLayout,
        asked: Asked,
        mine: tuple[Tensor, Tensor, Tensor],
        mask: Tensor | None,
        unchanged: Callable[[], Tensor],
    ) -> Tensor:
        """What the site's modifiers make of the steered rows' attention, one around another.

        Weights of restrictions that mark the same patch multiply.
        """
        before = unchanged
        acted: dict[Hashable, Acted] = {}
        for number, modifier in enumerate(modifiers):
            step = FlowStep(
                site=site,
                sigma=self.sigma,
                percent_to_sigma=self.percent_to_sigma,
                images=self.images,
                layout=layout,
                state=self.state(modifier),
                mask=mask,
                seed=self.seed,
                observe=None if self.observe is None else partial(self.observe, modifier),
                whole_calls=asked.earlier is not None or number > 0,
                acted=acted,
            )
            before = partial(modifier, _attend(asked, mine, mask, before), *mine, step)
        try:
            return before()
        finally:
            acted.clear()  # it refers to the steps, and they to it

    def _require_known(self, site: Site, asked: Asked, q: Tensor) -> None:
        if not self.whole:
            raise SteeringError(
                f"site {site}",
                expected="conditionings of the whole picture",
                found="one that is limited to an area, so that a mask on the picture cannot be laid over its tokens",
                remedy="Remove the node that sets the area, or the one that restricts the flow.",
            )
        if q.shape[0] != self.count:
            raise SteeringError(
                f"site {site}",
                expected=f"{self.count} rows, as the model was called with",
                found=f"{q.shape[0]}",
                remedy="Another node adds rows inside the model, and ours could not be told apart. Steer without it.",
            )
        given = asked.given
        strange = [name for name in UNKNOWN if given.get(name)]
        if strange:
            raise SteeringError(
                f"site {site}",
                expected="attention as this family calls it",
                found=f"a call with {', '.join(strange)}",
                remedy="Another node replaces the model's attention. Steer without it.",
            )


@dataclass
class Asked:
    """One call of the host's attention, as it was asked for."""

    func: Any
    """The host's attention."""
    earlier: Any
    """Another pack's override around it, or None."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def given(self) -> dict[str, Any]:
        """All arguments by name."""
        return {**dict(zip(NAMES, self.args)), **self.kwargs}

    def whole(self) -> Tensor:
        """The very call."""
        return self._call(self.func, self.args, self.kwargs)

    def by_head(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v as (B, h, L, d); views."""
        given = self.given
        q, k, v, heads = (given[name] for name in NAMES[:4])
        if given.get("skip_reshape"):
            return q, k, v
        # SD3 leaves the heads of v apart already.
        q, k, v = (x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
        return q, k, v

    def mask_of(self, rows: slice | list[int], count: int, site: Site) -> Tensor | None:
        """The incoming mask of some rows, (R or 1, h or 1, L or 1, L)."""
        mask: Tensor | None = self.given.get("mask")
        if mask is None:
            return None
        if mask.ndim < 4:
            mask = mask[None, None] if mask.ndim == 2 else mask[:, None]
        if mask.shape[0] == 1:
            return mask
        if mask.shape[0] != count:
            raise SteeringError(
                f"site {site}",
                expected=f"an attention mask of {count} rows, as the model was called with, or of one",
                found=f"a mask {tuple(mask.shape)}",
                remedy="Another node hands the model a mask of another batch. Steer without it.",
            )
        return mask if rows == slice(None) else mask[rows]

    def again(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same attention of other q, k, v (R, h, n, d) → (R, n, h·d), through the other pack's override too.

        Not every backend of the host takes a mask, and some take it without a word for something else; torch's does.
        """
        func = self.func
        if mask is not None:
            from comfy.ldm.modules.attention import attention_pytorch

            func = attention_pytorch
        changed = {"q": q, "k": k, "v": v, "heads": q.shape[1], "mask": mask, "skip_reshape": True}
        # By position where it came by position: other packs' overrides look there.
        args = (changed.get(name, value) for name, value in zip(NAMES, self.args))
        named = {name: value for name, value in changed.items() if name not in NAMES[: len(self.args)]}
        return self._call(func, tuple(args), {**self.kwargs, **named})

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return func(*args, **kwargs) if self.earlier is None else self.earlier(func, *args, **kwargs)


def _attend(
    asked: Asked,
    mine: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    unchanged: Callable[[], Tensor],
) -> Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]:
    """`attend` of one modifier: for what came in, what was there before it; for all else, the attention anew."""

    def attend(q: Tensor, k: Tensor, v: Tensor, of: Tensor | None) -> Tensor:
        if q is mine[0] and k is mine[1] and v is mine[2] and of is mask:
            return unchanged()
        return asked.again(q, k, v, of)

    return attend


def flow_layout(text: int, layout: Layout) -> FlowLayout:
    """Where `text | picture | references` lie, after so many tokens of text."""
    image = TokenGrid(text, *layout.grid)
    references: list[TokenGrid] = []
    for size in layout.references:
        references.append(TokenGrid((references or [image])[-1].stop, *size))
    return FlowLayout(slice(0, text), image, tuple(references))


def contiguous(rows: slice | list[int]) -> slice | list[int]:
    """The same rows, as a slice where they follow one another: that takes no copy."""
    if isinstance(rows, slice) or not rows or rows != list(range(rows[0], rows[-1] + 1)):
        return rows
    return slice(rows[0], rows[-1] + 1)


def _is_joint(site: Site, layout: FlowLayout, queries: int, keys: int) -> bool:
    """Whether an attention is that of all streams; False for that of the pictures among themselves.

    Raises:
        SteeringError: it is neither, so that some tokens are not where they should be.
    """
    if queries == keys == layout.tokens:
        return True
    if queries == keys == layout.image.count:
        return False
    without = layout.image.stop
    if layout.references and queries == without and keys in (without, layout.tokens):
        raise SteeringError(
            f"site {site}",
            expected=f"{layout.tokens} tokens: text, picture and {len(layout.references)} reference latents",
            found=f"{queries}, without those of the reference latents",
            remedy="Another node caches the reference latents and drops their tokens, as Flux KV Cache does, so that "
            "what they bring in could not be restricted everywhere. Steer without it.",
        )
    raise _other_tokens(site, f"{layout.tokens} tokens", f"{queries} queries and {keys} keys")


def _other_tokens(site: Site, expected: str, found: str) -> SteeringError:
    return SteeringError(
        f"site {site}",
        expected=expected,
        found=found,
        remedy="Another node changes how many tokens the model sees. Steer without it.",
    )
