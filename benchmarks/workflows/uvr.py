"""Writes the workflows of Restrict Flow: anchors are collected in the graph, then a picture is made or edited by them.

    python -m steerdit.benchmarks.workflows.uvr      starts a host, writes example_workflows/uvr-{generate,edit}.json

On the demo's models, with sizes for some minutes of a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from ..emoji_scenes import weights
from ..hosting.canvas import Canvas, Node, Output
from ..hosting.client import Client
from ..hosting.install import install
from ..hosting.server import Setup, running
from ..hosting.workflows import Json, ObjectInfo
from . import files
from .demo import EXAMPLE, SEED, setup
from .files import FOLDER
from .prompts import as_csv

FILES = {name: FOLDER / f"uvr-{name}.json" for name in ("generate", "edit")}
BUNDLE = "emoji-scenes-anchors"
PROMPTS, COLLECT, RESTRICT = "Prompts to learn from", "2 Collect anchors", "3 Restrict"
PICTURES = {"base": "Without restriction", "uvr": "With restriction"}
FOUND, FLOW = "What was found", "Where attention goes"
INSTRUCTION = "make the background pink"
COUNT, DRAWN = 48, 606
"""Unsafe prompts, and the seed that they are drawn by."""

COLUMN = 350
SAMPLED: Json = {"steps": 20, "cfg": 3.0, "scheduler": "sgm_uniform"}
NAME = "dpmpp_2m"
WELCOME = {
    "generate": """# Unsafe content is cut off from its source

Press **Run** and wait some minutes (on the CPU). From left to right:

1. **Sample Prompts** makes pictures of unsafe and benign prompts; a node marks what is unsafe in them. Here it is the
   demo's judge; with your own model take any node that makes a MASK.
2. **Collect Unsafe Anchors** learns what attention puts out there, and writes a bundle of some kilobytes.
3. **Restrict Flow** finds that in the first steps of a new picture, and lets less of the prompt flow there.

The weapon goes, what stands beside it stays. Then try

- `a glass of milk and a banana`: nothing is found, and both pictures are the same, bit for bit;
- *end_percent* 0: nothing is restricted, and Flow Mask shows what would have been.
""",
    "edit": """# An edit is kept from carrying on what is unsafe

Press **Run** and wait some minutes (on the CPU). A reference picture with something unsafe is made first, and edited by
an instruction: once as it is, once with **Restrict Flow**, which finds what the reference brings in and lets less of it
flow to the new picture.

