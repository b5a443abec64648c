"""The one way into the model: an APPLY_MODEL wrapper that runs the plan at each call.

It binds late. Whatever other packs have put into the block slots or the attention override when the model is
called stays, and ours goes around it, so the order of nodes does not matter and nothing is ever left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..steering.errors import SteeringError
from ..steering.modifiers import Step
from ..steering.plan import Plan
from ..steering.sites import Site
from .attention import OVERRIDE, Attentions, contiguous
from .families import Family, Layout, family_of, uncompiled
from .run import RUN_KEY, Run

PLAN_KEY = "steerdit_plan"


def steered_call(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Runs one model call with the plan's active entries; without any, the very call that the host asked for."""
    options: dict[str, Any] = {} if transformer_options is None else transformer_options
    model = executor.class_obj
    sigma = float(t.flatten()[0])
    whole = _plan(options)
    plan = whole.active(sigma, model.model_sampling.percent_to_sigma)
    run: Run = options.get(RUN_KEY) or Run()
    run.calls += 1
    for modifier in dict.fromkeys(one for at in whole.flows().values() for one in at):
        run.flow_state(modifier)
    chunks = run.steered_chunks(options)
    if not plan.entries or not chunks:
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    if c_crossattn is None:
        raise SteeringError(
            "MODEL",
            expected="a call with text conditioning",
            found="none",
            remedy="Connect a positive conditioning to the sampler.",
        )
    dit = uncompiled(model.diffusion_model)
    family = family_of(dit)
    layout = family.layout(dit, x, c_crossattn, kwargs.get("ref_latents") or ())
    rows, images = rows_of(chunks, len(options.get("cond_or_uncond", [0])), x.shape[0], run.batch)
    call = Call(plan, run, family, layout, sigma, x.shape[0], rows, images, run.is_whole(x))
    if flows := plan.flows():
        call.attentions = Attentions(
            flows,
            family,
            layout,
            sigma,
            model.model_sampling.percent_to_sigma,
            call.count,
            rows,
            images,
            state=run.flow_state,
            seed=run.seed,
            observe=run.flow_seen,
            whole=call.whole,
            visited=call.visited,
        )
    context = call.conditioning(c_crossattn)
    sites = plan.sites()
    with running_eagerly(options), blocks_that_run(family, dit, sites) as ran:
        result = executor(x, t, c_concat, context, control, call.options_around(options), **kwargs)
    may_skip = bool(options.get("wrappers", {}).get("diffusion_model"))
    run.called(sites, call.visited, may_skip, ran)
    return result


def _plan(options: dict[str, Any]) -> Plan:
    if PLAN_KEY not in options:
        raise SteeringError(
            "MODEL",
            expected="the plan that the SteerDiT nodes have put into the model's options",
            found="options without it",
            remedy="Another node rebuilds the model's options, so nothing would be steered. Steer without it.",
        )
    return options[PLAN_KEY]


