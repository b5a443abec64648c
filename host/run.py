"""One sampling run: which rows are steered, what was visited, what fired.

The host calls the model many times a run, in batches that it composes itself. What has to survive between
those calls lives in a `Run` that the OUTER_SAMPLE wrapper puts into the run's own copy of the options, and
that ends with it. When a run has made its latent, its log is filed under the digest of each picture, so that
a node that gets only the LATENT finds what fired.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..steering.errors import SteeringError
from ..steering.firing import FiringLog
from ..steering.sites import Site

RUN_KEY = "steerdit_run"
LOGS_KEPT = 64

_logs: OrderedDict[str, tuple[FiringLog, int]] = OrderedDict()
_lock = Lock()


class Run:
    """The state of one sampling run.

    Args:
        negative: ids of the conditionings that are not steered; None where the host gives no ids.
        seed: of the run, for labels.
    """

    def __init__(self, negative: Collection[object] | None = None, seed: int | None = None) -> None:
        self.negative = negative
        self.seed = seed
        self.log = FiringLog()
        self._wanted: set[Site] = set()
        self._visited: set[Site] = set()

    def steered_chunks(self, options: Mapping[str, Any]) -> list[int]:
        """Which equal chunks of a call's rows hold a positive conditioning.

        The host numbers conditionings per guider: 0 is the positive of the usual guider, but the negative of
        the dual one. The ids tell them apart; without them the number decides.
        """
        numbers: Sequence[int] = options.get("cond_or_uncond", [0])
        ids: Sequence[object] = options.get("uuids", ())
        if self.negative is not None and len(ids) == len(numbers):
            return [chunk for chunk, one in enumerate(ids) if one not in self.negative]
        return [chunk for chunk, number in enumerate(numbers) if number == 0]

    def called(self, wanted: Collection[Site], visited: Collection[Site], may_skip: bool) -> None:
        """Takes note of one steered call, and refuses a model that passes by its sites.

        Args:
            may_skip: another node may have answered the call without running the model, as caching nodes do.
                Then the missing sites get until the end of the run to be visited.
        """
        self._wanted |= set(wanted)
        self._visited |= set(visited)
        if not may_skip:
            self.finish()

    def finish(self) -> None:
        """Raises SteeringError if a site that should have been steered was never visited."""
        missing = sorted(self._wanted - self._visited)
        if missing:
            raise SteeringError(
                ", ".join(map(str, missing)),
                expected="the model to pass through the site while sampling",
                found="that it never did",
                remedy="A loader or node has replaced the model's forward pass and ignores the host's block hooks, so "
                "nothing would have been steered. Load the model with the host's own nodes.",
            )


def digest(picture: Tensor) -> str:
    """Names a latent picture (C, H, W) by its values. Half precision, because the host may store latents so."""
    values = picture.detach().to(device="cpu", dtype=torch.float16).contiguous()
    return hashlib.sha256(repr(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()


def file_log(latent: Tensor, log: FiringLog) -> None:
    """Files a run's log under each picture of the latent (B, C, H, W) that it made; the oldest is forgotten."""
    with _lock:
        for image, picture in enumerate(latent):
            key = digest(picture)
            _logs[key] = log, image
            _logs.move_to_end(key)
        while len(_logs) > max(LOGS_KEPT, len(latent)):
            _logs.popitem(last=False)


def find_logs(latent: Tensor) -> list[tuple[FiringLog, int]]:
    """The log and the picture's number in it, for each picture of a latent (B, C, H, W).

    Raises:
        SteeringError: a picture is not known.
    """
    with _lock:
        found = [_logs.get(digest(picture)) for picture in latent]
    if any(entry is None for entry in found):
        raise SteeringError(
            "LATENT",
            expected="the unchanged output of a sampler whose MODEL went through a SteerDiT node",
            found=f"a latent that is not among the last {LOGS_KEPT} steered pictures",
            remedy="Connect the sampler's own LATENT (its `output`, where it has two). If it is connected, the log is "
            "no longer in memory: change the seed to sample again.",
        )
    return [entry for entry in found if entry is not None]


def sampling_run(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """OUTER_SAMPLE wrapper: gives the run its state and files its log. The options are put back whatever happens."""
    guider = executor.class_obj
    options = guider.model_options
    run = Run(negative=_negative_ids(guider), seed=args[7] if len(args) > 7 else kwargs.get("seed"))
    guider.model_options = {
        **options,
        "transformer_options": {**options.get("transformer_options", {}), RUN_KEY: run},
    }
    try:
        latent = executor(*args, **kwargs)
    finally:
        guider.model_options = options
    run.finish()
    if isinstance(latent, Tensor) and latent.ndim >= 3:
        file_log(latent, run.log)
    return latent


def _negative_ids(guider: Any) -> frozenset[object] | None:
    conditionings: Mapping[str, Any] = getattr(guider, "conds", {})
    if not all("uuid" in one for of in conditionings.values() for one in of or ()):
        return None
    negatives = [of for name, of in conditionings.items() if "negative" in name]
    return frozenset(one["uuid"] for of in negatives for one in of or ())
