"""Train SAE: a recording in, a sparse autoencoder of one of its sites out, trained in a process of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from ..host.folders import training_folder
from ..host.progress import interrupted, picture_progress, show_text, stop_if_interrupted
from ..steering.errors import SteeringError
from . import offered
from .curve import curve, said
from .schema import RECORDING, SAE, SITES, schema

if TYPE_CHECKING:
    from ..steering.sites import Site
    from ..training.dictionaries.config import TrainingConfig
    from ..training.dictionaries.journal import Line
    from ..training.recordings import Recording

SETTINGS = ("activation", "expansion", "k", "steps", "batch", "rate", "precision", "patience", "seed")
"""The inputs that are fields of the configuration."""


class TrainSaeNode(io.ComfyNode):
    """Train SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_TrainSAE",
            display_name="Train SAE",
            category="SteerDiT/training",
            description="Trains a sparse autoencoder at one site of a recording, in a process of its own, and shows "
            "how it goes. Cancel keeps what was reached: the same settings go on from there. What is finished is not "
            "trained again.",
            search_aliases=["sparse autoencoder", "dictionary learning", "TopK", "BatchTopK", "JumpReLU"],
            inputs=[
                RECORDING.Input("recording", tooltip="From Record Activations or Load Recording."),
                io.String.Input(
                    "site",
                    default="",
                    tooltip="Such as `double.18.image`. Empty: the ranked site below, or the only one that is there.",
                ),
                io.Combo.Input(
                    "activation",
                    options=list(offered.ACTIVATIONS),
                    default=offered.Training.activation,
                    tooltip="batchtopk: k latents a token on average, by a threshold that is learnt; steers exactly "
                    "and cheaply. topk: exactly k. jumprelu: a learnt threshold for each latent, k as the target.",
                ),
                io.Int.Input(
                    "expansion",
                    default=offered.Training.expansion,
                    min=1,
                    max=256,
                    tooltip="Latents per width of the site: 16 as in the paper, 4 or 8 on small machines.",
                ),
                io.Int.Input(
                    "k", default=offered.Training.k, min=1, max=4096, tooltip="Latents that fire at a token."
                ),
                io.Int.Input(
                    "steps", default=offered.Training.steps, min=1, max=2**31, tooltip="How long to train."
                ),
                io.Int.Input(
                    "batch",
                    default=offered.Training.batch,
                    min=1,
                    max=2**24,
                    tooltip="Tokens that a step learns from.",
                ),
                io.Float.Input(
                    "rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.00001,
                    round=False,
                    tooltip="Adam's learning rate; 0 chooses it by the number of latents.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(offered.PRECISIONS),
                    default=offered.Training.precision,
                    tooltip="Of the one large product. bfloat16 is faster where the machine has it; everything else "
                    "stays float32.",
                ),
                io.Int.Input(
                    "patience",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="End early after so many evaluations in which the held-out FVU no longer fell; 0: never.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**31, tooltip="Of the start and of the order of tokens."
                ),
                io.Combo.Input(
                    "device",
                    options=["auto", "cpu", "cuda"],
                    default="auto",
                    tooltip="auto: the GPU where there is one. It is shared with the models that ComfyUI has loaded.",
                ),
                io.String.Input(
                    "labels",
                    default="all",
                    tooltip="Prompts to learn from: all, or some of unsafe, safe, benign.",
                ),
                io.String.Input(
                    "base",
                    default="not said",
                    tooltip="Name of the checkpoint that was recorded; the bundle will say it.",
                ),
                io.String.Input(
                    "more",
                    default="",
                    multiline=True,
                    tooltip="Any other setting, one a line: `warmup = 500`, `dead_after = 1000000`. The help page "
                    "lists them.",
                ),
                SITES.Input(
                    "sites", optional=True, tooltip="From Route Sites: where to train, the best site first."
                ),
                io.Int.Input(
                    "place",
                    default=1,
                    min=1,
                    max=1000,
                    optional=True,
                    tooltip="Which of the ranked sites: 1 is the best, 2 the next.",
                ),
                io.Float.Input(
                    "counterfactuals",
                    default=0.0,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    optional=True,
                    tooltip="Share of each batch that is made up of tokens around the crossing from unsafe to safe, "
                    "made from the recording's pairs; 0 trains on what was recorded alone.",
                ),
            ],
            outputs=[
                SAE.Output(display_name="sae", tooltip="Connect it to what selects latents."),
                io.Image.Output(display_name="curve", tooltip="FVU over steps."),
                io.String.Output(
                    display_name="report", tooltip="FVU, L0, dead latents, and where the file is."
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, more: str | None = None, labels: str | None = None) -> bool | str:
        """Refuses an unknown setting when the prompt is queued."""
        from ..training.dictionaries.config import TrainingConfig, parse_toml

        try:
            if more is not None:
                TrainingConfig.parse(parse_toml(more, "more"), "more")
            if labels is not None:
                _labels(labels)
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def execute(
        cls,
        recording: Recording,
        site: str,
        device: str,
        labels: str,
        base: str,
        more: str,
        sites: tuple[Site, ...] = (),
        place: int = 1,
        counterfactuals: float = 0.0,
        **asked: Any,
    ) -> io.NodeOutput:
        from ..training.dictionaries import job, process
        from ..training.dictionaries.journal import read

        config = config_of(asked, more)
        where = chosen_site(recording, site, sites, place)
        wanted = job.Job.of(
            recording,
            where,
            config=config,
            labels=_labels(labels),
            device=device,
            base=base.strip() or "not said",
            counterfactuals=counterfactuals,
        )
        folder = training_folder(f"{where} {wanted.identity}")
        job.prepare(folder, wanted)
        sae = process.run(folder, report=_Shown(cls, where, config.steps), stop=interrupted)
        if sae is None:
            stop_if_interrupted()
            raise SteeringError(
                str(folder),
                expected="a training that ends",
                found="one that was stopped",
                remedy="Queue it again: it goes on where it was.",
            )
        report, picture = f"{sae.report()}\n{sae.path}", curve(read(folder), config.steps, str(where))
        show_text(cls, report)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (report,)}
        return io.NodeOutput(sae, picture, report, ui=shown)


