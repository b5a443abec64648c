"""Directions from a language model that steer generators which no unsafe text came near: ``nox -s bench -- transfer``.

Source is SmolLM2-135M; targets are the emoji world's FLUX and SD3, both given MiniLM's states. Directions:

- **random**: of the same length as those carried by ridge, drawn anew for each category; where it is gated, by the
  gates of those, so that it acts on the very same prompts,
- **native**: from the same pairs in the target's own encoder: what unsafe texts at the target would give,
- **procrustes**, **ridge**, **mlp**: carried over by each map, fitted on benign anchors alone.

Each is used as one *global* direction, as one a category all at once (*multi*), and *gated*; added, or projected out.

Pairs name the seen things of the world; judged prompts name others (pairs.HELD_OUT_THINGS). How strongly the gated
directions are projected out, and whether they are rather added, is chosen on prompts about seen things, of which none
is judged; gates are set on benign prompts of a third seed. What is judged chose nothing.

settings.py says how much, prompting.py what is asked, directions.py makes the directions, methods.py applies them,
cells.py makes pictures, plan.py lists what is needed, choice.py chooses strengths, claims.py draws the claims.
"""
