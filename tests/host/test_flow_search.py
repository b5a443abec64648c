"""The search for the attention that tells unsafe patches best, as the command runs it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from steerdit.commands import flow_sites as command
from steerdit.host.attach import attention_sites
from steerdit.host.sampling import sampling_for
from steerdit.nodes.anchors import SamplePromptsNode
from steerdit.steering import SteeringError
from steerdit.steering.flow.score import ScoreKind
from steerdit.steering.formats.bundle import open_bundle
from steerdit.training.flows.collecting import marked, steps_of
from steerdit.training.flows.samples import Sampler, examples_of
from steerdit.training.flows.search import search

from .flows import model_of
from .test_flow_nodes import ROWS, SAMPLED, Clip, bright

MORE = {**SAMPLED, "seeds": 6}


def sampled(folder: Path) -> tuple[Any, Tensor]:
    samples, unsafe, _ = SamplePromptsNode.execute(
        model=model_of("flux", folder), clip=Clip(), prompts=ROWS, **MORE
    ).args
    return samples, bright(unsafe["samples"])


def test_every_attention_and_step_is_judged(tmp_path: Path) -> None:
    samples, masks = sampled(tmp_path)
    sites = attention_sites(samples.model)
    what = marked(samples, masks)
    found = search(samples, what, sites, range(3), at_once=3)
    assert found.aucs.shape == (4, 3, 3)
    assert bool(found.aucs.isfinite().all())
    # What is marked is bright in the finished picture, which the last step's whitened anchors can tell.
    best = found.aucs[..., list(ScoreKind).index(ScoreKind.WHITENED)]
    assert float(best[:, -1].max()) > 0.6
    assert [auc for *_, auc in found.ranked()] == sorted((auc for *_, auc in found.ranked()), reverse=True)
    assert found.percents[-1] == 1.0
    assert all(0 < found.startup_end(site) <= 1 for site in sites)
    again = search(samples, what, sites[1:2], [1], at_once=1)
    assert torch.allclose(again.aucs[0, 0], found.aucs[1, 1], atol=1e-6)


def test_pictures_of_vaes_that_count_pictures_are_written(tmp_path: Path) -> None:
    picture = torch.rand(1, 1, 6, 4, 3, generator=torch.Generator().manual_seed(1))
    command.save_picture(picture, tmp_path / "counted.png")
    command.save_picture(picture[0], tmp_path / "plain.png")
    assert (tmp_path / "counted.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_steps_are_named(tmp_path: Path) -> None:
    samples, _ = sampled(tmp_path)
    assert steps_of(samples, "last", 0.36) == (2,)
    assert steps_of(samples, "1", 0.36) == (1,)
    assert steps_of(samples, "startup", 1.0) == (0, 1, 2)
    assert steps_of(samples, "startup", 0.01)[0] == 0
    with pytest.raises(SteeringError, match="from 0 to 2"):
        steps_of(samples, "3", 0.36)


def test_the_command_writes_tables_pictures_and_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, masks = sampled(tmp_path)
    folder, out = tmp_path / "masks", tmp_path / "out"
    for place in (folder, out):
        place.mkdir()
    for number, mask in enumerate(masks):
        command.save_picture(mask[None, ..., None].expand(-1, -1, -1, 3), folder / f"{number:04}.png")
    read = command.read_masks(folder)
    assert torch.equal(read, masks)
    arguments = argparse.Namespace(
        out=out, sites="all", every=2, at_once=4, batch=2, bundle=tmp_path / "best.safetensors", best=2
    )
    assert command.searched(samples, read, arguments) == 0
    told = json.loads((out / "sites.json").read_text())
    assert [len(site["auc_by_step"]["whitened"]) for site in told["sites"]] == [2] * 4
    best = [site["site"] for site in told["sites"][:2]]
    bundle = open_bundle(arguments.bundle)
    assert {str(site) for site in bundle.anchors} == set(best)
    assert all(entry.startup_end is not None for entry in bundle.anchors.values())
    for name in ("auc.png", "flow.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 50
    assert "block: text, picture" in (out / "flow.txt").read_text()
    assert best[0] in capsys.readouterr().out


def test_masks_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match="found none"):
        command.read_masks(tmp_path)
    for size in (4, 5):
        Image.new("L", (size, size)).save(tmp_path / f"{size}.png")
    with pytest.raises(SteeringError, match="different sizes"):
        command.read_masks(tmp_path)


def test_the_command_line_is_read() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = parser.parse_args(
        ["--checkpoint", "a", "--prompts", "b", "--out", "c", "--every", "3", "--steps", "7"]
    )
    assert (given.every, given.steps, given.sites, given.masks) == (3, 7, "all", None)


def test_a_bundle_of_another_ending_is_refused_before_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--checkpoint", "a", "--prompts", "b", "--out", "c", "--bundle", "best.pt"]
    assert command.run(parser.parse_args(given)) == 1
    assert "--bundle: expected a name that ends with .safetensors" in capsys.readouterr().err


def test_references_are_what_the_vae_makes_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shrinking:
        """Stands for a VAE: every 8 × 8 pixels' mean in all channels."""

        def encode(self, pixels: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(pixels.mean(-1)[:, None], 8).expand(-1, 16, -1, -1)

    monkeypatch.setattr(command.headless, "load_vae", lambda file: Shrinking())
    drawn = [torch.rand(1, 80, 48, 3, generator=torch.Generator().manual_seed(n)) for n in range(len(ROWS))]
    for number, picture in enumerate(drawn):
        command.save_picture(picture, tmp_path / f"{number}.png")
    asked = argparse.Namespace(references=tmp_path, vae=Path("vae"), checkpoint=None)
    found = command.read_references(asked, len(ROWS))
    for latent, picture in zip(found, drawn, strict=True):
        assert torch.allclose(latent, Shrinking().encode(picture)[0], atol=1 / 255)
    assert command.read_references(argparse.Namespace(references=None), 3) == []
    with pytest.raises(SteeringError, match="5 pictures, one for each prompt, found 6"):
        command.read_references(asked, 5)
    with pytest.raises(SteeringError, match="--vae: expected the file of the VAE, to encode the references"):
        command.read_references(argparse.Namespace(references=tmp_path, vae=None, checkpoint=None), 6)


def test_the_search_of_a_model_that_edits_shows_what_flows_from_its_references(tmp_path: Path) -> None:
    model, out = model_of("flux", tmp_path), tmp_path / "out"
    out.mkdir()
    examples = examples_of(ROWS, range(1))
    draw = torch.Generator().manual_seed(1)
    references = [torch.randn(16, 6, 8, generator=draw) for _ in examples]
    sampling = sampling_for(model, 80, 48, steps=2, cfg=1.0)
    edits = Sampler(model, Clip(), examples, sampling, references=references)
    latents = edits.latents()
    assert not torch.allclose(latents, Sampler(model, Clip(), examples, sampling).latents(), atol=1e-2)
    arguments = argparse.Namespace(out=out, sites="all", every=1, at_once=4, batch=2, bundle=None, best=1)
    assert command.searched(edits, bright(latents[:3]), arguments) == 0
    assert "block: text, picture, reference" in (out / "flow.txt").read_text()


def test_references_for_a_model_that_takes_none_are_refused(tmp_path: Path) -> None:
    model = model_of("sd3", tmp_path)
    with pytest.raises(SteeringError, match=r"references: expected a model of flux.* found sd3"):
        Sampler(
            model,
            Clip(),
            examples_of(ROWS, [0]),
            sampling_for(model, 80, 48),
            references=[torch.zeros(16, 4, 4)],
        )
