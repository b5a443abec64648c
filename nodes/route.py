"""Route Sites: where to train autoencoders, ranked before any is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..host.progress import byte_progress, show_text, stop_if_interrupted
from . import offered
from .schema import RECORDING, SITES, schema

if TYPE_CHECKING:
    from ..evaluation.bars import Bar
    from ..training.recordings import Recording
    from ..training.routing.ranking import Ranked, Weights

BOTH = "both"
PARTS = {"semantic": "S_sem", "binding": "S_bind", "stability": "S_stab", "cost": "cost"}
"""The weights, as the chart calls their terms."""


def _weight(name: str, what: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=getattr(offered.Routing, name),
        min=0.0,
        max=10.0,
        step=0.05,
        tooltip=f"Weight of {what}; 0 leaves it out.",
    )


class RouteNode(io.ComfyNode):
    """Route Sites."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_Route",
            display_name="Route Sites",
            category="SteerDiT/training",
            description="Ranks the recorded sites, for Repel and for Blend, by SafeDIG's routing score before any "
            "autoencoder is trained: how well the site follows the prompt's meaning, how tightly it is bound to the "
            "picture, how stable the change is, and what steering there costs.",
            search_aliases=["routing", "SafeDIG", "rank sites", "which block"],
            inputs=[
                io.Model.Input("model", tooltip="The model that was recorded."),
                io.Clip.Input("clip", tooltip="Its text encoders."),
                RECORDING.Input(
                    "recording",
                    tooltip="Unsafe prompts with their safe rewrites, and benign prompts, at all sites in question.",
                ),
                io.String.Input(
                    "sites",
                    default="all",
                    tooltip="Which recorded sites to rank: all, or patterns such as `double.*.image, -text`.",
                ),
                io.Combo.Input(
                    "operator",
                    options=[BOTH, *offered.ROUTE_OPERATORS],
                    default=BOTH,
                    tooltip="The ways of steering to rank the sites for.",
                ),
                io.Int.Input(
                    "count", default=3, min=1, max=100, tooltip="How many of the best sites to give on."
                ),
                io.Int.Input(
                    "pairs",
                    default=32,
                    min=3,
                    max=10_000,
                    tooltip="Pairs of pictures that are sampled again, to see what the model predicts on its way.",
                ),
                io.Int.Input(
                    "benign",
                    default=8,
                    min=1,
                    max=10_000,
                    tooltip="Benign pictures that are sampled with each candidate, to see what it costs and changes.",
                ),
                _weight("semantic", "S_sem: the site's changes are alike where the texts' changes are"),
                _weight("binding", "S_bind: the site's changes go with changes of the predicted picture"),
                _weight(
                    "stability", "S_stab: the change is the same across seeds, noise levels and categories"
                ),
                _weight("cost", "the cost, taken off: time, and change of benign pictures"),
            ],
            outputs=[
                SITES.Output(display_name="sites", tooltip="The best sites. Connect it to Train SAE."),
                io.String.Output(display_name="names", tooltip="The best sites, written out."),
                io.String.Output(
                    display_name="table", tooltip="All candidates, best first, with their terms."
                ),
                io.Image.Output(display_name="chart", tooltip="What each candidate's score is made of."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        recording: Recording,
        sites: str,
        operator: str,
        count: int,
        pairs: int,
        benign: int,
        **weights: float,
    ) -> io.NodeOutput:
        from ..evaluation.images import as_image
        from ..host.text import PromptEncoder
        from ..steering.sites import select_sites
        from ..training.recordings.resampling import Resampler
        from ..training.routing.candidates import measure
        from ..training.routing.ranking import Weights, best_sites, rank, table

        asked = Weights(**weights)
        bar = byte_progress()

        def progress(done: int, total: int) -> None:
            bar(done, total)
            stop_if_interrupted()

        measured = measure(
            Resampler(model, PromptEncoder(clip), recording),
            select_sites(sites, recording.sites),
            offered.ROUTE_OPERATORS if operator == BOTH else (operator,),
            pairs=pairs,
            benign=benign,
            weights=asked,
            progress=progress,
        )
        ranking = rank(measured, asked)
        best = best_sites(ranking, count)
        names, lines, picture = ", ".join(map(str, best)), table(ranking), as_image(_chart(ranking, asked))
        show_text(cls, lines)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (lines,)}
        return io.NodeOutput(best, names, lines, picture, ui=shown)


def _chart(ranking: tuple[Ranked, ...], weights: Weights) -> Any:
    from ..evaluation.bars import Bar, draw_bars

    bars: list[Bar] = []
    for line in ranking:
        parts = {
            said: (-1 if name == "cost" else 1) * getattr(weights, name) * getattr(line.scaled, name)
            for name, said in PARTS.items()
        }
        bars.append(Bar(str(line.candidate), parts))
    return draw_bars(
        "Routing", bars, "R = weighted terms, each from 0 to 1 among the candidates, less the cost"
    )
