"""Writes the example workflow: one prompt and seed, sampled without steering, with Repel and with Blend.

    python -m steerdit.benchmarks.workflows.demo      starts a host, writes example_workflows/repel-demo.json

The demo finds what it changes by the titles below, so that the file may be rearranged on the canvas.
"""

from __future__ import annotations

from ..emoji_scenes import weights
from ..hosting.canvas import Canvas, Node, Output
from ..hosting.client import Client
from ..hosting.install import install
from ..hosting.server import Setup, running
from ..hosting.workflows import Json, ObjectInfo
from . import files
from .files import FOLDER, ROOT

FILE = FOLDER / "repel-demo.json"

PROMPT = "Prompt"
METHODS = {"base": "Without steering", "repel": "Repel", "blend": "Blend"}
REPORT = "What fired"
EXAMPLE, SEED = "a bomb next to a banana on a blue background, flat drawing", 9104

COLUMN = 350
ROW = 470
WELCOME = """# The same picture three times

Press **Run**. One prompt, one seed, three samplers:

1. **Without steering**: what the model makes of the prompt.
2. **Repel**: where the bundle's unsafe latents fire, what they say is subtracted while the picture is made.
3. **Blend**: what they say is replaced by what a safe counterpart says.

The weapon goes, the benign thing beside it stays. Then try

- `a glass of milk and a banana`: nothing unsafe, so no gate opens and all three pictures are the same, bit for bit;
- `a bloody dog`, `a burning house`, `a pint of beer`;
- *strength* 0 in Repel: nothing is changed, and the report says what would have been found;
- *categories* `-weapons`: the weapon stays, all else is watched.

**What fired** says which latents fired, where and when. In the heat map red is severe.
"""
ABOUT = """The model draws emoji scenes and is small enough for a CPU; its text encoder and codec are the demo's own.

**With your own model** keep *Load Steering Bundle*, *Repel*, *Blend* and *Steering Report*, and use your usual
loaders: a steering node goes between the model loader and the sampler. The bundle must be made for that model.
"""


def setup() -> Setup:
    """A host's base directory with the pack, the demo's own nodes and the world's weights.

    Raises FileNotFoundError, which says what to do, if weights are missing.
    """
    return Setup(
        packs={"steerdit": ROOT, "emoji-scenes": ROOT / "benchmarks" / "emoji_scenes" / "comfy_nodes"},
        models={"diffusion_models": [weights.path("generator")], "steering": [weights.path("bundle")]},
        settings={"Comfy.TutorialCompleted": True},
    )


def build(object_info: ObjectInfo) -> Json:
    """The workflow for the canvas, checked against what a host says of its nodes."""
    canvas = Canvas(object_info)
    canvas.note(WELCOME, (0, 0), (660, 350), title="Read me")
    canvas.note(ABOUT, (0, 400), (660, 150), title="About the models")
    model = canvas.add("UNETLoader", (0, 670), {"unet_name": weights.FILES["generator"]})
    bundle = canvas.add("SteerDiT_LoadBundle", (0, 810), {"bundle": weights.FILES["bundle"]})
    clip = canvas.add("EmojiScenes_TextEncoder", (0, 920))
    codec = canvas.add("EmojiScenes_Codec", (0, 1020))
    canvas.group("Models", (model, bundle, clip, codec))
    positive = canvas.add(
        "CLIPTextEncode", (COLUMN, 670), {"clip": clip[0], "text": EXAMPLE}, title=PROMPT, color="#232"
    )
    negative = canvas.add(
        "CLIPTextEncode",
        (COLUMN, 870),
        {"clip": clip[0], "text": ""},
        title="Negative prompt",
    )
    latent = canvas.add("EmptySD3LatentImage", (COLUMN, 1070), {"width": 128, "height": 128})
    canvas.group("Prompt", (positive, negative, latent))
    steering = {"base": model}
    for row, (method, title) in enumerate(METHODS.items()):
        y, shared = ROW * row, {"positive": positive[0], "negative": negative[0], "latent_image": latent[0]}
        members: list[Node] = []
        if method != "base":
            kind = "SteerDiT_Repel" if method == "repel" else "SteerDiT_Blend"
            steering[method] = canvas.add(
                kind, (2 * COLUMN + 40, y), {"model": model[0], "bundle": bundle[0]}, color="#323"
            )
            members.append(steering[method])
        sampler = canvas.add(
            "KSampler",
            (3 * COLUMN + 40, y),
            {
                "model": steering[method][0],
                "seed": SEED,
                "steps": 20,
                "cfg": 3.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "sgm_uniform",
                **shared,
            },
            title=f"Sample: {title}",
        )
        decoded = canvas.add(
            "VAEDecode", (4 * COLUMN + 40, y), {"samples": sampler[0], "vae": codec[0]}, size=(200, 60)
        )
        saved = canvas.add(
            "SaveImage",
            (4 * COLUMN + 280, y),
            {"images": decoded[0], "filename_prefix": f"steerdit/{method}"},
            size=(300, 340),
            title=f"Picture: {title}",
        )
        canvas.group(title, [*members, sampler, decoded, saved], color="#a1309b" if members else "#3f789e")
        if method == "repel":
            _report(canvas, sampler[0], decoded[0], 5 * COLUMN + 300, y)
    return canvas.as_json()


def _report(canvas: Canvas, samples: Output, image: Output, x: float, y: float) -> None:
    report = canvas.add(
        "SteerDiT_Report",
        (x, y),
        {"samples": samples, "image": image},
        size=(300, 360),
        title=REPORT,
        color="#432",
    )
    table = canvas.add(
        "PreviewAny", (x + COLUMN, y), {"source": report["table"]}, size=(560, 360), title="Table"
    )
    canvas.group("What fired under Repel", (report, table), color="#b58b2a")


def read() -> Json:
    """The committed workflow."""
    return files.read(FILE)


def main() -> None:
    with running(install(), setup(), threads=1) as host:
        files.save(FILE, build(Client(host.url).object_info()))


if __name__ == "__main__":
    main()
