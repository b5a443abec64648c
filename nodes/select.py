"""Select Latents: which latents of an autoencoder stand for each risk, judged on held-out prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..host.progress import byte_progress, show_text, stop_if_interrupted
from . import offered
from .schema import RECORDING, SAE, SELECTION, schema

if TYPE_CHECKING:
    from ..training.dictionaries.result import TrainedSAE
    from ..training.recordings import Recording


class SelectNode(io.ComfyNode):
    """Select Latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_Select",
            display_name="Select Latents",
            category="SteerDiT/training",
            description="Chooses the latents that stand for each risk category of a recording, and says how well each "
            "tells unsafe pictures from others on prompts that had no part in choosing it.",
            search_aliases=["features", "SAeUron", "counterfactual", "CAT"],
            inputs=[
                SAE.Input("sae", tooltip="From Train SAE."),
                RECORDING.Input(
                    "recording",
                    tooltip="Unsafe prompts with their categories, safe rewrites and benign prompts.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(offered.SELECTION_METHODS),
                    default=offered.Selecting.method,
                    tooltip="score: particular to the category at some noise level (SAeUron). flips: fall silent in "
                    "the smallest change that makes an unsafe token safe (counterfactual; needs pairs).",
                ),
                io.Int.Input(
                    "count",
                    default=offered.Selecting.count,
                    min=1,
                    max=4096,
                    tooltip="At most so many latents a category.",
                ),
                io.Float.Input(
                    "ratio",
                    default=offered.Selecting.ratio,
                    min=1.0,
                    max=1000.0,
                    step=0.5,
                    tooltip="score: a latent's mean on unsafe tokens is above so many times that on others.",
                ),
                io.Float.Input(
                    "least",
                    default=offered.Selecting.least,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="flips: a latent falls silent in at least this share of the pairs.",
                ),
                io.Float.Input(
                    "held_out",
                    default=offered.Selecting.held_out,
                    min=0.01,
                    max=0.9,
                    step=0.01,
                    tooltip="Share of the prompts that latents are judged on, not chosen by.",
                ),
                io.Int.Input("seed", default=0, min=0, max=2**31, tooltip="Of that division."),
                io.Combo.Input(
                    "device",
                    options=["auto", "cpu", "cuda"],
                    default="auto",
                    tooltip="Where tokens are encoded: auto is the GPU where there is one.",
                ),
            ],
            outputs=[
                SELECTION.Output(display_name="selection", tooltip="Connect it to Calibrate Gates."),
                io.String.Output(
                    display_name="table",
                    tooltip="Each latent with its precision and recall on held-out prompts.",
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        sae: TrainedSAE,
        recording: Recording,
        method: str,
        count: int,
        ratio: float,
        least: float,
        held_out: float,
        seed: int,
        device: str,
    ) -> io.NodeOutput:
        from ..training.assembling import origin_of
        from ..training.dictionaries.ranks import chosen_device
        from ..training.gates.weights import weighed
        from ..training.selection.choosing import SelectionRule, select_latents

        rule = SelectionRule(method, count, ratio, least, held_out, seed)
        site = origin_of(sae).site
        passes = 3 if method == "score" else 2
        bar, total, done = byte_progress(), passes * recording.count(site), 0

        def progress(tokens: int) -> None:
            nonlocal done
            done += tokens
            bar(done, total)
            stop_if_interrupted()

        placed = sae.to(chosen_device(device))
        found = select_latents(placed, recording, site, rule, progress=progress)
        selection = weighed(found, placed, recording, progress)
        table = selection.table()
        show_text(cls, table)
        return io.NodeOutput(selection, table, ui=ui.PreviewText(table))
