"""Other projects' own files give other projects' own codes and reconstructions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerdit.benchmarks import peers
from steerdit.steering.errors import BundleError
from steerdit.steering.formats.foreign import Declared, Dictionary, open_foreign, read_config, understood
from steerdit.steering.formats.foreign.file import ForeignFile
from steerdit.steering.formats.foreign.imported import Placed, import_dictionary, write_dictionary
from steerdit.steering.formats.foreign.pickles import load_pickle
from steerdit.steering.sae import SelectedLatents
from steerdit.steering.sites import Site

D, N, K = 12, 40, 5
SITE = Site.parse("double.1.image")
PLACED = Placed("flux", str(SITE), {"chosen": "3, 17:0.5, 20-22"})
CHOSEN = [3, 17, 20, 21, 22]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


def activations() -> Tensor:
    return torch.randn(64, D) * 2 + 0.3


def scrambled(module: Any, spread: float = 0.4) -> Any:
    """A module whose every float parameter is random, so that nothing is zero or tied by accident."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * spread)
    return module


def steered(dictionary: Dictionary, tmp_path: Path) -> list[SelectedLatents]:
    """The dictionary as steering meets it: as written to a bundle, and read lazily where its file allows."""
    bundles: list[Any] = [write_dictionary(tmp_path / "written.safetensors", dictionary, PLACED)]
    if dictionary.tensors.path.suffix == ".safetensors":
        bundles.append(import_dictionary(dictionary, PLACED))
    return [SelectedLatents(it.sites[SITE], it.read_latents(SITE)) for it in bundles]


def check(dictionary: Dictionary, x: Tensor, z: Tensor, decoded: Tensor, tmp_path: Path) -> None:
    assert bool((z > 0).any())
    assert bool((z == 0).any())
    for latents in steered(dictionary, tmp_path):
        found = latents.encode(x)
        torch.testing.assert_close(found, z, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(latents.decode(found, x), decoded, atol=1e-5, rtol=1e-5)
    if dictionary.activation != "topk":
        part = SelectedLatents(dictionary.described({}), dictionary.read(CHOSEN))
        torch.testing.assert_close(part.encode(x), z[:, CHOSEN], atol=1e-5, rtol=1e-5)


def save_sae_lens(folder: Path, sae: Any) -> Path:
    weights, _ = sae.save_model(folder)
    return Path(weights)


def sae_lens_of(architecture: str, **settings: Any) -> Any:
    saes = peers.sae_lens()
    name = {"standard": "Standard", "gated": "Gated", "topk": "TopK", "jumprelu": "JumpReLU"}[architecture]
    config = getattr(saes, f"{name}SAEConfig")(d_in=D, d_sae=N, **settings)
    return scrambled(getattr(saes, f"{name}SAE")(config))


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("standard", {}),
        ("gated", {}),
        ("jumprelu", {}),
        ("topk", {"k": K}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    ],
)
def test_sae_lens(
    tmp_path: Path, architecture: str, settings: dict[str, Any], centred: bool, normalize: str
) -> None:
    sae = sae_lens_of(architecture, apply_b_dec_to_input=centred, normalize_activations=normalize, **settings)
    path = save_sae_lens(tmp_path / "sae", sae)
    again = peers.sae_lens().SAE.load_from_disk(path.parent)
    x = activations()
    with torch.no_grad():
        z = again.encode(x)
        check(open_foreign(path), x, z, again.decode(again.encode(x)), tmp_path)


@pytest.mark.parametrize("kind", ["BatchTopK", "MatryoshkaBatchTopK"])
def test_sae_lens_batch_topk_as_saved_for_inference(tmp_path: Path, kind: str) -> None:
    saes = peers.sae_lens()
    extra = {"matryoshka_widths": [10, N]} if kind.startswith("M") else {}
    config = getattr(saes, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=N, k=K, **extra)
    sae = scrambled(getattr(saes, f"{kind}TrainingSAE")(config))
    sae.topk_threshold.fill_(1.2)
    weights, _ = sae.save_inference_model(tmp_path / "sae")
    again = saes.SAE.load_from_disk(tmp_path / "sae")
    x = activations()
    with torch.no_grad():
        check(open_foreign(Path(weights)), x, again.encode(x), again.decode(again.encode(x)), tmp_path)
    trained, _ = sae.save_model(tmp_path / "training")
    with pytest.raises(BundleError, match=r"(?s)architecture: expected standard.*save_inference_model"):
        open_foreign(Path(trained))


