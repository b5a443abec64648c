"""The latents of a sparse autoencoder that steering needs, ready to encode and to decode.

A dictionary is stored as  p = W_enc (s·a − b_dec) + b_enc,  z = activation(p),  D(z) = (z W_dec + b_dec) / s,
where s is the scale that the autoencoder was trained on. Here s and b_dec are folded into the rows once, in
double precision, so that the rest of the pack sees  p = W a + b  and  D(z) = Σ_f z_f d_f + c  in the
activation's own units. Where the autoencoder standardises each token (standardise.py), a is the standardised token,
and what is said of it is brought back into the activation's units.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import kernels
from .competition import TopK, rule_of
from .errors import SteeringError
from .formats.bundle import LatentTensors
from .formats.header import SaeSite
from .standardise import STANDARDISERS, Standardised

Borrow = Callable[[nn.Linear, Tensor], AbstractContextManager[Tensor]]
"""Lends a layer's weight on the device and in the dtype of a tensor."""


@contextmanager
def borrow_directly(layer: nn.Linear, like: Tensor) -> Generator[Tensor]:
    """Lends what the layer holds. A host that moves weights about brings its own way."""
    yield layer.weight.to(like)


class SelectedLatents(nn.Module):
    """S selected latents of one dictionary.

    The linear layers are never called: they hold rows, because a linear layer is what a host knows how to
    keep in slow memory and to bring back. Biases and thresholds are small and are moved at use.
    """

    latents: tuple[int, ...]
    """(S) their numbers in the dictionary, in the order of every (..., S) tensor here."""

    encoder_bias: Tensor
    threshold: Tensor
    decoder_bias: Tensor

    def __init__(
        self,
        sae: SaeSite,
        tensors: LatentTensors,
        selected: Sequence[int] | None = None,
        *,
        source: str = "selected latents",
        topk: TopK | str = TopK.AUTO,
        operations: ModuleType | type[Any] = nn,
        borrow: Borrow = borrow_directly,
    ) -> None:
        """
        Args:
            sae: the dictionary's description.
            tensors: at least the selected latents; all N for an exact TopK activation or a reconstruction.
            selected: numbers (S) in the dictionary; None means all that `tensors` hold.
            source: what messages call them, such as the file and site.
            topk: how the latents of a TopK dictionary fire.
            operations: where the layer type `Linear` comes from.
            borrow: how its weights are read.

        Raises:
            SteeringError: the latents compete and `tensors` are not the whole dictionary, or there are no thresholds
                where some are wanted.
        """
        super().__init__()
        self.sae = sae
        self.source = source
        self.latents = tensors.indices if selected is None else tuple(selected)
        self.loaded = len(tensors.indices)
        self.borrow = borrow
        place = {latent: position for position, latent in enumerate(tensors.indices)}
        self.columns = slice(None) if self.latents == tensors.indices else [place[it] for it in self.latents]
        self.rule = rule_of(sae, tensors.threshold is not None, topk, source)
        if self.rule.competing:
            self.require_whole("an exact TopK activation")

        scale, shift = sae.input_scale, tensors.decoder_bias.double()
        encoder = tensors.encoder.double()
        self.encoder = _holder(operations, encoder * scale)
        self.decoder = _holder(operations, tensors.decoder.double() / scale)
        adapted = tensors.decoder_adapted
        self.adapted = None if adapted is None else _holder(operations, adapted.double() / scale)
        threshold = torch.zeros(len(tensors.indices))
        if self.rule.thresholded and tensors.threshold is not None:
            threshold = tensors.threshold.clone()
        self.register_buffer("encoder_bias", (tensors.encoder_bias.double() - encoder @ shift).float())
        self.register_buffer("threshold", threshold)
        self.register_buffer("decoder_bias", (shift / scale).float())

    @property
    def width(self) -> int:
        """d, the size of the activation."""
        return self.sae.width

    def encode(self, x: Tensor) -> Tensor:
        """z (..., S) of activations x (..., d), in x's dtype."""
        x = self._seen(x)
        with self.borrow(self.encoder, x) as rows:
            if self.rule.competing:
                return self._competing(x.flatten(0, -2), rows).unflatten(0, x.shape[:-1])
            bias, threshold = self.encoder_bias.to(x), self.threshold.to(x)
            return kernels.encode_selected(x, self._own(rows), self._own(bias), self._own(threshold))

    def pre_activations(self, x: Tensor) -> Tensor:
        """p (..., S) of activations x (..., d), before the activation decides what fires."""
        x = self._seen(x)
        with self.borrow(self.encoder, x) as rows:
            return functional.linear(x, rows[self.columns], self.encoder_bias.to(x)[self.columns])

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        """D(z), (..., d), of x's codes z (..., S) with every other latent at zero."""
        with self.borrow(self.decoder, z) as rows:
            return self._restored(kernels.decode_selected(z, rows[self.columns], self.decoder_bias.to(z)), x)

    def weigh(self, z: Tensor, x: Tensor) -> Tensor:
        """x's codes z (..., S) in units of x: what they say is  Σ_f weigh(z)_f d_f."""
        return z if self.sae.input_norm == "none" else z * self._standardised(x).spread

    def reconstruct_adapted(self, x: Tensor) -> Tensor:
        """D_t(E_s(x)), (..., d): the adapted decoder on the codes of the whole dictionary."""
        self.require_whole("a reconstruction")
        with self.borrow(self.encoder, x) as rows, self.borrow(self.require_adapted(), x) as decoder:
            values, indices = self._codes(self._seen(x), rows)
            return self._restored(kernels.decode(values, indices, decoder, self.decoder_bias.to(x)), x)

    @contextmanager
    def directions(self, like: Tensor) -> Generator[Tensor]:
        """Lends d_f, the decoder rows (S, d), on the device and in the dtype of `like`."""
        with self.borrow(self.decoder, like) as rows:
            yield rows[self.columns]

    @contextmanager
    def adapted_directions(self, like: Tensor) -> Generator[Tensor]:
        """Lends d^t_f, the adapted decoder's rows (S, d)."""
        with self.borrow(self.require_adapted(), like) as rows:
            yield rows[self.columns]

    def _own(self, loaded: Tensor) -> Tensor:
        """The selected of all that is loaded."""
        return loaded if isinstance(self.columns, slice) else loaded[self.columns]

    def _seen(self, x: Tensor) -> Tensor:
        """Activations (..., d) as the autoencoder sees them."""
        return x if self.sae.input_norm == "none" else self._standardised(x).x

    def _standardised(self, x: Tensor) -> Standardised:
        """The same with the way back."""
        return STANDARDISERS[self.sae.input_norm](x)

    def _restored(self, said: Tensor, x: Tensor) -> Tensor:
        """What a decoder says (..., d) in the units of the activations x (..., d)."""
        if self.sae.input_norm == "none":
            return said
        _, centre, spread = self._standardised(x)
        return said * spread + centre

    def require_adapted(self) -> nn.Linear:
        """The adapted decoder, or a SteeringError that says that there is none."""
        if self.adapted is None:
            raise SteeringError(
                self.source,
                expected="a decoder adapted to the target domain (tensor `decoder_adapted`), as Blend needs",
                found="only the decoder that the dictionary was trained with",
                remedy="Use Repel with this bundle, or a bundle made for Blend.",
            )
        return self.adapted

    def _codes(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The latents of the whole dictionary that fire: values and indices (..., k)."""
        bias = self.encoder_bias.to(x)
        if self.rule.competing:
            assert self.sae.k is not None
            return kernels.encode_topk(x, rows, bias, self.sae.k)
        values, indices, _ = kernels.encode_threshold(x, rows, bias, self.threshold.to(x))
        return values, indices

    def _competing(self, x: Tensor, rows: Tensor) -> Tensor:
        """TopK codes (T, S) of tokens x (T, d), from the whole dictionary's rows (N, d).

        A latent whose pre-activation is not positive has the code 0 whatever the others do, so that only tokens with
        some positive one need the whole dictionary. Tokens that are not finite get NaN.
        """
        assert self.sae.k is not None
        bias, own = self.encoder_bias.to(x), rows[self.columns]
        pre = functional.linear(x, own, bias[self.columns])  # (T, S)
        # Two products of another shape may differ by so much, and a code must not hang on the sign of its rounding.
        doubt = 2 * self.width * torch.finfo(x.dtype).eps * torch.outer(x.norm(dim=-1), own.norm(dim=-1))
        finite = pre.isfinite().all(-1)
        at = (finite & (pre > -doubt).any(-1)).nonzero()[:, 0]
        values, indices = kernels.encode_topk(x[at], rows, bias, self.sae.k)
        codes = [(values * (indices == latent)).sum(-1) for latent in self.latents]
        z = torch.where(finite[:, None], torch.zeros_like(pre), torch.nan)
        return z.index_copy(0, at, torch.stack(codes, dim=-1))

    def require_whole(self, purpose: str) -> None:
        """A SteeringError unless the whole dictionary is loaded."""
        if self.loaded < self.sae.latents:
            raise SteeringError(
                self.source,
                expected=f"all {self.sae.latents} latents of the dictionary, which {purpose} needs",
                found=f"{self.loaded} of them",
                remedy="Read the latents with `latents=None`.",
            )


def _holder(operations: Any, rows: Tensor) -> nn.Linear:
    """A layer whose weight is `rows`, in float32."""
    layer: nn.Linear = operations.Linear(rows.shape[1], rows.shape[0], bias=False, dtype=torch.float32)
    layer.requires_grad_(False)
    layer.load_state_dict({"weight": rows.float()}, assign=True)
    return layer
