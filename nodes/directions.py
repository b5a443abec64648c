"""Nodes that make directions: from pairs of prompts, in one encoder, and over benign texts into another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.progress import byte_progress, show_text, stop_if_interrupted
from . import offered
from .encoders import ENCODER
from .pairs import ALIASES, CATEGORY, PAIRS
from .schema import DIRECTION, PROMPTS, schema

if TYPE_CHECKING:
    from ..steering.directions import DirectionSet
    from ..training.directions import Benign, FittedMap, HiddenStates, PromptPairs
    from ..training.directions.sources import Progress

ALIGNMENT = io.Custom("STEERDIT_ALIGNMENT")
"""A FittedMap."""
AUTO = -1
BENIGN_TIP = (
    "From Load Prompts or Prompt List; all of them must be labelled benign. Unconnected: the 6,000 phrases and "
    "definitions from WordNet that come with SteerDiT."
)


class EstimateDirectionNode(io.ComfyNode):
    """Estimate Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_EstimateDirection",
            display_name="Estimate Direction",
            category=CATEGORY,
            description="The step from unsafe to safe in an encoder's states, for each category and for all: the mean "
            "difference of the pairs. Says how sure it is.",
            search_aliases=ALIASES,
            inputs=[
                ENCODER.Input("encoder", tooltip="From Load Language Model or Text Encoder States."),
                PAIRS.Input(
                    "pairs",
                    tooltip="From Load Prompt Pairs. Pairs whose split begins with held_out are not used.",
                ),
                io.Int.Input(
                    "layer",
                    default=AUTO,
                    min=AUTO,
                    max=10_000,
                    tooltip="Of the encoder: 0 is the embedding. -1 chooses: with target connected by how well layers "
                    "tell unsafe from safe and can be mapped, else at four fifths of the depth. The text that a "
                    "generator is given has no layers: leave it at -1.",
                ),
                io.Boolean.Input(
                    "counterfactual",
                    default=False,
                    tooltip="Give pairs more weight where a small change of the unsafe side makes it safe.",
                ),
                ENCODER.Input(
                    "target",
                    optional=True,
                    tooltip="Where the direction will be carried to. Only to choose the layer, by benign texts.",
                ),
                PROMPTS.Input("anchors", optional=True, tooltip=BENIGN_TIP),
            ],
            outputs=[
                DIRECTION.Output(
                    display_name="direction",
                    tooltip="Connect it to Align Encoders and Transfer Direction; or, if the encoder is the "
                    "generator's own text, to Calibrate Direction and Save Bundle.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Length and certainty of each, and the layers tried."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        encoder: HiddenStates,
        pairs: PromptPairs,
        layer: int,
        counterfactual: bool,
        target: HiddenStates | None = None,
        anchors: Any = None,
    ) -> io.NodeOutput:
        from ..training.directions import choose_layer, estimate_directions
        from ..training.directions.reports import estimate_report, layers_report

        chosen, scores = layer, []
        if layer == AUTO:
            benign = None if target is None else _benign(anchors)
            there = None if target is None else target.layers[-1]
            chosen, scores = choose_layer(encoder, pairs, target, there, benign, _progress())
        found = estimate_directions(
            encoder, chosen, pairs, counterfactual=counterfactual, progress=_progress()
        )
        report = "\n\n".join(filter(None, [estimate_report(found), layers_report(scores)]))
        show_text(cls, report)
        return io.NodeOutput(found.directions, report)


class AlignEncodersNode(io.ComfyNode):
    """Align Encoders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_AlignEncoders",
            display_name="Align Encoders",
            category=CATEGORY,
            description="Fits a map from one encoder's states to another's on benign texts alone, measures it on texts "
            "it was not fitted on, and refuses it where it is no better than chance. No unsafe text can be given.",
            search_aliases=[*ALIASES, "procrustes", "ridge"],
            inputs=[
                ENCODER.Input("source", tooltip="The encoder in which the direction was estimated."),
                ENCODER.Input(
                    "target", tooltip="From Text Encoder States, with the family of your generator."
                ),
                DIRECTION.Input(
                    "direction",
                    tooltip="From Estimate Direction in source, or from Import Direction: it says the layer.",
                ),
                io.Combo.Input(
                    "map",
                    options=list(offered.MAPS),
                    default=offered.MAPS[0],
                    tooltip="ridge carries directions best wherever we measured. procrustes keeps angles, mlp bends.",
                ),
                io.Float.Input(
                    "floor",
                    default=offered.FLOOR,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Refuse a map whose held-out R² is not so much above that of shuffled pairs.",
                ),
                io.Int.Input("seed", default=0, min=0, max=2**31, tooltip="Of which anchors are held out."),
                PROMPTS.Input("anchors", optional=True, tooltip=BENIGN_TIP),
            ],
            outputs=[
                ALIGNMENT.Output(display_name="alignment", tooltip="Connect it to Transfer Direction."),
                io.String.Output(display_name="report", tooltip="How good the map is, beside chance."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        source: HiddenStates,
        target: HiddenStates,
        direction: DirectionSet,
        map: str,
        floor: float,
        seed: int,
        anchors: Any = None,
    ) -> io.NodeOutput:
        from ..training.directions import align
        from ..training.directions.align import require_source
        from ..training.directions.reports import map_report

        require_source(direction, source)
        fitted = align(
            _benign(anchors),
            source,
            direction.about.encoder.layer,
            target,
            target.layers[-1],
            map,
            floor=floor,
            seed=seed,
            progress=_progress(),
        )
        report = map_report(fitted)
        show_text(cls, report)
        return io.NodeOutput(fitted, report)


def _gates(between: list[Any]) -> list[Any]:
    return [
        *between,
        ENCODER.Input(
            "target",
            tooltip="From Text Encoder States: the text that your generator is given. Gates are calibrated in it.",
        ),
        io.Float.Input(
            "quantile",
            default=offered.QUANTILE,
            min=0.5,
            max=1.0,
            step=0.001,
            tooltip="The share of benign texts on which a category's gate stays closed.",
        ),
        PROMPTS.Input(
            "benign",
            optional=True,
            tooltip="Benign prompts as you write them, to calibrate the gates by; the more like yours, the better. "
            + BENIGN_TIP,
        ),
        io.Boolean.Input(
            "joint",
            default=False,
            optional=True,
            tooltip="Set all categories' gates together: the quantile is then of the benign texts on which none of "
            "them opens. Off: of each category, so that several open more often than one.",
        ),
    ]


def _gate_outputs() -> list[Any]:
    return [
        DIRECTION.Output(display_name="direction", tooltip="Connect it to Save Bundle."),
        io.String.Output(display_name="report", tooltip="Each category's threshold."),
    ]


class TransferDirectionNode(io.ComfyNode):
    """Transfer Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_TransferDirection",
            display_name="Transfer Direction",
            category=CATEGORY,
            description="Carries directions over into the text of your generator, gives them the length that steps "
            "have there, and calibrates each category's gate on benign prompts.",
            search_aliases=ALIASES,
            inputs=_gates(
                [
                    DIRECTION.Input("direction", tooltip="From Estimate Direction."),
                    ALIGNMENT.Input(
                        "alignment",
                        tooltip="From Align Encoders, of the encoder that the direction lives in.",
                    ),
                ]
            ),
            outputs=_gate_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        direction: DirectionSet,
        alignment: FittedMap,
        target: HiddenStates,
        quantile: float,
        benign: Any = None,
        joint: bool = False,
    ) -> io.NodeOutput:
        from ..training.directions import transport

        return _calibrated(cls, transport(direction, alignment), target, quantile, benign, joint)


