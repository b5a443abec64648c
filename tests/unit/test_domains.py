"""Decoders are adapted to recordings: unsafe latents come to say what the safe rewrites have in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerdit.steering import SteeringError
from steerdit.training.adaptation.domains import adapt_sae, rows_of
from steerdit.training.adaptation.terms import AdaptationConfig
from steerdit.training.recordings import Recording

from .planted import AXES, SITE, autoencoder, prompts, recording

CONFIG = AdaptationConfig(batch=100, steps=300, rate=0.02)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("planted") / "recording")


@pytest.mark.parametrize("method", ["auto", "steps"])
def test_unsafe_latents_learn_from_pairs_to_say_the_safe_side(
    recorded: Recording, method: str, tmp_path: Path
) -> None:
    heard: list[tuple[int, int]] = []
    sae = autoencoder()
    found = adapt_sae(
        sae,
        recorded,
        recorded,
        CONFIG,
        latents=list(AXES.values()),
        method=method,
        checkpoints=tmp_path,
        progress=lambda *at: heard.append(at),
    )
    assert found.sae.adapted is not None
    assert found.sae.path is None
    changed = (found.sae.adapted != sae.decoder).any(1).nonzero()[:, 0].tolist()
    assert changed == sorted(AXES.values())
    for axis in AXES.values():
        assert found.sae.adapted[axis, axis] < 0.3 < sae.decoder[axis, axis]
    assert found.after.total < found.before.total
    if method == "steps":
        assert heard[-1] == (300, 300)
        assert len(list(tmp_path.iterdir())) == 1
        solved = adapt_sae(sae, recorded, recorded, CONFIG, latents=list(AXES.values())).sae.adapted
        torch.testing.assert_close(found.sae.adapted, solved, atol=0.1, rtol=0)
    assert torch.equal(sae.encoder, autoencoder().encoder)


def test_the_safe_side_teaches_reconstruction(recorded: Recording) -> None:
    found = adapt_sae(autoencoder(), recorded, recorded, CONFIG, lesson="safe side")
    assert found.how == "closed form"
    assert found.after.target < found.before.target
    assert found.after.total < found.before.total
    stream = rows_of(recorded, SITE, 50, labels=["safe"])
    labels = {recorded.manifest.samples[0].label for _ in stream(0, 0)}
    assert labels
    assert sum(len(batch.inputs) for batch in stream(0, 0)) == 16 * 4 * 5 // 50 * 50


def test_what_is_missing_is_refused(recorded: Recording, tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="recording of the source domain"):
        adapt_sae(autoencoder(), recorded, None, CONFIG)
    assert adapt_sae(autoencoder(), recorded, None, AdaptationConfig(replay=0, batch=100)).before.replay == 0
    for name in ("lesson", "method"):
        with pytest.raises(SteeringError, match=f"adaptation: {name}"):
            adapt_sae(autoencoder(), recorded, recorded, CONFIG, **{name: "other"})
    benign = recording(tmp_path / "benign", prompts(0))
    with pytest.raises(SteeringError, match="safe rewrite"):
        adapt_sae(autoencoder(), benign, recorded, CONFIG)
    with pytest.raises(SteeringError, match="at least 80 rows"):
        adapt_sae(
            autoencoder(),
            recording(tmp_path / "small", prompts(0, 3)),
            recorded,
            CONFIG,
            lesson="safe side",
            method="steps",
        )
