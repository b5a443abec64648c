"""Directions learned in a language model and carried to a generator's text encoder over benign texts alone
(2606.05290).

`read_pairs` → `estimate_directions` at a layer of a source → `align` source and target on `Benign` anchors →
`transport` → `calibrate`. What comes out is a `DirectionSet` (steering/directions.py) that a bundle stores and nodes
apply.
"""

from __future__ import annotations

from .align import FittedMap, Quality, align, encode_anchors, fit_map, require_quality
from .anchors import WORDNET, Benign, benign_anchors, read_anchors
from .estimate import Difference, Estimate, difference_in_means, estimate_directions
from .language_model import SMOLLM2, open_language_model
from .layers import LayerScore, best_layer, choose_layer, score_layers
from .pairs import Pair, PromptPairs, read_pairs
from .sources import HiddenStates, Layer, token_means
from .transport import calibrate, transport

__all__ = [
    "Pair", "PromptPairs", "read_pairs",
    "Benign", "benign_anchors", "read_anchors", "WORDNET",
    "HiddenStates", "Layer", "token_means", "open_language_model", "SMOLLM2",
    "Difference", "Estimate", "difference_in_means", "estimate_directions",
    "LayerScore", "score_layers", "best_layer", "choose_layer",
    "FittedMap", "Quality", "encode_anchors", "fit_map", "require_quality", "align",
    "transport", "calibrate",
]  # fmt: skip
