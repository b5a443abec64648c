"""Thresholds in place of a competition: the best there are, stored, said, and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steerdit.__main__ import main
from steerdit.steering import SelectedLatents, Site, SteeringError
from steerdit.steering.competition import rule_at
from steerdit.steering.formats.bundle import Bundle, open_bundle
from steerdit.steering.formats.header import Base, BundleHeader, Made
from steerdit.steering.formats.writing import write_bundle
from steerdit.training.dictionaries.topk_thresholds import (
    BINS,
    RECIPE,
    thresholds_at,
    topk_thresholds,
    write_thresholds,
)

from .dictionaries import Dictionary
from .recordings import recording

seeds = st.integers(0, 10_000)


def numbers(seed: int, tokens: int = 600, latents: int = 20) -> Tensor:
    """Pre-activations whose latents differ in how large they get."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, latents, generator=g) * (torch.rand(latents, generator=g) + 0.5)


def among(p: Tensor, k: int) -> Tensor:
    return torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.topk(k).indices, True) & (p > 0)


@given(seeds, st.integers(1, 20), st.integers(1, 700))
@settings(deadline=None, max_examples=40)
def test_no_other_threshold_of_a_latent_errs_less(seed: int, k: int, batch: int) -> None:
    p = numbers(seed)
    found, right = topk_thresholds(p.split(batch), k), among(p, k)
    own = right.sum(0) >= 16
    assert found.own == int(own.sum())
    first = p[:batch]
    bin_ = max(2 * float(first.topk(k).values[:, -1].max()), float(first.max()) / 8) / BINS
    for f in own.nonzero()[:, 0].tolist():
        positive = p[:, f] > 0
        wrong = int((((p[:, f] > found.threshold[f]) != right[:, f]) & positive).sum())
        for theta in p[:, f].clamp(0, bin_ * BINS).unique().tolist():
            other = int((((p[:, f] > theta) != right[:, f]) & positive).sum())
            # A threshold is the edge of a bin: what lies in that bin may fall on its other side.
            assert wrong <= other + int((positive & ((p[:, f] - theta).abs() <= bin_)).sum())


@given(seeds, st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_what_is_said_is_so(seed: int, k: int) -> None:
    p = numbers(seed)
    found, right = topk_thresholds([p, p[:0]], k), among(p, k)
    fires = (p > found.threshold) & (p > 0)
    assert found.tokens == 600
    assert found.k == k
    assert found.mean_count == pytest.approx(float(fires.sum() / 600), abs=0.02)
    assert found.precision == pytest.approx(float((fires & right).sum() / fires.sum()), abs=0.01)
    assert found.recall == pytest.approx(float((fires & right).sum() / right.sum()), abs=0.01)


def test_latents_that_hardly_fire_get_the_threshold_at_which_k_fire() -> None:
    p = torch.rand(4000, 50, generator=torch.Generator().manual_seed(0)) * 0.9
    p[:, 0] *= 0.1  # never among the largest
    found = topk_thresholds([p], 5)
    assert found.own == 49
    count = (p > found.threshold[0]).sum(1).float().mean()
    assert float(count) == pytest.approx(5, abs=0.3)


def test_what_cannot_be_calibrated_is_refused() -> None:
    p = numbers(0)
    with pytest.raises(SteeringError, match="found none"):
        topk_thresholds([], 3)
    with pytest.raises(SteeringError, match=r"found 1 of 12000 that are NaN"):
        topk_thresholds(
            [p.clone().index_put_((torch.tensor(3), torch.tensor(4)), torch.tensor(torch.nan))], 3
        )
    with pytest.raises(ValueError, match="k must be from 1 to 20"):
        topk_thresholds([p], 21)
    relu = Dictionary.draw(0, "relu")
    with pytest.raises(SteeringError, match="expected a TopK dictionary, found relu"):
        thresholds_at(SelectedLatents(relu.sae, relu.tensors), [p])
    with pytest.raises(SteeringError, match=r"expected all 12 latents .* found 3 of them"):
        thresholds_at(Dictionary.draw(0, "topk").load("weapons", topk="relu")[0], [p])


def stored(path: Path, site: Site, width: int) -> tuple[Bundle, Dictionary]:
    dictionary = Dictionary.draw(3, "topk", width=width)
    header = BundleHeader("b", "flux", Base("any"), "MIT", Made("tests", {"seed": 1}), {site: dictionary.sae})
    parts = dictionary.tensors._asdict()
    tensors = {f"{site}.{n}": t.half() for n, t in parts.items() if isinstance(t, Tensor)}
    return write_bundle(path, header, tensors), dictionary


def test_the_command_writes_a_bundle_that_steers_by_thresholds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = recording(tmp_path / "recording")
    site, width = next((s, w) for s, w in whole.sites.items() if s.block in ("text", "double", "single"))
    before, _ = stored(tmp_path / "b.safetensors", site, width)
    out = tmp_path / "calibrated.safetensors"
    assert main(["thresholds", str(before.path), str(whole.folder), str(out)]) == 0
    assert f"{site}: " in capsys.readouterr().out
    bundle = open_bundle(out)
    assert rule_at(bundle, site, "auto").thresholded
    assert not rule_at(bundle, site, "auto").competing
    assert bundle.header.made.recipe["seed"] == 1
    said = bundle.header.made.recipe[RECIPE][str(site)]
    assert said["tokens"] == whole.count(site)
    assert said["k"] == 3
    after, once = bundle.read_sae(site), before.read_sae(site)
    assert after.threshold is not None
    tokens = whole.read(site).tokens
    latents = SelectedLatents(bundle.sites[site], once, topk="relu")
    assert torch.equal(after.threshold, thresholds_at(latents, [tokens]).threshold)
    for part in ("encoder", "encoder_bias", "decoder", "decoder_bias", "decoder_adapted"):
        assert torch.equal(getattr(after, part), getattr(once, part))
    fires = SelectedLatents(bundle.sites[site], after).encode(tokens) > 0
    assert float(fires.sum(-1).float().mean()) == pytest.approx(said["mean_count"], abs=0.2)
    again = write_thresholds(out, bundle, {site: thresholds_at(latents, [tokens])})
    assert again.header == replace(bundle.header)


def test_the_command_refuses_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = recording(tmp_path / "recording")
    site, width = next((s, w) for s, w in whole.sites.items() if s.block in ("text", "double", "single"))
    bundle, _ = stored(tmp_path / "b.safetensors", site, width + 1)
    out = str(tmp_path / "out.safetensors")
    assert main(["thresholds", str(bundle.path), str(whole.folder), out]) == 1
    assert f"expected activations of width {width + 1}" in capsys.readouterr().err
    assert main(["thresholds", str(bundle.path), str(tmp_path), out]) == 1
    assert main(["thresholds", str(bundle.path), str(whole.folder), out, "--sites", "single.9"]) == 1
    assert not Path(out).exists()