def rows_of(
    chunks: Sequence[int], count: int, rows: int, batch: int | None = None
) -> tuple[slice | list[int], tuple[int, ...]]:
    """The rows of these chunks, and the picture that each belongs to.

    Args:
        count: how many chunks the call's rows consist of; each holds the whole batch of pictures.
        batch: how many pictures that is, where it is known.

    Raises:
        SteeringError: only some chunks are meant, and the call does not consist of whole ones.
    """
    batch = batch or max(rows // count, 1)
    if len(chunks) == count:  # all of them, however they are cut
        return slice(None), tuple(row % batch for row in range(rows))
    if rows != count * batch:
        raise SteeringError(
            "MODEL",
            expected=f"calls with {count * batch} rows: {count} conditionings × {batch} pictures",
            found=f"{rows}",
            remedy="Another node cuts up the host's batches, so that positive and negative rows cannot be told apart. "
            "Steer without it.",
        )
    found = [chunk * batch + image for chunk in chunks for image in range(batch)]
    return contiguous(found), tuple(row % batch for row in found)


@dataclass
class Call:
    """One steered call of the model."""

    plan: Plan
    run: Run
    family: Family
    layout: Layout
    sigma: float
    count: int
    """The rows of the call."""
    rows: slice | list[int]
    """The rows that are steered."""
    images: tuple[int, ...]
    """The picture of each of them."""
    whole: bool = True
    """Whether the rows are whole pictures, not crops."""
    visited: set[Site] = field(default_factory=set[Site])
    attentions: Attentions | None = None
    """Where attention is restricted or watched."""

    def conditioning(self, context: Tensor) -> Tensor:
        """The conditioning (R, T, d) after the modifiers of the site `text`."""
        site = Site("text")
        return self.steered(site, context, self.family.text(context)) if self.plan.at(site) else context

    def options_around(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the options in which each block with active sites is followed by our edits, and its attention
        goes through ours.
        """
        replacements = options.get("patches_replace", {})
        blocks = dict(replacements.get("dit", {}))
        at: dict[tuple[str, int], list[Site]] = {}
        for site in self.plan.sites():
            if site.index is None:
                continue
            slot = self.family.slot(site)
            if site.is_attention and self.attentions is not None:
                blocks[slot] = self.attentions.block_around(blocks.get(slot), site)
            else:
                at.setdefault(slot, []).append(site)
        for slot, sites in at.items():
            blocks[slot] = self._after(blocks.get(slot), sites)
        around = {**options, "patches_replace": {**replacements, "dit": blocks}}
        if self.attentions is not None:
            around[OVERRIDE] = self.attentions.override_around(options.get(OVERRIDE))
        return around

    def _after(self, earlier: Any, sites: Sequence[Site]) -> Any:
        def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            out = extra["original_block"](args) if earlier is None else earlier(args, extra)
            for site in sites:
                span = self.family.span(site, out, args.get("transformer_options") or {}, self.layout)
                tokens = self.steered(site, out[span.output], slice(span.start, span.stop))
                if tokens is not out[span.output]:
                    out = {**out, span.output: tokens}
            return out

        return block

    def steered(self, site: Site, tokens: Tensor, span: slice) -> Tensor:
        """Tokens (R, L, d) with the span of the steered rows changed: a copy, or the same object if unchanged."""
        self.visited.add(site)
        if tokens.shape[0] != self.count:
            raise SteeringError(
                f"site {site}",
                expected=f"{self.count} rows, as the model was called with",
                found=f"{tokens.shape[0]}",
                remedy="Another node adds rows inside the model, and ours could not be told apart. Steer without it.",
            )
        before = after = tokens[self.rows, span]
        if before.numel() == 0:  # a reference site without references
            return tokens
        step = Step(
            site=site,
            sigma=self.sigma,
            images=self.images,
            grid=self.layout.grid if site.stream == "image" and self.whole else None,
            seed=self.run.seed,
            observe=self.run.log.add,
        )
        for modifier in self.plan.at(site):
            after = modifier(after, step)
        if after is before:
            return tokens
        changed = tokens.clone()  # the host's blocks write in place; what is theirs stays theirs
        changed[self.rows, span] = after
        return changed


@contextmanager
def blocks_that_run(family: Family, dit: Any, sites: Sequence[Site]) -> Generator[set[Site]]:
    """Notes the sites whose block runs in the meantime, by the host's hooks or past them.

    What a caching node skips does not run. Whole blocks are looked at, because such nodes run parts of one to decide.
    """
    ran: set[Site] = set()
    with ExitStack() as stack:
        for site in sites:
            if site.index is not None:
                handle = family.block(dit, site).register_forward_pre_hook(partial(_note, ran, site))
                stack.callback(handle.remove)
        yield ran


def _note(ran: set[Site], site: Site, *_: object) -> None:
    ran.add(site)


@contextmanager
def running_eagerly(options: dict[str, Any]) -> Generator[None]:
    """Lets a compiled model run its steered calls as plain Python: compiled code would not see the edits.

    Raises:
        SteeringError: the model is compiled and torch (before 2.6) has no way to do that.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        yield
    elif hasattr(torch.compiler, "set_stance"):
        with torch.compiler.set_stance("force_eager"):
            yield
    elif "torch.compile" in options.get("wrappers", {}).get("apply_model", {}):
        raise SteeringError(
            "MODEL",
            expected="torch 2.6 or newer, which can run a compiled model eagerly",
            found=f"a compiled model and torch {torch.__version__}",
            remedy="Update torch, or remove the TorchCompileModel node.",
        )
    else:
        yield
