"""Writes the workflow that makes a bundle: record, route, train, select, adapt, calibrate, save, and steer with it.

    python -m steerdit.benchmarks.workflows.bundle      starts a host, writes example_workflows/make-a-bundle.json

On the demo's model, with sizes for some minutes of a CPU. `SIZES` lists them by the nodes' titles.
"""

from __future__ import annotations

from ..emoji_scenes import weights
from ..hosting.canvas import Canvas, Node, Output
from ..hosting.client import Client
from ..hosting.install import install
from ..hosting.server import running
from ..hosting.workflows import Json, ObjectInfo
from . import files
from .demo import EXAMPLE, SEED, setup
from .files import FOLDER
from .prompts import as_csv

FILE = FOLDER / "make-a-bundle.json"
PLACES = 2
"""Sites that the bundle will have."""
BUNDLE = "emoji-scenes-made"
LEARN, JUDGE = "Prompts to learn from", "Prompts to set gates by"
RECORD, RECORD_JUDGE = "1 Record", "1 Record for the gates"
ROUTE, SAVE, REPEL = "2 Route", "7 Save", "8 Repel"
PICTURES = {"base": "Without steering", "repel": "With the new bundle"}
RISKY, SAMPLER = "Risky prompt", "Sample"
PROMPTS = {LEARN: (192, 404), JUDGE: (64, 505)}
"""How many pairs, and the seed that they are drawn by."""

COLUMN = 350
SAMPLED = {"steps": 6, "cfg": 3.0, "sampler": "dpmpp_2m", "scheduler": "sgm_uniform"}
SIZES: dict[str, Json] = {
    "record": {
        "sites": "text, double.0.text, double.1.image",
        "buckets": "4",
        **SAMPLED,
        "width": 128,
        "height": 128,
        "tokens_per_image": 32,
        "batch": 16,
    },
    "route": {"operator": "repel", "count": PLACES, "pairs": 12, "benign": 4},
    "train": {
        "expansion": 3, "k": 16, "steps": 600, "batch": 1024, "rate": 0.001, "base": "emoji-scenes-flux",
        "more": "dead_after = 200000",
    },
    "select": {"count": 64, "ratio": 3.0},
    "adapt": {"batch": 1024, "stability": 0.1},
    "calibrate": {"quantile": 0.99, "margin": 1.0, "folds": 4},
}  # fmt: skip

WELCOME = """# From a model and a list of prompts to a bundle

Press **Run** and wait some minutes (on the CPU). From left to right:

1. **Record** keeps what passes three places of the model while it draws each prompt.
2. **Route** ranks these places before anything is trained there.
3. **Train** learns a sparse dictionary at each of the two best.
4. **Select** finds the latents that stand for each risk, and says how well each tells it, on prompts held out.
5. **Adapt** learns what to say instead (for *Blend*).
6. **Calibrate** sets the gates on other prompts, and says how often they will open.
7. **Save** writes the bundle into models/steering.
8. **Repel** samples a risky prompt with it, beside the same without.

What is made is kept: press Run again, and only what you have changed is made again.
"""
ABOUT = """Your usual loaders, *Load Prompts* with a file of some hundred pairs in place of the two lists, larger
pictures, 20 or more steps, and hours. `python -m steerdit make-bundle RECIPE.toml` does the same without
a server. docs/make-a-bundle.md says what to prepare, what each figure means, and what can go wrong.
"""


def build(object_info: ObjectInfo) -> Json:
    """The workflow for the canvas, checked against what a host says of its nodes."""
    canvas = Canvas(object_info)
    canvas.note(WELCOME, (0, 0), (660, 400), title="Read me")
    canvas.note(ABOUT, (0, 450), (660, 160), title="With your own model")
    model = canvas.add("UNETLoader", (0, 720), {"unet_name": weights.FILES["generator"]})
    clip = canvas.add("EmojiScenes_TextEncoder", (0, 860))
    codec = canvas.add("EmojiScenes_Codec", (0, 960))
    canvas.group("Models", (model, clip, codec))
    loaded = {"model": model[0], "clip": clip[0]}
    learnt = _recorded(canvas, loaded, LEARN, RECORD, "make-bundle", 720)
    judged = _recorded(canvas, loaded, JUDGE, RECORD_JUDGE, "make-bundle-gates", 1880)
    route = canvas.add(
        "SteerDiT_Route",
        (3 * COLUMN, 720),
        {**loaded, "recording": learnt, **SIZES["route"]},
        title=ROUTE,
        size=(300, 620),
        color="#323",
    )
    canvas.group("2 Where to train", (route,))
    parts: Output | None = None
    for place in range(1, PLACES + 1):
        parts = _site(canvas, place, learnt, judged, route["sites"], parts)
    x = 9 * COLUMN
    saved = canvas.add(
        "SteerDiT_SaveSAEBundle",
        (x, 720),
        {
            "parts": parts,
            "name": BUNDLE,
            "base": "emoji-scenes-flux",
            "license": "Apache-2.0",
            "replace": True,
        },
        title=SAVE,
        color="#323",
    )
    canvas.group("7 The bundle", (saved,))
    _sampled(canvas, loaded, codec[0], saved["bundle"], x)
    return canvas.as_json()


