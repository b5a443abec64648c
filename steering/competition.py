"""Whether a latent may be judged by itself: exactness by activation.

    relu, jumprelu   each latent decides by its own pre-activation, so that a few rows of the dictionary are exact;
                     BatchTopK is jumprelu here, because a threshold is its published rule at inference
    topk             a latent fires only among the k largest of all, so that a few rows cannot say whether it does

For topk there are three ways:

    exact       the whole dictionary is loaded, and asked wherever a chosen latent is positive
    threshold   a latent fires above a threshold of the bundle, calibrated so that k fire on average
    relu        a latent fires wherever it is positive: no competition, so that more fire than in training
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from .errors import SteeringError
from .formats.bundle import Bundle
from .formats.header import SaeSite
from .sites import Site


class TopK(str, Enum):
    """How latents of a TopK dictionary fire; other dictionaries know one way, and take no notice."""

    AUTO = "auto"
    """threshold where the bundle holds calibrated ones, exact elsewhere"""
    EXACT = "exact"
    THRESHOLD = "threshold"
    RELU = "relu"


class Rule(NamedTuple):
    """How the latents of one dictionary fire."""

    competing: bool
    """Only the k largest of all N fire: the whole dictionary is needed."""
    thresholded: bool
    """A latent fires above its stored threshold, otherwise above 0."""
    why: str
    """For people."""


def rule_of(sae: SaeSite, has_threshold: bool, wanted: TopK | str, source: str) -> Rule:
    """The rule of a dictionary.

    Args:
        has_threshold: whether thresholds are stored.
        wanted: for a TopK dictionary.
        source: what messages call it, such as the file and site.

    Raises:
        SteeringError: thresholds are wanted of a TopK dictionary that has none.
    """
    if sae.activation != "topk":
        what = "above its stored threshold" if sae.activation == "jumprelu" else "where it is positive"
        return Rule(False, sae.activation == "jumprelu", f"{sae.activation}, exact: each latent fires {what}")
    wanted, k = TopK(wanted), f"topk {sae.k} of {sae.latents}"
    if wanted is TopK.RELU:
        return Rule(False, False, f"{k}, relu as chosen: every positive latent fires, more than in training")
    if wanted is TopK.THRESHOLD and not has_threshold:
        raise SteeringError(
            source,
            expected="calibrated thresholds (tensor `threshold`), as topk `threshold` needs",
            found="a TopK dictionary without them",
            remedy="Choose topk `exact`, or calibrate the bundle: `python -m steerdit thresholds`.",
        )
    if wanted is TopK.THRESHOLD or (wanted is TopK.AUTO and has_threshold):
        reason = "as chosen" if wanted is TopK.THRESHOLD else "because the bundle holds calibrated ones"
        return Rule(False, True, f"{k}, threshold {reason}: approximate, only the chosen latents are loaded")
    reason = "as chosen" if wanted is TopK.EXACT else "because the bundle holds no calibrated thresholds"
    return Rule(True, False, f"{k}, exact {reason}: the whole dictionary is loaded")


def rule_at(bundle: Bundle, site: Site, wanted: TopK | str) -> Rule:
    """The rule at a site of a bundle."""
    return rule_of(
        bundle.sites[site], f"{site}.threshold" in bundle.tensors, wanted, f"{bundle.path}: {site}"
    )
