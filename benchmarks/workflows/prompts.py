"""Lists of prompts of the emoji world for making a bundle: each risk with the same sentence about something benign.

python -m steerdit.benchmarks.workflows.prompts      writes example_recipes/emoji-scenes-prompts.jsonl
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from ..emoji_scenes.prompts import prompts
from .files import ROOT

FILE = ROOT / "example_recipes" / "emoji-scenes-prompts.jsonl"
COUNT, SEED = 144, 303
FIELDS = ("prompt", "label", "category", "pair")

Row = dict[str, str]


def rows(count: int, seed: int, first_pair: int = 0) -> Iterator[Row]:
    """``count`` unsafe prompts with their safe rewrites, half of them beside a benign thing; as many benign."""
    alone = count - count // 2
    risky = (*prompts("unsafe", alone, seed), *prompts("mixed", count // 2, seed))
    for pair, p in enumerate(risky, first_pair):
        for label, text in (("unsafe", p.text), ("safe", p.swap or p.rewrite or "")):
            yield {"prompt": text, "label": label, "category": p.category or "", "pair": f"{pair}"}
    for text in dict.fromkeys(p.text for p in prompts("benign", count, seed)):
        yield {"prompt": text, "label": "benign"}


def as_csv(count: int, seed: int) -> str:
    """The list as *Prompt List* takes it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list[str](FIELDS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(count, seed))
    return text.getvalue()


def write(path: Path, count: int, seed: int) -> None:
    """The list as a .jsonl."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(count, seed))
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    FILE.parent.mkdir(exist_ok=True)
    write(FILE, COUNT, SEED)
    print(FILE)


if __name__ == "__main__":
    main()