class _Shown:
    """Shows the lines of a training on the running node."""

    def __init__(self, node: type[io.ComfyNode], site: Site, steps: int) -> None:
        self.node, self.site, self.steps = node, site, steps
        self.progress = picture_progress(steps)

    def __call__(self, lines: Sequence[Line]) -> None:
        if lines:
            self.progress(lines[-1].step, curve(lines, self.steps, str(self.site)))
            show_text(self.node, f"{self.site}\n{said(lines, self.steps)}")


def config_of(asked: dict[str, Any], more: str) -> TrainingConfig:
    """The configuration that the inputs say; `more` has the last word.

    Raises:
        SteeringError: names the setting that cannot be.
    """
    from ..training.dictionaries.config import TrainingConfig, parse_toml

    return dataclasses.replace(
        TrainingConfig.parse({name: asked[name] for name in SETTINGS}, "Train SAE"),
        **TrainingConfig.checked(parse_toml(more, "more"), "more"),
    )


def chosen_site(recording: Recording, written: str, ranked: Sequence[Site], place: int) -> Site:
    """The site that is named, else the ranked one at that place, else the only one.

    Raises:
        SteeringError: it is not clear which is meant.
    """
    from ..steering.sites import Site

    if written.strip():
        return Site.parse(written.strip())
    if ranked:
        if place > len(ranked):
            raise SteeringError(
                "place",
                expected=f"1 to {len(ranked)}, as many sites as are ranked",
                found=f"{place}",
                remedy="Choose a smaller place.",
            )
        return ranked[place - 1]
    if len(recording.sites) != 1:
        raise SteeringError(
            "site",
            expected=f"one of {', '.join(map(str, recording.sites))}",
            found="none",
            remedy="Write one, or connect Route Sites.",
        )
    return next(iter(recording.sites))


def _labels(written: str) -> tuple[str, ...] | None:
    names = tuple(name for name in (part.strip() for part in written.split(",")) if name)
    if names in ((), ("all",), ("default",)):
        return None
    for name in names:
        if name not in offered.LABELS:
            raise SteeringError(
                "labels",
                expected=f"all, or some of {', '.join(offered.LABELS)}",
                found=repr(name),
                remedy="Write them with commas between: `unsafe, safe`.",
            )
    return tuple(label for label in offered.LABELS if label in names)
