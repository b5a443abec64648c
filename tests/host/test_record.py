"""A recording holds what passed the sites, of the rows that make the picture, and of words that were said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steerdit.host.attach import attach
from steerdit.host.fingerprint import fingerprint
from steerdit.host.recording import Recorded, Recorder
from steerdit.host.sampling import Sampling, sample_prompts
from steerdit.steering import Entry, Site, SteeringError
from steerdit.training.recordings import ModelFingerprint, Recording, merge, open_recording
from steerdit.training.recordings.run import RecordingCancelled

from .recorded import CLIP_TOKENS, PROMPTS, SETTINGS, Said, files, recorded, samples, sites_of
from .tiny import GRID, tiny

FAMILIES = ("flux", "sd3")


def whole(model: Any, family: str, folder: Path, **changes: Any) -> Recording:
    recording = recorded(model, family, folder, **changes)
    assert recording is not None
    return recording


def seen_otherwise(model: Any, family: str, sites: tuple[Site, ...], cfg: float) -> dict[Any, torch.Tensor]:
    """All tokens by (site, sample, sigma), recorded by the plain recorder, one picture at a time."""
    said, found = Said(family), {}
    for number, sample in enumerate(samples()):

        def keep(row: Recorded, number: int = number) -> None:
            found[row.site, number, round(row.sigma, 5)] = row.tokens

        watched = attach(model, [Entry(site, Recorder(keep)) for site in sites])
        sampling = Sampling(steps=SETTINGS.steps, cfg=cfg, size=(2 * GRID[0], 2 * GRID[1]))
        list(sample_prompts(watched, [said.encode(sample.text)], said.encode(""), [sample.seed], sampling))
    return found


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_what_passed_the_sites(family: str, cfg: float, tmp_path: Path) -> None:
    # Of different lengths, so that positive and negative are called apart, and of equal ones, so that they are not.
    model = tiny(family, tmp_path)
    recording = whole(model, family, tmp_path / "recording", cfg=cfg, negative="a cat")
    sites = sites_of(model, family)
    expected = seen_otherwise(model, family, sites, 1.0)
    if cfg != 1.0:
        # Guidance moves the picture, but what enters the model and the first step are as without it.
        first = recording.manifest.sigmas[0]
        expected = {key: value for key, value in expected.items() if key[2] == round(first, 5)}
    compared = 0
    for site in sites:
        rows = recording.read(site)
        assert len(rows.tokens) == recording.count(site) > 0
        for token, sample, sigma, position in zip(*rows, strict=True):
            key = site, int(sample), round(float(sigma), 5)
            if key in expected:
                torch.testing.assert_close(token, expected[key][int(position)], atol=1e-4, rtol=1e-3)
                compared += 1
    assert compared > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_never_kept(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    recording = whole(model, family, tmp_path / "recording", tokens_per_image=None)
    for site in recording.sites:
        rows, said = recording.read(site), Said(family)
        for number, sample in enumerate(recording.manifest.samples):
            places = set(rows.position[rows.sample == number].tolist())
            if site.stream == "image":
                assert places == set(range(GRID[0] * GRID[1]))
            else:
                start = CLIP_TOKENS[family] if site == Site("text") else 0
                assert places == {place - start for place in said.places(sample.text) if place >= start}


def test_the_conditioning_is_kept_once_a_bucket_and_alone_needs_no_sampling(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    full = whole(model, "flux", tmp_path / "full")
    alone = whole(model, "flux", tmp_path / "alone", sites="text")
    text = Site("text")
    for a, b in zip(full.read(text), alone.read(text), strict=True):
        assert torch.equal(a, b)
    assert sorted(set(full.bucket(full.read(text).sigma).tolist())) == [0, 1]
    assert len(full.read(text).sigma.unique()) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_are_aligned(family: str, tmp_path: Path) -> None:
    recording = whole(tiny(family, tmp_path), family, tmp_path / "recording", tokens_per_image=3)
    for site in recording.sites:
        rows, pairs = recording.read(site), recording.pairs(site)
        said = recording.manifest.samples
        places = {
            (said[s].pair, said[s].seed, said[s].label, round(v, 5), p): token
            for token, s, v, p in zip(
                rows.tokens, rows.sample.tolist(), rows.sigma.tolist(), rows.position.tolist(), strict=True
            )
        }
        for unsafe, safe, s, v, p in zip(*pairs, strict=True):
            sample, where = said[int(s)], (round(float(v), 5), int(p))
            assert torch.equal(unsafe, places[(sample.pair, sample.seed, "unsafe", *where)])
            assert torch.equal(safe, places[(sample.pair, sample.seed, "safe", *where)])
        # Every place that both have is kept of both.
        kept = {(key[0], key[1], *key[3:]) for key in places if key[2] == "unsafe"}
        both = kept & {(key[0], key[1], *key[3:]) for key in places if key[2] == "safe"}
        assert len(pairs.unsafe) == len(both) > 0
        if site.stream == "image":
            assert len(both) == len(kept)


def test_a_cap_bounds_each_bucket_and_label(tmp_path: Path) -> None:
    recording = whole(tiny("flux", tmp_path), "flux", tmp_path / "recording", cap=11)
    for site in recording.sites:
        rows = recording.read(site)
        labels = [recording.manifest.samples[s].label for s in rows.sample.tolist()]
        for label in ("unsafe", "safe", "benign"):
            for bucket in (0, 1):
                of_label = torch.tensor([one == label for one in labels])
                assert int((of_label & (recording.bucket(rows.sigma) == bucket)).sum()) <= 11


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral"])
def test_other_samplers_fill_the_plan(sampler: str, tmp_path: Path) -> None:
    recording = whole(tiny("flux", tmp_path), "flux", tmp_path / "recording", sampler=sampler)
    assert len(recording.read(Site.parse("double.1.image")).sigma.unique()) == 3


def test_a_sampler_that_goes_its_own_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="steps through its schedule"):
        recorded(tiny("flux", tmp_path), "flux", tmp_path / "recording", sampler="dpm_adaptive")


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_several_processes_equal_the_whole(family: str, tmp_path: Path) -> None:
    model = tiny(family, tmp_path)
    whole(model, family, tmp_path / "whole")
    for index in range(3):
        assert recorded(model, family, tmp_path / f"part{index}", shard=(index, 3)) is None
    merge([tmp_path / f"part{index}" for index in range(3)], tmp_path / "merged")
    last = [recorded(model, family, tmp_path / "shared", shard=(index, 3)) for index in (2, 0, 1)][-1]
    assert last is not None
    assert files(tmp_path / "merged") == files(tmp_path / "shared") == files(tmp_path / "whole")


def test_a_stop_by_the_user_keeps_the_finished_shards(tmp_path: Path) -> None:
    model, calls = tiny("flux", tmp_path), 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 60

    with pytest.raises(RecordingCancelled, match="finished shards are kept"):
        recorded(model, "flux", tmp_path / "recording", interrupted=stop)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "recording").glob("*.safetensors")}
    assert kept
    with pytest.raises(SteeringError, match="not finished"):
        open_recording(tmp_path / "recording")
    shown: list[tuple[int, int]] = []
    whole(model, "flux", tmp_path / "recording", progress=lambda done, total: shown.append((done, total)))
    assert (
        kept.items()
        <= {
            path.name: path.stat().st_mtime_ns for path in (tmp_path / "recording").glob("*.safetensors")
        }.items()
    )
    assert shown[-1] == (30, 30)
    assert shown[0][0] > 2
    whole(model, "flux", tmp_path / "undisturbed")
    assert files(tmp_path / "recording") == files(tmp_path / "undisturbed")


def test_a_finished_recording_is_not_made_again(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    whole(model, "flux", tmp_path / "recording")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "recording").iterdir()}
    whole(model, "flux", tmp_path / "recording")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "recording").iterdir()} == before
    said = files(tmp_path / "recording")
    (tmp_path / "recording" / "shard-00001.safetensors").unlink()
    whole(model, "flux", tmp_path / "recording")
    assert files(tmp_path / "recording") == said
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "recording").iterdir()}
    assert {name for name, stamp in stamps.items() if stamp != before[name]} == {
        "manifest.json",
        "shard-00001.safetensors",
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cfg": 3.0}, "settings.cfg"),
        ({"steps": 4}, "settings.steps"),
        ({"sites": "double.0.*"}, "sites.text"),
        ({"said": samples((1, 3))}, r"samples\[0\]"),
    ],
)
def test_another_recording_in_the_folder_is_refused(
    changes: dict[str, Any], field: str, tmp_path: Path
) -> None:
    model = tiny("flux", tmp_path)
    whole(model, "flux", tmp_path / "recording")
    before = files(tmp_path / "recording")
    with pytest.raises(SteeringError, match=field):
        recorded(model, "flux", tmp_path / "recording", **changes)
    assert files(tmp_path / "recording") == before


def test_another_model_is_refused(tmp_path: Path) -> None:
    model, other = tiny("flux", tmp_path), tiny("flux", tmp_path, seed=1)
    recording = whole(model, "flux", tmp_path / "recording")
    with pytest.raises(SteeringError, match=r"model\.digest"):
        recorded(other, "flux", tmp_path / "recording")
    assert open_recording(recording.folder, model=ModelFingerprint(*fingerprint(model)))
    with pytest.raises(SteeringError, match="of another flux model"):
        open_recording(recording.folder, model=ModelFingerprint(*fingerprint(other)))


def test_the_fingerprint_knows_patches_and_not_whether_they_are_loaded(tmp_path: Path) -> None:
    import comfy.model_management

    model = tiny("flux", tmp_path)
    plain = fingerprint(model)
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    patched = model.clone()
    patched.add_patches({key: (torch.ones(384, 128),)}, 0.1)
    with_patch = fingerprint(patched)
    assert with_patch != plain
    comfy.model_management.load_models_gpu([patched])
    assert fingerprint(patched) == with_patch
    assert fingerprint(model) == plain
    assert fingerprint(tiny("flux", tmp_path)) == plain


def refusals() -> list[Any]:
    said = samples()
    return [
        pytest.param({"said": ()}, "at least one prompt", id="no prompts"),
        pytest.param({"cfg": 0.5}, "settings.cfg", id="negative in the picture"),
        pytest.param({"sampler": "no"}, "sampler: expected one of", id="sampler"),
        pytest.param({"width": 90}, "width: expected pixels in multiples of 8", id="width"),
        pytest.param({"buckets": (0.0, 1e-6)}, "buckets", id="empty buckets"),
        pytest.param({"buckets": (1.0, 0.0)}, "rising edges", id="falling buckets"),
        pytest.param({"tokens_per_image": 0}, "settings.tokens_per_image", id="no tokens"),
        pytest.param({"dtype": "float8"}, "settings.dtype", id="dtype"),
        pytest.param({"sites": "none"}, "at least one site", id="no sites"),
        pytest.param({"sites": "joint.0.text"}, "none that matches", id="other family's site"),
        pytest.param({"shard": (3, 3)}, "0 <= i < n", id="shard"),
        pytest.param({"said": (*said, said[0])}, r"samples.*one \w+ prompt a pair", id="twice a pair"),
    ]


@pytest.mark.parametrize(("changes", "message"), refusals())
def test_what_cannot_be_is_refused_before_anything_is_sampled(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SteeringError, match=message):
        recorded(tiny("flux", tmp_path), "flux", tmp_path / "recording", **changes)
    assert not list(tmp_path.glob("recording/*"))


def test_a_disk_that_cannot_hold_it_is_told_before_anything_is_sampled(tmp_path: Path) -> None:
    huge = {"height": 2**16, "width": 2**16, "tokens_per_image": None, "steps": 200}
    with pytest.raises(SteeringError, match="of free disk"):
        recorded(tiny("flux", tmp_path), "flux", tmp_path / "recording", sites="single.*.image", **huge)


def test_a_steered_model_is_refused(tmp_path: Path) -> None:
    model = attach(tiny("flux", tmp_path), [Entry(Site("text"), Recorder())])
    with pytest.raises(SteeringError, match="one that SteerDiT steers"):
        recorded(model, "flux", tmp_path / "recording")


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    model = tiny("flux", tmp_path)
    for weight in model.model.diffusion_model.double_blocks[1].img_mlp[2].parameters():
        weight.data.mul_(1e8)
    with pytest.raises(SteeringError, match=r"double\.1\.image at sigma 1: .*float16"):
        recorded(model, "flux", tmp_path / "recording", dtype="float16")


def test_a_prompt_is_encoded_once_a_shard(tmp_path: Path) -> None:
    from dataclasses import replace

    from steerdit.training.recordings.run import record

    model, said = tiny("flux", tmp_path), Said("flux")
    settings = replace(SETTINGS, samples_per_shard=20)
    record(model, said, samples(), sites_of(model, "flux"), settings, tmp_path / "recording")
    assert len(said.encoded) == len(PROMPTS) + 1
