"""Starting hosts and following prompts: what the demo and the benchmarks rely on."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steerdit.benchmarks.hosting.client import Client, HostError, Progress, ProgressBar
from steerdit.benchmarks.hosting.install import NEWEST, install
from steerdit.benchmarks.hosting.server import Host, HostStartError, free_port, running

PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 4, "batch_size": 2, "color": 0xFF8000},
        "_meta": {"title": "An orange"},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "orange"}},
}


def test_a_prompt_is_followed_and_its_pictures_come_back(client: Client) -> None:
    seen: list[Progress] = []
    result = client.run(PICTURE, seen.append)
    pictures = result.images(2)
    assert [(picture.size, picture.getpixel((3, 3))) for picture in pictures] == [((8, 4), (255, 128, 0))] * 2
    assert [(each.node, each.done, each.nodes) for each in seen] == [("1", 0, 2), ("2", 1, 2)]
    assert seen[0].title == "An orange"
    assert client.history(result.prompt_id) is not None
    assert client.run(PICTURE).cached == {"1", "2"}
    client.free()


def test_the_progress_bar_writes_a_line_per_node_where_there_is_no_terminal(client: Client) -> None:
    stream = io.StringIO()
    client.free()
    other = {**PICTURE, "1": {**PICTURE["1"], "inputs": {**PICTURE["1"]["inputs"], "color": 1}}}
    client.run(other, ProgressBar("orange", stream))
    assert stream.getvalue() == "orange   0% An orange\norange  50% 2\n"


def test_a_host_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print('before'); raise SystemExit('no such flag')")
    with pytest.raises(HostStartError, match=r"(?s)status 1 .*before.*no such flag"), running(tmp_path):
        pass
    with pytest.raises(HostStartError, match=r"no main\.py"), running(tmp_path / "nowhere"):
        pass
    (tmp_path / "main.py").write_text("import time; print('asleep', flush=True); time.sleep(60)")
    before = time.monotonic()
    with pytest.raises(HostStartError, match=r"(?s)did not answer .*asleep"), running(tmp_path, timeout=1.5):
        pass
    assert time.monotonic() - before < 20


def test_a_host_that_is_gone_is_an_error() -> None:
    with pytest.raises(HostError, match="No websocket"):
        Client(f"http://127.0.0.1:{free_port()}").run(PICTURE)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-C", "killed"])
def test_the_host_ends_with_us(tmp_path: Path, sign: signal.Signals) -> None:
    """Even when we are killed and can clean nothing up."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "main.py").write_text(
        "import http.server, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1])), Answer).serve_forever()\n"
    )
    program = (
        # Under a job in the background, programs begin with ctrl-C switched off.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time\nfrom pathlib import Path\nfrom steerdit.benchmarks.hosting.server import running\n"
        "with running(Path(sys.argv[1])) as host:\n    print(host.process.pid, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(source)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(sign)
        parent.wait(20)
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_threads_are_the_host_s_own_and_its_path_is_clean(host: Host) -> None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    environment = dict(
        entry.split("=", 1)
        for entry in Path(f"/proc/{host.process.pid}/environ").read_text().split("\0")
        if "=" in entry
    )
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "PYTHONPATH" not in environment
    assert Path(os.readlink(f"/proc/{host.process.pid}/cwd")) == install(NEWEST).resolve()
