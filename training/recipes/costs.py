"""What a recipe will take, computed from shapes and counts before anything is loaded.

Disk is what the stages will write: the recording's own plan is asked, with words of prompts counted instead of tokens.
Time is operations over the speed that the recipe assumes of the machine, and says so; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...steering.errors import SteeringError
from ..recordings import PromptRow, samples_of
from ..recordings.categories import MOST_BYTES
from ..recordings.manifest import Manifest, ModelFingerprint, Settings
from ..recordings.plan import TokenPlan
from ..recordings.reader import BUFFER
from ..recordings.writer import shard_bytes, size
from ..routing.ranking import OPERATORS
from .architectures import Architecture, architecture_of
from .lists import CALIBRATION, TARGET, TRAINING, Lists, read_lists
from .recipe import BOTH, ROUTED, Recipe

FLOAT = 4


@dataclass(frozen=True)
class StageCost:
    """What one stage takes."""

    name: str
    disk: int = 0
    """Bytes that it leaves."""
    memory: int = 0
    """Bytes of the machine's memory, beyond the models."""
    device: int = 0
    """Bytes of the GPU's memory (without one, of the machine's): weights and tables."""
    seconds: float = 0.0


def planned(recipe: Recipe, work: Path) -> str:
    """The stages as a table, labelled as computed.

    Raises:
        SteeringError: the recipe's lists or model cannot be read, or its sites are none of the model's.
    """
    lists, assumed = _lists(recipe)
    architecture = _architecture(recipe)
    stages = stage_costs(recipe, lists, architecture)
    total = StageCost(
        "together",
        sum(stage.disk for stage in stages),
        max(stage.memory for stage in stages),
        max(stage.device for stage in stages),
        sum(stage.seconds for stage in stages),
    )
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in lists.named().items())
    machine = recipe.machine
    lines = [
        f"Prompts: {counts}{f' (assumed: {recipe.prompts.file} is not there yet)' if assumed else ''}; "
        f"{recipe.record.seeds} seeds, {recipe.record.steps} steps, {recipe.record.width} x {recipe.record.height}",
        f"Results go to {work} and {recipe.path(recipe.bundle.file)}",
        "",
        f"{'stage':<24}{'disk':>10}{'memory':>10}{'GPU':>10}{'time':>10}",
        *(_line(stage) for stage in (*stages, total)),
        "",
        "Computed, not measured: disk from the recording's own plan, time from counted operations at "
        f"{machine.tflops:g} TFLOP/s in half precision and {machine.tflops_float32:g} in float32, and "
        f"{machine.disk:g} MB/s of disk, as the recipe's [machine] says. GPU: weights and tables at "
        "the widest site; activations come on top, and ComfyUI has text encoders and model there one after the other.",
    ]
    return "\n".join(lines)


def stage_costs(recipe: Recipe, lists: Lists, architecture: Architecture) -> list[StageCost]:
    """Each stage's cost, in their order."""
    costs: list[StageCost] = []
    plans = {name: token_plan(recipe, rows, architecture) for name, rows in lists.named().items()}
    call = architecture.operations(recipe.record.height, recipe.record.width)
    calls = recipe.record.steps * (2 if recipe.record.cfg > 1 else 1)
    picture = call * calls / (recipe.machine.tflops * 1e12)
    device = max(architecture.bytes, architecture.text_bytes)
    tokens: dict[str, int] = {}
    for name, plan in plans.items():
        rows = plan.all_rows()
        sizes = [shard_bytes(of, plan.manifest) for of in rows]
        tokens[name] = sum(sum(of.values()) for of in rows) // len(plan.manifest.sites)
        seconds = picture * len(plan.manifest.samples) + _reading(recipe, sum(sizes))
        costs.append(StageCost(f"record {name}", sum(sizes), 2 * max(sizes), device, seconds))
    widths = dict(plans[TRAINING].manifest.sites)
    count, named = len(widths), recipe.train.sites
    if named == ROUTED:
        made = 2 * recipe.route.pairs if recipe.weights.binding else 0
        operators = len(OPERATORS) if recipe.route.operator == BOTH else 1
        if recipe.weights.cost:
            made += 2 * recipe.route.benign * (1 + count * operators)
        pairs = min(MOST_BYTES, 2 * tokens[TRAINING] * max(widths.values()) * FLOAT)
        costs.append(StageCost("route", 0, pairs, device, picture * made))
        count = min(count, recipe.route.count)
    else:
        count = len(architecture.sites(named))
    return costs + [
        StageCost(
            f"{cost.name} ({count} sites)", cost.disk * count, cost.memory, cost.device, cost.seconds * count
        )
        for cost in _of_site(recipe, max(widths.values()), tokens)
    ]


def token_plan(recipe: Recipe, rows: Sequence[PromptRow], architecture: Architecture) -> TokenPlan:
    """Which tokens a recording will keep, with the words of prompts counted instead of their tokens."""
    said = recipe.record
    sites = architecture.sites(said.sites)
    settings = Settings(
        steps=said.steps,
        height=said.height,
        width=said.width,
        buckets=_edges(said.buckets),
        tokens_per_image=said.tokens_per_image or None,
        dtype=said.dtype,
        cap=said.cap or None,
        samples_per_shard=said.samples_per_shard,
    )
    samples = samples_of(rows, range(said.first_seed, said.first_seed + said.seeds))
    # How many levels there are counts; where they lie, only for buckets of unequal size.
    sigmas = tuple(1 - step / said.steps for step in range(said.steps))
    model = ModelFingerprint(architecture.family, "0" * 64)
    manifest = Manifest(model, sites, settings, sigmas, samples)
    places = [architecture.words(len(sample.text.split())) for sample in samples]
    image = architecture.image_tokens(said.height, said.width)
    return TokenPlan(manifest, places, image, architecture.text_start(sites))


