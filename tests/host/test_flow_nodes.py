"""From prompts and masks to anchors, from anchors to a picture: the nodes one after another on a tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steerdit.host.sampling import encode_prompts
from steerdit.nodes.anchors import CollectAnchorsNode, SamplePromptsNode
from steerdit.nodes.attention_flow import AttentionFlowNode
from steerdit.nodes.flow import RestrictFlowNode
from steerdit.steering import Site, SteeringError
from steerdit.steering.flow.shares import ShareRecorder
from steerdit.steering.formats.bundle import Bundle, verify
from steerdit.training.flows.collecting import marked
from steerdit.training.flows.samples import Example, examples_of
from steerdit.training.recordings import PromptRow

from .flows import Watcher, dense, model_of, prompt, reference, sample, start, with_flow
from .recorded import Said
from .test_flow_attention import edited
from .test_flow_restrict import ASKED

SIZE = {"width": 48, "height": 80}
SAMPLED: dict[str, Any] = {
    "seeds": 2, "first_seed": 3, "steps": 3, "cfg": 1.0, "sampler": "euler", "scheduler": "simple", **SIZE,
    "batch": 3, "negative": "", "guidance": 0.0,
}  # fmt: skip
COLLECTED: dict[str, Any] = {
    "name": "mine", "sites": "default", "collect_at": "startup", "startup_percent": 0.7, "false_positives": 0.4,
    "several": 0, "base": "tiny", "license": "Apache-2.0", "replace": True,
}  # fmt: skip
ROWS = (
    *(PromptRow(f"a knife number {number}", "unsafe", "weapons", None) for number in range(3)),
    *(PromptRow(f"a cat number {number}", "benign", None, None) for number in range(3)),
)


class Clip:
    """The host's CLIP, as far as prompts are sampled by it."""

    def __init__(self, family: str = "flux") -> None:
        self._family = family

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        if self._family == "qwen_image":  # without a pooled state
            ((tokens, _),) = prompt(self._family, len(text))
            return [[tokens, {}]]
        tokens, pooled = Said(self._family).encode(text)
        return [[tokens, {"pooled_output": pooled}]]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import folder_paths

    folder = tmp_path / "steering"
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "steering", ([str(folder)], {".safetensors"}))
    return folder


def sampled(folder: Path) -> tuple[Any, Any, Tensor, Tensor]:
    model = model_of("flux", folder)
    samples, unsafe, benign = SamplePromptsNode.execute(
        model=model, clip=Clip(), prompts=ROWS, **SAMPLED
    ).args
    return model, samples, unsafe["samples"], benign["samples"]


def bright(latents: Tensor) -> Tensor:
    """Masks (n, H, W) that mark what can be told: where the latent's first channel is high."""
    high = latents[:, 0]
    return (high > high.flatten(1).quantile(0.8, 1)[:, None, None]).float()


def test_anchors_are_collected_and_restrict(folders: Path, tmp_path: Path) -> None:
    model, samples, unsafe, benign = sampled(tmp_path)
    assert unsafe.shape == benign.shape == (6, 16, 10, 6)
    bundle, summary = CollectAnchorsNode.execute(samples=samples, masks=bright(unsafe), **COLLECTED).args
    assert isinstance(bundle, Bundle)
    verify(bundle.path)
    assert bundle.path == folders / "mine.safetensors"
    assert bundle.path.stat().st_size < 100_000
    assert len(bundle.anchors) == 4
    for site, entry in bundle.anchors.items():
        assert (entry.heads, entry.head_width, entry.concepts) == (2, 128, ("weapons",))
        assert f"{site}: 2 heads" in summary
        assert entry.benign_patches > entry.rows[0].patches > 0
    assert "AUC" in summary
    steered, rules = RestrictFlowNode.execute(
        model=model, bundle=bundle, **{**ASKED, "threshold": "given", "threshold_value": -50.0}
    ).args
    assert "weapons: whitened score" in rules
    prompts = prompt("flux", 1), prompt("flux", 2)
    assert not torch.equal(sample(steered, *prompts, start("flux")), sample(model, *prompts, start("flux")))


def test_the_same_pictures_are_made_again(tmp_path: Path) -> None:
    _, samples, unsafe, benign = sampled(tmp_path)
    assert torch.equal(samples.latents(), torch.cat([unsafe, benign]))
    assert samples.examples[:2] == (
        Example("a knife number 0", 3, "weapons"),
        Example("a knife number 0", 4, "weapons"),
    )


def test_the_last_steps_mean_is_the_mean_of_what_attention_put_out(folders: Path, tmp_path: Path) -> None:
    _, samples, unsafe, _ = sampled(tmp_path)
    masks = bright(unsafe)
    bundle, _ = CollectAnchorsNode.execute(
        samples=samples, masks=masks, **{**COLLECTED, "collect_at": "last", "sites": "single.0.attention"}
    ).args
    site = Site.parse("single.0.attention")
    kept: list[Tensor] = []
    what = marked(samples, masks)

    def take(number: int, seen: Any) -> None:
        if number in what.masks and seen.sigma == min(samples.sigmas):
            core = torch.nn.functional.max_pool2d(masks[number][None, None], 2)[0, 0].flatten() > 0
            kept.append(seen.outputs[core])

    samples.watch([site], take, among=what.learn)
    expected = torch.cat(kept).double().mean(0)
    assert torch.allclose(bundle.read_anchors(site).means.flatten().double(), expected, atol=1e-5)


