"""A file takes its place whole or not at all, and what the system refuses is said by the file's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerdit.steering.errors import BundleError, SteeringError
from steerdit.steering.formats.whole import whole_file


def test_what_ends_well_takes_the_place_and_what_does_not_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    with whole_file(path) as partial:
        partial.write_text("first", encoding="utf-8")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "first"

    def half() -> None:
        with whole_file(path) as partial:
            partial.write_text("sec", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text(encoding="utf-8") == "first"
    assert [it.name for it in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [BundleError, SteeringError])
def test_a_folder_that_is_a_file_is_refused_by_the_name_of_what_was_to_be(
    error: type[SteeringError], tmp_path: Path
) -> None:
    (tmp_path / "letter").write_text("dear", encoding="utf-8")
    files = whole_file(tmp_path / "letter" / "file.txt", error)
    with pytest.raises(error, match=r"letter.file\.txt: expected to write the file"), files as partial:
        partial.write_text("never", encoding="utf-8")
    assert (tmp_path / "letter").read_text(encoding="utf-8") == "dear"