def test_sae_lens_scale_of_training_is_taken_from_beside_the_file_or_from_the_user(tmp_path: Path) -> None:
    sae = sae_lens_of("standard", normalize_activations="expected_average_only_in")
    path = save_sae_lens(tmp_path / "sae", sae)
    with pytest.raises(BundleError, match=r"normalize_activations: expected none, or the factor"):
        open_foreign(path)
    x = activations()
    declared = open_foreign(path, Declared(input_scale=0.37))
    (path.parent / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.37}))
    sae.fold_activation_norm_scaling_factor(0.37)
    with torch.no_grad():
        for dictionary in (declared, open_foreign(path)):
            check(dictionary, x, sae.encode(x), sae.decode(sae.encode(x)), tmp_path)


@pytest.mark.parametrize("old_threshold", [True, False])
def test_sae_lens_before_version_6(tmp_path: Path, old_threshold: bool) -> None:
    architecture = "jumprelu" if old_threshold else "topk"
    sae = sae_lens_of(architecture, **({} if old_threshold else {"k": K}))
    path = save_sae_lens(tmp_path / "sae", sae)
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    if old_threshold:
        sae.threshold.data.abs_()
        state["log_threshold"] = state.pop("threshold").abs().log()
    state["scaling_factor"] = torch.ones(N)
    save_file(state, path)
    config: dict[str, Any] = {
        "d_in": D, "d_sae": N, "dtype": "torch.float32", "device": "cpu", "hook_point": "somewhere",
        "normalize_activations": False, "finetuning_scaling_factor": False, "model_name": "a DiT",
    }  # fmt: skip
    config |= (
        {"architecture": "jumprelu", "activation_fn_str": "relu"}
        if old_threshold
        else {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    )
    (path.parent / "cfg.json").write_text(json.dumps(config))
    # Its loader knows log_threshold of training states alone.
    again = sae if old_threshold else peers.sae_lens().SAE.load_from_disk(path.parent)
    x = activations()
    with torch.no_grad():
        check(open_foreign(path), x, again.encode(x), again.decode(again.encode(x)), tmp_path)


@pytest.mark.parametrize("kind", ["AbsTopK", "MatchingPursuit", "Transcoder", "SkipTranscoder"])
def test_sae_lens_of_other_architectures_is_refused(tmp_path: Path, kind: str) -> None:
    saes = peers.sae_lens()
    name = kind if "coder" in kind else f"{kind}SAE"
    coder = {"d_out": D, "apply_b_dec_to_input": False} if "coder" in kind else {}
    sae = getattr(saes, name)(getattr(saes, f"{name}Config")(d_in=D, d_sae=N, **coder))
    with pytest.raises(BundleError, match="architecture: expected standard, gated, topk or jumprelu"):
        open_foreign(save_sae_lens(tmp_path / "sae", sae))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"normalize_activations": "covariance_whitening"},
            "normalize_activations: expected 'none' or .*folded",
        ),
        ({"normalize_activations": "new"}, "normalize_activations: expected"),
        ({"reshape_activations": "hook_z"}, "reshape_activations: expected none"),
        ({"activation_fn": "tanh-relu"}, "activation_fn: expected relu"),
        ({"activation_fn": "topk"}, "activation_fn: expected topk with its k"),
        ({"d_in": D + 1}, f"d_in: expected {D}, as the biases say"),
        ({"d_sae": "many"}, "d_sae: expected a whole number"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input: expected true or false"),
        ({"architecture": "temporal"}, "architecture: expected standard"),
        ({"metadata": {"hook_name": "blocks.8.hook_resid_pre"}}, "found one trained on the hook blocks.8"),
    ],
)
def test_sae_lens_settings_that_mean_something_else_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = save_sae_lens(tmp_path / "sae", sae_lens_of("standard"))
    config = json.loads((path.parent / "cfg.json").read_text())
    (path.parent / "cfg.json").write_text(json.dumps(config | change))
    with pytest.raises(BundleError, match=f"(?s){message}") as refusal:
        open_foreign(path)
    assert refusal.value.remedy
    if "metadata" in change:
        assert open_foreign(path, Declared(trained_here=True)).latents == N


def sparse_coder(folder: Path, **settings: Any) -> tuple[Path, Any]:
    module = peers.sparsify()
    config = module.SparseCoderConfig(num_latents=N, k=K, **settings)
    coder = scrambled(module.SparseCoder(D, config))
    coder.save_to_disk(folder)
    return folder / "sae.safetensors", coder


def test_sparsify(tmp_path: Path) -> None:
    path, _ = sparse_coder(tmp_path / "transformer_blocks.3")
    coder = peers.sparsify().SparseCoder.load_from_disk(path.parent)
    x = activations()
    with torch.no_grad():
        acts, indices, _ = coder.encode(x)
        z = torch.zeros(len(x), N).scatter(-1, indices, acts)
        check(open_foreign(path), x, z, coder.decode(acts, indices), tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "groupmax"}, "activation: expected 'topk'.*groupmax"),
        ({"transcode": True}, "transcode: expected false"),
        ({"skip_connection": True}, "skip_connection: expected false"),
    ],
)
def test_sparsify_of_other_kinds_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path, _ = sparse_coder(tmp_path / "blocks", **settings)
    with pytest.raises(BundleError, match=message):
        open_foreign(path)


