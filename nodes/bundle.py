"""Nodes that bring a bundle onto the canvas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..host.folders import bundle_folders, file_fingerprint, list_bundles, resolve_bundle
from ..host.progress import byte_progress, interrupted, stop_if_interrupted
from ..steering.errors import DownloadCancelled, SteeringError
from .schema import BUNDLE, schema

if TYPE_CHECKING:
    from ..delivery.manifest import HubFile, Weight

REPOSITORY = "repository"


class LoadBundleNode(io.ComfyNode):
    """Load Steering Bundle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SteerDiT_LoadBundle",
            display_name="Load Steering Bundle",
            category="SteerDiT",
            description="Loads a steering bundle from models/steering: what a model's activations mean, and from which "
            "value on they count as unsafe. Connect it to Repel or Blend, or to Steer Conditioning or Steer Direction.",
            search_aliases=["steering", "safety", "SAE", "sparse autoencoder", "bundle"],
            inputs=[
                io.Combo.Input(
                    "bundle",
                    options=list_bundles(),
                    tooltip="A file in models/steering. It must be made for the model that you steer. Press R to see "
                    "new files.",
                ),
            ],
            outputs=[
                BUNDLE.Output(
                    display_name="bundle",
                    tooltip="Connect it to Repel or Blend; one with directions to Steer Conditioning or "
                    "Steer Direction.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, bundle: str | None = None) -> bool | str:
        """Refuses a file that cannot be used when the prompt is queued, before anything is sampled."""
        from ..steering.formats.bundle import open_bundle

        if bundle is None:
            return True  # linked from another node: known only when it runs
        try:
            open_bundle(resolve_bundle(bundle))
        except SteeringError as refusal:
            return str(refusal)
        return True

    @classmethod
    def fingerprint_inputs(cls, bundle: str) -> str:
        try:
            return file_fingerprint(resolve_bundle(bundle))
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(cls, bundle: str) -> io.NodeOutput:
        from ..steering.formats.bundle import open_bundle

        return io.NodeOutput(open_bundle(resolve_bundle(bundle)))


class DownloadBundleNode(io.ComfyNode):
    """Download Steering Bundle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        sources = [*_known(), REPOSITORY]
        return schema(
            node_id="SteerDiT_DownloadBundle",
            display_name="Download Steering Bundle",
            category="SteerDiT",
            description="Fetches a steering bundle into models/steering and loads it. A broken download goes on "
            "where it stopped, the file is checked before it gets its name, and what is there is not fetched again.",
            search_aliases=["steering", "hugging face", "huggingface", "fetch"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "source",
                    options=sources,
                    default=REPOSITORY,
                    tooltip="A bundle that SteerDiT knows, or `repository` for any file of a Hugging Face repository.",
                ),
                io.String.Input(
                    "repository",
                    default="",
                    tooltip="With source `repository`: owner/name, as on the repository's page.",
                ),
                io.String.Input(
                    "file",
                    default="",
                    tooltip="With source `repository`: the .safetensors file, with its folders if it is in some.",
                ),
                io.String.Input(
                    "sha256",
                    default="",
                    tooltip="With source `repository`: what the file must be, from its page. Empty: whatever the "
                    "repository says it is.",
                ),
            ],
            outputs=[
                BUNDLE.Output(display_name="bundle", tooltip="Connect it to Repel or Blend."),
                io.String.Output(
                    display_name="name", tooltip="The file's name, as Load Steering Bundle lists it."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, source: str, repository: str, file: str, sha256: str) -> str:
        from ..delivery.download import target_of

        try:
            return file_fingerprint(target_of(_wanted(source, repository, file), _folder()))
        except SteeringError:
            return file_fingerprint(None)

    @classmethod
    def execute(cls, source: str, repository: str, file: str, sha256: str) -> io.NodeOutput:
        from ..delivery.download import download
        from ..steering.formats.bundle import open_bundle

        try:
            path = download(
                _wanted(source, repository, file),
                _folder(),
                sha256=(sha256.strip() or None) if source == REPOSITORY else None,
                progress=byte_progress(),
                cancelled=interrupted,
            )
        except DownloadCancelled:
            stop_if_interrupted()
            raise
        return io.NodeOutput(open_bundle(path), path.name)


def _known() -> list[str]:
    from ..delivery.manifest import read_manifest

    try:
        return [weight.name for weight in read_manifest().bundles]
    except SteeringError:
        return []  # choosing one will say what is wrong with the manifest; the other nodes must load


def _wanted(source: str, repository: str, file: str) -> Weight | HubFile:
    from ..delivery.manifest import HubFile, read_manifest

    if source == REPOSITORY:
        return HubFile(repository.strip(), file.strip())
    return read_manifest().find(source)


def _folder() -> Path:
    return bundle_folders()[0]
