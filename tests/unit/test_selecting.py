"""Latents that were planted are selected, judged, gated, shown and written; what lacks them is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerdit.steering import Site, SteeringError
from steerdit.steering.formats.bundle import open_bundle
from steerdit.steering.gates import Gate, GateKind
from steerdit.steering.sae import SelectedLatents
from steerdit.training.adaptation.domains import adapt_sae
from steerdit.training.adaptation.terms import AdaptationConfig
from steerdit.training.assembling import Part, write_parts
from steerdit.training.dictionaries.result import read_trained, write_trained
from steerdit.training.gates.sites import calibrate_site
from steerdit.training.gates.weights import weighed
from steerdit.training.latents.codes import some_latents
from steerdit.training.recordings import Recording
from steerdit.training.selection.browsing import top_samples
from steerdit.training.selection.choosing import Selection, SelectionRule, select_latents

from .planted import AXES, SITE, WIDTH, autoencoder, prompts, recording


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("planted") / "recording")


@pytest.fixture(scope="module")
def selection(recorded: Recording) -> Selection:
    return select_latents(autoencoder(), recorded, SITE)


@pytest.mark.parametrize("method", ["score", "flips"])
def test_planted_latents_are_selected_and_hold_on_other_prompts(recorded: Recording, method: str) -> None:
    found = select_latents(autoencoder(), recorded, SITE, SelectionRule(method, count=1))
    assert found.latents == {"weapons": (2,), "bloody": (4,)} or found.latents == {
        "bloody": (4,),
        "weapons": (2,),
    }
    assert found.union == (2, 4)
    for category in AXES:
        (quality,) = found.judged[category]
        assert quality.recall.value == 1
        assert quality.recall.n == 2  # a quarter of eight prompts
        assert f"{category}: 1 latents" in found.table()
    assert (method == "flips") == bool(found.directions)
    assert all(it.weighted.value > 0.6 for it in found.directions.values())


def test_groups_of_a_category_choose_latents_of_their_own(recorded: Recording) -> None:
    rule = SelectionRule(count=1)
    # Two halves of a category that share their latent name it once.
    found = select_latents(autoencoder(), recorded, SITE, rule, group=lambda s: str(int(s.text[-1]) % 2))
    assert dict(found.latents) == dict(select_latents(autoencoder(), recorded, SITE, rule).latents)


def test_gates_part_planted_samples_from_the_rest(recorded: Recording, selection: Selection) -> None:
    latents = {name: of[:1] for name, of in selection.latents.items()}
    for at_crossing in (False, True):
        found = calibrate_site(autoencoder(), recorded, SITE, latents, at_crossing=at_crossing)
        assert set(found) == set(AXES)
        for name, category in found.items():
            assert category.latents == (AXES[name],)
            gate = category.gate
            assert gate.token > 0.5
            assert 0.5 < gate.image < 10
            assert gate.recall is not None
            assert gate.recall.value == 1
            assert gate.false_positive is not None
            assert gate.false_positive.value <= (1.0 if at_crossing else 0.05)
    assert calibrate_site(autoencoder(), recorded, SITE, dict.fromkeys(latents, ())) == {}


def test_what_was_made_is_a_bundle_that_steers(
    recorded: Recording, selection: Selection, tmp_path: Path
) -> None:
    sae = replace(autoencoder(), adapted=torch.randn(2 * WIDTH, WIDTH))
    latents = {name: of[:1] for name, of in selection.latents.items()}
    part = Part(sae, calibrate_site(sae, recorded, SITE, latents))
    bundle = open_bundle(write_parts(tmp_path / "made.safetensors", [part], recipe={"by": "a test"}).path)
    assert bundle.categories == tuple(part.categories)
    assert bundle.header.made.recipe["by"] == "a test"
    assert (bundle.header.base.name, bundle.header.license) == ("a model", "Apache-2.0")
    entry = bundle.sites[SITE]
    chosen = entry.selected()
    made = SelectedLatents(entry, bundle.read_latents(SITE, chosen), chosen)
    gate = Gate.over(GateKind.IMAGE, dict(entry.categories), chosen)
    samples = recorded.manifest.samples
    rows = recorded.read(SITE)
    for number, sample in enumerate(samples):
        z = made.encode(rows.tokens[rows.sample == number])
        is_open = gate.read(z[None]).open.any(1)[0].tolist()
        expected = [sample.label == "unsafe" and sample.category == name for name in gate.names]
        assert is_open == expected, sample
    for wrong, message in (
        ([part, part], "each site once"),
        ([Part(sae, {})], "at least one site with a calibrated category"),
        ([Part(replace(sae, origin=None), part.categories)], "without an origin"),
        (
            [part, Part(replace(sae, origin=replace(part.origin, base="b")), {})],
            "parts of one model",
        ),
    ):
        with pytest.raises(SteeringError, match=message):
            write_parts(tmp_path / "refused.safetensors", wrong)
    assert not (tmp_path / "refused.safetensors").exists()


def test_top_samples_are_those_of_a_plain_search(recorded: Recording) -> None:
    sae, rows = autoencoder(), recorded.read(SITE)
    z = sae.encode(rows.tokens)
    found = top_samples(sae, recorded, SITE, [2, 7], count=4)
    for latent, peaks in found.items():
        best = [float(z[rows.sample == s, latent].max()) for s in range(len(recorded.manifest.samples))]
        order = sorted(range(len(best)), key=lambda s: -best[s])[:4]
        assert [peak.sample for peak in peaks] == order
        for peak in peaks:
            assert peak.value == pytest.approx(best[peak.sample])
            at = (rows.sample == peak.sample) & (rows.position == peak.position)
            at &= (rows.sigma - peak.sigma).abs() < 1e-6
            assert float(z[at, latent].max()) == pytest.approx(peak.value)
    silent = replace(sae, threshold=torch.full((2 * WIDTH,), 99.0))
    assert top_samples(silent, recorded, SITE, [2]) == {2: []}


@pytest.mark.parametrize("activation", ["jumprelu", "topk"])
def test_some_latents_are_those_of_all(activation: str) -> None:
    sae = replace(autoencoder(), activation=activation)
    a = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(some_latents(sae, [7, 2])(a), sae.encode(a)[:, [7, 2]])
    with pytest.raises(SteeringError, match="0 to 11"):
        some_latents(sae, [12])


def test_a_recording_of_another_model_is_refused(
    recorded: Recording, selection: Selection, tmp_path: Path
) -> None:
    own, other = recorded.manifest.model, replace(recorded.manifest.model, digest="5" * 64)
    sae = autoencoder()
    assert sae.origin is not None
    fitting, foreign, older = (
        replace(sae, origin=replace(sae.origin, model=digest)) for digest in (own.digest, other.digest, "")
    )
    for it in (fitting, older):
        assert select_latents(it, recorded, SITE).latents == selection.latents
    latents = dict(selection.latents)
    for attempt in (
        lambda: select_latents(foreign, recorded, SITE),
        lambda: weighed(selection, foreign, recorded),
        lambda: calibrate_site(foreign, recorded, SITE, latents),
        lambda: top_samples(foreign, recorded, SITE, [2]),
        lambda: adapt_sae(foreign, recorded, recorded),
        lambda: adapt_sae(foreign, recorded, None, AdaptationConfig(replay=0)),
    ):
        with pytest.raises(
            SteeringError, match=r"recording: model: .*\(555555555555…\), found one of another"
        ):
            attempt()
    write_trained(tmp_path / "sae.safetensors", [fitting])
    said = read_trained(tmp_path / "sae.safetensors").origin
    assert said is not None
    assert said.model == own.digest
    gates = calibrate_site(fitting, recorded, SITE, latents)
    with pytest.raises(
        SteeringError, match=r"one model, a model \(flux 000000000000\), found .* \(flux 5555"
    ):
        write_parts(tmp_path / "two.safetensors", [Part(fitting, gates), Part(foreign, gates)])


def test_recordings_that_do_not_fit_are_refused(recorded: Recording, tmp_path: Path) -> None:
    narrow = replace(autoencoder(), encoder=torch.eye(5))
    with pytest.raises(SteeringError, match=r"site double.1.text.*width 5"):
        select_latents(narrow, recorded, SITE)
    with pytest.raises(SteeringError, match=r"single\.1\.text"):
        select_latents(autoencoder(), recorded, Site.parse("single.1.text"))
    with pytest.raises(SteeringError, match="selection: method"):
        SelectionRule("best")
    benign = recording(tmp_path / "benign", prompts(0))
    with pytest.raises(SteeringError, match="unsafe prompts"):
        select_latents(autoencoder(), benign, SITE)
    with pytest.raises(SteeringError, match=r"'bloody': expected at least 2 prompts.*found 1"):
        select_latents(autoencoder(), recording(tmp_path / "one", prompts(1)), SITE)
