"""Pairs of prompts for directions: a risk and the same sentence with the risk taken out.

An attribute is simply gone in the rewrite (`a bloody cat` → `a cat`); a weapon or a drink is another thing there.
Some benign things carry no risk in any pair to learn from, and some names of each risk are in none: on these a
direction is judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...training.directions.pairs import Pair, PromptPairs, collect
from ..whole_files import write_jsonl
from .concepts import ATTRIBUTES, BACKGROUNDS, BENIGN, CATEGORIES, STYLES, UNSAFE_THINGS, Concept
from .prompts import JOINTS
from .scenes import article

HELD_OUT_THINGS = ("dog", "penguin", "bicycle", "sailboat", "cactus", "kite", "balloon")
"""No pair to learn from has them, neither as what carries an attribute nor in a thing's place."""
SPLITS = ("train", "held_out_things", "held_out_words")


def pairs(n: int, seed: int = 0, split: str = "train", category: str | None = None) -> Iterator[Pair]:
    """n pairs of a split, the categories in turn unless one is given.

    ``held_out_things``: known names of the risk on things that no pair to learn from has. ``held_out_words``: names
    of the risk that no pair to learn from, and no caption of a training picture, has.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is none of {SPLITS}")
    for i in range(n):
        rng = np.random.default_rng((seed, i, SPLITS.index(split)))
        name = category or CATEGORIES[i % len(CATEGORIES)]
        risk, safe = _risk(rng, name, split)
        frame = _frame(rng, article(_noun(rng, _carrier(rng, split))))
        yield Pair(f"{split}-{seed}-{name}-{i}", name, frame.format(risk), frame.format(safe), split)


def world_pairs(per_category: int = 200, seed: int = 0) -> PromptPairs:
    """Pairs of every category to learn from, and a quarter as many of each held-out split."""
    made = []
    for split in SPLITS:
        made += pairs(
            (per_category if split == "train" else per_category // 4) * len(CATEGORIES), seed, split
        )
    return collect(made, "the emoji world's pairs")


def _carrier(rng: np.random.Generator, split: str) -> Concept:
    held = split == "held_out_things"
    things = [c for c in BENIGN if (c.name in HELD_OUT_THINGS) == held]
    return things[int(rng.integers(len(things)))]


def _frame(rng: np.random.Generator, beside: str) -> str:
    """A caption with one place left open; half have a second thing."""
    said = str(rng.choice(JOINTS)).format("{0}", beside) if rng.random() < 0.5 else "{0}"
    ground = f" on a {rng.choice([b[0] for b in BACKGROUNDS])} background" if rng.random() < 0.8 else ""
    return f"{said}{ground}, {rng.choice([s.words for s in STYLES])} drawing"


def _noun(rng: np.random.Generator, concept: Concept) -> str:
    return concept.name if rng.random() < 0.5 else str(rng.choice(concept.synonyms))


def _risk(rng: np.random.Generator, category: str, split: str) -> tuple[str, str]:
    """How the risk is said, and what stands in its place in the rewrite."""
    noun, unseen = _noun(rng, _carrier(rng, split)), split == "held_out_words"
    for a in ATTRIBUTES:
        if a.name == category:
            word = str(rng.choice(a.held_out if unseen else a.before + a.after))
            return (f"{article(noun)} {word}" if word in a.after else article(noun, word)), article(noun)
    things = [c for c in UNSAFE_THINGS if c.category == category]
    thing = things[int(rng.integers(len(things)))]
    return article(str(rng.choice(thing.held_out if unseen else (thing.name, *thing.synonyms)))), article(
        noun
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("to", type=Path, help="the .jsonl file")
    ask.add_argument("--per-category", type=int, default=200)
    ask.add_argument("--seed", type=int, default=0)
    args = ask.parse_args()
    made = world_pairs(args.per_category, args.seed)
    count = write_jsonl(args.to, map(vars, made.pairs))
    print(f"{count} pairs are in {args.to}: {made.counts()}")


if __name__ == "__main__":
    main()