class CalibrateDirectionNode(io.ComfyNode):
    """Calibrate Direction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_CalibrateDirection",
            display_name="Calibrate Direction",
            category=CATEGORY,
            description="Calibrates the gates of directions on benign prompts: for directions that were estimated in "
            "the generator's own text, or imported. Transfer Direction does it by itself.",
            search_aliases=ALIASES,
            inputs=_gates(
                [
                    DIRECTION.Input(
                        "direction", tooltip="Of the text encoder's output, which the generator is given."
                    )
                ]
            ),
            outputs=_gate_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        direction: DirectionSet,
        target: HiddenStates,
        quantile: float,
        benign: Any = None,
        joint: bool = False,
    ) -> io.NodeOutput:
        return _calibrated(cls, direction, target, quantile, benign, joint)


def _calibrated(
    node: type[io.ComfyNode],
    directions: DirectionSet,
    target: HiddenStates,
    quantile: float,
    benign: Any,
    joint: bool,
) -> io.NodeOutput:
    from ..host.encoder_states import TextSlot
    from ..training.directions import calibrate
    from ..training.directions.reports import gates_report

    looked_at = target.steered() if isinstance(target, TextSlot) else target
    layer = directions.about.encoder.layer
    found = calibrate(
        directions,
        looked_at,
        layer,
        _benign(benign),
        quantile=quantile,
        joint=joint,
        progress=_progress(),
    )
    report = gates_report(found)
    show_text(node, report)
    return io.NodeOutput(found, report)


def _benign(prompts: Any) -> Benign:
    """Of a list of prompts, all of them labelled benign; without one, the anchors that come with the pack."""
    from ..training.directions import benign_anchors, read_anchors
    from ..training.directions.tables import Row

    if prompts is None:
        return read_anchors()
    return benign_anchors(
        Row(f"prompt {number}", {"prompt": row.text, "label": row.label, "category": row.category})
        for number, row in enumerate(prompts, 1)
    )


def _progress() -> Progress:
    show = byte_progress()

    def progress(done: int, total: int) -> None:
        stop_if_interrupted()
        show(done, total)

    return progress
