"""The processor that times were taken on, as far as ratios of times depend on it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

INFO = Path("/proc/cpuinfo")
KINDS = {
    "amx": ("amx_bf16", "with matrix units"),
    "avx512": ("avx512f", "with vectors of 512 bits"),
    "avx2": ("avx2", "with vectors of 256 bits"),
}
"""The fastest first: a flag that the system names, and what it says in words."""


def kind() -> str:
    """A name of KINDS; the machine's architecture where it is none of them."""
    flags = set(_line("flags").split())
    return next((one for one, (flag, _) in KINDS.items() if flag in flags), platform.machine() or "unknown")


def name() -> str:
    """The model with the numbers that tell generations of one name apart; on ARM there may be only these."""
    model = _line("model name") or platform.processor() or "unnamed"
    parts = ("cpu family", "model", "CPU implementer", "CPU part")
    numbers = [f"{part} {_line(part)}" for part in parts if _line(part)]
    return ", ".join([model, *numbers])


def _line(of: str) -> str:
    """The first processor's line in the system's list (Linux); empty elsewhere."""
    try:
        found = re.search(rf"^{re.escape(of)}\s*:(.*)$", INFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""
