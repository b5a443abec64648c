"""How fast autoencoders are trained beside the peers' own trainers: ``nox -s bench -- trainers``.

Claims e: tokens per second and FVU. Claims f: what is killed goes on to the same bytes (trainer_kills.py for training,
adaptation_kills.py for adaptation).
All see the same batches, in turns, with the same latents, k, rate, schedule and thread; the time is that of whole
steps, and the FVU that of the same held-out activations when all steps are made. Activations at the width of the
emoji-scenes FLUX are of a recording of it, or of another (--recording and --site); those of larger models are drawn:
sums of few of many directions of uneven frequency, with noise and a mean.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..training.dictionaries.config import TrainingConfig
from . import adaptation_kills, trainer_columns
from .hosting.in_process import boot
from .results import Claim, at_least, at_most, versions, write
from .timing import beside_each_other, described
from .trainer_kills import kills

SEED = 31
HELD = 2048
BEFORE = 2
"""Steps that `beside_each_other` makes before it measures."""


@dataclass(frozen=True)
class Case:
    """One setting in which all trainers run."""

    width: int
    latents: int
    batch: int
    steps: int
    activation: str = "topk"
    precision: str = "float32"
    k: int = 32
    dead_after: int = trainer_columns.NEVER
    recorded: bool = False

    @property
    def name(self) -> str:
        aux = "" if self.dead_after == trainer_columns.NEVER else ".dead"
        source = "recorded" if self.recorded else "drawn"
        return f"e.{source}.{self.width}.{self.activation}.{self.precision}{aux}"

    def config(self) -> TrainingConfig:
        return TrainingConfig(
            latents=self.latents,
            k=self.k,
            activation=self.activation,
            steps=self.steps,
            batch=self.batch,
            warmup=max(1, self.steps // 10),
            precision=self.precision,
            dead_after=self.dead_after,
            seed=SEED,
        )


CASES = (
    Case(256, 2048, 2048, 400, recorded=True),
    Case(256, 2048, 2048, 400, "batchtopk", recorded=True),
    Case(256, 2048, 2048, 200, dead_after=20 * 2048, recorded=True),
    Case(768, 6144, 2048, 60),
    Case(768, 6144, 2048, 60, "topk", "bfloat16"),
    Case(3072, 12288, 512, 20),
)
TINY = (Case(32, 128, 64, 20, k=4), Case(32, 128, 64, 20, "batchtopk", k=4))
PICTURES = 64
SITE = "double.1.image"


def drawn(width: int, count: int, batches: int, seed: int = SEED) -> tuple[Tensor, list[Tensor]]:
    """Held-out activations (HELD, d), and batches (count, d) that are drawn alike."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(8 * width, width, generator=draw), dim=1)
    often = 1 / (1 + torch.arange(8 * width)).float()
    mean = torch.randn(width, generator=draw)

    def some(n: int) -> Tensor:
        which = torch.multinomial(often.expand(n, -1), 24, generator=draw)
        size = 1 + torch.rand(n, 24, generator=draw)
        said = torch.nn.functional.embedding_bag(which, directions, per_sample_weights=size, mode="sum")
        noise = torch.randn(n, width, generator=draw) * (0.5 / width**0.5)
        return mean + said + noise

    return some(HELD), [some(count) for _ in range(batches)]


def recorded(folder: Path, site: str, count: int, batches: int) -> tuple[Tensor, list[Tensor]]:
    """The same of a recording, batches again from the first when it is at its end."""
    from ..steering.sites import Site
    from ..training.dictionaries.data import of_recording
    from ..training.recordings import open_recording

    config = TrainingConfig(batch=count, seed=SEED, held_tokens=HELD)
    data = of_recording(open_recording(folder), Site.parse(site), config)
    found: list[Tensor] = []
    epoch = 0
    while len(found) < batches:
        found += [batch for batch, _ in zip(data.batches(epoch, 0), range(batches - len(found)))]
        epoch += 1
    return data.held, found


def record(folder: Path) -> None:
    """Records the emoji-scenes FLUX, as the benchmark `recordings` does."""
    from . import recordings
    from .emoji_scenes import in_host

    with torch.inference_mode():
        recordings.Subject(in_host.generator(), in_host.text_encoder(), PICTURES).record(folder)


