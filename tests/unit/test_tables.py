"""The documents' figures are those of the committed benchmark files."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerdit.benchmarks.tables import BLOCK, DOCUMENTS, rendered


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_s_tables_agree_with_the_benchmark_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert BLOCK.search(text), f"{document.name} has lost its tables"
    assert rendered(text) == text, "run `python -m steerdit.benchmarks.tables`"
