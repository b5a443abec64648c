"""From a recipe to a bundle, stage by stage:

    record → route → train → select → adapt → calibrate → save

Each stage leaves its result in the work folder under a name made from what it depends on, and a second run takes what
is whole as it is. Whatever ends a run, nothing half-made takes the place of something whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...steering.errors import SteeringError
from ...steering.formats.bundle import Bundle, open_bundle
from ...steering.formats.header import Base
from ...steering.sites import Site, select_categories, select_sites
from ..adaptation.domains import adapt_sae
from ..assembling import Part, write_parts
from ..dictionaries import job, process
from ..dictionaries.ranks import chosen_device
from ..dictionaries.result import TrainedSAE, read_trained, write_trained
from ..gates.sites import calibrate_site
from ..gates.weights import weighed
from ..recordings import PromptRow, Recording, open_recording
from ..recordings.manifest import FILE as MANIFEST
from ..selection.choosing import select_latents
from .lists import CALIBRATION, TARGET, TRAINING, Lists
from .recipe import CROSSING, ROUTED, SELECTED, Recipe
from .work import Work, categories_of, file_identity, key


class Cancelled(Exception):
    """Somebody asked to stop; what is whole is kept."""


class Course(Protocol):
    """Where a run shows itself, and hears that it should stop."""

    def stage(self, name: str, whole: bool = False) -> None:
        """A stage begins, or is whole already."""
        ...

    def say(self, text: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def stopped(self) -> bool: ...


class Host(Protocol):
    """What needs the host: `sampled.py`, late."""

    def record(
        self, rows: Sequence[PromptRow], name: str, shard: tuple[int, int], course: Course
    ) -> Recording | None: ...

    def route(self, recording: Recording, progress: Callable[[int, int], None]) -> dict[str, Any]: ...

    def release(self) -> None: ...


def make_bundle(
    recipe: Recipe, lists: Lists, work: Work, host: Host, course: Course, *, shard: tuple[int, int] = (0, 1),
    replace: bool = False,
) -> Bundle | None:  # fmt: skip
    """Makes the bundle of a recipe, or what is missing of it.

    Args:
        shard: (i, n): of n processes that record together, number i. They only record; a run alone does the rest.
        replace: a bundle of that name that is not of this recipe may be replaced.

    Returns:
        the bundle; None where this was one of several processes, or where others' parts are missing.

    Raises:
        Cancelled: the course said so; what is whole is kept.
        SteeringError: see the stages' functions; or a file of the bundle's name is there.
    """
    file, identity = recipe.path(recipe.bundle.file), identity_of(recipe, lists)
    there = _made_before(recipe, identity, replace)
    if there is not None:
        course.stage(f"save {file.name}", whole=True)
        return there
    _require_folder(file)
    recordings = {name: _recorded(recipe, lists, name, work, host, course, shard) for name in lists.named()}
    if shard[1] > 1 or None in recordings.values():
        return None
    made = _Making(
        recipe, work, host, course, {name: it for name, it in recordings.items() if it is not None}
    )
    sites = made.sites()
    host.release()
    parts = [made.part(site) for site in sites]
    course.stage(f"save {file.name}")
    return write_parts(
        file,
        [part for part in parts if part.categories],
        name=recipe.bundle.name or file.stem,
        base=Base(recipe.model.base),
        license=recipe.bundle.license,
        recipe={"recipe": identity, "prompts": {name: len(rows) for name, rows in lists.named().items()}},
    )


def identity_of(recipe: Recipe, lists: Lists) -> str:
    """The same for recipes that make the same bundle, wherever they lie."""
    parts = [
        getattr(recipe, name)
        for name in (
            "record", "route", "weights", "train", "training", "select", "adapt", "adaptation", "gates",
            "gate_rule",
        )
    ]  # fmt: skip
    named = [recipe.bundle.name, recipe.bundle.license, recipe.model.base]
    return key(_model_identity(recipe), lists, parts, named)


def recording_name(recipe: Recipe, lists: Lists, name: str) -> str:
    """The folder of one of the recordings, within the work folder."""
    return f"recording-{name}-{key(_model_identity(recipe), lists.named()[name], recipe.record)}"


def _model_identity(recipe: Recipe) -> list[str]:
    said = recipe.model
    files = [said.checkpoint, said.diffusion_model, *said.text_encoders]
    return [
        *(file_identity(recipe.path(file)) for file in files if file),
        said.clip_type,
        said.own_text_encoder,
    ]


def _made_before(recipe: Recipe, identity: str, replace: bool) -> Bundle | None:
    file = recipe.path(recipe.bundle.file)
    if not file.exists():
        return None
    try:
        bundle = open_bundle(file)
        if bundle.header.made.recipe.get("recipe") == identity:
            return bundle
    except SteeringError:
        pass  # not a bundle: it is not replaced unless that is asked for
    if replace:
        return None
    raise SteeringError(
        str(file),
        expected="no file of that name, or the bundle of this very recipe",
        found="another",
        remedy="Name another in the recipe's bundle.file, or give --replace.",
    )


def _require_folder(file: Path) -> None:
    """Makes the bundle's folder before hours of work, not after them."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise SteeringError(
            f"bundle.file: {file}",
            expected="a folder that can be made",
            found=reason.strerror or str(reason),
            remedy="Name another in the recipe's bundle.file; it starts from the recipe's folder.",
        ) from reason


