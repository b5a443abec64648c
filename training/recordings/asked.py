"""What people write for sites and buckets, in the node and on the command line."""

from __future__ import annotations

from typing import Any

from ...host.attach import diffusion_model
from ...host.families import family_of
from ...steering.errors import SteeringError
from ...steering.sites import Site, select_sites


def sites_named(model: Any, expression: str) -> tuple[Site, ...]:
    """The sites of a ModelPatcher that an expression names; `default` means SafeDIG's functional positions.

    Raises:
        SteeringError: a term names none, or the family is not supported.
    """
    dit = diffusion_model(model)
    family = family_of(dit)
    if expression.strip() in ("", "default"):
        return family.positions(dit)
    offered = family.sites(dit)
    for site in map(_one_site, expression.split(",")):
        if site is not None and site not in offered and not site.is_attention:
            family.width(dit, site)  # refuses it, and says why the model lacks it
    return select_sites(expression, offered)


def _one_site(term: str) -> Site | None:
    """The site that a term is, if it is no pattern."""
    try:
        return Site.parse(term.strip())
    except SteeringError:
        return None


def buckets_named(model: Any, text: str) -> tuple[float, ...]:
    """Edges in sigma: written out, `0, 0.3, 0.7, 1`, or as a number of equal parts of the model's noise levels, `4`.

    Raises:
        SteeringError: neither.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [float(word) for word in words]
        parts = int(words[0]) if len(words) == 1 else 0
    except ValueError:
        numbers, parts = [], 0
    if len(numbers) > 1:
        return tuple(numbers)
    if not 1 <= parts <= 1000:
        raise SteeringError(
            "buckets",
            expected="rising edges in sigma such as `0, 0.3, 0.7, 1`, or a number of equal parts from 1 to 1000",
            found=repr(text),
            remedy="Write `4` if you are not sure.",
        )
    highest = float(model.get_model_object("model_sampling").sigma_max)
    return tuple(highest * edge / parts for edge in range(parts + 1))
