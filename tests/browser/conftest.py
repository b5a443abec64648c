from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from steerdit.benchmarks.hosting.browser import FrontEnd, find_browser, opened
from steerdit.benchmarks.hosting.server import Host

OUT = Path(__file__).with_name("out")


@pytest.fixture
def front_end(host: Host) -> Generator[FrontEnd]:
    """The newest host's page, fresh."""
    if find_browser() is None:
        pytest.skip(
            "needs Chromium and chromedriver on the PATH (Debian: apt install chromium chromium-driver)"
        )
    with opened(host.url) as page:
        yield page