def _recorded(
    recipe: Recipe, lists: Lists, name: str, work: Work, host: Host, course: Course, shard: tuple[int, int]
) -> Recording | None:
    folder = work.path(recording_name(recipe, lists, name))
    there = open_recording(folder) if (folder / MANIFEST).exists() else None
    whole = there is not None and all((folder / entry.file).exists() for entry in there.manifest.shards)
    course.stage(f"record {name}", whole)
    if whole:
        return there
    return host.record(lists.named()[name], folder.name, shard, course)


class _Making:
    """The stages after the recordings."""

    def __init__(
        self, recipe: Recipe, work: Work, host: Host, course: Course, recordings: dict[str, Recording]
    ) -> None:
        self.recipe, self.work, self.host, self.course = recipe, work, host, course
        self.training, self.calibration = recordings[TRAINING], recordings[CALIBRATION]
        self.target = recordings.get(TARGET, self.training)
        self.digests = {name: job.digest_of(recording) for name, recording in recordings.items()}
        self.digests.setdefault(TARGET, self.digests[TRAINING])

    def sites(self) -> tuple[Site, ...]:
        """Where autoencoders are trained: as named, or the best of the routing."""
        recipe = self.recipe
        if recipe.train.sites != ROUTED:
            return select_sites(recipe.train.sites, self.training.sites)
        name = f"routing-{key(self.digests[TRAINING], recipe.route, recipe.weights)}"
        found = self._once("route", name, lambda: self.host.route(self.training, self._moved))
        self.course.say(found["table"])
        return tuple(Site.parse(site) for site in found["sites"])

    def part(self, site: Site) -> Part:
        """One site of the bundle."""
        recipe = self.recipe
        trained, identity = self._trained(site)
        chosen = key(identity, recipe.select, "weighed")
        selected = self._once(
            f"select {site}", f"selection-{site}-{chosen}", lambda: self._selected(trained, site)
        )
        self.course.say(selected["table"])
        latents = {name: tuple(of) for name, of in selected["latents"].items()}
        if not any(latents.values()):
            return Part(trained, {})
        sae, changed = trained, chosen
        if recipe.adapt.on:
            changed = key(chosen, recipe.adapt, recipe.adaptation, self.digests[TARGET])
            sae = self._adapted(trained, site, latents, changed)
        name = f"gates-{site}-{key(changed, recipe.gates, recipe.gate_rule, self.digests[CALIBRATION])}"
        weights = {name: tuple(of) for name, of in selected["weights"].items()}
        gates = self._once(f"calibrate {site}", name, lambda: self._gates(sae, site, latents, weights))
        found = categories_of(gates)
        for category, it in found.items():
            self.course.say(f"{site} {category}: {_said(it.gate)}")
        return Part(sae, found)

    def _trained(self, site: Site) -> tuple[TrainedSAE, str]:
        recipe, machine = self.recipe, self.recipe.machine
        wanted = job.Job.of(
            self.training,
            site,
            config=recipe.training,
            labels=recipe.train.labels or None,
            device=machine.device,
            threads=machine.threads,
            base=recipe.model.base,
            license=recipe.bundle.license,
            counterfactuals=recipe.train.counterfactuals,
        )
        identity = key(wanted.identity, recipe.model.base, recipe.bundle.license)
        folder = self.work.path(f"sae-{site}-{identity}")
        whole = (folder / job.RESULT).exists()
        self.course.stage(f"train {site}", whole)
        if whole:
            return read_trained(folder / job.RESULT), identity
        job.prepare(folder, wanted)
        steps = wanted.config.steps
        sae = process.run(
            folder,
            report=lambda lines: self.course.progress(lines[-1].step if lines else 0, steps),
            stop=self.course.stopped,
        )
        if sae is None:
            raise Cancelled
        self.course.say(sae.report())
        return sae, identity

    def _selected(self, trained: TrainedSAE, site: Site) -> dict[str, Any]:
        rule = self.recipe.select
        passes = 3 if rule.method == "score" else 2
        placed = trained.to(chosen_device(self.recipe.machine.device))
        progress = self._counting(passes * self.training.count(site))
        chosen = select_latents(placed, self.training, site, rule, progress=progress)
        found = weighed(chosen, placed, self.training, progress)
        return {"latents": found.latents, "weights": found.weights, "table": found.table()}

    def _adapted(
        self, trained: TrainedSAE, site: Site, latents: dict[str, tuple[int, ...]], changed: str
    ) -> TrainedSAE:
        path = self.work.path(f"adapted-{site}-{changed}.safetensors")
        self.course.stage(f"adapt {site}", path.exists())
        if path.exists():
            return read_trained(path)
        said = self.recipe.adapt
        known = dict.fromkeys(s.category for s in self.target.manifest.samples if s.category is not None)
        chosen = select_categories(said.categories, known)
        union = sorted({latent for of in latents.values() for latent in of})
        found = adapt_sae(
            trained.to(chosen_device(self.recipe.machine.device)),
            self.target,
            self.training,
            self.recipe.adaptation,
            lesson=said.learn_from,
            categories=None if set(chosen) == set(known) else chosen,
            latents=union if said.rows == SELECTED else None,
            acting=latents if said.rows == SELECTED else None,
            method=said.method,
            checkpoints=self.work.path("adaptations"),
            progress=self._moved,
        )
        self.course.say(
            f"{site}: {found.how}, target loss {found.before.target:.5f} to {found.after.target:.5f}"
        )
        sae = found.sae.to("cpu")
        write_trained(path, [sae])
        return sae

    def _gates(
        self,
        sae: TrainedSAE,
        site: Site,
        latents: dict[str, tuple[int, ...]],
        weights: dict[str, tuple[float, ...]],
    ) -> dict[str, Any]:
        return calibrate_site(
            sae,
            self.calibration,
            site,
            latents,
            self.recipe.gate_rule,
            weights=weights,
            at_crossing=self.recipe.gates.thresholds == CROSSING,
            progress=self._counting(self.calibration.count(site)),
        )

    def _once(self, stage: str, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.course.stage(stage, self.work.read(name) is not None)
        return self.work.once(name, make)[0]

    def _moved(self, done: int, total: int) -> None:
        self.course.progress(done, total)
        if self.course.stopped():
            raise Cancelled

    def _counting(self, total: int) -> Callable[[int], None]:
        done = 0

        def more(tokens: int) -> None:
            nonlocal done
            done += tokens
            self._moved(min(done, total), total)

        return more


def _said(gate: Any) -> str:
    recall, wrong = (
        "-" if rate is None else f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"
        for rate in (gate.recall, gate.false_positive)
    )
    return f"opens on {recall} of unsafe and {wrong} of other pictures"
