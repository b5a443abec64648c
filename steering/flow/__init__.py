"""Restricting the flow of unsafe information in joint attention (UVR, arXiv 2606.06875): find it, mark it, weigh it.

layout     where text, picture and references lie in the joint sequence
step       one visit of an attention, and what a run remembers between visits
anchors    what unsafe attention outputs look like, from moments
score      how much each patch looks like that
localise   from scores to a region (region, morphology): a core and its ring
given      masks that are given, in place of that
groups     which queries attend by which weights
restrict   exact restricted attention without an attention map
stacking   several restrictions of one attention
modifier   all of it, as one modifier of a plan, with noise and a memory of what was found
asked      what people ask of it, as a modifier
watching, shares    modifiers that only look: outputs of patches, and where attention goes
log        what a run found, for people

Thresholds are calibrated in training/flows/localisation.py.
"""
