"""Fetches the icon sets, at fixed versions, with npm. Only the making and the judging of the world need them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from .concepts import STYLES, UNSEEN_STYLE

VERSIONS = {
    "noto": "1.2.9",
    "twemoji": "1.2.5",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "openmoji": "1.2.29",
}


def icons(cache: Path | None = None) -> Path:
    """The folder that holds the sets; fetched once.

    Raises:
        RuntimeError: npm is missing, or a licence has changed.
    """
    root = cache or Path(os.environ.get("STEERDIT_ICONS", ".nox/icons"))
    folder = root / "node_modules" / "@iconify-json"
    wanted = [s.package for s in (*STYLES, UNSEEN_STYLE)]
    if not all((folder / p / "icons.json").is_file() for p in wanted):
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(
                "npm is needed to fetch the icon sets: install Node.js, or set STEERDIT_ICONS to a folder that has them"
            )
        root.mkdir(parents=True, exist_ok=True)
        packages = [f"@iconify-json/{p}@{VERSIONS[p]}" for p in wanted]
        subprocess.run(
            [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(root), *packages],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    for style in (*STYLES, UNSEEN_STYLE):
        licence = json.loads((folder / style.package / "info.json").read_text())["license"]["spdx"]
        if licence != style.licence:
            raise RuntimeError(
                f"{style.package} is licensed {licence}, expected {style.licence}: may the weights still be shipped?"
            )
    return folder
