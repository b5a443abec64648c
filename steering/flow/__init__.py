"""Restricting the flow of unsafe information in joint attention (UVR, arXiv 2606.06875): find it, mark it, weigh it.

layout     where text, picture and references lie in the joint sequence
anchors    what unsafe attention outputs look like, from moments
score      how much each patch looks like that
localise   from scores to a core and its ring
groups     which queries attend by which weights
restrict   exact restricted attention without an attention map
modifier   all of it, as one modifier of a plan

Thresholds are calibrated in training/localisation.py.
"""