- *task* `editing` restricts the reference, `generation` the instruction, `both` both.
- *end_percent* 1: the reference keeps feeding the picture to the last step, so it is restricted to the last step.
""",
}
ABOUT = """**With your own model** keep *Sample Prompts*, *Collect Unsafe Anchors*, *Restrict Flow* and *Flow Mask*, and
use your usual loaders (FLUX.1, SD3, Qwen-Image; for edits FLUX.1 Kontext with *ReferenceLatent*, and *references* of
Sample Prompts), your own prompts, and a node that marks what is unsafe. Collect once;
afterwards *Load Steering Bundle* loads the anchors.
"""


def build(name: str, object_info: ObjectInfo) -> Json:
    """The workflow for the canvas, checked against what a host says of its nodes."""
    canvas = Canvas(object_info)
    canvas.note(WELCOME[name], (0, 0), (660, 400), title="Read me")
    canvas.note(ABOUT, (0, 450), (660, 160), title="With your own model")
    model = canvas.add("UNETLoader", (0, 720), {"unet_name": weights.FILES["generator"]})
    clip = canvas.add("EmojiScenes_TextEncoder", (0, 860))
    codec = canvas.add("EmojiScenes_Codec", (0, 960))
    loaders = [model, clip, codec]
    if name == "edit":
        editor = canvas.add(
            "UNETLoader", (0, 1060), {"unet_name": weights.EDITOR}, title="The model that edits"
        )
        loaders.append(editor)
    canvas.group("Models", loaders)
    bundle = _anchors(canvas, model[0], clip[0], codec[0])
    if name == "generate":
        _generated(canvas, model[0], clip[0], codec[0], bundle)
    else:
        _edited(canvas, model[0], editor[0], clip[0], codec[0], bundle)
    return canvas.as_json()


def _anchors(canvas: Canvas, model: Output, clip: Output, codec: Output) -> Output:
    said = canvas.add(
        "SteerDiT_PromptList", (COLUMN, 720), {"text": as_csv(COUNT, DRAWN)}, title=PROMPTS, size=(300, 300)
    )
    sampled = canvas.add(
        "SteerDiT_SamplePrompts",
        (2 * COLUMN, 720),
        {"model": model, "clip": clip, "prompts": said["prompts"], **SAMPLED, "sampler": NAME, "width": 128,
         "height": 128, "batch": 16},
        title="1 Sample prompts",
        size=(300, 460),
        color="#232",
    )  # fmt: skip
    decoded = canvas.add(
        "VAEDecode", (3 * COLUMN, 720), {"samples": sampled["unsafe"], "vae": codec}, size=(220, 60)
    )
    masks = canvas.add(
        "EmojiScenes_UnsafeMask",
        (3 * COLUMN, 840),
        {"images": decoded[0]},
        title="Mark what is unsafe",
        size=(220, 60),
    )
    collected = canvas.add(
        "SteerDiT_CollectAnchors",
        (4 * COLUMN - 60, 720),
        {"samples": sampled["samples"], "masks": masks[0], "name": BUNDLE, "base": "emoji-scenes-flux",
         "sites": "all", "replace": True},
        title=COLLECT,
        size=(420, 560),
        color="#323",
    )  # fmt: skip
    canvas.group("Anchors", (said, sampled, decoded, masks, collected))
    return collected["bundle"]


def _generated(canvas: Canvas, model: Output, clip: Output, codec: Output, bundle: Output) -> None:
    x = 5 * COLUMN + 60
    positive = canvas.add(
        "CLIPTextEncode", (x, 720), {"clip": clip, "text": EXAMPLE}, title="Prompt", color="#232"
    )
    negative = canvas.add("CLIPTextEncode", (x, 920), {"clip": clip, "text": ""}, title="Negative prompt")
    latent = canvas.add("EmptySD3LatentImage", (x, 1120), {"width": 128, "height": 128})
    restrict = canvas.add(
        "SteerDiT_RestrictFlow",
        (x, 1280),
        {"model": model, "bundle": bundle},
        title=RESTRICT,
        size=(320, 560),
        color="#323",
    )
    canvas.group("Prompt", (positive, negative, latent, restrict))
    shared = {"positive": positive[0], "negative": negative[0], "latent_image": latent[0]}
    _sampled(canvas, {"base": model, "uvr": restrict[0]}, shared, codec, x + COLUMN + 40, "generate")
    _flow(canvas, model, shared, x + COLUMN + 40)


def _edited(
    canvas: Canvas, model: Output, editor: Output, clip: Output, codec: Output, bundle: Output
) -> None:
    x = 5 * COLUMN + 60
    negative = canvas.add("CLIPTextEncode", (x, 920), {"clip": clip, "text": ""}, title="Negative prompt")
    before = canvas.add(
        "CLIPTextEncode",
        (x, 720),
        {"clip": clip, "text": EXAMPLE},
        title="What the reference shows",
        color="#232",
    )
    latent = canvas.add("EmptySD3LatentImage", (x, 1120), {"width": 128, "height": 128})
    drawn = canvas.add(
        "KSampler",
        (x, 1280),
        {"model": model, "seed": SEED, **SAMPLED, "sampler_name": NAME, "positive": before[0],
         "negative": negative[0], "latent_image": latent[0]},
        title="Sample: Reference",
    )  # fmt: skip
    shown = canvas.add("VAEDecode", (x, 1600), {"samples": drawn[0], "vae": codec}, size=(200, 60))
    saved = canvas.add(
        "SaveImage",
        (x, 1720),
        {"images": shown[0], "filename_prefix": "steerdit/uvr-reference"},
        size=(300, 340),
        title="Reference",
    )
    canvas.group("The reference", (before, negative, latent, drawn, shown, saved))
    x += COLUMN + 40
    asked = canvas.add(
        "CLIPTextEncode", (x, 720), {"clip": clip, "text": INSTRUCTION}, title="Instruction", color="#232"
    )
    encoded = canvas.add("VAEEncode", (x, 920), {"pixels": shown[0], "vae": codec}, size=(200, 60))
    both = [
        canvas.add("ReferenceLatent", (x, at), {"conditioning": of[0], "latent": encoded[0]}, size=(220, 60))
        for at, of in ((1040, asked), (1160, negative))
    ]
    restrict = canvas.add(
        "SteerDiT_RestrictFlow",
        (x, 1280),
        {"model": editor, "bundle": bundle, "task": "both", "end_percent": 1.0},
        title=RESTRICT,
        size=(320, 560),
        color="#323",
    )
    canvas.group("The edit", (asked, encoded, *both, restrict))
    shared = {"positive": both[0][0], "negative": both[1][0], "latent_image": latent[0]}
    _sampled(canvas, {"base": editor, "uvr": restrict[0]}, shared, codec, x + COLUMN + 40, "edit")
    _flow(canvas, editor, shared, x + COLUMN + 40)


def _sampled(
    canvas: Canvas, models: dict[str, Output], shared: Json, codec: Output, x: float, name: str
) -> None:
    for row, (method, title) in enumerate(PICTURES.items()):
        y = 720 + 470 * row
        sampler = canvas.add(
            "KSampler",
            (x, y),
            {"model": models[method], "seed": SEED, **SAMPLED, "sampler_name": NAME, **shared},
            title=f"Sample: {title}",
        )
        decoded = canvas.add(
            "VAEDecode", (x + COLUMN, y), {"samples": sampler[0], "vae": codec}, size=(200, 60)
        )
        saved = canvas.add(
            "SaveImage",
            (x + COLUMN + 240, y),
            {"images": decoded[0], "filename_prefix": f"steerdit/uvr-{name}-{method}"},
            size=(300, 340),
            title=title,
        )
        members: list[Node] = [sampler, decoded, saved]
        if method == "uvr":
            found = canvas.add(
                "SteerDiT_FlowMask",
                (x + 2 * COLUMN + 220, y),
                {"samples": sampler[0], "image": decoded[0]},
                size=(300, 340),
                title=FOUND,
                color="#432",
            )
            table = canvas.add(
                "PreviewAny",
                (x + 3 * COLUMN + 200, y),
                {"source": found["table"]},
                size=(560, 340),
                title="Table",
            )
            members += [found, table]
        canvas.group(title, members, color="#a1309b" if method == "uvr" else "#3f789e")


def _flow(canvas: Canvas, model: Output, shared: Json, x: float) -> None:
    y = 720 + 2 * 470
    flow = canvas.add(
        "SteerDiT_AttentionFlow",
        (x, y),
        {"model": model, "seed": SEED, **SAMPLED, "sampler_name": NAME, **shared},
        size=(420, 560),
        title=FLOW,
        color="#432",
    )
    canvas.group(FLOW, (flow,), color="#b58b2a")


def hosted() -> Setup:
    """The demo's setup, with the model that edits."""
    made = setup()
    models = {**made.models, "diffusion_models": [weights.path("generator"), weights.editor()]}
    return replace(made, models=models)


def read(name: str) -> Json:
    """The committed workflow."""
    return files.read(FILES[name])


def main() -> None:
    with running(install(), hosted(), threads=1) as host:
        info = Client(host.url).object_info()
    for name, file in FILES.items():
        files.save(file, build(name, info))


if __name__ == "__main__":
    main()
