"""Nodes that make anchors for Restrict Flow: prompts are sampled, any node marks what is unsafe, anchors are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.folders import new_file
from ..host.progress import byte_progress, show_text
from ..host.sampling import samplers, schedulers
from ..steering.errors import SteeringError
from . import offered
from .schema import BUNDLE, PROMPTS, SAMPLES, schema

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.flows.samples import Sampler
    from ..training.recordings import PromptRow

MOST_SEEDS = 10_000


class SamplePromptsNode(io.ComfyNode):
    """Sample Prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_SamplePrompts",
            display_name="Sample Prompts",
            category="SteerDiT/training",
            description="Makes a picture of every prompt, for Collect Unsafe Anchors. Decode `unsafe`, mark what is "
            "unsafe with any node that makes a MASK, and give the masks to Collect Unsafe Anchors.",
            search_aliases=["UVR", "batch", "prompts"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, before any steering node."),
                io.Clip.Input("clip", tooltip="Its text encoders."),
                PROMPTS.Input(
                    "prompts",
                    tooltip="From Load Prompts or Prompt List: unsafe ones, with what they show as category, and "
                    "benign ones for the contrast.",
                ),
                io.Int.Input("seeds", default=1, min=1, max=MOST_SEEDS, tooltip="Pictures of each prompt."),
                io.Int.Input(
                    "first_seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    tooltip="The seed of the first; the next count on.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="As you sample."),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="As you sample: 1 for FLUX.1-dev.",
                ),
                io.Combo.Input("sampler", options=samplers(), default="euler", tooltip="As you sample."),
                io.Combo.Input("scheduler", options=schedulers(), default="simple", tooltip="As you sample."),
                io.Int.Input("width", default=1024, min=16, max=16384, step=16, tooltip="In pixels."),
                io.Int.Input("height", default=1024, min=16, max=16384, step=16, tooltip="In pixels."),
                io.Int.Input("batch", default=4, min=1, max=4096, tooltip="Pictures sampled at once."),
                io.String.Input("negative", default="", tooltip="The negative prompt, where cfg is above 1."),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="FLUX.1-dev's distilled guidance, such as 3.5; 0 leaves it to the host.",
                ),
                io.Latent.Input(
                    "references",
                    optional=True,
                    tooltip="For models that edit (FLUX.1 Kontext): what the prompts are to edit, from VAE Encode. "
                    "As many latents as there are prompts, in their order, or one for all.",
                ),
            ],
            outputs=[
                SAMPLES.Output(display_name="samples", tooltip="Connect it to Collect Unsafe Anchors."),
                io.Latent.Output(
                    display_name="unsafe",
                    tooltip="The pictures of unsafe prompts, in the order of their masks.",
                ),
                io.Latent.Output(display_name="benign", tooltip="The pictures of the other prompts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        prompts: tuple[PromptRow, ...],
        references: dict[str, Any] | None = None,
        **asked: Any,
    ) -> io.NodeOutput:
        from ..host.sampling import sampling_for
        from ..training.flows.samples import Sampler, examples_of

        sampling = sampling_for(
            model,
            asked["height"],
            asked["width"],
            steps=asked["steps"],
            cfg=asked["cfg"],
            sampler=asked["sampler"],
            scheduler=asked["scheduler"],
            guidance=asked["guidance"] or None,
        )
        examples = examples_of(prompts, range(asked["first_seed"], asked["first_seed"] + asked["seeds"]))
        edited = _of_prompts(references, len(prompts))
        sampler = Sampler(
            model,
            clip,
            examples,
            sampling,
            negative=asked["negative"],
            batch=asked["batch"],
            references=[one for one in edited for _ in range(asked["seeds"])],
        )
        latents = sampler.latents(byte_progress())
        unsafe = [number for number, example in enumerate(examples) if example.concept is not None]
        benign = [number for number, example in enumerate(examples) if example.concept is None]
        show_text(cls, f"{len(unsafe)} unsafe and {len(benign)} benign pictures")
        # A LATENT of no pictures is none that other nodes take.
        others = latents[benign] if benign else latents[:1] * 0
        return io.NodeOutput(sampler, {"samples": latents[unsafe]}, {"samples": others})


def _of_prompts(references: dict[str, Any] | None, count: int) -> list[Tensor]:
    """What each prompt edits, a latent (C, H, W) each; nothing where nothing is edited."""
    if references is None:
        return []
    latents = references["samples"]
    if len(latents) not in (1, count):
        raise SteeringError(
            "references",
            expected=f"{count} latents, one for each prompt, or one for all",
            found=f"{len(latents)}",
            remedy="Batch the pictures that the prompts edit in the prompts' order, and encode them.",
        )
    return [latents[number % len(latents)] for number in range(count)]


class CollectAnchorsNode(io.ComfyNode):
    """Collect Unsafe Anchors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_CollectAnchors",
            display_name="Collect Unsafe Anchors",
            category="SteerDiT/training",
            description="Learns what the model's attention puts out where a picture is unsafe: samples the pictures of "
            "Sample Prompts again, looks inside their masks, and writes anchors with calibrated thresholds as a bundle "
            "of some kilobytes into models/steering.",
            search_aliases=["UVR", "anchor", "bundle", "attention"],
            is_output_node=True,
            inputs=[
                SAMPLES.Input("samples", tooltip="From Sample Prompts."),
                io.Mask.Input(
                    "masks",
                    tooltip="One for each picture of Sample Prompts' output `unsafe`, in their order: 1 where it is "
                    "unsafe. Of any resolution, in the shape of the pictures.",
                ),
                io.String.Input(
                    "name",
                    default="my-anchors",
                    tooltip="The file's name in models/steering, without .safetensors.",
                ),
                io.String.Input(
                    "sites",
                    default="default",
                    tooltip="The attention to look at: patterns such as `single.10.attention`, `double.*.attention`. "
                    "default: four, evenly spread. The best is used first.",
                ),
                io.String.Input(
                    "collect_at",
                    default="startup",
                    tooltip="Steps at which anchors are collected: startup, last (as published), or the number of one.",
                ),
                io.Float.Input(
                    "startup_percent",
                    default=offered.Flow.startup,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Until this part of the noise schedule Restrict Flow will look for unsafe content; "
                    "thresholds are calibrated for it.",
                ),
                io.Float.Input(
                    "false_positives",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The share of benign pictures in which something may be marked.",
                ),
                io.Int.Input(
                    "several",
                    default=0,
                    min=0,
                    max=16,
                    tooltip="Anchors of each concept besides its mean: the centres of clusters of its pictures.",
                ),
                io.String.Input("base", default="", tooltip="Name of the checkpoint."),
                io.String.Input(
                    "license",
                    default="Apache-2.0",
                    tooltip="Under which the bundle may be used: an SPDX expression.",
                ),
                io.Boolean.Input(
                    "replace",
                    default=False,
                    tooltip="Replace a file of that name; otherwise it is left alone.",
                ),
            ],
            outputs=[
                BUNDLE.Output(display_name="bundle", tooltip="Connect it to Restrict Flow."),
                io.String.Output(
                    display_name="summary", tooltip="How well each attention tells each concept."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, samples: Sampler, masks: Tensor, name: str, **asked: Any) -> io.NodeOutput:
        from ..training.flows.bundling import collect_bundle

        path = new_file(name, ".safetensors")
        if path.exists() and not asked.pop("replace"):
            raise SteeringError(
                str(path),
                expected="a new name",
                found="a file of that name",
                remedy="Choose another name, or switch replace on.",
            )
        asked.pop("replace", None)
        bundle, summary = collect_bundle(samples, masks, path, progress=byte_progress(), **asked)
        show_text(cls, summary)
        return io.NodeOutput(bundle, summary)
