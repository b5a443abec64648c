"""One sampling run: which rows are steered, what was visited, what fired.

The host calls the model many times a run, in batches that it composes itself. What has to survive between
those calls lives in a `Run` that the OUTER_SAMPLE wrapper puts into the run's own copy of the options, and
that ends with it. When a run has made its latent, its logs are filed under the digest of each picture, so that
a node that gets only the LATENT finds what fired. Runs that change nothing make the same picture whatever they watch,
so a picture may have the logs of several runs; none of them takes another's place.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from ..steering.errors import SteeringError
from ..steering.firing import FiringLog
from ..steering.flow.log import FlowLog
from ..steering.flow.modifier import RestrictFlow
from ..steering.flow.step import FlowModifier, FlowRecord, FlowState
from ..steering.sites import Site

RUN_KEY = "steerdit_run"
RUNS_KEPT = 32
"""How many runs' logs are in memory, whatever the number of their pictures."""

_filed: deque[tuple[dict[str, int], FiringLog, FlowLog]] = deque(maxlen=RUNS_KEPT)
"""Each run's pictures by digest, with their numbers in its logs; the newest first."""
_lock = Lock()


class Run:
    """The state of one sampling run.

    Args:
        negative: says at each call the ids of the conditionings that are not steered; None where the host gives
            no ids.
        seed: of the run, for labels.
        latent: shape (B, C, H, W) of the pictures that are made; None where it is not known.
    """

    def __init__(
        self,
        negative: Callable[[], Collection[object] | None] = lambda: None,
        seed: int | None = None,
        latent: Sequence[int] | None = None,
    ) -> None:
        self.negative = negative
        self.seed = seed
        self.latent = latent
        self.log = FiringLog()
        self.flows = FlowLog()
        self.owners: dict[object, str] = {}
        """Which conditionings of the guider an id was given to."""
        self.calls = 0
        """Of the model, steered or not."""
        self._wanted: set[Site] = set()
        self._visited: set[Site] = set()
        self._told = False
        self._states: dict[FlowModifier, FlowState] = {}
        self._warned: set[FlowModifier] = set()

    def __deepcopy__(self, memo: dict[int, object]) -> Run:
        return self  # other packs copy the options that hold it; the run stays one

    @property
    def batch(self) -> int | None:
        """How many pictures are made at once."""
        return None if self.latent is None else self.latent[0]

    def flow_state(self, modifier: FlowModifier) -> FlowState:
        """What this run remembers for a modifier of attention."""
        return self._states.setdefault(modifier, FlowState())

    def flow_seen(self, modifier: FlowModifier, record: FlowRecord) -> None:
        """Takes note of what a modifier of attention saw."""
        self.flows.add(list(self._states).index(modifier), record)
        if record.warnings and modifier not in self._warned:
            self._warned.add(modifier)
            logging.warning("SteerDiT: %s", " ".join(record.warnings))

    def is_whole(self, x: Tensor) -> bool:
        """Whether latents (R, C, H, W) are whole pictures, not the crop of a conditioning's area."""
        return self.latent is None or list(x.shape[-2:]) == list(self.latent[-2:])

    def steered_chunks(self, options: Mapping[str, Any]) -> list[int]:
        """Which equal chunks of a call's rows hold a positive conditioning.

        The host numbers conditionings per guider: 0 is the positive of the usual guider, but the negative of
        the dual one. The ids tell them apart; without them the number decides.
        """
        numbers: Sequence[int] = options.get("cond_or_uncond", [0])
        ids: Sequence[object] = options.get("uuids", ())
        negative = self.negative()
        if negative is not None and len(ids) == len(numbers):
            return [chunk for chunk, one in enumerate(ids) if one not in negative]
        return [chunk for chunk, number in enumerate(numbers) if number == 0]

    def called(
        self,
        wanted: Collection[Site],
        visited: Collection[Site],
        may_skip: bool,
        ran: Collection[Site] = (),
    ) -> None:
        """Takes note of one steered call, and refuses a model that passes by its sites.

        Args:
            may_skip: another node may have answered the call without running the model, as caching nodes do.
                Then the missing sites get until the end of the run to be visited.
            ran: sites whose block ran in this call. None of them was skipped, so all must have been visited.
        """
        self._wanted |= set(wanted)
        self._visited |= set(visited)
        unguarded = set(ran) - set(visited)
        if unguarded:
            raise SteeringError(
                ", ".join(map(str, sorted(unguarded))),
                expected="every run of the block to pass through the host's block hooks",
                found=f"a call (number {self.calls}) in which the block ran without them",
                remedy="Another node replaces the model's forward pass or drops its options in some calls, which would "
                "not be steered. Steer without it.",
            )
        if may_skip:
            return
        _require_visited(self._wanted - self._visited)
        if set(wanted) - set(visited) and not self._told:
            self._told = True
            logging.warning(
                "SteerDiT: some calls of the model pass by the steered blocks. With a node that reuses earlier results "
                "that is as it should be; otherwise these calls are not steered."
            )

    def finish(self) -> None:
        """Raises SteeringError if the model, or a site that should have been steered, was never visited.

        A run in which no modifier was due may be what the user wants, such as one half of a split schedule, but
        it is said in the host's log.
        """
        _require_visited(self._wanted - self._visited)
        if self._wanted:
            for modifier, state in self._states.items():
                if isinstance(modifier, RestrictFlow) and not state.regions:
                    _warn_of_idle(modifier)
            return
        if not self.calls:
            raise SteeringError(
                "MODEL",
                expected="every call of the model to pass through SteerDiT",
                found="a run whose calls never did",
                remedy="Another node drops the model's options, so nothing would have been steered. Steer without it.",
            )
        logging.warning(
            "SteerDiT: nothing was steered in this run: none of its noise levels lies between start_percent and "
            "end_percent, or no positive conditioning was sampled."
        )


