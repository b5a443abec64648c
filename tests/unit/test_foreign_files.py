"""Formats without a package to compare with, against their definitions in numpy; and files that lie."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerdit.steering.errors import BundleError
from steerdit.steering.formats.foreign import (
    FORMATS,
    ORIENTATIONS,
    Declared,
    Dictionary,
    ForeignFile,
    open_foreign,
    read_config,
    understood,
)
from steerdit.steering.formats.foreign.imported import (
    Placed,
    import_dictionary,
    parse_latents,
    write_dictionary,
)
from steerdit.steering.formats.foreign.pickles import load_pickle
from steerdit.steering.sae import SelectedLatents
from steerdit.steering.sites import Site

from .bundles import container

D, N, K = 6, 15, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


def drawn(width: int = D, latents: int = N) -> dict[str, Tensor]:
    """Encoder and decoder as (N, d), and their biases."""
    return {
        "encoder": torch.randn(latents, width),
        "decoder": torch.randn(latents, width),
        "encoder_bias": torch.randn(latents),
        "decoder_bias": torch.randn(width),
    }


def expected(
    parts: dict[str, Tensor], x: Tensor, k: int | None, *, centred: bool = True, layer_norm: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (T, N) and reconstructions (T, d) in float64, token by token."""
    W, V, b, c = (
        parts[name].double().numpy() for name in ("encoder", "decoder", "encoder_bias", "decoder_bias")
    )
    codes, said = [], []
    for a in x.double().numpy():
        mean, deviation = (a.mean(), a.std(ddof=1)) if layer_norm else (0.0, 1.0)
        seen = (a - mean) / (deviation + 1e-5) if layer_norm else a
        p = np.maximum(W @ (seen - c * centred) + b, 0)
        if k is not None:
            p[np.argsort(-p, kind="stable")[k:]] = 0
        codes.append(p)
        said.append((p @ V + c) * deviation + mean)
    return np.array(codes), np.array(said)


def check(dictionary: Dictionary, wanted: tuple[np.ndarray, np.ndarray], x: Tensor) -> None:
    latents = SelectedLatents(dictionary.described({}), dictionary.read())
    z = latents.encode(x)
    np.testing.assert_allclose(z, wanted[0], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(latents.decode(z, x), wanted[1], atol=1e-5, rtol=1e-5)


def loaded(folder: Path, content: Any, declared: Declared = Declared(), name: str = "sae.pt") -> ForeignFile:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / name)
    tensors, extras = load_pickle(folder / name)
    return ForeignFile(tensors, read_config(folder / name), extras, declared)


def openai_state(parts: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "pre_bias": parts["decoder_bias"],
        "latent_bias": parts["encoder_bias"],
        "encoder.weight": parts["encoder"],
        "decoder.weight": parts["decoder"].T,
        "stats_last_nonzero": torch.zeros(N, dtype=torch.long),
    }


def test_openai_topk_standardises_its_input(tmp_path: Path) -> None:
    parts, x = drawn(), torch.randn(9, D) * 3 + 1
    state = openai_state(parts) | {
        "activation": "TopK",
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"},
    }
    check(understood(loaded(tmp_path, state)), expected(parts, x, K, layer_norm=True), x)


