"""Restrict Flow (UVR): unsafe content is found in attention while the model samples, and cut off from its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.progress import show_text
from . import offered
from .schema import BUNDLE, schema

if TYPE_CHECKING:
    from torch import Tensor

    from ..steering.formats.bundle import Bundle

ALIASES = ["UVR", "attention", "safety", "unsafe", "mask", "inpaint", "Kontext", "edit"]


class RestrictFlowNode(io.ComfyNode):
    """Restrict Flow (UVR)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_RestrictFlow",
            display_name="Restrict Flow (UVR)",
            category="SteerDiT",
            description="Finds unsafe content in the model's attention during the first steps, and from then on lets "
            "less of the prompt or of the reference picture flow there. Where nothing is found, the picture comes out "
            "bit for bit as without it. For pictures that are made and for pictures that are edited.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The diffusion model to steer. It is not changed; the output is a copy."
                ),
                io.Combo.Input(
                    "task",
                    options=list(offered.FLOW_TASKS),
                    default=offered.FLOW_TASKS[0],
                    tooltip="generation: what is marked gets less of the text and the references. editing: text and "
                    "picture get less of the reference latents at the marked places; needs a ReferenceLatent. "
                    "both: both.",
                ),
                io.String.Input(
                    "concepts",
                    default="all",
                    tooltip="Concepts of the bundle to look for: all, a list such as `weapons, bloody`, or all but "
                    "some: `-alcohol`.",
                ),
                io.Combo.Input(
                    "score",
                    options=list(offered.FLOW_SCORES),
                    default=offered.FLOW_SCORES[0],
                    tooltip="How a patch is held against the anchors. whitened: their contrast to benign patches, "
                    "the surest. cosine: the angle to the mean anchor, seen from the benign mean. dot: as published.",
                ),
                io.Combo.Input(
                    "threshold",
                    options=list(offered.FLOW_THRESHOLDS),
                    default=offered.FLOW_THRESHOLDS[0],
                    tooltip="From which score on a patch is unsafe. calibrated: the bundle's. published: the paper's, "
                    "for score dot on FLUX.1 alone. given: threshold_value.",
                ),
                io.Float.Input(
                    "threshold_value",
                    default=0.0,
                    min=-1e6,
                    max=1e6,
                    step=0.01,
                    tooltip="With threshold `given`. whitened: 0 lies halfway between unsafe and benign.",
                ),
                io.String.Input(
                    "localise_at",
                    default="default",
                    tooltip="The attention where unsafe content is looked for: one that the bundle has anchors of. "
                    "default: the one that found it best.",
                ),
                io.String.Input(
                    "sites",
                    default="all",
                    tooltip="The attention where the flow is restricted: all, or patterns such as "
                    "`single.*.attention`, `double.1-5.attention`.",
                ),
                io.Float.Input(
                    "core",
                    default=offered.Flow.core,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="What attention from marked patches to text and references is multiplied by: 0 cuts it "
                    "off, 1 leaves it. In editing, attention to the reference at the marked places.",
                ),
                io.Float.Input(
                    "ring",
                    default=offered.Flow.ring,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The same for the patches around them.",
                ),
                io.Float.Input(
                    "safe",
                    default=offered.Flow.safe,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="What attention from marked patches to the rest of the picture is multiplied by; "
                    "above 1 they take after it.",
                ),
                io.Float.Input(
                    "noise",
                    default=offered.Flow.noise,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="How much of what marked patches attend to is replaced by noise until startup_percent. It "
                    "follows the sampler's seed. 0: none.",
                ),
                io.Float.Input(
                    "startup_percent",
                    default=offered.Flow.startup,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until this part of the noise schedule it looks for unsafe content and mixes in noise.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=offered.Flow.end,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until this part of the noise schedule the flow is restricted; 1 is to the end.",
                ),
                io.Combo.Input(
                    "form",
                    options=list(offered.FLOW_FORMS),
                    default=offered.FLOW_FORMS[0],
                    tooltip="renormalised: what is left of the attention sums to 1 again. unrenormalised: it does not, "
                    "as published; marked patches get less of everything.",
                ),
                io.Boolean.Input(
                    "several",
                    default=False,
                    tooltip="Hold patches against several anchors of a concept, not its mean alone, where the bundle "
                    "has some.",
                ),
                io.String.Input(
                    "heads",
                    default="all",
                    tooltip="Heads of attention that are restricted: all, or numbers such as `0, 3, 7`.",
                ),
                BUNDLE.Input(
                    "bundle",
                    optional=True,
                    tooltip="A bundle with anchors, from Load Steering Bundle or Collect Unsafe Anchors, made for this "
                    "model.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="In place of a bundle: what is unsafe is marked already. One mask for all pictures, or one "
                    "for each.",
                ),
                io.Float.Input(
                    "noise_percent",
                    optional=True,
                    default=offered.Flow.noise_end,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until this part of the noise schedule noise is mixed in, within startup_percent. Where it "
                    "stops early, what fills the place of the unsafe is cleaner.",
                ),
                io.Float.Input(
                    "spread",
                    optional=True,
                    default=offered.Flow.spread,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Patches beside marked ones are marked from this share of the threshold on. Lower it where "
                    "parts of what is unsafe stay; 1: none are.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The steered model: connect it to the sampler or to another steering node.",
                ),
                io.String.Output(
                    display_name="rules", tooltip="Where it looks, for what, by which thresholds."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, bundle: Bundle | None = None, mask: Tensor | None = None, **asked: Any
    ) -> io.NodeOutput:
        from ..host.attach import attach_flow, attention_sites
        from ..steering.flow.asked import described, restriction_asked

        restriction = restriction_asked(attention_sites(model), bundle, mask, **asked)
        steered = attach_flow(model, restriction, bundle)
        rules = described(restriction)
        if bundle is not None and restriction.site is not None:
            left_out = set(bundle.anchors[restriction.site].concepts) - set(restriction.concepts)
            rules += f"\nnot looked for: {', '.join(sorted(left_out))}" if left_out else ""
        show_text(cls, rules)
        return io.NodeOutput(steered, rules)
