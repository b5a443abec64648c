"""Hosts that the tests of a session share, because each takes some ten seconds to boot."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from steerdit.benchmarks.hosting.browser import SEEN_THE_TOUR
from steerdit.benchmarks.hosting.client import Client
from steerdit.benchmarks.hosting.install import NEWEST, OLDEST, install
from steerdit.benchmarks.hosting.server import Host, Setup, running
from steerdit.steering.formats.writing import write_bundle

from .unit.bundles import small_header, small_tensors

PACK = Path(__file__).resolve().parents[1]


def write_small_bundle(path: Path) -> Path:
    """A small sound bundle at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(path, small_header(), small_tensors(small_header()))
    return path


def setup_with_bundles(folder: Path) -> Setup:
    """The pack, one bundle in models/steering and one in a folder that extra_model_paths.yaml names."""
    near = write_small_bundle(folder / "bundles" / "near.safetensors")
    write_small_bundle(folder / "shared" / "elsewhere.safetensors")
    return Setup(
        packs={"steerdit": PACK},
        models={"steering": [near]},
        extra_model_paths={"steering": folder / "shared"},
        settings=SEEN_THE_TOUR,
    )


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    """The newest host."""
    folder = tmp_path_factory.mktemp("newest")
    with running(install(NEWEST), setup_with_bundles(folder), base=folder / "base", threads=1) as host:
        yield host


@pytest.fixture(scope="session")
def oldest_host(tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    """The oldest host that the pack supports."""
    folder = tmp_path_factory.mktemp("oldest")
    with running(install(OLDEST), setup_with_bundles(folder), base=folder / "base", threads=1) as host:
        yield host


@pytest.fixture(scope="session")
def client(host: Host) -> Client:
    """A client of the newest host."""
    return Client(host.url)