def _recorded(canvas: Canvas, loaded: Json, prompts: str, title: str, name: str, y: float) -> Output:
    count, seed = PROMPTS[prompts]
    said = canvas.add(
        "SteerDiT_PromptList", (COLUMN, y), {"text": as_csv(count, seed)}, title=prompts, size=(300, 300)
    )
    record = canvas.add(
        "SteerDiT_Record",
        (2 * COLUMN, y),
        {**loaded, "prompts": said["prompts"], "name": name, **SIZES["record"]},
        title=title,
        size=(300, 700),
        color="#232",
    )
    canvas.group(title, (said, record))
    return record["recording"]


def _site(
    canvas: Canvas, place: int, learnt: Output, judged: Output, sites: Output, parts: Output | None
) -> Output:
    """Everything that is made for the site at one place of the ranking → what the bundle will hold by then."""
    x, y = 4 * COLUMN + 40, 720 + 1160 * (place - 1)
    sae = canvas.add(
        "SteerDiT_TrainSAE",
        (x, y),
        {"recording": learnt, "sites": sites, "place": place, **SIZES["train"]},
        title=f"3 Train, place {place}",
        size=(320, 900),
        color="#323",
    )
    selection = canvas.add(
        "SteerDiT_Select",
        (x + COLUMN + 20, y),
        {"sae": sae["sae"], "recording": learnt, **SIZES["select"]},
        title=f"4 Select, place {place}",
        size=(420, 620),
    )
    adapted = canvas.add(
        "SteerDiT_Adapt",
        (x + 2 * COLUMN + 140, y),
        {
            "sae": sae["sae"],
            "target": learnt,
            "source": learnt,
            "selection": selection["selection"],
            **SIZES["adapt"],
        },
        title=f"5 Adapt, place {place}",
        size=(320, 620),
    )
    gates = canvas.add(
        "SteerDiT_Calibrate",
        (x + 3 * COLUMN + 160, y),
        {
            "sae": adapted["sae"],
            "selection": selection["selection"],
            "recording": judged,
            **({} if parts is None else {"parts": parts}),
            **SIZES["calibrate"],
        },
        title=f"6 Calibrate, place {place}",
        size=(420, 420),
    )
    canvas.group(f"The site at place {place}", (sae, selection, adapted, gates), color="#b58b2a")
    return gates["parts"]


def _sampled(canvas: Canvas, loaded: Json, codec: Output, bundle: Output, x: float) -> None:
    y = 1200
    positive = canvas.add(
        "CLIPTextEncode", (x, y), {"clip": loaded["clip"], "text": EXAMPLE}, title=RISKY, color="#232"
    )
    negative = canvas.add("CLIPTextEncode", (x, y + 200), {"clip": loaded["clip"], "text": ""})
    latent = canvas.add("EmptySD3LatentImage", (x, y + 400), {"width": 128, "height": 128})
    repel = canvas.add(
        "SteerDiT_Repel",
        (x + COLUMN, y),
        {"model": loaded["model"], "bundle": bundle},
        title=REPEL,
        color="#323",
    )
    members: list[Node] = [positive, negative, latent, repel]
    for row, (method, title) in enumerate(PICTURES.items()):
        at = y + 470 * row
        sampler = canvas.add(
            "KSampler",
            (x + 2 * COLUMN, at),
            {
                "model": repel[0] if method == "repel" else loaded["model"],
                "seed": SEED,
                "steps": 20,
                "cfg": SAMPLED["cfg"],
                "sampler_name": SAMPLED["sampler"],
                "scheduler": SAMPLED["scheduler"],
                "positive": positive[0],
                "negative": negative[0],
                "latent_image": latent[0],
            },
            title=f"{SAMPLER}: {title}",
        )
        decoded = canvas.add(
            "VAEDecode", (x + 3 * COLUMN, at), {"samples": sampler[0], "vae": codec}, size=(200, 60)
        )
        picture = canvas.add(
            "SaveImage",
            (x + 3 * COLUMN + 240, at),
            {"images": decoded[0], "filename_prefix": f"steerdit/made-{method}"},
            size=(300, 340),
            title=title,
        )
        members += [sampler, decoded, picture]
    canvas.group("8 Steering with it", members, color="#a1309b")


def read() -> Json:
    """The committed workflow."""
    return files.read(FILE)


def main() -> None:
    with running(install(), setup(), threads=1) as host:
        workflow = build(Client(host.url).object_info())
    files.save(FILE, workflow)


if __name__ == "__main__":
    main()