def _warn_of_idle(restriction: RestrictFlow) -> None:
    """Says that no picture was ever looked at: the user might take it for safe."""
    part, what = (
        (restriction.active, "end_percent")
        if restriction.masks is not None
        else (restriction.startup, "startup_percent")
    )
    logging.warning(
        "SteerDiT: Restrict Flow looked at no picture in this run, so nothing was restricted: the run begins after its "
        "%s, %g. Where a picture is made in several parts, or from another one (denoise below 1), raise it, or give a "
        "mask.",
        what,
        part.end_percent,
    )


def _require_visited(missing: Collection[Site]) -> None:
    if missing:
        raise SteeringError(
            ", ".join(map(str, sorted(missing))),
            expected="the model to pass through the site while sampling",
            found="that it never did",
            remedy="A loader or node has replaced the model's forward pass and ignores the host's block hooks, so "
            "nothing would have been steered. Load the model with the host's own nodes.",
        )


def digest(picture: Tensor) -> str:
    """Names a latent picture (C, H, W) by its values. Half precision, because the host may store latents so."""
    values = picture.detach().to(device="cpu", dtype=torch.float16).contiguous()
    return hashlib.sha256(repr(tuple(values.shape)).encode() + values.numpy().tobytes()).hexdigest()


def file_log(latent: Tensor, log: FiringLog, flows: FlowLog | None = None) -> None:
    """Files a run's logs under each picture of the latent (B, C, H, W) that it made; the oldest run is forgotten."""
    pictures = {digest(picture): image for image, picture in enumerate(latent)}
    with _lock:
        _filed.appendleft((pictures, log, flows or FlowLog()))


def find_logs(latent: Tensor) -> list[list[tuple[FiringLog, int]]]:
    """For each picture of a latent (B, C, H, W) the logs of all runs that made it, with its number in them.

    The newest run is first.

    Raises:
        SteeringError: the latent has no picture, or one that is not known.
    """
    return [[(log, image) for log, _, image in runs] for runs in _found(latent)]


def find_flows(latent: Tensor) -> list[list[tuple[FlowLog, int]]]:
    """As `find_logs`, what was marked in attention."""
    return [[(flows, image) for _, flows, image in runs] for runs in _found(latent)]


def _found(latent: Tensor) -> list[list[tuple[FiringLog, FlowLog, int]]]:
    if latent.ndim < 3 or len(latent) == 0:
        raise SteeringError(
            "LATENT",
            expected="at least one picture",
            found=f"a tensor of shape {list(latent.shape)}",
            remedy="Connect the sampler's own LATENT.",
        )
    names = [digest(picture) for picture in latent]
    with _lock:
        found = [
            [(log, flows, pictures[name]) for pictures, log, flows in _filed if name in pictures]
            for name in names
        ]
    if not all(found):
        raise SteeringError(
            "LATENT",
            expected="the unchanged output of a sampler whose MODEL went through a SteerDiT node",
            found=f"a latent that is not among the pictures of the last {RUNS_KEPT} steered runs",
            remedy="Connect the sampler's own LATENT (its `output`, where it has two). If it is connected, the log is "
            "no longer in memory: change the seed to sample again.",
        )
    return found


def forget_logs() -> None:
    """Forgets all runs."""
    with _lock:
        _filed.clear()


def sampling_run(
    executor: Any, noise: Tensor, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """OUTER_SAMPLE wrapper: gives the run its state and files its log. The options are put back whatever happens."""
    guider = executor.class_obj
    options = guider.model_options
    seed = args[3] if len(args) > 3 else kwargs.get("seed")
    run = Run(partial(_negative_ids, guider), seed, tuple(noise.shape))
    run.owners = {one.get("uuid"): name for name, one in _conditionings(guider)}
    guider.model_options = {
        **options,
        "transformer_options": {**options.get("transformer_options", {}), RUN_KEY: run},
    }
    try:
        latent = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        guider.model_options = options
    if len(sigmas) > 1:
        run.finish()
    if isinstance(latent, Tensor) and latent.ndim >= 3:
        file_log(latent, run.log, run.flows)
    return latent


def sampler_run(executor: Any, guider: Any, *args: Any, **kwargs: Any) -> Any:
    """SAMPLER_SAMPLE wrapper: the host has completed the conditionings and takes the first step next.

    To give every area an opposite, the host has copied conditionings from positive to negative and back, ids
    included. Here each copy gets an id of its own, so that ids tell again what is negative.
    """
    run: Run | None = guider.model_options.get("transformer_options", {}).get(RUN_KEY)
    for name, one in _conditionings(guider):
        if run is not None and run.owners.get(one.get("uuid"), name) != name:
            one["uuid"] = uuid4()
    return executor(guider, *args, **kwargs)


def _conditionings(guider: Any) -> list[tuple[str, dict[str, Any]]]:
    """A guider's conditionings with their names, such as `positive`."""
    named: Mapping[str, Any] = getattr(guider, "conds", {})
    return [(name, one) for name, of in named.items() for one in of or ()]


def _negative_ids(guider: Any) -> frozenset[object] | None:
    conditionings = _conditionings(guider)
    if not all("uuid" in one for _, one in conditionings):
        return None
    # Below 1 the picture is no longer guided away from the negative: at 0 it is the negative's alone. Other nodes may
    # set another guidance at any step.
    if any(getattr(guider, scale, 1.0) < 1.0 for scale in ("cfg", "cfg2")):
        return frozenset()
    return frozenset(one["uuid"] for name, one in conditionings if "negative" in name)
