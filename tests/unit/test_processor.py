"""Which processor a measurement was taken on: from the system's own list, and without one."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from steerdit.benchmarks import processor

LISTED = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu avx2 {more}

processor\t: 1
model name\t: another
"""


@pytest.mark.parametrize(
    ("more", "kind"), [("avx512f avx512_bf16", "avx512"), ("avx512f amx_bf16", "amx"), ("fma", "avx2")]
)
def test_it_is_told_by_its_fastest_units(
    more: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
    processor.INFO.write_text(LISTED.format(more=more), encoding="utf-8")
    assert processor.kind() == kind
    assert processor.name() == "AMD EPYC, cpu family 25, model 17"


def test_where_the_system_has_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
    assert processor.kind() == (platform.machine() or "unknown")
    assert processor.name() == (platform.processor() or "unnamed")


def test_arm_is_told_by_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "INFO", tmp_path / "cpuinfo")
    listed = "processor\t: 0\nFeatures\t: asimd sve bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
    processor.INFO.write_text(listed, encoding="utf-8")
    assert processor.kind() == (platform.machine() or "unknown")
    assert processor.name().endswith(", CPU implementer 0x41, CPU part 0xd4f")
