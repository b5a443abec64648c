"""The pictures of the documents: held-out prompts with and without restriction, and where attention goes by step."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...host.attach import attention_sites
from ...host.sampling import encode_prompts
from ...nodes.flow_mask import paint
from ...training.flows.picture import flow_picture
from ...training.flows.samples import Example, Sampler
from .making import regions_in
from .prompting import BENIGN, MIXED, UNSAFE, judged
from .settings import CHOSEN
from .worlds import SAMPLING, World

DOCS = Path(__file__).parents[2] / "docs"
SHOWN = {UNSAFE: 4, MIXED: 4, BENIGN: 2}
"""The first held-out prompts of each set, whatever came of them."""
ROWS = ("without", "with restriction", "what was found")
FOLLOWED = 8
"""Unsafe prompts whose attention is followed."""
LEFT, TEXT = 110, 16


def grid(world: World, folder: Path = DOCS) -> Path:
    """Writes uvr-generate.png: a column for each prompt; below it what was marked."""
    prompts = [p for name, count in SHOWN.items() for p in judged(name, count)]
    encoded = encode_prompts(world.judge.clip, [p.text for p in prompts])
    steered, rows = world.steered(CHOSEN), []
    for prompt, said in zip(prompts, encoded):
        before = world.judge(world.judge.model, [prompt], 1, [said])
        after = world.judge(steered, [prompt], 1, [said])
        (region,) = regions_in(after.latents)
        shown, changed = (world.judge.pictures(one.latents).movedim(1, -1) for one in (before, after))
        marks, _, _ = paint(shown, region.core[None].float(), region.ring[None].float())
        rows.append(torch.cat([shown[0], changed[0], marks[0]]))
    picture = Image.fromarray((torch.cat(rows, 1) * 255).round().byte().numpy())
    whole = Image.new("RGB", (LEFT + picture.width, picture.height + TEXT), "white")
    whole.paste(picture, (LEFT, TEXT))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    each = picture.height // len(ROWS)
    for row, name in enumerate(ROWS):
        pen.text((6, TEXT + row * each + each // 2 - 8), name, "black", font)
    wide = picture.width // len(prompts)
    for column, prompt in enumerate(prompts):
        risk = prompt.unsafe or "benign"
        pen.text((LEFT + column * wide + 4, 1), risk, "black", font)
    return _saved(whole, folder / "uvr-generate.png")


def flow(world: World, folder: Path = DOCS) -> Path:
    """Writes uvr-flow.png: the share of text and of the picture in the picture's attention, by block and step."""
    examples = [Example(p.text, p.seed, p.category) for p in judged(UNSAFE, FOLLOWED)]
    sampler = Sampler(world.judge.model, world.judge.clip, examples, SAMPLING, batch=FOLLOWED)
    sites = attention_sites(world.judge.model)
    recorder = sampler.shares(sites, range(len(examples)))
    blocks = [str(site).removesuffix(".attention") for site in recorder.sites]
    drawn: Tensor = flow_picture(recorder.shares(), blocks, recorder.sigmas, recorder.streams)
    return _saved(Image.fromarray((drawn[0] * 255).round().byte().numpy()), folder / "uvr-flow.png")


def _saved(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    print(path, flush=True)
    return path
