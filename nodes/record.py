"""Nodes that make a recording of a model, and that find one again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.folders import file_fingerprint, list_recordings, recording_folder
from ..host.progress import byte_progress, interrupted, show_text, stop_if_interrupted
from ..host.sampling import samplers, schedulers
from ..steering.errors import SteeringError
from . import offered
from .schema import PROMPTS, RECORDING, schema

if TYPE_CHECKING:
    from ..training.recordings import PromptRow

MOST_SEEDS = 10_000


class RecordNode(io.ComfyNode):
    """Record Activations."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_Record",
            display_name="Record Activations",
            category="SteerDiT/training",
            description="Samples every prompt and keeps what passes the chosen sites of the model, on the disk. This "
            "is what autoencoders, directions and gates are made from. A recording that was broken off goes on where "
            "it stopped; one that is there is not made again.",
            search_aliases=["activations", "capture", "dataset", "SAE", "hook"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, before any steering node."),
                io.Clip.Input("clip", tooltip="Its text encoders."),
                PROMPTS.Input("prompts", tooltip="From Load Prompts or Prompt List."),
                io.String.Input(
                    "name",
                    default="recording",
                    tooltip="Its folder in ComfyUI/output/steerdit/recordings. Another model, other prompts or other "
                    "settings need another name.",
                ),
                io.String.Input(
                    "sites",
                    default="default",
                    tooltip="Where to record: `double.*.image`, `single.30-37.*`, `-text`. default: the text that "
                    "enters, the last double block (SD3: the middle joint block), and the image in the last single "
                    "block (SD3: the last joint block but one).",
                ),
                io.String.Input(
                    "buckets",
                    default="4",
                    tooltip="Ranges of noise that are told apart later: a number of equal ranges, or edges in sigma "
                    "such as `0, 0.3, 0.7, 1`.",
                ),
                io.Int.Input(
                    "seeds",
                    default=1,
                    min=1,
                    max=MOST_SEEDS,
                    tooltip="Pictures of each prompt, each of its own noise.",
                ),
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
                    tooltip="As you sample: 1 for FLUX.1-dev, 3 to 5 for SD3. Only the prompt's own side is recorded.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=samplers(),
                    default="euler",
                    tooltip="As you sample. It must step through its schedule.",
                ),
                io.Combo.Input("scheduler", options=schedulers(), default="simple", tooltip="As you sample."),
                io.Int.Input(
                    "width", default=1024, min=16, max=16384, step=16, tooltip="Of the pictures, in pixels."
                ),
                io.Int.Input(
                    "height", default=1024, min=16, max=16384, step=16, tooltip="Of the pictures, in pixels."
                ),
                io.Int.Input(
                    "tokens_per_image",
                    default=64,
                    min=0,
                    max=2**24,
                    tooltip="How many tokens of a picture are kept at one site and step, drawn by chance; 0 keeps all.",
                ),
                io.Int.Input(
                    "cap",
                    default=0,
                    min=0,
                    max=2**40,
                    tooltip="At most so many tokens of each site, noise range and label; 0 sets no bound.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(offered.DTYPES),
                    default="bfloat16",
                    tooltip="How numbers are kept. float16 is finer than bfloat16, but late blocks of FLUX overflow.",
                ),
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
            ],
            outputs=[
                RECORDING.Output(display_name="recording", tooltip="Connect it to what learns from it."),
                io.String.Output(display_name="summary", tooltip="What was recorded."),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Refuses a name that is no folder's."""
        try:
            if name is not None:
                recording_folder(name)
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def execute(
        cls, model: Any, clip: Any, prompts: tuple[PromptRow, ...], name: str, **asked: Any
    ) -> io.NodeOutput:
        from ..host.text import PromptEncoder
        from ..training.recordings import Settings, samples_of
        from ..training.recordings.asked import buckets_named, sites_named
        from ..training.recordings.run import RecordingCancelled, record

        settings = Settings(
            steps=asked["steps"],
            cfg=asked["cfg"],
            sampler=asked["sampler"],
            scheduler=asked["scheduler"],
            height=asked["height"],
            width=asked["width"],
            buckets=buckets_named(model, asked["buckets"]),
            tokens_per_image=asked["tokens_per_image"] or None,
            dtype=asked["dtype"],
            cap=asked["cap"] or None,
            guidance=asked["guidance"] or None,
            negative=asked["negative"],
            batch=asked["batch"],
        )
        seeds = range(asked["first_seed"], asked["first_seed"] + asked["seeds"])
        try:
            recording = record(
                model,
                PromptEncoder(clip),
                samples_of(prompts, seeds),
                sites_named(model, asked["sites"]),
                settings,
                recording_folder(name),
                announce=lambda estimate: show_text(cls, str(estimate)),
                progress=byte_progress(),
                interrupted=interrupted,
            )
        except RecordingCancelled:
            stop_if_interrupted()
            raise
        assert recording is not None
        summary = recording.manifest.summary()
        show_text(cls, summary)
        return io.NodeOutput(recording, summary)


class LoadRecordingNode(io.ComfyNode):
    """Load Recording."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_LoadRecording",
            display_name="Load Recording",
            category="SteerDiT/training",
            description="A recording that Record Activations or `python -m steerdit record` has made, in "
            "ComfyUI/output/steerdit/recordings.",
            search_aliases=["activations", "dataset"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=list_recordings(offered.RECORDING_MANIFEST),
                    tooltip="Its folder. Press R to see new recordings.",
                )
            ],
            outputs=[
                RECORDING.Output(display_name="recording", tooltip="Connect it to what learns from it."),
                io.String.Output(display_name="summary", tooltip="What was recorded."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Refuses what is no whole recording when the prompt is queued."""
        from ..training.recordings import open_recording

        try:
            if name is not None:
                open_recording(recording_folder(name))
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        try:
            return file_fingerprint(recording_folder(name) / offered.RECORDING_MANIFEST)
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        from ..training.recordings import open_recording

        recording = open_recording(recording_folder(name))
        show_text(cls, recording.manifest.summary())
        return io.NodeOutput(recording, recording.manifest.summary())
