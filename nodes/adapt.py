"""Adapt Decoder: what unsafe latents should say in a target domain, the encoder staying as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..host.folders import adaptations_folder
from ..host.progress import byte_progress, show_text, stop_if_interrupted
from ..steering.errors import SteeringError
from . import offered
from .schema import RECORDING, SAE, SELECTION, schema

if TYPE_CHECKING:
    from ..training.adaptation.terms import Losses
    from ..training.dictionaries.result import TrainedSAE
    from ..training.recordings import Recording
    from ..training.selection.choosing import Selection

SELECTED, ALL = "selected", "all"


class AdaptNode(io.ComfyNode):
    """Adapt Decoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_Adapt",
            display_name="Adapt Decoder",
            category="SteerDiT/training",
            description="Adapts an autoencoder's decoder to a target domain, for Blend; its encoder stays as it is, to "
            "the bit. Source tokens are replayed, so that what was known is kept; each term can be switched off.",
            search_aliases=["SafeDIG", "transfer", "fine-tune", "Blend"],
            inputs=[
                SAE.Input("sae", tooltip="From Train SAE."),
                RECORDING.Input("target", tooltip="The domain to adapt to: pairs of it, or its safe side."),
                RECORDING.Input(
                    "source",
                    optional=True,
                    tooltip="What the autoencoder was trained on, to be replayed. May be left out with replay or "
                    "stability 0.",
                ),
                SELECTION.Input(
                    "selection",
                    optional=True,
                    tooltip="From Select Latents: with rows `selected`, only these latents change.",
                ),
                io.Combo.Input(
                    "learn_from",
                    options=list(offered.LESSONS),
                    default=offered.LESSONS[0],
                    tooltip="pairs: unsafe latents learn to say what the safe rewrite has in their place. safe side: "
                    "the target's safe tokens are to be reconstructed, as the paper says.",
                ),
                io.String.Input(
                    "categories",
                    default="all",
                    tooltip="Risk categories of the target's pairs to learn from: all, or some of them.",
                ),
                io.Combo.Input(
                    "rows",
                    options=[SELECTED, ALL],
                    default=SELECTED,
                    tooltip="Which latents' rows may change; without a selection, all.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(offered.ADAPTATION_METHODS),
                    default=offered.ADAPTATION_METHODS[0],
                    tooltip="closed form: the exact minimum, for up to some thousand latents. steps: Adam on batches, "
                    "any size. auto: closed form where the latents are few.",
                ),
                io.Float.Input(
                    "stability",
                    default=offered.Adaptation.stability,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Weight of staying as it was on source tokens and in the weights; 0 switches it off.",
                ),
                io.Float.Input(
                    "weight",
                    default=offered.Adaptation.weight,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    round=False,
                    tooltip="Within stability: weight of the rows' relative change; 0 switches it off.",
                ),
                io.Float.Input(
                    "replay",
                    default=offered.Adaptation.replay,
                    min=0.0,
                    max=0.9,
                    step=0.05,
                    tooltip="Share of source tokens in a batch; 0 switches the replay off.",
                ),
                io.Int.Input(
                    "steps", default=offered.Adaptation.steps, min=1, max=2**31, tooltip="With method steps."
                ),
                io.Int.Input(
                    "batch",
                    default=offered.Adaptation.batch,
                    min=2,
                    max=2**24,
                    tooltip="Tokens that a step learns from.",
                ),
                io.Float.Input(
                    "rate",
                    default=offered.Adaptation.rate,
                    min=1e-6,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    tooltip="Adam's rate at the first step; it falls to 0.",
                ),
                io.Int.Input("seed", default=0, min=0, max=2**31, tooltip="Of the order of tokens."),
                io.Combo.Input(
                    "device",
                    options=["auto", "cpu", "cuda"],
                    default="auto",
                    tooltip="auto: the GPU where there is one. It is shared with the models that ComfyUI has loaded.",
                ),
            ],
            outputs=[
                SAE.Output(display_name="sae", tooltip="With the adapted decoder beside its own."),
                io.String.Output(display_name="report", tooltip="The loss's terms before and after."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        sae: TrainedSAE,
        target: Recording,
        learn_from: str,
        categories: str,
        rows: str,
        method: str,
        device: str,
        source: Recording | None = None,
        selection: Selection | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        from ..steering.sites import select_categories
        from ..training.adaptation.domains import adapt_sae
        from ..training.adaptation.terms import AdaptationConfig
        from ..training.assembling import origin_of
        from ..training.dictionaries.ranks import chosen_device

        config = AdaptationConfig(**settings)
        known = dict.fromkeys(s.category for s in target.manifest.samples if s.category is not None)
        chosen = select_categories(categories, known)
        latents = _rows(sae, selection) if rows == SELECTED else None
        bar = byte_progress()

        def progress(done: int, total: int) -> None:
            bar(done, total)
            stop_if_interrupted()

        found = adapt_sae(
            sae.to(chosen_device(device)),
            target,
            source,
            config,
            lesson=learn_from,
            categories=None if set(chosen) == set(known) else chosen,
            latents=latents,
            acting=selection.latents if selection is not None and rows == SELECTED else None,
            method=method,
            checkpoints=adaptations_folder(),
            progress=progress,
        )
        report = f"{origin_of(sae).site}: {found.how}\n  before {_said(found.before)}\n  after  {_said(found.after)}"
        show_text(cls, report)
        return io.NodeOutput(found.sae.to("cpu"), report, ui=ui.PreviewText(report))


def _rows(sae: TrainedSAE, selection: Selection | None) -> tuple[int, ...] | None:
    """The selected latents; None where nothing is connected."""
    from ..training.assembling import origin_of

    if selection is None:
        return None
    site = origin_of(sae).site
    if selection.site != site or not selection.union:
        raise SteeringError(
            "selection",
            expected=f"latents of the autoencoder at {site}",
            found=f"{len(selection.union)} latents at {selection.site}",
            remedy="Connect the selection that was made with this autoencoder, or choose rows `all`.",
        )
    return selection.union


def _said(losses: Losses) -> str:
    return (
        f"target {losses.target:.5f}  replay {losses.replay:.5f}  weights {losses.weight:.5f}  "
        f"total {losses.total:.5f}"
    )