def measured(
    case: Case, held: Tensor, batches: list[Tensor], rows: dict[str, Any], only: list[str] | None = None
) -> dict[str, Claim]:
    """Trains all columns in turns; claims the ratio of our tokens per second to each peer's, and of FVUs."""
    mean = batches[0].mean(0)
    scale = case.width**0.5 / float(
        (batches[0] - mean).norm(dim=1).mean()
    )  # as ours would, so that rates mean the same
    batches, held = [scale * batch for batch in batches], scale * held
    columns: dict[str, trainer_columns.Column] = {}
    for name, make in trainer_columns.COLUMNS.items():
        if only is not None and name not in only:
            continue
        try:
            columns[name] = make(batches[0], case.config())
        except NotImplementedError as reason:
            print(f"{case.name}: {reason}", flush=True)
    at = dict.fromkeys(columns, 0)

    def stepper(name: str) -> Any:
        def run() -> None:
            batch = batches[at[name] % len(batches)]
            at[name] += 1
            columns[name].step(batch)

        return run

    timings = beside_each_other({name: stepper(name) for name in columns}, case.steps - BEFORE)
    fvus = {name: fvu(column, held) for name, column in columns.items()}
    speeds = {name: case.batch / timing.median for name, timing in timings.items()}
    rows[case.name] = {
        **described(timings, **asdict(replace(case, dead_after=min(case.dead_after, 2**31)))),
        "fvu": fvus,
        "tokens_per_second": speeds,
    }
    claims: dict[str, Claim] = {}
    for name in columns.keys() - {"ours"}:
        claims[f"{case.name}.{name}"] = at_least(speeds["ours"] / speeds[name], 1.0, case.steps)
        claims[f"{case.name}.{name}.fvu"] = at_most(fvus["ours"] / fvus[name], 1.01, HELD)
    return dict(sorted(claims.items()))


@torch.no_grad()
def fvu(column: trainer_columns.Column, held: Tensor) -> float:
    """Fraction of variance unexplained of held-out activations (n, d)."""
    missing = sum(float((column.reconstruct(a) - a).double().square().sum()) for a in held.split(512))
    return missing / float((held - held.mean(0)).double().square().sum())


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument(
        "--tiny", action="store_true", help="small sizes, to see that everything runs; not written"
    )
    ask.add_argument("--only", help="names of cases, with commas between, such as e.192.topk.float32")
    ask.add_argument("--columns", help="names of trainers, with commas between; `ours` has to be among them")
    ask.add_argument("--steps", type=int, help="of every case, instead of its own; not written")
    ask.add_argument(
        "--kills", type=int, default=10, help="random points at which a training and an adaptation are killed"
    )
    ask.add_argument(
        "--recording", type=Path, help="instead of one of the emoji-scenes FLUX; all cases at its width"
    )
    ask.add_argument("--site", default=SITE)
    args = ask.parse_args()
    torch.set_num_threads(1)
    cases = TINY if args.tiny else CASES
    if args.only:
        cases = tuple(case for case in cases if case.name in args.only.split(","))
    host = boot() if any(case.recorded for case in cases) and not args.recording else ""
    rows: dict[str, Any] = {}
    claims: dict[str, Claim] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = args.recording or Path(place) / "recording"
        if host:
            record(folder)
        for case in cases:
            if args.steps:
                case = replace(case, steps=args.steps)
            count = min(case.steps, 64)
            if args.recording or case.recorded:
                held, batches = recorded(folder, args.site, case.batch, count)
                times = case.latents // case.width
                case = replace(case, width=held.shape[1], latents=times * held.shape[1], recorded=True)
            else:
                held, batches = drawn(case.width, case.batch, count)
            found = measured(case, held, batches, rows, args.columns and args.columns.split(","))
            row = rows[case.name]
            for name, speed in row["tokens_per_second"].items():
                print(f"{case.name} {name}: {speed:,.0f} tokens/s, FVU {row['fvu'][name]:.4f}", flush=True)
            claims |= found
    with tempfile.TemporaryDirectory() as made:
        if args.kills:
            for name, of in (("f", kills), ("f.adapt", adaptation_kills.kills)):
                found, rows[name] = of(Path(made) / name, args.kills)
                claims |= found
    for name, claim in claims.items():
        verdict = "ran  " if args.tiny or args.steps else "holds" if claim.holds else "FAILS"
        print(f"{verdict}  {name}: {claim.value:.4g} (bound {claim.bound})")
    if not (args.tiny or args.steps or args.only or args.columns):
        found = versions("torch", "numpy", "sae-lens", "eai-sparsify", "dictionary-learning")
        machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
        source = args.recording.name if args.recording else "emoji-scenes-flux"
        write(
            "trainers",
            claims,
            machine=machine,
            recording=f"{source}, {args.site}",
            rows=rows,
            seed=SEED,
            host=host,
            versions=found,
        )


if __name__ == "__main__":
    main()
