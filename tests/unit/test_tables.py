"""The README's figures are those of the committed benchmark files."""

from __future__ import annotations

from steerdit.benchmarks.tables import BLOCK, README, rendered


def test_the_readme_s_tables_agree_with_the_benchmark_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert BLOCK.search(text), "the README has lost its tables"
    assert rendered(text) == text, "run `python -m steerdit.benchmarks.tables`"
