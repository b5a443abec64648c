"""Browse Latents: the pictures in which a latent fires most, with the patch where it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui
from PIL import Image

from ..host.progress import byte_progress, show_text, stop_if_interrupted
from ..steering.errors import SteeringError
from .schema import RECORDING, SAE, SELECTION, schema

if TYPE_CHECKING:
    from ..evaluation.comparison import Cell
    from ..steering.sites import Site
    from ..training.dictionaries.result import TrainedSAE
    from ..training.recordings import Recording
    from ..training.selection.browsing import Peak
    from ..training.selection.choosing import Selection

NOTHING = Image.new("RGB", (8, 8), (240, 240, 243))


class BrowseNode(io.ComfyNode):
    """Browse Latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        # Names and order are an interface: append only.
        return schema(
            node_id="SteerDiT_Browse",
            display_name="Browse Latents",
            category="SteerDiT/training",
            description="Shows for each latent the recorded prompts in which it fires most: the pictures, made again, "
            "with a ring around the patch where it fires.",
            search_aliases=["features", "interpret", "grid", "max activating"],
            inputs=[
                io.Model.Input("model", tooltip="The model that was recorded."),
                io.Clip.Input("clip", tooltip="Its text encoders."),
                io.Vae.Input("vae", tooltip="To see the pictures."),
                SAE.Input("sae", tooltip="From Train SAE."),
                RECORDING.Input("recording", tooltip="Where to look."),
                SELECTION.Input("selection", optional=True, tooltip="Shows the selected latents."),
                io.String.Input(
                    "latents",
                    default="",
                    tooltip="Latents to show, such as `3, 17, 100-103`; empty: those of the selection.",
                ),
                io.Int.Input("scenes", default=6, min=1, max=24, tooltip="Pictures of each latent."),
                io.Int.Input(
                    "most",
                    default=12,
                    min=1,
                    max=200,
                    tooltip="At most so many latents of the selection are shown.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="A row of pictures for each latent."),
                io.String.Output(
                    display_name="table", tooltip="Each latent's best prompts with their values."
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        sae: TrainedSAE,
        recording: Recording,
        latents: str,
        scenes: int,
        most: int,
        selection: Selection | None = None,
    ) -> io.NodeOutput:
        from ..evaluation.comparison import Column, Row, Sheet
        from ..evaluation.images import as_image, as_pictures
        from ..host.text import PromptEncoder
        from ..training.assembling import origin_of
        from ..training.recordings.resampling import Resampler
        from ..training.selection.browsing import top_samples

        place = origin_of(sae).site
        chosen = _chosen(latents, place, selection, most)
        resampler = Resampler(model, PromptEncoder(clip), recording)

        def read(tokens: int) -> None:
            stop_if_interrupted()

        found = top_samples(sae, recording, place, list(chosen), scenes, read)
        wanted = sorted({peak.sample for peaks in found.values() for peak in peaks})
        bar = byte_progress()
        pictures: dict[int, Image.Image] = {}
        for numbers, made in resampler.make(wanted):
            stop_if_interrupted()
            pictures.update(zip(numbers, as_pictures(vae.decode(made))))
            bar(len(pictures), len(wanted))
        samples = recording.manifest.samples
        grid = resampler.grid if place.stream == "image" else None
        rows = [
            Row(
                f"latent {latent}",
                [_cell(peaks, at, pictures, samples, grid) for at in range(scenes)],
                section=chosen[latent],
            )
            for latent, peaks in found.items()
        ]
        columns = [Column(f"{at + 1}") for at in range(scenes)]
        sheet = as_image(Sheet(f"Latents at {place}", columns, rows, footer=_footer(grid)).draw())
        table = "\n".join(_line(latent, peaks, samples) for latent, peaks in found.items())
        show_text(cls, table)
        return io.NodeOutput(sheet, table, ui={**ui.PreviewImage(sheet, cls=cls).as_dict(), "text": (table,)})


def _chosen(latents: str, site: Site, selection: Selection | None, most: int) -> dict[int, str]:
    """The latents to show, each with the heading that it stands under."""
    named = [term.strip() for term in latents.split(",") if term.strip()]
    if named:
        try:
            spans = [[int(end) for end in term.split("-")] for term in named]
        except ValueError:
            raise SteeringError(
                "latents",
                expected="numbers and spans such as `3, 17, 100-103`",
                found=repr(latents),
                remedy="Write it so.",
            ) from None
        return {latent: "" for span in spans for latent in range(span[0], span[-1] + 1)}
    headed: dict[int, str] = {}
    if selection is not None and selection.site == site:
        for category, of in selection.latents.items():
            headed.update(dict.fromkeys(of, category))
    if not headed:
        raise SteeringError(
            "latents",
            expected="latents to show, or a selection that has some at this site",
            found="neither",
            remedy="Write some, or connect Select Latents.",
        )
    return dict(list(headed.items())[:most])


def _cell(
    peaks: list[Peak], at: int, pictures: dict[int, Image.Image], samples: Any, grid: tuple[int, int] | None
) -> Cell:
    from ..evaluation.comparison import Cell

    if at >= len(peaks):
        return Cell(NOTHING)
    peak = peaks[at]
    marks = ()
    if grid is not None:
        row, column = divmod(peak.position, grid[1])
        marks = (((column + 0.5) / grid[1], (row + 0.5) / grid[0]),)
    sample = samples[peak.sample]
    return Cell(pictures[peak.sample], f"{peak.value:.2f} {sample.text}", sample.label == "unsafe", marks)


def _footer(grid: tuple[int, int] | None) -> str:
    ring = "Rings: the patch where the latent fires most. " if grid is not None else ""
    return f"{ring}Red frames: prompts that are labelled unsafe."


def _line(latent: int, peaks: list[Peak], samples: Any) -> str:
    if not peaks:
        return f"latent {latent}: never fires"
    best = "; ".join(f"{peak.value:.2f} {samples[peak.sample].text}" for peak in peaks)
    return f"latent {latent}: {best}"
