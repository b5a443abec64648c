"""Lists of prompts are read as written, and what is wrong is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerdit.steering.errors import SteeringError
from steerdit.training.recordings import PromptRow, parse_prompts, read_prompts, samples_of
from steerdit.training.recordings.prompts import partners

ROWS = (
    PromptRow("a knife, on a table", "unsafe", "weapons", "7"),
    PromptRow("a spoon, on a table", "safe", "weapons", "7"),
    PromptRow("ein Löwe", "benign"),
)
JSONL = """
{"prompt": "a knife, on a table", "label": "unsafe", "category": "weapons", "pair": 7}
{"prompt": " a spoon, on a table ", "label": "safe", "category": "weapons", "pair": "7"}

{"prompt": "ein Löwe", "label": "benign", "category": null}
"""
CSV = """label,prompt,category,pair
unsafe,"a knife, on a table",weapons,7
safe,"a spoon, on a table",weapons,7
benign,ein Löwe,,
"""


@pytest.mark.parametrize(("suffix", "text"), [(".jsonl", JSONL), (".csv", CSV)])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_files_say_the_same(suffix: str, text: str, mark: str, tmp_path: Path) -> None:
    file = tmp_path / f"prompts{suffix}"
    file.write_text(mark + text, encoding="utf-8")
    assert read_prompts(file) == ROWS


def test_names_of_fields_are_known_in_any_spelling_and_empty_rows_are_passed_over() -> None:
    said = "Prompt , LABEL,\n\na cat,benign,\n,,\n"
    assert parse_prompts(said, ".csv", "list") == (PromptRow("a cat", "benign"),)
    assert parse_prompts('{"Prompt": "a cat", "label": "benign"}', ".jsonl", "list")[0].text == "a cat"
    with pytest.raises(SteeringError, match="line 1: expected each field once"):
        parse_prompts('{"label": "unsafe", "Label": "benign", "prompt": "a"}', ".jsonl", "list")


def test_a_plain_list_has_one_label(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"a cat\r\n\r\n a dog \r\n")
    assert read_prompts(file) == (PromptRow("a cat", "benign"), PromptRow("a dog", "benign"))
    assert {row.label for row in read_prompts(file, label="unsafe")} == {"unsafe"}


@pytest.mark.parametrize(
    ("suffix", "text", "where"),
    [
        (".jsonl", "", "list: expected at least one prompt"),
        (".csv", "prompt,label\n", "list: expected at least one prompt"),
        (".txt", "\n\n", "list: expected at least one prompt"),
        (".jsonl", '{"prompt": "a", "label": "benign"}\n{"prompt"', "line 2: expected one JSON object"),
        (".jsonl", "[1]", "line 1: expected one JSON object"),
        (
            ".jsonl",
            '{"prompt": "a", "label": "unsafe", "label": "benign"}',
            "line 1: expected each field once",
        ),
        (".csv", "prompt,label, label\na,unsafe,benign\n", "line 2: expected each field once"),
        (
            ".jsonl",
            '{"prompt": "a", "label": "harmless"}',
            "line 1: label: expected one of unsafe, safe, benign",
        ),
        (".jsonl", '{"prompt": "a", "label": ["safe"]}', "line 1: label: expected a text"),
        (".jsonl", '{"prompt": 3, "label": "benign"}', "line 1: prompt: expected a text"),
        (".jsonl", '{"prompt": " ", "label": "benign"}', "line 1: prompt: expected a text of 1 to"),
        (".jsonl", '{"label": "benign"}', "line 1: prompt: expected a prompt"),
        (".jsonl", '{"prompt": "a"}', "line 1: label: expected a label"),
        (".jsonl", '{"prompt": "a", "label": "benign", "lable": 1}', "line 1: expected the fields"),
        (".csv", "prompt,label\na,b,c\n", "line 2: expected 2 fields"),
        (".csv", "text\na\n", "line 2: expected the fields prompt"),
        (".csv", 'prompt,label\n"a,benign\n', "expected CSV"),
        (".csv", "prompt,label\na,safe\n", "line 2: pair: expected the pair id of the unsafe prompt"),
        (".csv", "prompt,label,pair\na,benign,1\n", "line 2: pair: expected no pair id"),
        (".csv", "prompt,label,pair\na,unsafe,1\nb,unsafe,1\n", "line 3: pair: expected one unsafe prompt"),
        (".csv", "prompt,label,pair\nc,benign,\na,unsafe,1\n", "line 3: pair: expected a safe prompt with"),
        (".csv", "prompt,label,pair\na,safe,1\n", "line 2: pair: expected a unsafe prompt with"),
        (
            ".jsonl",
            '{"prompt": "half \\ud83d", "label": "benign"}',
            "line 1: prompt: expected text in Unicode",
        ),
        (
            ".csv",
            'prompt,label,category,pair\na,unsafe,"a,b",1\nb,safe,,1\n',
            "line 2: category: expected a category name without comma",
        ),
        (
            ".csv",
            "prompt,label,category,pair\nb,safe,,1\na,unsafe,All,1\n",
            "line 3: category: expected a category name without comma",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(suffix: str, text: str, where: str) -> None:
    with pytest.raises(SteeringError) as refusal:
        parse_prompts(text, suffix, "list")
    assert where in str(refusal.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.xlsx", b"", "a file ending in .jsonl"),
        ("a.csv", b"prompt,label\n\xff,benign", "text in UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SteeringError, match=message):
            read_prompts(tmp_path / name)
    with pytest.raises(SteeringError, match="No such file"):
        read_prompts(tmp_path / "none.csv")


def test_every_prompt_has_every_seed_and_pairs_stay_beside_each_other() -> None:
    rows = [*ROWS, *(PromptRow(f"benign {i}", "benign") for i in range(20))]
    samples = samples_of(rows, (3, 5, 8))
    assert sorted((s.text, s.seed) for s in samples) == sorted((r.text, s) for r in rows for s in (3, 5, 8))
    for number, other in enumerate(partners(samples)):
        if other is not None:
            assert abs(other - number) == 1
            assert samples[other].pair == samples[number].pair
            assert samples[other].seed == samples[number].seed
    assert sum(other is not None for other in partners(samples)) == 6
    # Labels are mixed, so that each shard has some of all.
    assert [s.label for s in samples] != sorted(s.label for s in samples)


@given(st.lists(st.text(min_size=1), min_size=2, unique=True), st.integers(0, 5))
def test_a_longer_list_keeps_the_order_of_a_shorter_one(texts: list[str], order: int) -> None:
    rows = [PromptRow(text, "benign") for text in texts]
    whole = samples_of(rows, (1, 2), order)
    assert samples_of(rows[:-1], (1, 2), order) == tuple(s for s in whole if s.text != texts[-1])
    assert samples_of(rows[::-1], (2, 1), order) == whole


def test_no_prompts_or_no_seeds_make_no_recording() -> None:
    for rows, seeds in (((), (1,)), (ROWS, ())):
        with pytest.raises(SteeringError, match="at least one of each"):
            samples_of(rows, seeds)
