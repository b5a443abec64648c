"""Steering nodes: a MODEL and a bundle in, a MODEL that samples steered out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.progress import show_text
from . import offered
from .schema import BUNDLE, schedule_inputs, schema

if TYPE_CHECKING:
    from ..steering.formats.bundle import Bundle
    from ..steering.gates import Gate
    from ..steering.modifiers import Modifier
    from ..steering.sae import SelectedLatents


def _inputs(strength: str, default: float, largest: float) -> list[Any]:
    """The inputs of a steering node. Their names and order are an interface: append only."""
    return [
        io.Model.Input(
            "model", tooltip="The diffusion model to steer. It is not changed; the output is a copy."
        ),
        BUNDLE.Input(
            "bundle", tooltip="From Load Steering Bundle: what to look for, and where, in this model."
        ),
        io.Float.Input("strength", default=default, min=0.0, max=largest, step=0.05, tooltip=strength),
        io.String.Input(
            "categories",
            default="all",
            tooltip="Risk categories of the bundle to act on: all, a list such as `weapons, bloody`, or all but some: "
            "`-alcohol`.",
        ),
        io.String.Input(
            "sites",
            default="default",
            tooltip="Where to act: default is every site of the bundle. Patterns: `double.*.image`, `single.30-37.*`, "
            "`-text`.",
        ),
        *schedule_inputs(),
        io.Combo.Input(
            "gate",
            options=list(offered.GATES),
            default="image",
            tooltip="When to act. image: in pictures where a category's highest score passes its calibrated threshold; "
            "other pictures come out bit for bit as without steering. token: only on the patches or words that "
            "pass theirs. both: in pictures that pass, only on the patches or words that pass too, which spares what "
            "is beside the risk. always: wherever a latent fires at all.",
        ),
        io.Boolean.Input(
            "keep_norm",
            default=True,
            tooltip="Keep the length of each changed activation. Has no effect with form `paper`.",
        ),
        io.Combo.Input(
            "form",
            options=list(offered.FORMS),
            default=offered.FORMS[0],
            tooltip="default changes only what the unsafe latents say. paper is the published equation, word for word; "
            "it also moves benign content.",
        ),
        io.Combo.Input(
            "topk",
            options=list(offered.TOPK),
            default=offered.TOPK[0],
            optional=True,
            tooltip="For TopK autoencoders only, where a latent competes with all others. exact: loads the whole "
            "dictionary. threshold: judges each latent by the bundle's calibrated threshold. relu: no competition, "
            "more latents fire. auto: threshold where the bundle has some, else exact.",
        ),
    ]


def _steer(
    make: Callable[..., Modifier], node: type[io.ComfyNode], inputs: dict[str, Any], whole_in_paper_form: bool
) -> io.NodeOutput:
    from ..host.attach import attach_bundle
    from ..steering.competition import TopK, rule_at
    from ..steering.modifiers import Form
    from ..steering.schedules import Schedule
    from ..steering.sites import select_categories, select_sites

    bundle: Bundle = inputs["bundle"]
    topk = inputs.get("topk", TopK.AUTO)
    form = Form(inputs["form"])
    sites = select_sites(inputs["sites"], bundle.sites)
    # A category that these sites do not have would go unsteered without a word.
    categories = dict.fromkeys(
        name for site in sites or bundle.sites for name in bundle.sites[site].categories
    )
    chosen = dict.fromkeys(select_categories(inputs["categories"], categories))

    def modify(latents: SelectedLatents, gate: Gate) -> Modifier:
        return make(latents, gate, strength=inputs["strength"], keep_norm=inputs["keep_norm"], form=form)

    model = attach_bundle(
        inputs["model"],
        bundle,
        modify,
        sites=sites,
        categories=tuple(chosen),
        gate=inputs["gate"],
        schedule=Schedule(inputs["start_percent"], inputs["end_percent"]),
        whole=whole_in_paper_form and form is Form.PAPER,
        topk=topk,
    )
    steered = [site for site in sites if chosen.keys() & bundle.sites[site].categories.keys()]
    rules = "\n".join(f"{site}: {rule_at(bundle, site, topk).why}" for site in steered)
    show_text(node, rules)
    return io.NodeOutput(model, rules)


def _schema(node_id: str, display_name: str, description: str, inputs: list[Any]) -> io.Schema:
    return schema(
        node_id=node_id,
        display_name=display_name,
        category="SteerDiT",
        description=description,
        search_aliases=["steer", "safety", "SAE", "sparse autoencoder", "unsafe"],
        inputs=inputs,
        outputs=[
            io.Model.Output(
                display_name="model",
                tooltip="The steered model: connect it to the sampler or to another steering node.",
            ),
            io.String.Output(
                display_name="rules",
                tooltip="How latents fire at each site, whether that is exact, and why.",
            ),
        ],
        hidden=[io.Hidden.unique_id],
    )


class RepelNode(io.ComfyNode):
    """Repel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SteerDiT_Repel",
            "Repel",
            "Takes unsafe content out while the picture is made: where the bundle's unsafe latents fire, "
            "what they say is subtracted. Strength 0 only watches, for Steering Report.",
            _inputs(
                "How much of the unsafe part to take away: 1 removes it, more pushes beyond, 0 only watches.",
                2.0,
                10.0,
            ),
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..steering.modifiers import Repel

        return _steer(Repel, cls, inputs, whole_in_paper_form=False)


class BlendNode(io.ComfyNode):
    """Blend."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SteerDiT_Blend",
            "Blend",
            "Rewrites unsafe content while the picture is made: where the bundle's unsafe latents fire, "
            "what they say is replaced by what a safe counterpart says, from an adapted decoder. Needs a bundle with "
            "such a decoder.",
            _inputs("How much to replace: 1 replaces the unsafe part, 0 only watches.", 1.0, 10.0),
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..steering.modifiers import Blend

        return _steer(Blend, cls, inputs, whole_in_paper_form=True)
