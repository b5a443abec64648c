"""Whether a bundle's file holds what its header says: names, shapes, dtypes. Bytes are hashed where they are read."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import BundleError
from .container import Container
from .fields import DAMAGED, listed, plain, shown
from .header import BundleHeader, TensorRecord


def require_match(
    file: str, header: BundleHeader, tensors: Mapping[str, TensorRecord], container: Container
) -> None:
    """Header, its list of tensors and the file's own table must tell the same story.

    Args:
        file: how messages call it.

    Raises:
        BundleError: a tensor is missing, belongs to none, or has another shape or dtype; names it.
    """
    allowed: dict[str, tuple[int, ...]] = {}
    saes = [(site, entry, f"{entry.activation} at {site}") for site, entry in header.sites.items()]
    directions = [(site, entry, f"directions at {site}") for site, entry in header.directions.items()]
    anchors = [(site, entry, f"anchors at {site}") for site, entry in header.anchors.items()]
    for site, entry, purpose in (*saes, *directions, *anchors):
        required = {f"{site}.{part}": shape for part, shape in entry.tensor_shapes().items()}
        for name in required:
            if name not in container.tensors:
                there = [other for other in container.tensors if other.rpartition(".")[0] == str(site)]
                raise BundleError(
                    f"{file}: {name}",
                    expected=f"the tensor {name}, as {purpose} needs",
                    found=f"only {listed(there) or 'no tensor of that site'}",
                    remedy=DAMAGED,
                )
        allowed |= required
        allowed |= {f"{site}.{part}": shape for part, shape in entry.optional_shapes().items()}
    for name, span in container.tensors.items():
        if name not in allowed or name not in tensors:
            raise BundleError(
                f"{file}: {shown(name)}",
                expected="listed tensors of the sites "
                + ", ".join(dict.fromkeys(map(str, (*header.sites, *header.directions, *header.anchors)))),
                found="a tensor that belongs to none"
                if name not in allowed
                else "a tensor the header does not list",
                remedy=DAMAGED,
            )
        for promised, source in (
            (allowed[name], "its site"),
            (tensors[name].shape, "the header's list of tensors"),
        ):
            if span.shape != promised:
                raise BundleError(
                    f"{file}: {name}",
                    expected=f"shape {list(promised)}, as {source} says",
                    found=f"{list(span.shape)}",
                    remedy=DAMAGED,
                )
        if span.dtype != tensors[name].dtype:
            raise BundleError(
                f"{file}: {name}", expected=f"dtype {tensors[name].dtype}", found=span.dtype, remedy=DAMAGED
            )
    for name in tensors:
        if name not in container.tensors:
            raise BundleError(
                f"{file}: tensors.{plain(name)}",
                expected="a tensor of that name",
                found="none in the file",
                remedy=DAMAGED,
            )
