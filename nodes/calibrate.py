"""Calibrate Gates: from which score on a category counts as there, and what that is expected to cost and to catch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..host.progress import byte_progress, show_text, stop_if_interrupted
from ..steering.errors import SteeringError
from . import offered
from .schema import PARTS, RECORDING, SAE, SELECTION, schema

if TYPE_CHECKING:
    from ..steering.formats.header import Category, RateRecord
    from ..steering.sites import Site
    from ..training.assembling import Part
    from ..training.dictionaries.result import TrainedSAE
    from ..training.recordings import Recording
    from ..training.selection.choosing import Selection

QUANTILES, CROSSING = "quantiles", "crossing"


class CalibrateNode(io.ComfyNode):
    """Calibrate Gates."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_Calibrate",
            display_name="Calibrate Gates",
            category="SteerDiT/training",
            description="Sets the gates of each risk category by benign and unsafe pictures, and says how often they "
            "will open on either, with confidence intervals. Take a recording of prompts that the autoencoder has not "
            "seen.",
            search_aliases=["threshold", "false positive", "recall"],
            inputs=[
                SAE.Input("sae", tooltip="From Train SAE or Adapt Decoder."),
                SELECTION.Input("selection", tooltip="From Select Latents."),
                RECORDING.Input(
                    "recording", tooltip="Unsafe and benign prompts, at best other ones than in training."
                ),
                io.Combo.Input(
                    "thresholds",
                    options=[QUANTILES, CROSSING],
                    default=QUANTILES,
                    tooltip="quantiles: above what benign pictures show. crossing: where counterfactual tokens turn "
                    "safe; needs pairs.",
                ),
                io.Float.Input(
                    "quantile",
                    default=offered.Gates.quantile,
                    min=0.5,
                    max=1.0,
                    step=0.001,
                    round=False,
                    tooltip="Of benign pictures and tokens, below which a gate stays shut.",
                ),
                io.Float.Input(
                    "margin",
                    default=offered.Gates.margin,
                    min=1.0,
                    max=100.0,
                    step=0.05,
                    tooltip="The image gate is so many times above that, where benign and unsafe scores overlap.",
                ),
                io.Int.Input(
                    "folds",
                    default=offered.Gates.folds,
                    min=2,
                    max=1000,
                    tooltip="The rates are of pictures that the other folds have set the threshold for.",
                ),
                PARTS.Input(
                    "parts",
                    optional=True,
                    tooltip="From Calibrate Gates of another site, to make one bundle of several sites.",
                ),
            ],
            outputs=[
                PARTS.Output(display_name="parts", tooltip="Connect it to Save SAE Bundle."),
                io.String.Output(
                    display_name="table", tooltip="Each category's thresholds and expected rates."
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        sae: TrainedSAE,
        selection: Selection,
        recording: Recording,
        thresholds: str,
        quantile: float,
        margin: float,
        folds: int,
        parts: tuple[Part, ...] = (),
    ) -> io.NodeOutput:
        from ..training.assembling import Part, origin_of
        from ..training.gates.sites import calibrate_site
        from ..training.gates.thresholds import GateRule

        rule = GateRule(quantile, margin, folds)
        site = origin_of(sae).site
        if selection.site != site:
            raise SteeringError(
                "selection",
                expected=f"latents of the autoencoder at {site}",
                found=f"latents at {selection.site}",
                remedy="Connect the selection that was made with this autoencoder.",
            )
        bar, total, done = byte_progress(), recording.count(site), 0

        def progress(tokens: int) -> None:
            nonlocal done
            done += tokens
            bar(done, total)
            stop_if_interrupted()

        found = calibrate_site(
            sae,
            recording,
            site,
            selection.latents,
            rule,
            weights=selection.weights or None,
            at_crossing=thresholds == CROSSING,
            progress=progress,
        )
        table = "\n".join(_line(site, name, found.get(name)) for name in selection.latents)
        show_text(cls, table)
        return io.NodeOutput((*parts, Part(sae, found)), table, ui=ui.PreviewText(table))


def _line(site: Site, name: str, category: Category | None) -> str:
    if category is None:
        return f"{site} {name}: no latents"
    gate = category.gate
    return (
        f"{site} {name}: {len(category.latents)} latents, token > {gate.token:.3g}, image > {gate.image:.3g}; opens on "
        f"{_rate(gate.recall)} of unsafe and {_rate(gate.false_positive)} of other pictures"
    )


def _rate(rate: RateRecord | None) -> str:
    return "-" if rate is None else f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