@pytest.mark.parametrize(
    ("hookpoint", "found"),
    [
        ("unet.up_blocks.1.attentions.1", "a UNet"),
        ("layers.10.mlp", "a language model"),
        ("h.5", "a language"),
    ],
)
def test_sparsify_hookpoints_of_other_hosts_are_refused(tmp_path: Path, hookpoint: str, found: str) -> None:
    path, _ = sparse_coder(tmp_path / hookpoint)
    with pytest.raises(BundleError, match=f"found one trained on .*{found}"):
        open_foreign(path)


def pickled(folder: Path, state: dict[str, Any], config: dict[str, Any] | None = None) -> ForeignFile:
    """A file as the offline command reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    tensors, extras = load_pickle(folder / "ae.pt")
    return ForeignFile(tensors, read_config(folder / "ae.pt"), extras)


def dictionaries() -> dict[str, Any]:
    module = peers.dictionary_learning()
    made = {
        "AutoEncoder": module.AutoEncoder(D, N),
        "AutoEncoderNew": module.AutoEncoderNew(D, N),
        "GatedAutoEncoder": module.GatedAutoEncoder(D, N),
        "JumpReluAutoEncoder": module.JumpReluAutoEncoder(D, N),
        "AutoEncoderTopK": module.AutoEncoderTopK(D, N, K),
        "BatchTopKSAE": module.BatchTopKSAE(D, N, K),
        "MatryoshkaBatchTopKSAE": module.MatryoshkaBatchTopKSAE(D, N, K, [10, N - 10]),
    }
    for dictionary in made.values():
        scrambled(dictionary)
        if isinstance(getattr(dictionary, "threshold", None), Tensor) and not dictionary.threshold.shape:
            dictionary.threshold.fill_(1.1)
    return made


@pytest.mark.parametrize("name", list(dictionaries()))
def test_dictionary_learning(tmp_path: Path, name: str) -> None:
    peer = dictionaries()[name]
    config = {"trainer": {"dict_class": name, "activation_dim": D, "dict_size": N, "k": K}}
    file = pickled(tmp_path / "ae", peer.state_dict(), config)
    x = activations()
    with torch.no_grad():
        z = peer.encode(x)
        check(understood(file), x, z, peer.decode(z), tmp_path)


def test_dictionary_learning_as_safetensors_is_read_lazily(tmp_path: Path) -> None:
    peer = dictionaries()["BatchTopKSAE"]
    save_file(
        {name: tensor.contiguous() for name, tensor in peer.state_dict().items()}, tmp_path / "ae.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE"}}))
    x = activations()
    with torch.no_grad():
        z = peer.encode(x)
        check(open_foreign(tmp_path / "ae.safetensors"), x, z, peer.decode(z), tmp_path)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"dict_class": "IdentityDict"}, "trainer.dict_class: expected 'AutoEncoder' or"),
        ({}, "trainer: expected the key 'dict_class'"),
        ({"dict_class": "AutoEncoder"}, "expected only the tensors that an AutoEncoder"),
        ({"dict_class": "AutoEncoderTopK", "k": K + 1}, f"trainer.k: expected {K}"),
        ({"dict_class": "AutoEncoderTopK", "dict_size": N + 1}, f"trainer.dict_size: expected {N}"),
        ({"dict_class": "AutoEncoderTopK", "lm_name": "gpt2"}, "one trained on the language model gpt2"),
    ],
)
def test_dictionary_learning_that_is_something_else_is_refused(
    tmp_path: Path, trainer: dict[str, Any], message: str
) -> None:
    file = pickled(tmp_path / "ae", dictionaries()["AutoEncoderTopK"].state_dict(), {"trainer": trainer})
    with pytest.raises(BundleError, match=message):
        understood(file)


def test_the_jump_of_a_gate_is_where_its_gate_opens() -> None:
    """The identity behind gated autoencoders, in float64 and away from its edge."""
    u, gate, magnitude, r = (torch.randn(2000, dtype=torch.float64) for _ in range(4))
    gain = r.exp()
    expected = ((u + gate) > 0) * (gain * u + magnitude).relu()
    p = gain * u + magnitude
    threshold = (magnitude - gain * gate).clamp_min(0)
    assert math.isclose(float((expected - p * (p > threshold)).abs().max()), 0.0, abs_tol=1e-12)
