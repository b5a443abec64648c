"""Recipes: a model and lists of prompts in, a bundle out, over the same functions as the nodes.

    recipe.py          what a recipe says
    reading.py         reads it from its file
    lists.py           the prompts that its recordings are of
    making.py          the stages, one after the other; what is whole is not made again
    sampled.py         the two stages that need the host: recording and routing
    work.py            where stages leave their results
    costs.py           what it will take, computed before anything starts

Nothing but sampled.py knows the host.
"""

from __future__ import annotations

from .reading import read_recipe
from .recipe import Recipe

__all__ = ["Recipe", "read_recipe"]