def _of_site(recipe: Recipe, width: int, tokens: dict[str, int]) -> list[StageCost]:
    """Training, selection, adaptation, calibration and the bundle at one site of the model's width.

    Args:
        tokens: of each recording at a site.
    """
    config, machine = recipe.training, recipe.machine
    latents = config.size(width)
    table = latents * width
    speed = machine.tflops_float32 * 1e12
    # The encoder's product; the sparse rest takes about as much again.
    training = 2 * 2.0 * config.batch * table * config.steps
    trained = tokens[TRAINING]
    passes = 2 if recipe.select.method == "score" else 1
    read = trained * width * 2
    pairs = min(MOST_BYTES, 2 * trained * width * FLOAT)
    costs = [
        StageCost(
            "train",
            disk=8 * table * FLOAT,  # Adam's state with the parameters, and the result
            memory=min(BUFFER, 2 * read) + 6 * table * FLOAT,
            device=6 * table * FLOAT + config.batch * latents * FLOAT,
            seconds=training / speed + _reading(recipe, config.steps * config.batch * width * 2),
        ),
        StageCost(
            "select",
            memory=2 * table * FLOAT + (0 if recipe.select.method == "score" else pairs),
            device=2 * table * FLOAT + 1024 * latents * FLOAT,
            seconds=passes * (2.0 * trained * table / speed + _reading(recipe, read)),
        ),
    ]
    if recipe.adapt.on:
        rows = tokens.get(TARGET, trained)
        closed = recipe.adapt.method == "closed form" or (
            recipe.adapt.method == "auto" and recipe.adapt.rows == "selected"
        )
        seen = 2 * rows if closed else recipe.adaptation.steps * recipe.adaptation.batch
        costs.append(
            StageCost(
                "adapt",
                disk=3 * table * FLOAT,
                memory=pairs + 3 * table * FLOAT,
                device=3 * table * FLOAT + 4096 * latents * FLOAT,
                seconds=2.0 * seen * table / speed + _reading(recipe, 2 * read),
            )
        )
    judged = tokens[CALIBRATION]
    costs.append(
        StageCost(
            "calibrate",
            memory=3 * table * FLOAT,
            seconds=_reading(recipe, judged * width * 2),
        )
    )
    matrices = 3 if recipe.adapt.on else 2
    costs.append(StageCost("save", disk=matrices * table * 2, memory=3 * table * FLOAT))
    return costs


def _lists(recipe: Recipe) -> tuple[Lists, bool]:
    """The recipe's prompts, or as many as it says there will be; and whether they are only assumed."""
    if recipe.path(recipe.prompts.file).exists():
        return read_lists(recipe), False
    said = recipe.prompts
    text = " ".join(["word"] * said.words)
    rows: list[PromptRow] = []
    for pair in range(said.pairs):
        rows += [PromptRow(f"{pair} {text}", label, "risk", str(pair)) for label in ("unsafe", "safe")]
    rows += [PromptRow(f"{text} {number}", "benign") for number in range(said.benign)]
    held = [number for number in range(len(rows)) if _of_last_share(number, said)]
    inside = set(held)
    target = tuple(rows[: 2 * said.pairs]) if said.target else ()
    return (
        Lists(
            tuple(row for number, row in enumerate(rows) if number not in inside),
            tuple(rows[number] for number in held),
            target,
        ),
        True,
    )


def _of_last_share(number: int, said: object) -> bool:
    pairs, benign, share = (getattr(said, name) for name in ("pairs", "benign", "held_out"))
    if number < 2 * pairs:
        return number // 2 >= pairs - round(share * pairs)
    return number - 2 * pairs >= benign - round(share * benign)


def _architecture(recipe: Recipe) -> Architecture:
    said = recipe.model
    files = [recipe.path(name) for name in said.text_encoders]
    there = sum(file.stat().st_size for file in files if file.is_file())
    return architecture_of(said.architecture, recipe.path(said.diffusion_model or said.checkpoint), there)


def _edges(text: str) -> tuple[float, ...]:
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [float(word) for word in words]
        parts = int(words[0]) if len(words) == 1 else 0
    except ValueError:
        numbers, parts = [], 0
    if len(numbers) > 1:
        return tuple(numbers)
    if parts < 1:
        raise SteeringError(
            "record.buckets",
            expected="rising edges in sigma such as `0, 0.3, 0.7, 1`, or a number of equal parts",
            found=repr(text),
            remedy="Write `4` if you are not sure.",
        )
    return tuple(edge / parts for edge in range(parts + 1))


def _reading(recipe: Recipe, count: int) -> float:
    return count / (recipe.machine.disk * 1e6)


def _line(stage: StageCost) -> str:
    cells = [size(count) if count else "-" for count in (stage.disk, stage.memory, stage.device)]
    return f"{stage.name:<24}" + "".join(f"{cell:>10}" for cell in (*cells, _duration(stage.seconds)))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "-" if seconds == 0 else "< 1 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
