"""What is read is what was written, in any order and split over any number of processes; damage is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steerdit.steering.errors import SteeringError
from steerdit.steering.sites import Site
from steerdit.training.recordings import (
    Manifest,
    ModelFingerprint,
    PromptRow,
    Recording,
    Rows,
    open_recording,
    samples_of,
)

from .recordings import MODEL, SETTINGS, SIGMAS, SITES, TOKENS, manifest, prompts, recording, token

TEXT, IMAGE = SITES
shared = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("whole") / "recording")


def labels(rows: Rows) -> list[tuple[int, float, int]]:
    return list(zip(rows.sample.tolist(), rows.sigma.tolist(), rows.position.tolist(), strict=True))


def expected(site: Site, of: list[tuple[int, float, int]]) -> torch.Tensor:
    return torch.stack([token(*one, SITES[site]) for one in of])


some = st.one_of(st.none(), st.sets(st.sampled_from(("unsafe", "safe", "benign")), min_size=1))
risks = st.one_of(st.none(), st.sets(st.sampled_from(("weapons", "bloody")), min_size=1))
noise = st.one_of(st.none(), st.sets(st.sampled_from((0, 1)), min_size=1))


@shared
@given(some, risks, noise)
def test_filters_keep_what_fits(
    whole: Recording, of: set[str] | None, categories: set[str] | None, buckets: set[int] | None
) -> None:
    fitting = [
        (i, sigma, place)
        for i, s in enumerate(whole.manifest.samples)
        for sigma in SIGMAS
        for place in range(TOKENS)
        if (of is None or s.label in of)
        and (categories is None or s.category in categories or s.label == "benign")
        and (buckets is None or (0 if sigma <= 0.5 else 1) in buckets)
    ]
    for site in SITES:
        rows = whole.read(site, labels=of, categories=categories, buckets=buckets)
        assert labels(rows) == fitting
        assert rows.tokens.dtype == torch.float32
        if fitting:
            assert torch.equal(rows.tokens, expected(site, fitting))


def test_a_limit_draws_from_all_that_fits(whole: Recording) -> None:
    first, again, other = (whole.read(TEXT, labels=["unsafe"], limit=17, seed=seed) for seed in (0, 0, 1))
    assert len(first.tokens) == 17
    assert labels(first) == labels(again) == sorted(labels(first), key=lambda one: (one[0], -one[1], one[2]))
    assert labels(first) != labels(other)
    assert torch.equal(first.tokens, expected(TEXT, labels(first)))
    assert len(whole.read(TEXT, limit=10**9).tokens) == whole.count(TEXT)


@shared
@given(
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from((1, 2000, 10**6)),
    some,
)
def test_a_stream_gives_every_row_once(
    whole: Recording, batch: int, world: int, epoch: int, skip: int, buffer: int, of: set[str] | None
) -> None:
    at_most = len(whole.read(TEXT, labels=of).tokens)
    order = {"seed": 3, "epoch": epoch, "buffer": buffer, "labels": of}
    if batch * world > at_most:
        with pytest.raises(SteeringError, match=f"at least {batch * world} rows"):
            list(whole.stream(TEXT, batch, world=world, **order))
        return
    alone = list(whole.stream(TEXT, batch * world, **order))
    ranks = [list(whole.stream(TEXT, batch, rank=rank, world=world, **order)) for rank in range(world)]
    assert len(alone) == at_most // (batch * world)
    for together, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        for column, pieces in zip(together, zip(*parts, strict=True), strict=True):
            assert torch.equal(column, torch.cat(pieces))
    seen = [one for rows in alone for one in labels(rows)]
    assert len(set(seen)) == len(seen) == len(alone) * batch * world
    assert torch.equal(torch.cat([rows.tokens for rows in alone]), expected(TEXT, seen))
    resumed = list(whole.stream(TEXT, batch * world, skip=skip, **order))
    assert [labels(rows) for rows in resumed] == [labels(rows) for rows in alone[skip:]]


def test_streams_are_mixed_and_every_epoch_otherwise(whole: Recording) -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, float, int]]:
        batches = whole.stream(IMAGE, 20, seed=seed, epoch=epoch)
        return [one for rows in batches for one in labels(rows)]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert order(0, 0) == orders[0]
    assert len({tuple(one) for one in orders}) == 3
    samples = [one[0] for one in orders[0][:20]]
    assert len(set(samples)) > 8


def test_a_stream_holds_no_more_than_its_buffer(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not tell how much memory a process has")
    wide = {IMAGE: 2048}
    samples = samples_of([PromptRow(f"benign {i}", "benign") for i in range(96)], (1,))
    made = recording(
        tmp_path / "wide", manifest(samples, wide, replace(SETTINGS, samples_per_shard=4)), tokens=40
    )
    total = made.count(IMAGE) * 2048 * 4

    def resident() -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return 1024 * int(line.split()[1])

    most = before = resident()
    for _ in made.stream(IMAGE, 64, seed=0, buffer=8 * 2**20):
        most = max(most, resident())
    assert total == 120 * 2**20
    assert most - before < 40 * 2**20


@shared
@given(risks, noise)
def test_pairs_are_the_same_place_of_both_sides(
    whole: Recording, categories: set[str] | None, buckets: set[int] | None
) -> None:
    said = whole.manifest.samples
    for site in SITES:
        pairs = whole.pairs(site, categories=categories, buckets=buckets)
        of = list(
            zip(pairs.sample_unsafe.tolist(), pairs.sigma.tolist(), pairs.position.tolist(), strict=True)
        )
        wanted = [
            (i, sigma, place)
            for i, s in enumerate(said)
            for sigma in SIGMAS
            for place in range(TOKENS)
            if s.label == "unsafe"
            and (categories is None or s.category in categories)
            and (buckets is None or (0 if sigma <= 0.5 else 1) in buckets)
        ]
        assert of == wanted
        assert torch.equal(pairs.unsafe, expected(site, of))
        safe = {(s.pair, s.seed): i for i, s in enumerate(said) if s.label == "safe"}
        partners = [(safe[said[i].pair, said[i].seed], sigma, place) for i, sigma, place in of]
        assert torch.equal(pairs.safe, expected(site, partners))


def test_fewer_pairs_are_drawn_from_all(whole: Recording) -> None:
    pairs = whole.pairs(TEXT, limit=9, seed=4)
    assert len(pairs.unsafe) == 9
    of = list(zip(pairs.sample_unsafe.tolist(), pairs.sigma.tolist(), pairs.position.tolist(), strict=True))
    assert torch.equal(pairs.unsafe, expected(TEXT, of))


def test_buckets_hold_their_upper_edge(whole: Recording) -> None:
    sigma = torch.tensor([1.0, 0.50001, 0.5, 1e-6, 0.0, 1.2])
    assert whole.bucket(sigma).tolist() == [1, 1, 0, 0, -1, -1]


def test_what_was_not_recorded_is_refused(whole: Recording, tmp_path: Path) -> None:
    for call in (whole.read, whole.count, whole.pairs):
        with pytest.raises(SteeringError, match=r"site single\.0\.image: expected one of double\.1\.text"):
            call(Site.parse("single.0.image"))
    with pytest.raises(
        SteeringError, match="labels: expected some of benign, safe, unsafe, found 'harmless'"
    ):
        whole.read(TEXT, labels=["harmless"])
    with pytest.raises(SteeringError, match="categories: expected some of bloody, weapons, found 'nudity'"):
        whole.read(TEXT, categories=["nudity"])
    alone = recording(tmp_path / "alone", manifest(samples_of(prompts(pairs=0), (1,))))
    with pytest.raises(SteeringError, match="with a safe rewrite of the same pair id, found 0 unsafe"):
        alone.pairs(TEXT)
    unpaired = recording(
        tmp_path / "unpaired", manifest(samples_of([PromptRow("a knife", "unsafe", "weapons")], (1, 2, 3)))
    )
    with pytest.raises(SteeringError, match="found 3 unsafe prompts, none of which has one"):
        unpaired.pairs(TEXT)


def test_another_model_is_refused(whole: Recording) -> None:
    assert open_recording(whole.folder, model=MODEL).count(TEXT)
    for other in (ModelFingerprint("flux", "1" * 64), ModelFingerprint("sd3", "0" * 64)):
        with pytest.raises(SteeringError, match="model: expected a recording of this"):
            open_recording(whole.folder, model=other)


def test_a_shard_that_was_cut_short_edited_or_lost_is_refused(tmp_path: Path) -> None:
    folder = recording(tmp_path / "recording").folder
    shard = folder / "shard-00002.safetensors"
    sound = shard.read_bytes()
    for damaged in (sound[:-8], sound[:-1] + bytes([sound[-1] ^ 1]), b""):
        shard.write_bytes(damaged)
        with pytest.raises(SteeringError, match=r"shard-00002\.safetensors: .*cut short or edited"):
            open_recording(folder).read(TEXT)
    shard.unlink()
    with pytest.raises(SteeringError, match=r"shard-00002\.safetensors: expected the shard, found no such"):
        list(open_recording(folder).stream(TEXT, 10, seed=0))
    shard.write_bytes(sound)
    opened = open_recording(folder)
    opened.read(TEXT)
    shard.write_bytes(sound[:-8])  # after it was verified
    with pytest.raises(SteeringError, match=r"shard-00002\.safetensors"):
        opened.read(TEXT)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["sites"].update({str(TEXT): m["sites"][str(TEXT)] + 1}),
        lambda m: m["shards"][2]["rows"].update({str(TEXT): m["shards"][2]["rows"][str(TEXT)] - 1}),
    ],
)
def test_a_manifest_that_says_other_sizes_than_its_shards_is_refused(edit: Any, tmp_path: Path) -> None:
    path = recording(tmp_path / "recording").folder / "manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    opened = open_recording(path.parent)
    for use in (
        lambda: opened.read(TEXT),
        lambda: opened.pairs(TEXT),
        lambda: list(opened.stream(TEXT, 5, seed=0)),
    ):
        with pytest.raises(
            SteeringError, match=r"shard-0000\d.safetensors: double\.1\.text: expected tokens of shape"
        ):
            use()


def changed(folder: Path, edit: Any) -> str:
    path = folder / "manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(SteeringError) as refusal:
        open_recording(folder)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(version=2), "manifest.json: version: expected at most 1, found 2. Update"),
        (lambda m: m.update(format="bundle"), "manifest.json: format"),
        (lambda m: m.pop("sigmas"), "expected the key 'sigmas'"),
        (lambda m: m["settings"].update(speed=1), "settings.speed: expected only the keys"),
        (lambda m: m["settings"].update(cfg="3"), "settings.cfg: expected a finite number"),
        (lambda m: m["samples"][3].update(label="bad"), "samples[3].label: expected 'unsafe'"),
        (lambda m: m["samples"][3].update(seed=-1), "samples[3].seed"),
        (lambda m: m.update(samples=[]), "samples: expected at least one prompt"),
        (
            lambda m: m["sites"].update({"joint.0.text": 4}),
            "sites.joint.0.text: expected a site of the family",
        ),
        (lambda m: m["shards"].pop(), "shards: expected all 7 shards"),
        (lambda m: m.update(shards=[]), "shards: expected shards, found none"),
        (lambda m: m["shards"][1].update(file="../secret"), "shards[1].file: expected shard-00001"),
        (lambda m: m["shards"][1].update(sha256="no"), "shards[1].sha256"),
        (lambda m: m["model"].update(family="unet"), "model.family"),
    ],
)
def test_a_manifest_that_was_edited_is_refused_by_its_field(edit: Any, message: str, tmp_path: Path) -> None:
    assert message in changed(recording(tmp_path / "recording").folder, edit)


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="found no such file"):
        open_recording(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(SteeringError, match=r"manifest\.json: expected JSON"):
        open_recording(tmp_path)


def test_a_manifest_reads_back_as_it_was(whole: Recording) -> None:
    text = (whole.folder / "manifest.json").read_text(encoding="utf-8")
    assert Manifest.parse(text, "x") == whole.manifest
    assert whole.manifest.text() == text
    assert "20 pictures: 6 unsafe, 6 safe, 8 benign" in whole.manifest.summary()