@pytest.mark.parametrize("among", [None, (2, 0)])
def test_no_step_is_made_after_the_last_that_counts(tmp_path: Path, among: tuple[int, ...] | None) -> None:
    _, samples, *_ = sampled(tmp_path)
    whole: list[tuple[int, float, Tensor]] = []
    cut: list[tuple[int, float, Tensor]] = []
    middle = samples.sigmas[len(samples.sigmas) // 2]

    def into(found: list[tuple[int, float, Tensor]]) -> Any:
        return lambda number, seen: found.append((number, seen.sigma, seen.outputs.clone()))

    samples.watch([Site.parse("double.0.attention")], into(whole), among=among)
    samples.watch(
        [Site.parse("double.0.attention")], into(cut), keeps=lambda sigma: sigma >= middle, among=among
    )
    counted = [one for one in whole if one[1] >= middle]
    assert len(cut) == len(counted) < len(whole)
    for ours, theirs in zip(cut, counted):
        assert ours[:2] == theirs[:2]
        assert torch.equal(ours[2], theirs[2])


def test_masks_that_do_not_belong_to_the_pictures(folders: Path, tmp_path: Path) -> None:
    _, samples, unsafe, _ = sampled(tmp_path)
    masks = bright(unsafe)
    for wrong, told in (
        (masks[:4], "6 masks"),
        (masks * 0, "none of weapons"),
        (masks.mT, "the picture's shape"),
        (masks * torch.nan, "NaN"),
    ):
        with pytest.raises(SteeringError, match=told):
            CollectAnchorsNode.execute(samples=samples, masks=wrong, **COLLECTED)
    masks[1] = 0
    _, summary = CollectAnchorsNode.execute(samples=samples, masks=masks, **COLLECTED).args
    assert "warning: 1 unsafe pictures have an empty mask" in summary


def test_a_file_of_that_name_is_left_alone(folders: Path, tmp_path: Path) -> None:
    _, samples, unsafe, _ = sampled(tmp_path)
    CollectAnchorsNode.execute(samples=samples, masks=bright(unsafe), **COLLECTED)
    before = (folders / "mine.safetensors").read_bytes()
    with pytest.raises(SteeringError, match="switch replace on"):
        CollectAnchorsNode.execute(samples=samples, masks=bright(unsafe), **{**COLLECTED, "replace": False})
    assert (folders / "mine.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "field"), [({"license": ""}, "license"), ({"license": "free for all!"}, "license")]
)
def test_what_no_bundle_takes_is_refused_before_anything_is_sampled(
    wrong: dict[str, str], field: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, samples, unsafe, _ = sampled(tmp_path)
    monkeypatch.setattr(type(samples), "watch", lambda *_, **__: pytest.fail("it sampled"))
    with pytest.raises(SteeringError, match=f"{field}: .* No bundle takes it"):
        CollectAnchorsNode.execute(samples=samples, masks=bright(unsafe), **{**COLLECTED, **wrong})


def test_prompts_without_anything_unsafe() -> None:
    with pytest.raises(SteeringError, match="none of them unsafe"):
        examples_of(ROWS[3:], [0])


def test_qwen_image_has_anchors_too(folders: Path, tmp_path: Path) -> None:
    model = model_of("qwen_image", tmp_path)
    samples, unsafe, _ = SamplePromptsNode.execute(
        model=model, clip=Clip("qwen_image"), prompts=ROWS, **SAMPLED
    ).args
    assert unsafe["samples"].shape == (6, 16, 1, 10, 6)
    bundle, summary = CollectAnchorsNode.execute(
        samples=samples, masks=bright(unsafe["samples"][:, :, 0]), **COLLECTED
    ).args
    assert [str(site) for site in bundle.anchors] == ["joint.0.attention", "joint.1.attention"]
    assert bundle.header.family == "qwen_image"
    assert "AUC" in summary
    asked = {**ASKED, "threshold": "given", "threshold_value": -50.0}
    steered, _ = RestrictFlowNode.execute(model=model, bundle=bundle, **asked).args
    prompts = prompt("qwen_image", 1), prompt("qwen_image", 2)
    made = [sample(one, *prompts, start("qwen_image")) for one in (steered, model)]
    assert not torch.equal(*made)


@pytest.mark.parametrize("count", [1, 6])
def test_prompts_that_edit_see_their_references(count: int, tmp_path: Path) -> None:
    model = model_of("flux", tmp_path)
    edited = torch.cat([reference("flux", 8, 12, seed) for seed in range(count)])
    samples, unsafe, benign = SamplePromptsNode.execute(
        model=model, clip=Clip(), prompts=ROWS, references={"samples": edited}, **SAMPLED
    ).args
    made = torch.cat([unsafe["samples"], benign["samples"]])
    for number, example in enumerate(samples.examples):
        tokens, pooled = Said("flux").encode(example.text)
        of_prompt = edited[(number // 2) % count][None]
        noise = torch.randn((1, 16, 10, 6), generator=torch.Generator().manual_seed(example.seed))
        positive = [[tokens, {"pooled_output": pooled, "reference_latents": [of_prompt]}]]
        alone = sample(model, positive, positive, noise, steps=SAMPLED["steps"])
        assert torch.allclose(made[number], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "latents", "told"),
    [
        ("flux", torch.zeros(4, 16, 8, 8), "expected 6 latents"),
        ("flux", torch.zeros(1, 4, 8, 8), r"latents of 16 channels, .*found \[4, 8, 8\]"),
        ("flux", torch.zeros(1, 16, 1, 8, 8), r"found \[16, 1, 8, 8\]"),
        ("flux", torch.zeros(1, 16, 0, 8), r"found \[16, 0, 8\]"),
        ("flux", torch.full((1, 16, 8, 8), torch.nan), "NaN or infinite"),
        ("qwen_image", torch.zeros(1, 16, 8, 8), "found qwen_image"),
    ],
)
def test_references_that_do_not_belong_to_the_prompts(
    family: str, latents: Tensor, told: str, tmp_path: Path
) -> None:
    with pytest.raises(SteeringError, match=told):
        SamplePromptsNode.execute(
            model=model_of(family, tmp_path), clip=Clip(family), prompts=ROWS, references={"samples": latents},
            **SAMPLED,
        )  # fmt: skip


def test_a_text_encoder_that_hides_tokens_is_refused() -> None:
    class Hiding(Clip):
        def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
            ((tokens, extra),) = super().encode_from_tokens_scheduled(text)
            return [[tokens, {**extra, "attention_mask": torch.tensor([[1] * (tokens.shape[1] - 1) + [0]])}]]

    with pytest.raises(SteeringError, match="an attention mask that hides some of 'a knife'"):
        encode_prompts(Hiding(), ["a knife"])


@pytest.mark.parametrize("family", ["flux", "sd3", "qwen_image"])
def test_the_shares_of_streams_are_those_of_the_softmax(family: str, tmp_path: Path) -> None:
    model, recorder, watcher = model_of(family, tmp_path), ShareRecorder(), Watcher()
    positive = prompt(family, 1) if family == "sd3" else edited(family, "index")
    both = with_flow(with_flow(model, recorder), watcher)
    noise = start(family)
    found = sample(both, positive, prompt(family, 2), noise)
    assert torch.equal(found, sample(model, positive, prompt(family, 2), noise))
    streams = ["text", "picture"] if family == "sd3" else ["text", "picture", "reference 1", "reference 2"]
    assert recorder.streams == streams
    shares = recorder.shares()
    assert torch.allclose(shares.sum(-1), torch.ones(shares.shape[:2]), atol=1e-4)
    for visit in watcher.visits:
        layout, image = visit.step.layout, visit.step.layout.image.span
        ones = torch.zeros_like(visit.v)
        ones[:, :, layout.text] = 1
        expected = dense(visit.q[:, :, image], visit.k, ones, visit.step.mask).mean()
        at = recorder.sites.index(visit.step.site), recorder.sigmas.index(visit.step.sigma)
        assert abs(float(shares[at][0]) - float(expected)) < 1e-5


def test_attention_flow_of_nothing_or_of_unlike_conditionings_is_refused(tmp_path: Path) -> None:
    model, latent = model_of("flux", tmp_path), {"samples": torch.zeros(1, 16, 6, 10)}
    asked = {"seed": 5, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    for positive, sites, told in (
        (prompt("flux", 1), "-all", "at least one attention"),
        (prompt("flux", 1) + edited("flux", "index"), "all", "number of reference latents"),
    ):
        with pytest.raises(SteeringError, match=told):
            AttentionFlowNode.execute(
                model=model, positive=positive, negative=prompt("flux", 2), latent_image=latent, sites=sites, **asked
            )  # fmt: skip


def test_attention_flow_shows_blocks_and_steps(tmp_path: Path) -> None:
    model = model_of("flux", tmp_path)
    positive = prompt("flux", 1, reference_latents=[reference("flux", 4, 4, 3)])
    asked = {"seed": 5, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = {"samples": torch.zeros(1, 16, 6, 10)}
    picture, table, samples = AttentionFlowNode.execute(
        model=model, positive=positive, negative=prompt("flux", 2), latent_image=latent, sites="all", **asked
    ).args
    assert picture.ndim == 4
    assert picture.shape[-1] == 3
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
    assert "block: text, picture, reference" in table
    assert all(name in table for name in ("double.0", "double.1", "single.0", "single.1"))
    assert table.split("sigma:")[1].count("\n") == 3
    assert samples["samples"].shape == (1, 16, 6, 10)
