"""Nodes that steer by directions: a MODEL while it samples, or a CONDITIONING once and for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.progress import show_text
from . import offered
from .schema import BUNDLE, schedule_inputs, schema

if TYPE_CHECKING:
    from ..steering.direction_modifiers import Directional
    from ..steering.directions import DirectionSet
    from ..steering.firing import FiringRecord
    from ..steering.formats.bundle import Bundle

ALIASES = ["steer", "safety", "steering vector", "control vector", "direction", "unsafe"]


def _inputs(*between: Any) -> list[Any]:
    """What both nodes ask for. Names and order are an interface: append only."""
    return [
        BUNDLE.Input(
            "bundle",
            tooltip="A bundle with directions, from Load Steering Bundle or Save Bundle, made for this model.",
        ),
        io.Combo.Input(
            "operator",
            options=list(offered.DIRECTION_OPERATORS),
            default=offered.DIRECTION_OPERATORS[0],
            tooltip="project_out takes away what points to the unsafe and leaves tokens alone that do not. add moves "
            "every token from unsafe to safe. clamp takes away only what points further to the unsafe than benign "
            "prompts do.",
        ),
        io.Float.Input(
            "strength",
            default=4.0,
            min=-10.0,
            max=20.0,
            step=0.05,
            tooltip="project_out and clamp: 1 takes it all away, more pushes beyond. add: how many steps to the safe "
            "side, 3 to 5 as published; below 0 it goes the other way. 0 only watches.",
        ),
        io.Combo.Input(
            "weights",
            options=list(offered.WEIGHTINGS),
            default=offered.WEIGHTINGS[0],
            tooltip="gated: a category acts only where its score passes its benign threshold, and a prompt that passes "
            "none stays bit for bit as it is. given: by the bundle's weights. uniform: all alike. clamp is always "
            "gated, token by token.",
        ),
        io.String.Input(
            "categories",
            default="all",
            tooltip="Risk categories of the bundle to act on: all, a list such as `weapons, bloody`, all but some: "
            "`-alcohol`; or `global`, the one direction over all of them.",
        ),
        *between,
        io.Boolean.Input(
            "keep_norm",
            default=True,
            tooltip="Keep the length of each changed token. The published form of add does not.",
        ),
    ]


def _modifier(inputs: dict[str, Any]) -> Callable[[DirectionSet], Directional]:
    from ..steering.direction_modifiers import OPERATORS
    from ..steering.directions import Weighting

    operator = OPERATORS[inputs["operator"]]
    return lambda directions: operator(
        directions, inputs["strength"], Weighting(inputs["weights"]), inputs["keep_norm"]
    )


class SteerDirectionNode(io.ComfyNode):
    """Steer Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SteerDiT_SteerDirection",
            display_name="Steer Direction",
            category="SteerDiT",
            description="Steers a model by directions from unsafe to safe while it samples, at the text that enters it "
            "or inside its blocks, in the steps of a schedule. Negative prompts are left as they are.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The diffusion model to steer. It is not changed; the output is a copy."
                ),
                *_inputs(
                    io.String.Input(
                        "sites",
                        default="default",
                        tooltip="Where to act: default is every site at which the bundle has directions. Patterns: "
                        "`text`, `double.*.text`, `-text`.",
                    ),
                    *schedule_inputs(),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The steered model: connect it to the sampler or to another steering node.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..host.attach import attach_directions
        from ..steering.directions import chosen_names
        from ..steering.schedules import Schedule
        from ..steering.sites import select_sites

        bundle: Bundle = inputs["bundle"]
        sites = select_sites(inputs["sites"], bundle.directions)
        wanted = [bundle.directions[site] for site in sites or bundle.directions]
        names = chosen_names(inputs["categories"], wanted) if wanted else ()
        modify = _modifier(inputs)
        model = attach_directions(
            inputs["model"],
            bundle,
            lambda directions: modify(directions.only(names)),
            sites=sites,
            schedule=Schedule(inputs["start_percent"], inputs["end_percent"]),
        )
        return io.NodeOutput(model)


class SteerConditioningNode(io.ComfyNode):
    """Steer Conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SteerDiT_SteerConditioning",
            display_name="Steer Conditioning",
            category="SteerDiT",
            description="Steers an encoded prompt by directions from unsafe to safe, once, before anything is sampled: "
            "for every model whose text the host encodes, video models among them. A prompt that passes no gate comes "
            "out as it went in.",
            search_aliases=ALIASES,
            inputs=[
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="An encoded prompt, from the text encoder of the bundle's model. It is not changed; the "
                    "output is a copy.",
                ),
                *_inputs(),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder that made the conditioning, to be sure that it is the one that the "
                    "bundle names. Leave it unconnected for another precision of the same encoder.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="The steered prompt: connect it to the sampler."
                ),
                io.String.Output(
                    display_name="scores",
                    tooltip="How far each prompt points to each category, and which gates opened.",
                ),
                io.Boolean.Output(display_name="fired", tooltip="Whether any gate opened."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..host.conditioning import TEXT, require_encoder, steer_conditioning
        from ..steering.directions import DirectionSet

        bundle: Bundle = inputs["bundle"]
        directions = DirectionSet.of_bundle(bundle, TEXT).chosen(inputs["categories"])
        if inputs.get("clip") is not None:
            require_encoder(inputs["clip"], bundle.family, directions.about.encoder)
        records: list[FiringRecord] = []
        steered = steer_conditioning(
            inputs["conditioning"], bundle.family, _modifier(inputs)(directions), records.append
        )
        scores = _described(records)
        show_text(cls, scores)
        return io.NodeOutput(steered, scores, any(bool(record.reading.open.any()) for record in records))


def _described(records: Sequence[FiringRecord]) -> str:
    """A line for each prompt and category."""
    lines: list[str] = []
    for record in records:
        best = record.reading.scores.amax((0, 1)).tolist()
        for name, score, threshold in zip(record.categories, best, record.thresholds.tolist()):
            gate = "open" if score > threshold else "closed"
            said = f"{gate}, threshold {threshold:.3f}" if threshold != float("inf") else "not calibrated"
            lines.append(f"prompt {record.images[0] + 1}: {name} {score:.3f} ({said})")
    return "\n".join(lines) or "nothing was looked at"
