"""The node that brings another project's sparse autoencoder onto the canvas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..host.folders import file_fingerprint, list_bundles, resolve_bundle
from ..steering.errors import SteeringError
from . import offered
from .schema import BUNDLE, schema

if TYPE_CHECKING:
    from ..steering.formats.foreign.imported import ImportedBundle

SETTINGS = (
    "family", "site", "latents", "category", "threshold", "format", "orientation", "width", "k", "input_scale",
    "trained_here",
)  # fmt: skip
"""The inputs beside the file."""


class ImportSaeNode(io.ComfyNode):
    """Import SAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_ImportSAE",
            display_name="Import SAE",
            category="SteerDiT",
            description="Uses a sparse autoencoder that another project trained (SAELens, sparsify, "
            "dictionary_learning, finebooru, ...) as a bundle: you say where it acts and which latents to steer. "
            "Only those are read from the file. Pickles (.pt, .pth) are converted first: `python -m steerdit convert`.",
            search_aliases=["SAE", "sparse autoencoder", "SAELens", "sparsify", "dictionary", "convert"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=list_bundles(),
                    tooltip="A .safetensors file in models/steering, with its cfg.json or config.json in the same "
                    "folder.",
                ),
                io.Combo.Input(
                    "family",
                    options=list(offered.SAE_FAMILIES),
                    default=offered.SAE_FAMILIES[0],
                    tooltip="The kind of model on whose activations it was trained.",
                ),
                io.String.Input(
                    "site",
                    default="",
                    tooltip="Where it was trained: text, double.18.image, single.37.text, joint.5.image ... "
                    "Empty: as the file's folder says, if it does.",
                ),
                io.String.Input(
                    "latents",
                    default="",
                    tooltip="Its latents to steer, with weights if they differ: `3, 17:0.5, 100-103`.",
                ),
                io.String.Input(
                    "category",
                    default="imported",
                    tooltip="What these latents stand for, as Repel's categories and the report call it.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.01,
                    tooltip="Gates open where the latents' weighted sum is above it. 0: wherever one fires; look at "
                    "Steering Report to choose better.",
                ),
                io.Combo.Input(
                    "format",
                    options=[offered.AUTO, *offered.FORMATS],
                    default=offered.AUTO,
                    tooltip="Whose file it is; auto looks.",
                ),
                io.Combo.Input(
                    "orientation",
                    options=list(offered.ORIENTATIONS),
                    default=offered.AUTO,
                    tooltip="Which way the matrices of N latents of width d lie. Their shapes tell it unless N = d.",
                ),
                io.Int.Input(
                    "width", default=0, min=0, max=2**20, tooltip="Width d of the site, to be sure; 0: any."
                ),
                io.Int.Input(
                    "k",
                    default=0,
                    min=0,
                    max=2**20,
                    tooltip="Latents that a TopK autoencoder keeps, where its file does not say it (Qwen-Scope); "
                    "0: it does.",
                ),
                io.Float.Input(
                    "input_scale",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.0001,
                    tooltip="What activations were multiplied by in training, where that is not folded into the "
                    "weights; 0: as the file says.",
                ),
                io.Boolean.Input(
                    "trained_here",
                    default=False,
                    tooltip="It was trained at this very site, although its format or name says something else.",
                ),
            ],
            outputs=[BUNDLE.Output(display_name="bundle", tooltip="Connect it to Repel.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None, **others: Any) -> bool | str:
        """Refuses what does not fit when the prompt is queued, if nothing of it is linked."""
        if file is None or any(others.get(name) is None for name in SETTINGS):
            return True  # linked from another node: known only when it runs
        try:
            _imported(file, **others)
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> str:
        from ..steering.formats.foreign import sidecars

        try:
            path = resolve_bundle(file)
        except SteeringError:
            return file_fingerprint(None)
        return f"{file_fingerprint(path)} {' '.join(map(file_fingerprint, sidecars(path)))} {sorted(others.items())}"

    @classmethod
    def execute(cls, file: str, **others: Any) -> io.NodeOutput:
        return io.NodeOutput(_imported(file, **others))


def _imported(
    file: str,
    family: str,
    site: str,
    latents: str,
    category: str,
    threshold: float,
    format: str,
    orientation: str,
    width: int,
    k: int,
    input_scale: float,
    trained_here: bool,
) -> ImportedBundle:
    from ..steering.formats.foreign import Declared, open_foreign
    from ..steering.formats.foreign.imported import Placed, import_dictionary

    declared = Declared(width or None, orientation, k or None, input_scale or None, trained_here)
    dictionary = open_foreign(Path(resolve_bundle(file)), declared, format)
    placed = Placed(family, site, {category.strip(): latents}, threshold, name=Path(file).stem)
    return import_dictionary(dictionary, placed)
