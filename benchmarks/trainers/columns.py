"""The columns of the training benchmark: one step of each project's own trainer, told the same things.

dictionary_learning is called by its trainer's `update`, SAELens by its trainer's `step`. sparsify's step lies inside a
loop that runs a language model; what that loop does with a batch of activations is done here, in its order, by its
classes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ...training.dictionaries.config import TrainingConfig
from ...training.dictionaries.parameters import start
from ...training.dictionaries.trainer import Trainer
from .. import peers

PLAIN = "ours_with_plain_gradients"
NEVER = 2**40
"""Tokens after which a latent would be dead: where no trainer is to spend time on dead ones."""


@dataclass(frozen=True)
class Column:
    """A training under way."""

    step: Callable[[Tensor], object]
    """On a batch (B, d)."""
    reconstruct: Callable[[Tensor], Tensor]
    """(n, d) → (n, d)"""


def ours(x: Tensor, config: TrainingConfig) -> Column:
    latents = config.size(x.shape[1])
    trainer = Trainer(config, start(x, latents, config.k, config.seed, config.centre, x.device))

    def reconstruct(a: Tensor) -> Tensor:
        from ...training.dictionaries.sparse import decode
        from ...training.dictionaries.trainer import inferred

        p = trainer.parameters
        c = a * p.scale - p.decoder_bias
        codes = inferred(c, p, config.k, trainer.thresholds())
        return (decode(codes, p.decoder, len(c)) + p.decoder_bias) / p.scale

    return Column(trainer.step, reconstruct)


def ours_plain(x: Tensor, config: TrainingConfig) -> Column:
    """Ours without dividing gradients by their length; a row beside the claims.

    SAELens and dictionary_learning clip gradients to length 1. That does not shrink Adam's steps: it keeps the large
    gradients of the beginning out of the second moment, so that later steps are larger at the same rate.
    """
    return ours(x, replace(config, gradients="plain"))


def sparsify(x: Tensor, config: TrainingConfig) -> Column:
    if config.activation != "topk" or config.precision != "float32":
        raise NotImplementedError("sparsify trains TopK, and on processors in float32")
    module = peers.sparsify()
    latents, d = config.size(x.shape[1]), x.shape[1]
    torch.manual_seed(config.seed)
    coder = module.SparseCoder(d, module.SparseCoderConfig(num_latents=latents, k=config.k))
    adam = torch.optim.Adam(coder.parameters(), lr=config.top_rate(d))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda n: config.rate_at(n, d) / config.top_rate(d))
    idle, fired = torch.zeros(latents, dtype=torch.long), torch.zeros(latents, dtype=torch.bool)
    state = {"first": True}

    def step(batch: Tensor) -> None:
        if state.pop("first", False):
            coder.b_dec.data = batch.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        total = (batch - batch.mean(0)).pow(2).sum()
        out = coder(batch, dead_mask=idle > config.dead_after, total_variance=total)
        fired[out.latent_indices.flatten()] = True
        _ = float(out.fvu.detach()), float(out.auxk_loss.detach())  # which its loop logs
        (out.fvu + config.auxiliary * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        schedule.step()
        with torch.no_grad():
            idle.add_(len(batch))
            idle[fired] = 0
            fired.zero_()

    return Column(step, lambda a: coder(a).sae_out)


def sae_lens(x: Tensor, config: TrainingConfig) -> Column:
    """With dense activations: its sparse ones need operations that torch does not have on processors."""
    saes, trainers, configs = peers.sae_lens(), *_sae_lens_training()
    name = {"topk": "TopK", "batchtopk": "BatchTopK"}[config.activation]
    torch.manual_seed(config.seed)
    chosen = getattr(saes, f"{name}TrainingSAEConfig")(
        d_in=x.shape[1],
        d_sae=config.size(x.shape[1]),
        k=config.k,
        aux_loss_coefficient=config.auxiliary,
    )
    sae = getattr(saes, f"{name}TrainingSAE")(chosen)
    sae.b_dec.data = x.mean(0)  # as the others begin
    trainer = trainers.SAETrainer(
        configs.SAETrainerConfig(
            total_training_samples=config.steps * config.batch,
            train_batch_size_samples=config.batch,
            lr=config.top_rate(x.shape[1]),
            lr_end=0.0,
            lr_warm_up_steps=config.warmup,
            lr_decay_steps=int(config.decay * config.steps),
            dead_feature_window=math.ceil(config.dead_after / config.batch),
            autocast=config.precision == "bfloat16",
        ),
        sae,
        iter(()),
    )

    def step(batch: Tensor) -> None:
        trainer.step(batch)
        trainer.n_training_steps += 1

    def reconstruct(a: Tensor) -> Tensor:
        if config.activation == "topk":
            return sae.decode(sae.encode(a))
        pre = (a - sae.b_dec) @ sae.W_enc + sae.b_enc
        pre = pre * sae.W_dec.norm(dim=-1)  # its threshold is of these, as it saves them
        z = pre * (pre > sae.topk_threshold)
        return (z / sae.W_dec.norm(dim=-1)) @ sae.W_dec + sae.b_dec

    return Column(step, reconstruct)


def dictionary_learning(x: Tensor, config: TrainingConfig) -> Column:
    if config.precision != "float32":
        raise NotImplementedError("dictionary_learning casts on GPUs alone")
    peers.dictionary_learning()
    name = {"topk": "top_k", "batchtopk": "batch_top_k"}[config.activation]
    module = import_module(f"dictionary_learning.trainers.{name}")
    trainer = getattr(module, {"topk": "TopKTrainer", "batchtopk": "BatchTopKTrainer"}[config.activation])(
        steps=config.steps,
        activation_dim=x.shape[1],
        dict_size=config.size(x.shape[1]),
        k=config.k,
        layer=0,
        lm_name="none",
        lr=config.top_rate(x.shape[1]),
        auxk_alpha=config.auxiliary,
        warmup_steps=config.warmup,
        decay_start=int((1 - config.decay) * config.steps),
        threshold_start_step=config.warmup,
        seed=config.seed,
        device="cpu",
    )
    trainer.dead_feature_threshold = config.dead_after
    count = iter(range(NEVER))
    return Column(
        lambda batch: trainer.update(next(count), batch),
        lambda a: trainer.ae.decode(trainer.ae.encode(a)),
    )


COLUMNS: dict[str, Callable[[Tensor, TrainingConfig], Column]] = {
    "ours": ours,
    PLAIN: ours_plain,
    "sparsify": sparsify,
    "sae_lens": sae_lens,
    "dictionary_learning": dictionary_learning,
}


def _sae_lens_training() -> tuple[Any, Any]:
    """SAELens's trainer and its configuration, with stand-ins for the data sets and the tracker that it imports."""

    class StandIn(ModuleType):
        def __getattr__(self, name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for name in ("datasets", "wandb"):
        sys.modules.setdefault(name, StandIn(name))
    return import_module("sae_lens.training.sae_trainer"), import_module("sae_lens.config")
