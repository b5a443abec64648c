"""Restricting the flow of attention in the emoji world: ``nox -s bench -- uvr``.

Anchors of what is unsafe, with thresholds, are collected from prompts to learn from; the way to restrict was chosen on
validation prompts among settings.TRIED; held-out prompts are only measured. No text is in two of these.

a  generation: what is unsafe goes, what stands beside it stays, and benign pictures keep every bit
b  editing, where the instruction or the reference brings it in; left out without the generator that edits
c  ablations, and how well the mask lies on what is unsafe at each step
d  beside Repel and a transferred direction
e  cost at FLUX's size beside plain and materialised attention: a stage of its own, with nothing else on the machine

settings.py says how much and which way, prompting.py what is asked, learning.py collects anchors, worlds.py and
edits.py make pictures, overlap.py follows the mask, cost.py measures, plan.py lists what is needed, claims.py draws the
claims.
"""
