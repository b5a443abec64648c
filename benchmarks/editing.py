"""The generator that edits, judged by the oracle on held-out instructions: ``nox -s bench -- editing``.

Claims: it does what it is told, and leaves alone what it is not told to touch. Only such a model can show what
restricting the flow of attention does to edits. The references are drawn, for which the icon sets are needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..evaluation.rates import Rate, rate
from .hosting.in_process import boot
from .results import Claim, at_least, told, versions, write

SEED = 60_000_000  # seeds from here on teach nothing
ENOUGH = 200  # edits below which a run is a trial, and nothing is written


def rates(edits: Sequence[Any], outcomes: Sequence[Any]) -> dict[str, Rate]:
    """What the outcomes of edits say together."""
    return {
        "done": rate(o.done for o in outcomes),
        "kept": rate(o.kept for o in outcomes if o.kept is not None),
        "background": rate(o.ground for o in outcomes),
        "intruders": rate(bool(o.intruders) for o in outcomes),
        "unsafe as meant": rate(e.asks_for in o.risks for e, o in zip(edits, outcomes) if e.asks_for),
    }


def groups(edits: Sequence[Any], outcomes: Sequence[Any]) -> dict[str, dict[str, Rate]]:
    """The same by kind of instruction, and by where a risk comes from."""
    from .emoji_scenes.editing.instructions import KINDS

    chosen: dict[str, Callable[[Any], bool]] = {k: lambda e, k=k: e.kind == k for k in KINDS}
    chosen |= {
        "unsafe instruction": lambda e: e.asks_for is not None,
        "unsafe reference": lambda e: e.asks_for is None and e.has is not None,
        "benign": lambda e: e.asks_for is None and e.has is None,
    }
    out = {}
    for name, has in chosen.items():
        pairs = [(e, o) for e, o in zip(edits, outcomes) if has(e)]
        out[name] = rates([e for e, _ in pairs], [o for _, o in pairs])
    return out


def sheet(judge: Any, edited: Any, file: Path, across: int = 6) -> None:
    """Reference and outcome side by side, for a look; the oracle's noes are framed in red."""
    from PIL import Image

    from .emoji_scenes.editing.dataset import pictures

    n = len(edited.edits) // across * across
    before = pictures(judge.source, list(edited.edits[:n]))[0] / 255
    after = judge.vae.pictures(edited.latents[:n])
    for picture, outcome in zip(after, edited.outcomes):
        if not outcome.done or outcome.kept is False:
            for edge in (picture[:, :3], picture[:, -3:], picture[:, :, :3], picture[:, :, -3:]):
                edge[0], edge[1:] = 1, 0
    both = torch.cat([before, after], 3).unflatten(0, (-1, across)).permute(0, 3, 1, 4, 2)
    Image.fromarray((both.flatten(2, 3).flatten(0, 1) * 255).byte().numpy()).save(file)


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument(
        "--n", type=int, default=400, help=f"instructions; with fewer than {ENOUGH} nothing is written"
    )
    ask.add_argument("--weights", type=Path, help="another checkpoint than the shipped one; not written")
    ask.add_argument("--cfg", type=float, help="other than the demo's; not written")
    ask.add_argument("--look", type=Path, help="where to put a picture of the edits")
    args = ask.parse_args()
    host = boot()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    from .emoji_scenes import in_host
    from .emoji_scenes.editing.instructions import edit
    from .emoji_scenes.editing.judging import SAMPLING, EditJudge
    from .emoji_scenes.icons import icons
    from .emoji_scenes.scenes import SceneSource
    from .emoji_scenes.train_generator import EDITING

    judge = EditJudge(
        SceneSource(icons(), layout=EDITING.layout),
        SAMPLING if args.cfg is None else replace(SAMPLING, cfg=args.cfg),
    )
    edits = [edit(judge.source, SEED + i) for i in range(args.n)]
    edited = judge(in_host.editor(args.weights), edits, range(args.n))
    overall, ceiling = rates(edits, edited.outcomes), rates(edits, judge.ceiling(edits))
    claims: dict[str, Claim] = {
        "instructions": at_least(overall["done"], 0.80),
        "kept": at_least(overall["kept"], 0.90),
    }
    details = groups(edits, edited.outcomes)
    for name, of in {"all": overall, **details, "right answers": ceiling}.items():
        print(f"{name:<20}", *(f"{k} {v.value:.3f} ({v.n})" for k, v in of.items()), flush=True)
    if args.look:
        sheet(judge, edited, args.look)
    if args.n >= ENOUGH and args.weights is None and args.cfg is None:
        plain = {name: {k: asdict(v) for k, v in of.items()} for name, of in details.items()}
        write(
            "editing",
            claims,
            model="emoji-scenes-flux-edit",
            host=host,
            n=args.n,
            overall={k: asdict(v) for k, v in overall.items()},
            groups=plain,
            ceiling={k: asdict(v) for k, v in ceiling.items()},
            missed=[e.text for e, o in zip(edits, edited.outcomes) if not o.done],
            seed=SEED,
            sampling=asdict(judge.sampling),
            versions=versions("torch", "safetensors", "numpy"),
        )
    return 0 if told(claims) else 1


if __name__ == "__main__":
    sys.exit(main())
