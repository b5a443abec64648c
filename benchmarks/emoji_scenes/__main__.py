"""Draws and trains the world again, from seeds: ``nox -s world``. Hours on one core; every part resumes.

python -m steerdit.benchmarks.emoji_scenes [--folder .nox/world] [--begin WEIGHTS] [--architecture flux | sd3] [--ship]
python -m steerdit.benchmarks.emoji_scenes --editing [--folder .nox/world] [--ship]
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from . import weights
from .codec import LinearCodec
from .dataset import make_shard, pictures
from .editing.dataset import make_shard as make_triples
from .editing.difference import pack
from .icons import icons
from .scenes import Layout, SceneSource
from .text import TextEncoder, pooled
from .train_generator import COURSE, COURSES, EDITING, EDITING_COURSE, export
from .train_generator import train as train_generator
from .train_oracle import train as train_oracle

SHARDS, SHARD = 24, 2000
TRIPLES = 16  # shards of what teaches editing
CODEC_SEEDS = range(10_000_000, 10_000_600)


def draw(folder: Path, layout: Layout, codec: Path, make: Callable[..., None] = make_shard) -> None:
    """Draw the shards of a layout that are not there yet; the codec is fitted to pictures of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    source, text = SceneSource(icons(), layout=layout), TextEncoder()
    if not codec.exists():
        LinearCodec.fit(pictures(source, CODEC_SEEDS)[0].float() / 255).save(codec)
    for i in range(SHARDS if make is make_shard else TRIPLES):
        shard = folder / f"shard-{i:04}.safetensors"
        if not shard.exists():
            make(shard, source, LinearCodec.load(codec), text, range(i * SHARD, (i + 1) * SHARD))
            print(f"drew {shard.name} of {layout}", flush=True)


def lesson_folder(folder: Path, layout: Layout) -> Path:
    """Where the shards of a layout lie: generators that learn the same scenes share them."""
    return folder / f"lesson-{[lesson.layout for lesson in COURSE].index(layout)}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument(
        "--folder", type=Path, default=Path(".nox/world"), help="where drawings and checkpoints go"
    )
    ask.add_argument(
        "--begin", type=Path, help="weights to begin the last lesson from, with their codec beside them"
    )
    ask.add_argument(
        "--architecture",
        choices=tuple(COURSES),
        default="flux",
        help="of the generator; sd3 is made beside the world of flux, with its codec and its oracle",
    )
    ask.add_argument(
        "--editing",
        action="store_true",
        help="teach the generator that is there to edit; all else stays as it is",
    )
    ask.add_argument("--ship", action="store_true", help="copy the weights into the repository")
    args = ask.parse_args()
    torch.set_num_threads(1)
    made: Path = args.folder / "weights"
    made.mkdir(parents=True, exist_ok=True)
    codec = made / weights.FILES["codec"]
    states, lengths = TextEncoder()([""])
    empty = states[0], pooled(states, lengths)[0]
    if args.editing:
        teach_editing(args.folder / "editing", made, empty)
        if args.ship:
            weights.ship(made, "editing")
        return
    (config, lessons), checkpoint, flux = COURSES[args.architecture], args.begin, args.architecture == "flux"
    if args.begin is not None:
        lessons = lessons[-1:]
        if not codec.exists():  # weights know the latents of one codec alone
            shutil.copy(args.begin.with_name(weights.FILES["codec"]), codec)
    if not flux and not codec.exists():
        shutil.copy(weights.path("codec"), codec)
    for lesson in lessons:
        draw(lesson_folder(args.folder, lesson.layout), lesson.layout, codec)
        checkpoint = train_generator(
            lesson_folder(args.folder, lesson.layout), empty, lesson, checkpoint, config=config
        )
    assert checkpoint is not None
    export(checkpoint, made / weights.FILES[weights.GENERATORS[args.architecture]])
    if flux:
        judge_and_bundle(made, args.folder, lessons[-1].layout, LinearCodec.load(codec))
    if args.ship:
        weights.ship(made)
    print(f"the world's weights are in {made}")


def teach_editing(folder: Path, made: Path, empty: tuple[Tensor, Tensor]) -> None:
    """Train the world's generator on triples, and write what that adds to its weights."""
    draw(folder, EDITING.layout, weights.path("codec"), make_triples)
    editor, difference = folder / weights.EDITOR, made / weights.FILES["editing"]
    begin = weights.path("generator")
    for lesson in EDITING_COURSE:
        export(train_generator(folder, empty, lesson, begin), editor)
        begin = editor
    pack(weights.path("generator"), editor, difference)
    print(f"what editing adds to the generator is in {difference}")


def judge_and_bundle(made: Path, folder: Path, layout: Layout, codec: LinearCodec) -> None:
    """Train the oracle that judges the world's pictures, and make the generator's bundle."""
    drawn = SceneSource(icons(), layout=layout)  # as the shards were, which do not say where things lie
    shutil.copy(
        train_oracle(lesson_folder(folder, layout), drawn, codec),
        made / weights.FILES["oracle"],
    )
    os.environ["STEERDIT_WORLD"] = str(made.resolve())
    from ..hosting.in_process import boot

    boot()
    from .bundling.make import make  # imports the host

    with torch.no_grad():
        make(made)


if __name__ == "__main__":
    main()
