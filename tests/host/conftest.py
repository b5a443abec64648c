"""These tests run the real host in this process, on the CPU, with tiny random models."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from steerdit.benchmarks.hosting.install import install

sys.path.insert(0, str(install()))
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402  (reads the arguments)
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_filed() -> None:
    """Runs of other tests make the same pictures."""
    from steerdit.host.run import forget_logs

    forget_logs()


@pytest.fixture(autouse=True)
def _as_nodes_run() -> Iterator[None]:
    """The host runs nodes in inference mode."""
    with torch.inference_mode():
        yield