def test_openai_relu_does_not(tmp_path: Path) -> None:
    parts, x = drawn(), torch.randn(9, D) * 3 + 1
    state = openai_state(parts) | {"activation": "ReLU", "activation_state_dict": {}}
    check(understood(loaded(tmp_path, state)), expected(parts, x, None), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "Identity"}, "activation: expected 'ReLU' or 'TopK'"),
        ({"activation": "TopK"}, "activation_state_dict: expected k and postact_fn"),
        ({"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "postact_fn"),
        (
            {"activation": "TopK", "activation_state_dict": {"k": N + 1, "postact_fn": "ReLU"}},
            "k: expected a whole",
        ),
    ],
)
def test_openai_activations_that_are_something_else(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        understood(loaded(tmp_path, openai_state(drawn()) | change))


def test_sdxl_unbox_acts_on_no_site_unless_its_user_says_so(tmp_path: Path) -> None:
    parts, x = drawn(), torch.randn(9, D)
    config = {"n_dirs_local": N, "d_model": D, "k": K, "auxk": 2, "dead_steps_threshold": 10}
    (tmp_path / "config.json").write_text(json.dumps(config))
    content = {"state_dict": openai_state(parts)}
    with pytest.raises(BundleError, match="found one trained on what a block adds to its input"):
        understood(loaded(tmp_path, content))
    dictionary = understood(loaded(tmp_path, content, Declared(trained_here=True)))
    check(dictionary, expected(parts, x, K), x)


def qwen(folder: Path, parts: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "W_enc": parts["encoder"],
        "W_dec": parts["decoder"].T.contiguous(),
        "b_enc": parts["encoder_bias"],
        "b_dec": parts["decoder_bias"],
    }
    save_file(state, folder / "layer3.sae.safetensors")
    return folder / "layer3.sae.safetensors"


def test_qwen_scope_lies_the_other_way_round(tmp_path: Path) -> None:
    parts, x = drawn(), torch.randn(9, D)
    path = qwen(tmp_path / f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}", parts)
    with pytest.raises(BundleError, match="found one trained on the residual stream of a Qwen"):
        open_foreign(path)
    check(open_foreign(path, Declared(trained_here=True)), expected(parts, x, K, centred=False), x)
    bare = qwen(tmp_path / "somewhere", parts)
    with pytest.raises(BundleError, match=r"with no configuration beside it.*or name the format"):
        open_foreign(bare)  # these could be SAELens's names, transposed
    with pytest.raises(BundleError, match="Say k"):
        open_foreign(bare, Declared(trained_here=True), "qwen-scope")
    named = open_foreign(bare, Declared(k=K, trained_here=True), "qwen-scope")
    check(named, expected(parts, x, K, centred=False), x)


def finebooru(folder: Path, parts: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    latents, width = parts["encoder"].shape
    config = {"features": width, "pages": latents, "k": K, "sample": None}
    (folder / "config.json").write_text(json.dumps(config))
    state = {
        "encoder.weight": parts["encoder"],
        "encoder.bias": parts["encoder_bias"],
        "decoder.weight": parts["decoder"].T.contiguous(),
        "bias": parts["decoder_bias"],
    }
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("folder", "site"),
    [
        ("cc3m-transformer_blocks.18-0", "double.18.text"),
        ("cc3m-transformer_blocks.0-1", "double.0.image"),
        ("cc3m-single_transformer_blocks.9", None),
    ],
)
def test_finebooru_says_its_site_in_diffusers_order(tmp_path: Path, folder: str, site: str | None) -> None:
    parts, x = drawn(), torch.randn(9, D)
    dictionary = open_foreign(finebooru(tmp_path / folder, parts))
    check(dictionary, expected(parts, x, K), x)
    if site is None:
        with pytest.raises(BundleError, match="Say the site"):
            import_dictionary(dictionary, Placed("flux"))
        assert [*import_dictionary(dictionary, Placed("flux", "single.9.image")).sites] == [
            Site.parse("single.9.image")
        ]
        return
    assert [str(it) for it in import_dictionary(dictionary, Placed("flux")).sites] == [site]
    with pytest.raises(BundleError, match=f"expected the site {site}, as the name of its folder says"):
        import_dictionary(dictionary, Placed("flux", "double.5.image"))


@pytest.mark.parametrize("orientation", list(ORIENTATIONS)[1:])
def test_shapes_tell_the_orientation_whatever_the_names(tmp_path: Path, orientation: str) -> None:
    """SAELens's names in all four orientations are the same dictionary."""
    parts, x = drawn(), torch.randn(9, D)
    check(open_foreign(sae_lens(tmp_path, parts, orientation)), expected(parts, x, None), x)


def sae_lens(folder: Path, parts: dict[str, Tensor], orientation: str, **changes: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    latents, width = parts["encoder"].shape
    (folder / "cfg.json").write_text(
        json.dumps({"architecture": "standard", "d_in": width, "d_sae": latents})
    )
    encoder_rows, decoder_rows = ORIENTATIONS[orientation] or (False, True)
    state = {
        "W_enc": (parts["encoder"] if encoder_rows else parts["encoder"].T).contiguous(),
        "W_dec": (parts["decoder"] if decoder_rows else parts["decoder"].T).contiguous(),
        "b_enc": parts["encoder_bias"],
        "b_dec": parts["decoder_bias"],
    }
    save_file(state | changes, folder / "sae_weights.safetensors")
    return folder / "sae_weights.safetensors"


@pytest.mark.parametrize("orientation", list(ORIENTATIONS)[1:])
def test_as_many_latents_as_width_need_the_orientation_said(tmp_path: Path, orientation: str) -> None:
    parts, x = drawn(D, D), torch.randn(9, D)
    path = sae_lens(tmp_path, parts, orientation)
    with pytest.raises(BundleError, match=r"tells latents from width.*Say the orientation: encoder N×d"):
        open_foreign(path)
    check(open_foreign(path, Declared(orientation=orientation)), expected(parts, x, None), x)


def test_what_is_declared_must_fit(tmp_path: Path) -> None:
    path = sae_lens(tmp_path, drawn(), "auto")
    assert open_foreign(path, Declared(width=D, orientation="encoder d×N, decoder N×d")).width == D
    for declared, message in (
        (Declared(width=D + 1), f"expected width {D + 1}, as declared, found width {D}"),
        (Declared(orientation="encoder N×d, decoder N×d"), "found encoder d×N, decoder N×d"),
        (Declared(orientation="sideways"), "expected an orientation"),
        (Declared(k=3), "expected k 3, as declared, found k None"),
    ):
        with pytest.raises(BundleError, match=message):
            open_foreign(path, declared)
    with pytest.raises(BundleError, match="expected the format auto or saelens"):
        open_foreign(path, format="mine")


BAD = torch.full((N,), float("nan"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b_enc": BAD}, "b_enc: expected finite numbers, found 15 NaN or infinite"),
        ({"W_enc": torch.randn(D + 1, N)}, r"W_enc: expected shape \[15, 6\] or \[6, 15\]"),
        ({"W_dec": torch.randn(N * D)}, r"W_dec: expected shape"),
        ({"b_dec": torch.randn(D + 1)}, "d_in: expected 7, as the biases say"),
        ({"b_enc": torch.zeros(N, dtype=torch.int8)}, "b_enc: expected plain floating-point numbers"),
        ({"W_skip": torch.randn(D, D)}, "expected only the tensors that a standard SAELens.*W_skip"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(BundleError, match=message) as refusal:
        open_foreign(sae_lens(tmp_path, drawn(), "auto", **changes))
    assert refusal.value.remedy


def test_rows_that_are_not_finite_are_refused_where_they_are_read(tmp_path: Path) -> None:
    encoder = torch.randn(D, N)
    encoder[2, 9] = float("inf")
    dictionary = open_foreign(sae_lens(tmp_path, drawn(), "auto", W_enc=encoder))
    assert dictionary.read([0, 8, 10]).indices == (0, 8, 10)
    with pytest.raises(
        BundleError, match="W_enc: expected finite numbers, found 1 NaN or infinite among the 12"
    ):
        dictionary.read([3, 9])
    for latents in ([N], [-1], [2, 2]):
        with pytest.raises(BundleError, match=f"expected latents from 0 to {N - 1}, each once"):
            dictionary.read(latents)
    assert dictionary.read([]).encoder.shape == (0, D)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    sound = sae_lens(tmp_path, drawn(), "auto").read_bytes()
    path = tmp_path / "sae_weights.safetensors"
    for content, message in (
        (sound[:-3], "The file is cut short"),
        (sound[:40], "found a table of"),
        (pickle.dumps({"W_enc": 1}), "found a pickle.*python -m steerdit convert"),
        (b"PK\x03\x04" + bytes(100), "found a pickle"),
        (b"GGUF" + bytes(100), "found a GGUF file"),
        (b"", "found an empty file"),
        (container(b"{" * 40_000_000), "at most 33554432 are read"),
        (
            container(b'{"W_enc":{"dtype":"F32","shape":[1000],"data_offsets":[0,8]}}', bytes(8)),
            "bytes, as",
        ),
        (container(b"{}"), "expected a file of SAELens, .* found the tensors none"),
    ):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=f"(?s){message}"):
            open_foreign(path)
    path.unlink()
    with pytest.raises(BundleError, match="expected a readable"):
        open_foreign(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"d_in": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_configurations_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = sae_lens(tmp_path, drawn(), "auto")
    (tmp_path / "cfg.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"cfg\.json"):
        open_foreign(path)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_tensor_or_configuration_is_named(tmp_path: Path, format: str) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"W_nothing": torch.zeros(3)}, path)
    declared = Declared(trained_here=True, k=1)
    with pytest.raises(BundleError, match=r"config|none in the file|the tensor|only the tensors") as refusal:
        open_foreign(path, declared, format)
    assert refusal.value.remedy


def test_an_imported_bundle_reads_the_chosen_rows_and_tells_them_apart(tmp_path: Path) -> None:
    path = sae_lens(tmp_path, drawn(), "auto")
    placed = Placed("flux", "double.3.image", {"weapons": "2, 5:0.5"}, threshold=0.7, name="mine")
    bundle = import_dictionary(open_foreign(path), placed)
    assert (bundle.name, bundle.family, bundle.categories) == ("mine", "flux", ("weapons",))
    category = bundle.sites[Site.parse("double.3.image")].categories["weapons"]
    assert (category.latents, category.weights, category.gate.token) == ((2, 5), (1.0, 0.5), 0.7)
    assert bundle.identity == import_dictionary(open_foreign(path), placed).identity
    assert (
        bundle.identity
        != import_dictionary(open_foreign(path), dataclasses.replace(placed, threshold=1.0)).identity
    )
    with pytest.raises(BundleError, match="expected one of the sites"):
        bundle.read_latents(Site.parse("text"), [2])
    written = write_dictionary(tmp_path / "b.safetensors", open_foreign(path), placed)
    site = Site.parse("double.3.image")
    for one, other in zip(bundle.read_latents(site, [5, 2]), written.read_latents(site, [5, 2]), strict=True):
        assert one == other if not isinstance(one, Tensor) else torch.equal(one, other)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match="expected the file that was opened"):
        bundle.read_latents(site, [2])


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        (Placed("flux", "joint.3.image", {"a": "1"}), "a site in text, double, single"),
        (Placed("unet", "double.3.image", {"a": "1"}), "family: expected 'flux' or 'sd3'"),
        (Placed("flux", "somewhere", {"a": "1"}), "site 'somewhere'"),
        (Placed("flux", "text", {"a": f"{N}"}), r"categories\.a\.latents"),
        (Placed("flux", "text", {"all": "1"}), "expected a category name"),
        (Placed("flux", "text", {"": "1"}), "expected a non-empty text"),
        (Placed("flux", "text", {"a": "1"}, threshold=-1.0), "gate.token: expected a finite number"),
        (Placed("flux", "text", {"a": ""}), "latents: expected numbers, .* found no latent"),
    ],
)
def test_what_a_site_or_a_category_cannot_be(tmp_path: Path, placed: Placed, message: str) -> None:
    dictionary = open_foreign(sae_lens(tmp_path, drawn(), "auto"))
    with pytest.raises(ValueError, match=message):
        import_dictionary(dictionary, placed)


def test_latents_are_written_as_numbers_spans_and_weights() -> None:
    assert parse_latents(" 3, 17:0.5,\n100-102:2 ,") == {3: 1.0, 17: 0.5, 100: 2.0, 101: 2.0, 102: 2.0}
    for text in ("", "a", "3:", "-3", "5-2", "3, 3", "1-2, 2", "3:1e9", "0-99999999", "3;4", "3:-1"):
        with pytest.raises(BundleError, match="latents: expected numbers, spans and weights"):
            parse_latents(text)
