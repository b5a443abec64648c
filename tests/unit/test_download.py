"""Downloads against a loopback hub, made by another process: HF_ENDPOINT counts from a process's start."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from steerdit.delivery.transport import PIECE

from .bundles import small_header, small_tensors
from .hub import Hub, serving

NAME = "/someone/bundles/resolve/main/flux/big.safetensors"
SECRET = "hf_" + "s" * 30

DRIVER = """
import json, sys
from steerdit.delivery.download import download
from steerdit.delivery.manifest import HubFile
from steerdit.steering.errors import SteeringError
for line in sys.stdin:
    repo, file, folder, options = json.loads(line)
    seen = []
    stop_at = options.pop("stop_at", None)
    try:
        path = download(
            HubFile(repo, file), folder, **options,
            progress=lambda there, total: seen.append((there, total)),
            cancelled=lambda: stop_at is not None and seen[-1][0] >= stop_at,
        )
        result = {"path": str(path), "seen": seen}
    except SteeringError as error:
        result = {"kind": type(error).__name__, "error": str(error), "seen": seen}
    print(json.dumps(result), flush=True)
"""


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": SECRET,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }


def run(
    endpoint: str, home: Path, program: list[str], given: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        env=environment(endpoint, home, **more),
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def endpoint() -> str:
    """An address of this machine where nobody listens yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def driver(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[subprocess.Popen[str]]:
    home = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        env=environment(endpoint, home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate(timeout=30)


@dataclass
class Client:
    """Asks the driver for downloads into a folder of one test."""

    driver: subprocess.Popen[str]
    endpoint: str
    folder: Path

    def serving(self, hub: Hub) -> AbstractContextManager[Hub]:
        return serving(hub, int(self.endpoint.rpartition(":")[2]))

    def fetch(self, **options: Any) -> dict[str, Any]:
        assert self.driver.stdin is not None
        assert self.driver.stdout is not None
        self.driver.stdin.write(f"{self.order(**options)}\n")
        self.driver.stdin.flush()
        result: dict[str, Any] = json.loads(self.driver.stdout.readline())
        return result

    def order(self, **options: Any) -> str:
        return json.dumps(["someone/bundles", "flux/big.safetensors", str(self.target.parent), options])

    @property
    def target(self) -> Path:
        return self.folder / "steering" / "big.safetensors"

    def partials(self) -> list[Path]:
        return list((self.folder / "steering").glob(".*.part"))


@pytest.fixture
def client(driver: subprocess.Popen[str], endpoint: str, tmp_path: Path) -> Client:
    return Client(driver, endpoint, tmp_path)


@pytest.fixture(scope="module")
def content() -> bytes:
    """3 MB of a real file."""
    return safetensors.torch.save(
        {"noise": torch.randn(3, 2**18, generator=torch.Generator().manual_seed(0))}
    )


def test_a_file_arrives_with_progress_in_bytes(client: Client, content: bytes) -> None:
    with client.serving(Hub({NAME: content})) as hub:
        result = client.fetch(sha256=hashlib.sha256(content).hexdigest())
    assert result["path"] == str(client.target)
    assert client.target.read_bytes() == content
    assert [asked.method for asked in hub.asked] == ["HEAD", "GET"]
    there = [seen[0] for seen in result["seen"]]
    assert there == sorted(there)
    assert (there[0], there[-1]) == (0, len(content))
    assert {seen[1] for seen in result["seen"]} == {len(content)}
    assert len(there) > 10
    assert [path.name for path in client.target.parent.iterdir()] == ["big.safetensors"]


@pytest.mark.parametrize("large", [True, False], ids=["tagged with sha256", "tagged with a git id"])
def test_without_a_sha256_the_tag_of_the_hub_counts(client: Client, content: bytes, large: bool) -> None:
    with client.serving(Hub({NAME: content}, large=large)) as hub:
        assert client.fetch()["path"] == str(client.target)
        assert client.target.read_bytes() == content
        assert client.fetch()["path"] == str(client.target)
        assert len(hub.gets()) == 1  # the second time the tag alone was asked for


def test_a_connection_cut_midway_is_taken_up_again_where_it_broke(client: Client, content: bytes) -> None:
    with client.serving(Hub({NAME: content}, cuts=[1_000_000, 700_000])) as hub:
        assert "path" in client.fetch()
    assert client.target.read_bytes() == content
    first, second, third = hub.gets()
    assert first.range is None
    resumed = [int(str(asked.range).removeprefix("bytes=").removesuffix("-")) for asked in (second, third)]
    assert 900_000 < resumed[0] <= 1_000_000
    assert resumed[0] + 600_000 < resumed[1] <= resumed[0] + 700_000
    assert len(content) <= first.sent + second.sent + third.sent < len(content) + 2 * PIECE


def test_a_later_attempt_goes_on_after_the_earlier_one_was_cancelled(client: Client, content: bytes) -> None:
    with client.serving(Hub({NAME: content}, slow=0.002)) as hub:
        stopped = client.fetch(stop_at=1_000_000)
        assert stopped["kind"] == "DownloadCancelled"
        assert "Start it again to go on from there" in stopped["error"]
        assert not client.target.exists()
        (partial,) = client.partials()
        have = partial.stat().st_size
        assert 1_000_000 <= have < len(content)
        assert have == stopped["seen"][-1][0]
        again = client.fetch()
    assert again["seen"][0] == [have, len(content)]
    assert hub.gets()[1].range == f"bytes={have}-"
    assert hub.gets()[1].sent == len(content) - have
    assert client.target.read_bytes() == content
    assert not client.partials()


def test_a_server_without_ranges_sends_all_of_it_again(client: Client, content: bytes) -> None:
    with client.serving(Hub({NAME: content}, cuts=[1_000_000], ranges=False)) as hub:
        assert "path" in client.fetch()
    assert client.target.read_bytes() == content
    assert hub.gets()[1].sent == len(content)


def test_a_file_that_changed_between_attempts_begins_anew(client: Client, content: bytes) -> None:
    other = safetensors.torch.save({"noise": torch.zeros(3, 2**18)})
    with client.serving(Hub({NAME: content})) as hub:
        client.fetch(stop_at=1_000_000)
        hub.files[NAME] = other
        assert "path" in client.fetch()
    assert client.target.read_bytes() == other
    assert hub.gets()[1].range is None
    assert not client.partials()


def test_the_wrong_file_in_the_repository_is_refused_before_it_is_fetched(
    client: Client, content: bytes
) -> None:
    with client.serving(Hub({NAME: content})) as hub:
        result = client.fetch(sha256="0" * 64)
    assert result["kind"] == "DownloadError"
    assert f"expected a file with sha256 {'0' * 64}" in result["error"]
    assert hashlib.sha256(content).hexdigest() in result["error"]
    assert not hub.gets()
    assert not client.target.exists()


@pytest.mark.parametrize("large", [True, False])
def test_the_wrong_bytes_never_get_the_name(client: Client, content: bytes, large: bool) -> None:
    """The server promises one file and sends another of the same size."""
    lie = content[:-1] + bytes([content[-1] ^ 1])
    with (
        serving(Hub({NAME: lie})) as storage,
        client.serving(Hub({NAME: content}, large=large, storage=storage.url)),
    ):
        result = client.fetch(sha256=hashlib.sha256(content).hexdigest())
    assert "it was thrown away" in result["error"]
    assert hashlib.sha256(content).hexdigest() in result["error"]
    assert not client.target.exists()
    assert not client.partials()


def test_what_is_no_safetensors_file_never_gets_the_name(client: Client) -> None:
    page = b"<!DOCTYPE html>" + b" " * 5000
    with client.serving(Hub({NAME: page})):
        result = client.fetch()
    assert "expected a safetensors file, found a web page; it was thrown away" in result["error"]
    assert not list((client.folder / "steering").iterdir())


def test_the_right_file_that_is_there_is_not_fetched_again(client: Client, content: bytes) -> None:
    client.target.parent.mkdir()
    client.target.write_bytes(content)
    with client.serving(Hub({NAME: content})) as hub:
        assert client.fetch(sha256=hashlib.sha256(content).hexdigest().upper())["path"] == str(client.target)
        assert not hub.asked


@pytest.mark.parametrize("given", [True, False], ids=["sha256 given", "sha256 from the hub"])
def test_another_file_of_that_name_is_left_alone(client: Client, content: bytes, given: bool) -> None:
    client.target.parent.mkdir()
    client.target.write_bytes(b"mine")
    options = {"sha256": hashlib.sha256(content).hexdigest()} if given else {}
    with client.serving(Hub({NAME: content})) as hub:
        result = client.fetch(**options)
        assert not hub.gets()
    assert "It was left as it is" in result["error"]
    assert client.target.read_bytes() == b"mine"


def test_without_a_connection_it_says_what_to_do(client: Client) -> None:
    error = client.fetch()["error"]
    assert "someone/bundles/flux/big.safetensors: expected the file from its server, found Connect" in error
    assert f"Fetch {client.endpoint}/someone/bundles/resolve/main/flux/big.safetensors" in error
    assert "hf download someone/bundles flux/big.safetensors" in error
    assert f"put the file at {client.target}" in error
    assert not client.target.parent.exists()


def test_offline_mode_is_named(client: Client, content: bytes) -> None:
    with client.serving(Hub({NAME: content})) as hub:
        ended = run(hub.url, client.folder, ["-c", DRIVER], client.order(), HF_HUB_OFFLINE="1")
    assert not hub.asked
    assert "HF_HUB_OFFLINE is set" in json.loads(ended.stdout)["error"]


def test_a_connection_that_never_recovers_keeps_what_arrived(client: Client, content: bytes) -> None:
    with client.serving(Hub({NAME: content}, cuts=[1_000_000, 0, 0, 0, 0])):
        result = client.fetch()
    assert result["kind"] == "DownloadError"
    (partial,) = client.partials()
    kept = partial.stat().st_size
    assert 900_000 < kept <= 1_000_000
    assert f"the {kept} bytes that arrived are kept" in result["error"]
    assert partial.read_bytes() == content[:kept]


def test_a_missing_file_is_not_asked_for_again_and_again(client: Client) -> None:
    with client.serving(Hub({})) as hub:
        result = client.fetch()
    assert "EntryNotFound" in result["error"]
    assert "Check the names" in result["error"]
    assert len(hub.asked) == 1


def test_the_token_goes_to_the_hub_and_nowhere_else(client: Client, content: bytes) -> None:
    with (
        serving(Hub({NAME: content})) as storage,
        client.serving(Hub({NAME: content}, storage=storage.url)) as hub,
    ):
        assert "path" in client.fetch()
    assert {asked.authorization for asked in hub.asked} == {f"Bearer {SECRET}"}
    assert storage.asked
    assert {asked.authorization for asked in storage.asked} == {None}


@pytest.mark.parametrize(
    ("repo", "file"),
    [
        ("someone/bundles", "../evil.safetensors"),
        ("someone/bundles", "a/../../evil.safetensors"),
        ("someone/bundles", "/etc/evil.safetensors"),
        ("someone/bundles", "a\\..\\evil.safetensors"),
        ("someone/bundles", "C:evil.safetensors"),
        ("someone/bundles", ".safetensors"),
        ("someone/bundles", "a//b.safetensors"),
        ("someone/bundles", "weights.pt"),
        ("someone/bundles", "weights.safetensors\n"),
        ("someone/bundles", ""),
        ("https://example.com/a", "weights.safetensors"),
        ("../..", "weights.safetensors "),
    ],
)
def test_names_that_lead_elsewhere_or_to_other_kinds_of_file_are_refused(
    tmp_path: Path, repo: str, file: str
) -> None:
    from steerdit.delivery.download import download
    from steerdit.delivery.manifest import HubFile
    from steerdit.steering.errors import DownloadError

    with pytest.raises(DownloadError, match="Copy both names from the repository's page"):
        download(HubFile(repo, file), tmp_path / "steering")
    assert not list(tmp_path.iterdir())


def test_the_command_downloads_and_verifies(tmp_path: Path) -> None:
    from steerdit.steering.formats.writing import write_bundle

    write_bundle(tmp_path / "made.safetensors", small_header(), small_tensors(small_header()))
    name = "/someone/bundles/resolve/v1/small.safetensors"
    to = tmp_path / "models" / "steering"
    command = ["-m", "steerdit", "download", "someone/bundles"]
    options = ["--revision", "v1", "--to", str(to)]
    with serving(Hub({name: (tmp_path / "made.safetensors").read_bytes()})) as hub:
        done = run(hub.url, tmp_path, [*command, "small.safetensors", *options])
        assert (done.returncode, done.stdout.strip()) == (0, str(to / "small.safetensors")), done.stderr
        assert "100%" in done.stderr
        failed = run(hub.url, tmp_path, [*command, "missing.safetensors", *options])
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1].startswith(
            "error: someone/bundles/missing.safetensors: expected"
        )
    checked = run("http://127.0.0.1:9", tmp_path, ["-m", "steerdit", "verify", str(to / "small.safetensors")])
    assert "is the flux bundle 'small', every hash right" in checked.stdout, checked.stderr
    with (to / "small.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    checked = run("http://127.0.0.1:9", tmp_path, ["-m", "steerdit", "verify", str(to / "small.safetensors")])
    assert checked.returncode == 1
    assert "expected bytes with sha256" in checked.stderr


def test_importing_the_pack_or_delivery_fetches_nothing_and_loads_no_hub(tmp_path: Path) -> None:
    program = "import sys, steerdit, steerdit.delivery.download; print('huggingface_hub' in sys.modules)"
    with serving(Hub({})) as hub:
        ended = run(hub.url, tmp_path, ["-c", program])
        assert (ended.stdout.strip(), hub.asked) == ("False", []), ended.stderr
