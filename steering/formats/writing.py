"""Writes bundles: whole, checked, under their name at the last moment."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BundleError
from .bundle import DIGEST_KEY, KEY, TORCH_DTYPES, Bundle, interpret, open_bundle
from .container import read_container, sha256_of, write_container
from .header import BundleHeader, TensorRecord, header_json
from .whole import whole_file

PLAIN_VALUES = (
    "Use only text, finite numbers, lists, dicts with text keys, True, False and None in the recipe."
)


def write_bundle(
    path: str | os.PathLike[str], header: BundleHeader, tensors: Mapping[str, Tensor], *, replace: bool = True
) -> Bundle:
    """Writes a bundle in one stroke: either the whole, checked file gets its name or nothing does.

    The same arguments give the same bytes. What is written is opened again before it gets its name.

    Args:
        path: ends with .safetensors.
        replace: an existing file of another content; otherwise it is refused.
        tensors: named `<site>.encoder` (N, d), `.encoder_bias` (N), `.decoder` (N, d), `.decoder_bias` (d),
            with jumprelu `.threshold` (N), which topk may have too, if wanted `.decoder_adapted` (N, d); for C
            directions `<site>.direction` (C, d) and `.direction_mean` (d); for C concepts' anchors those of
            `anchor_tensors`; float32, float16, bfloat16.

    Raises:
        BundleError: the header is unsound, or a tensor is missing, unknown, misshapen or not finite.
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise BundleError(
            str(target),
            expected="a name ending with .safetensors",
            found=repr(target.name),
            remedy="Rename it.",
        )
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    contents: dict[str, tuple[str, tuple[int, ...], memoryview]] = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in names or not bool(torch.isfinite(tensor).all()):
            raise BundleError(
                f"{target}: {name}",
                expected=f"finite numbers in {' or '.join(map(str, names))}",
                found=f"NaN or infinite in {tensor.dtype}" if tensor.dtype in names else str(tensor.dtype),
                remedy="Convert or repair the tensor before it is written.",
            )
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        contents[name] = names[tensor.dtype], tuple(tensor.shape), content.data
    records = {
        name: TensorRecord(dtype, shape, sha256_of([content]))
        for name, (dtype, shape, content) in sorted(contents.items())
    }
    try:
        text = header_json(header, records)
    except (TypeError, ValueError) as reason:
        raise BundleError(
            f"{target}: header", expected="values that JSON can hold", found=str(reason), remedy=PLAIN_VALUES
        ) from reason
    with whole_file(target) as partial:
        write_container(
            partial, {KEY: text, DIGEST_KEY: sha256_of([text.encode(errors="replace")])}, contents
        )
        written = interpret(read_container(partial), str(target))
        if written.header != header:
            raise BundleError(
                str(target),
                expected="a header that reads back as it was given",
                found="values that JSON cannot hold, such as tuples or keys that are not text",
                remedy=PLAIN_VALUES,
            )
        if not replace and target.exists() and not filecmp.cmp(partial, target, shallow=False):
            raise BundleError(
                str(target),
                expected="a new name, or the file that is to be written",
                found="a file of another content",
                remedy="Choose another name, or allow it to be replaced.",
            )
    return open_bundle(target)
