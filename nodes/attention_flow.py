"""Attention Flow: where the picture's attention goes, block by block and step by step."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..host.progress import show_text
from ..host.sampling import samplers, schedulers
from .schema import schema


class AttentionFlowNode(io.ComfyNode):
    """Attention Flow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_AttentionFlow",
            display_name="Attention Flow",
            category="SteerDiT/analysis",
            description="Samples a picture and shows how much of its attention goes to the text, to each reference and "
            "to the picture itself, in every block at every step. It tells at which blocks and until which step "
            "restricting the flow can help.",
            search_aliases=["UVR", "attention map", "analysis", "Kontext"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="Its prompt, with ReferenceLatent for an edit. Its attention is shown.",
                ),
                io.Conditioning.Input("negative", tooltip="As you sample."),
                io.Latent.Input("latent_image", tooltip="As you sample; several pictures are averaged."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="As you sample.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="As you sample."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=100.0, step=0.1, tooltip="As you sample."),
                io.Combo.Input("sampler_name", options=samplers(), default="euler", tooltip="As you sample."),
                io.Combo.Input("scheduler", options=schedulers(), default="simple", tooltip="As you sample."),
                io.String.Input(
                    "sites",
                    default="all",
                    tooltip="Which attention is looked at: all, or patterns such as `single.*.attention`.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="picture", tooltip="A panel for each stream: blocks across, steps down."
                ),
                io.String.Output(display_name="table", tooltip="The same in figures."),
                io.Latent.Output(
                    display_name="samples", tooltip="The picture that was sampled, as without this node."
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, latent_image: dict[str, Any], sites: str, **asked: Any) -> io.NodeOutput:
        from ..host.attach import attach, attention_sites
        from ..host.sampling import sample_latent
        from ..steering.flow.asked import attention_asked
        from ..steering.flow.shares import ShareRecorder
        from ..steering.plan import Entry
        from ..training.flows.picture import flow_picture, flow_table

        recorder = ShareRecorder()
        chosen = attention_asked(sites, attention_sites(model))
        watched = attach(model, [Entry(site, recorder) for site in chosen])
        samples = sample_latent(watched, latent_image, **asked)
        blocks = [str(site).removesuffix(".attention") for site in recorder.sites]
        told = recorder.shares(), blocks, recorder.sigmas, recorder.streams
        picture, table = flow_picture(*told), flow_table(*told)
        show_text(cls, table)
        return io.NodeOutput(picture, table, samples, ui=ui.PreviewImage(picture, cls=cls))
