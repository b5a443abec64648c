"""What recording costs, and what SIGKILL costs a recording: ``nox -s bench -- recordings``.

On the emoji-scenes FLUX, three sites. Claims e: the time beside sampling alone, and memory that does not grow with the
list of prompts. Claim f: killed at ten random points, a recording goes on and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .hosting.in_process import boot
from .results import Claim, at_least, at_most, told, versions, write
from .timing import beside_each_other, described, ratio

SEED = 9002
SITES = ("double.1.text", "double.1.image", "single.1.image")
PICTURES, ROUNDS, POINTS = 16, 5, 10
STEPS = 20
MOST_MORE = 16 * 2**20
"""Bytes that four times the pictures may take more; they take some for their texts and their plan."""


class Subject:
    """The world's generator, a list of prompts, and both ways to sample it.

    Args:
        count: how many pictures.
        samples_per_shard: small for what is killed, so that there is something to keep.
    """

    def __init__(
        self, model: Any, clip: Any, count: int, samples_per_shard: int = 16, steps: int = STEPS
    ) -> None:
        from ..host.text import PromptEncoder
        from ..steering.sites import Site
        from ..training.recordings import PromptRow, Settings, samples_of
        from .emoji_scenes.prompts import prompts

        self.model, self.encoder = model, PromptEncoder(clip)
        self.sites = [Site.parse(name) for name in SITES]
        texts = dict.fromkeys(prompt.text for prompt in prompts("unsafe", 2 * count, SEED))
        self.samples = samples_of([PromptRow(text, "unsafe") for text in texts][:count], (1,))
        self.settings = Settings(
            steps=steps,
            cfg=3.0,
            sampler="dpmpp_2m",
            scheduler="sgm_uniform",
            height=128,
            width=128,
            batch=16,
            samples_per_shard=samples_per_shard,
        )

    def sample(self) -> None:
        """What recording does, without recording."""
        import torch

        from ..host.sampling import sample_prompts
        from ..training.recordings.run import sampling_of

        with torch.inference_mode():
            sampling = sampling_of(self.model, self.settings)
            encoded = [self.encoder.encode(sample.text) for sample in self.samples]
            seeds = [sample.seed for sample in self.samples]
            batch, empty = self.settings.batch, self.encoder.encode("")
            for _ in sample_prompts(self.model, encoded, empty, seeds, sampling, batch):
                pass

    def record(self, folder: Path | None = None, interrupted: Callable[[], bool] | None = None) -> None:
        """Into a folder that stays, or into one that does not."""
        from ..training.recordings.run import record

        with tempfile.TemporaryDirectory() as passing:
            where = folder or Path(passing)
            record(
                self.model,
                self.encoder,
                self.samples,
                self.sites,
                self.settings,
                where,
                interrupted=interrupted,
            )


def cost(model: Any, clip: Any, pictures: int, rounds: int) -> tuple[dict[str, Claim], dict[str, Any]]:
    """Claims e: seconds with and without recording, and how far memory rises for four times the pictures."""
    subject = Subject(model, clip, pictures)
    timings = beside_each_other({"sample": subject.sample, "record": subject.record}, rounds)
    few, many = (Subject(model, clip, count, steps=4) for count in (pictures, 4 * pictures))
    memory = beside_each_other({"few": few.record, "many": many.record}, 1)
    claims = {"e.time": at_most(ratio(timings, "record", "sample"), 1.25, rounds)}
    less, more = memory["few"].peak_bytes, memory["many"].peak_bytes
    if less is not None and more is not None:
        claims["e.memory"] = at_most(float(more - less), MOST_MORE, 1)
    return claims, described({**timings, **memory}, pictures=pictures, sites=SITES, steps=STEPS)


def kills(model: Any, clip: Any, pictures: int, points: int) -> tuple[dict[str, Claim], list[dict[str, Any]]]:
    """Claim f: the share of recordings, each killed once at a random point, that end as the undisturbed one."""
    subject = Subject(model, clip, pictures, samples_per_shard=4, steps=6)
    visits = 0

    def count() -> bool:
        nonlocal visits
        visits += 1
        return False

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        subject.record(Path(place) / "whole", count)
        whole = _files(Path(place) / "whole")
        draw = random.Random(SEED)
        for number in range(points):
            folder, after = Path(place) / str(number), draw.randrange(1, visits)
            _killed(subject, folder, after)
            kept = len(list(folder.glob("shard-*")))
            subject.record(folder)
            rows.append({"after": after, "of": visits, "shards_kept": kept, "equal": _files(folder) == whole})
    return {"f.recording": at_least(sum(row["equal"] for row in rows) / points, 1.0, points)}, rows


def _killed(subject: Subject, folder: Path, after: int) -> None:
    """Records in a process of its own, which is gone after so many visits of sites."""
    child = os.fork()
    if child == 0:
        left = after

        def count() -> bool:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        try:
            subject.record(folder, count)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main(arguments: Sequence[str] | None = None) -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--pictures", type=int, default=PICTURES)
    ask.add_argument("--rounds", type=int, default=ROUNDS)
    ask.add_argument("--points", type=int, default=POINTS)
    asked = ask.parse_args(arguments)
    host = boot()
    import torch

    from .emoji_scenes import in_host

    torch.set_num_threads(1)
    with torch.inference_mode():
        model, clip = in_host.generator(), in_host.text_encoder()
    claims, timings = cost(model, clip, asked.pictures, asked.rounds)
    stopped, rows = kills(model, clip, asked.pictures, asked.points)
    claims |= stopped
    print(
        write(
            "recordings",
            claims,
            timings=timings,
            kills=rows,
            seed=SEED,
            host=host,
            versions=versions("torch"),
        )
    )
    return 0 if told(claims) else 1


if __name__ == "__main__":
    sys.exit(main())
