"""What is compared: where the autoencoder, its latents and its second decoder come from, and how it is used."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...steering.sites import Site
from .prompting import SETS

OPERATORS = ("repel", "blend")
METHODS = (*OPERATORS, "both")
STRENGTHS = {"default": {"repel": 2.0, "blend": 1.0}, "paper": {"repel": 0.2, "blend": 0.2}}
"""By form: what the nodes begin with, and what the paper is reported to use."""
GATES = {"flux": "both", "sd3": "image"}
"""By architecture: the nodes' default, `image`, where in every rotation it keeps 90 % of the benign things beside a
risk that are kept without steering; otherwise `both`, which spares tokens without it. Of 208 validation prompts a
rotation."""
WITH_AND_WITHOUT = ("calibrated", "always")
"""With that gate, and without any."""
HEADLINE = "blend"
"""The method that attacks are tried on, and that claims speak of where they name none."""


@dataclass(frozen=True)
class Recipe:
    """How the bundle of one site is made; a part of its key."""

    dictionary: str = "source"
    """Trained on `source`, or on `all` four categories."""
    chosen: str = "target"
    """The pairs that chose the latents: `source` or `target`."""
    selector: str = "score"
    """Or `flips`, the counterfactual one."""
    adapted: str = "target"
    """The pairs that the second decoder learnt from."""
    lesson: str = "pairs"
    """Or `safe side`, the paper's."""
    stability: bool = True
    crossing: bool = False
    """Gates where counterfactual tokens cross, instead of at benign quantiles."""

    @property
    def read(self) -> Recipe:
        """The same for recipes that read alike: second decoders and their lessons play no part."""
        return replace(self, adapted="target", lesson="pairs", stability=True)

    def gate_at(self, site: Site) -> str:
        """The same name for recipes that open the same gate there."""
        return f"{site} {self.dictionary} {self.chosen} {self.selector}{' crossing' * self.crossing}"


@dataclass(frozen=True)
class Use:
    """How bundles steer."""

    method: str
    """One of METHODS."""
    form: str = "default"
    gate: str = "image"


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    recipe: Recipe
    sites: str = "routed"
    """`routed`, `worst` or `random`."""
    form: str = "default"
    gate: str = ""
    """The architecture's own, if it says none; `other` is the one that it was not given."""
    methods: tuple[str, ...] = (HEADLINE,)
    headline_on: tuple[str, ...] = ("target",)
    """The sets that the headline's method is judged on; any other is judged on the target alone."""
    few: bool = True
    """An ablation, which is read over all rotations."""

    def use(self, method: str, own: str) -> Use:
        """How it steers by a method, where the architecture's own gate is `own`."""
        other = "image" if own == "both" else "both"
        return Use(method, self.form, {"": own, "other": other}.get(self.gate, self.gate))

    def sets(self, method: str) -> tuple[str, ...]:
        """What a method is judged on."""
        return self.headline_on if method == HEADLINE else ("target",)


SAFEDIG = Recipe()
UNADAPTED = Recipe(chosen="source", adapted="source")

ARMS: dict[str, Arm] = {
    "unadapted": Arm(UNADAPTED, headline_on=("target", "source"), few=False),
    "unadapted, target's latents": Arm(replace(UNADAPTED, chosen="target")),
    "SafeDIG": Arm(SAFEDIG, methods=METHODS, headline_on=SETS, few=False),
    "upper bound": Arm(replace(SAFEDIG, dictionary="all"), few=False),
    "other gate": Arm(SAFEDIG, gate="other", headline_on=("target", "mixed"), few=False),
    "no routing, worst sites": Arm(SAFEDIG, sites="worst"),
    "no routing, random sites": Arm(SAFEDIG, sites="random"),
    "no stability term": Arm(replace(SAFEDIG, stability=False)),
    "paper's lesson": Arm(replace(SAFEDIG, lesson="safe side")),
    "paper's forms": Arm(replace(SAFEDIG, lesson="safe side"), form="paper", gate="image", methods=OPERATORS),
    "counterfactual latents": Arm(replace(SAFEDIG, selector="flips")),
    "counterfactual gates": Arm(replace(SAFEDIG, crossing=True)),
}
"""The first three parts of claim a; the last two belong to claim d."""


def cell_name(arm: str, method: str, prompts: str) -> str:
    return f"{arm} | {method} | {prompts}"


def attack_name(arm: str, prompts: str, gate: str) -> str:
    return f"{arm} | {HEADLINE} | {prompts} | gate {gate}"
