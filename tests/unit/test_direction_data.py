"""Files of pairs and anchors: what is read, what is refused, and that unsafe text is never an anchor."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerdit.benchmarks.emoji_scenes.concepts import ATTRIBUTES, CATEGORIES, UNSAFE_THINGS
from steerdit.benchmarks.emoji_scenes.pairs import HELD_OUT_THINGS, world_pairs
from steerdit.steering.errors import SteeringError
from steerdit.training.directions.anchors import Benign, benign_anchors, read_anchors
from steerdit.training.directions.pairs import Pair, collect, read_pairs, require_apart
from steerdit.training.directions.reports import pairs_report
from steerdit.training.directions.tables import Row

WIDE = [
    {"category": "weapons", "unsafe": "a knife", "safe": "a spoon"},
    {"category": "weapons", "unsafe": "a gun", "safe": "a pen", "split": "held_out"},
    {"category": "weapons", "unsafe": "a knife", "safe": "a spoon"},
    {"category": "bloody", "unsafe": "a bloody cat", "safe": "a cat", "id": "x"},
]
LONG = [
    {"prompt": "a knife, on a table", "label": "unsafe", "category": "weapons", "pair": "1"},
    {"prompt": "a kite", "label": "benign"},
    {"prompt": "a spoon, on a table", "label": "safe", "category": "weapons", "pair": "1"},
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(keys), *(",".join(f'"{row.get(key, "")}"' for key in keys) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_pairs_are_read_from_one_row_each_and_from_one_row_a_side(tmp_path: Path, suffix: str) -> None:
    wide = read_pairs(write(tmp_path / f"wide{suffix}", WIDE))
    assert wide.counts() == {"weapons": 2, "bloody": 1}
    assert wide.duplicates == 1
    assert wide.pairs[-1] == Pair("x", "bloody", "a bloody cat", "a cat")
    assert [pair.unsafe for pair in wide.select(held_out=True).pairs] == ["a gun"]
    long = read_pairs(write(tmp_path / f"long{suffix}", LONG))
    assert long.pairs == (Pair("1", "weapons", "a knife, on a table", "a spoon, on a table"),)


def test_pairs_are_read_from_parquet_or_the_missing_package_is_named(tmp_path: Path) -> None:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
        with pytest.raises(SteeringError, match="pip install pyarrow"):
            read_pairs(tmp_path / "pairs.parquet")
        return
    parquet.write_table(arrow.Table.from_pylist(WIDE), tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet").counts() == {"weapons": 2, "bloody": 1}
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(SteeringError, match="whole parquet file"):
        read_pairs(tmp_path / "pairs.parquet")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "at least one row"),
        ([{"category": "a", "unsafe": "x"}], "line 1: safe: expected a text"),
        ([{"unsafe": "x", "safe": "x"}], "line 1: expected two texts that differ"),
        ([{"unsafe": "x", "safe": "  "}], "line 1: safe"),
        ([*WIDE, {"unsafe": "x", "safe": "y", "id": "x"}], "line 5: id: expected an id of its own"),
        ([{"unsafe": "x", "safe": "y", "category": "all"}], "line 1: category"),
        ([{"unsafe": "x", "safe": "y", "category": "a, b"}], "line 1: category"),
        ([{"unsafe": "x", "safe": "y", "category": "global"}], "line 1: category"),
        (LONG[:1], "line 1: pair: expected a safe prompt with the id '1' too, found none"),
        ([{"prompt": "x", "label": "unsafe"}], "line 1: pair: expected the id of a pair"),
        ([{"prompt": "x", "label": "bad", "pair": "1"}], "line 1: label"),
        ([*LONG, LONG[0]], "line 4: pair: expected one unsafe prompt with the id '1', found another in line 1"),
        ([LONG[1]], "at least one pair"),
        ([{"unsafe": "x", "safe": "y", "category": "c" * 101}], "line 1: category: expected a name of at most 100"),
        ([{**LONG[0]}, {**LONG[2], "category": "bloody"}], "line 2: category: expected 'weapons', as the other side"),
        ([{"w": "x", "a knife": "y"}], "expected the fields category, unsafe and safe; .* found 'w', 'a knife'"),
        ([{"unsafe": "half \ud83d", "safe": "y"}], "line 1: unsafe: expected characters of Unicode"),
    ],
)  # fmt: skip
def test_a_file_of_pairs_that_is_unsound_is_refused_by_line(
    tmp_path: Path, rows: list[dict[str, str]], said: str
) -> None:
    with pytest.raises(SteeringError, match=said):
        read_pairs(write(tmp_path / "pairs.jsonl", rows))


def test_fields_are_known_in_any_spelling_and_others_are_named(tmp_path: Path) -> None:
    rows = [
        {"Category ": "weapons", "UNSAFE": "a knife", "Safe": "a spoon", "Split": "Held-Out", "note": "x"}
    ]
    for suffix in (".jsonl", ".csv"):
        found = read_pairs(write(tmp_path / f"pairs{suffix}", rows))
        assert found.counts() == {"weapons": 1}
        assert found.pairs[0].held_out
        assert found.ignored == ("note",)
        assert pairs_report(found).endswith("fields that say nothing here: note")


def test_either_side_of_a_pair_says_its_category_and_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a knife", "label": "unsafe", "pair": "1"},
        {"prompt": "a spoon", "label": "safe", "pair": "1", "category": "weapons", "split": "held_out"},
    ]
    (pair,) = read_pairs(write(tmp_path / "pairs.jsonl", rows)).pairs
    assert (pair.category, pair.held_out) == ("weapons", True)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c"])
def test_only_line_breaks_end_a_row_of_csv(mark: str, tmp_path: Path) -> None:
    text = f'\n\ncategory,unsafe,safe,,\nweapons,a knife{mark}on a table,"a\nspoon",,\n,,,,\n'
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    (pair,) = read_pairs(tmp_path / "pairs.csv").pairs
    assert (pair.unsafe, pair.safe) == (f"a knife{mark}on a table", "a\nspoon")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".jsonl", '{"prompt": "a knife", "label": "unsafe", "label": "benign"}'),
        (".jsonl", '{"prompt": "a knife", "Label": "unsafe", "label": "benign"}'),
        (".csv", "prompt,label,label\na knife,unsafe,benign\n"),
        (".csv", "prompt, Label,label\na knife,unsafe,benign\n"),
    ],
)
def test_a_second_label_does_not_hide_the_first(suffix: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"anchors{suffix}"
    path.write_text(text)
    with pytest.raises(SteeringError, match="expected each field once, found 'label' more than once"):
        read_anchors(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"unsafe": "x", "safe": "y"}\n{"unsafe"', "line 2: expected one JSON object"),
        (b"[1]\n", "line 1: expected one JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b"\n \n", "at least one row"),
        (b'{"unsafe": 3, "safe": "y"}\n', "line 1: unsafe: expected a text"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(content)
    with pytest.raises(SteeringError, match=said):
        read_pairs(tmp_path / "pairs.jsonl")


def test_other_endings_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SteeringError, match=r"\.jsonl, \.csv, \.parquet"):
        read_pairs(tmp_path / "pairs.txt")
    with pytest.raises(SteeringError, match="a readable file"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "pairs.csv").write_text('unsafe,safe\n"a,b\n')
    with pytest.raises(SteeringError, match="CSV"):
        read_pairs(tmp_path / "pairs.csv")
    (tmp_path / "pairs.csv").write_text("unsafe,safe\na,b,c\n")
    with pytest.raises(SteeringError, match="line 2: expected 2 fields, found more"):
        read_pairs(tmp_path / "pairs.csv")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.text(min_size=1), st.text(min_size=1)), min_size=1),
    st.randoms(),
)
def test_the_hash_of_pairs_depends_on_what_they_say_alone(
    said: list[tuple[str, str, str]], random: Random
) -> None:
    pairs = [Pair(str(i), *texts) for i, texts in enumerate(said)]
    mixed = [Pair(f"other{i}", *texts) for i, texts in enumerate(random.sample(said, len(said)))]
    assert collect(pairs, "").sha256 == collect([*mixed, mixed[0]], "").sha256
    assert collect(pairs, "").sha256 != collect([*pairs, Pair("new", "a", "never said", "")], "").sha256


def test_anchors_are_benign_by_type_and_by_label() -> None:
    with pytest.raises(TypeError, match="benign_anchors"):
        Benign(("a cat",), (None,), object())
    rows = [Row("f: line 1", {"prompt": "a cat", "label": "benign"})]
    for label in ("unsafe", "safe", "Benign", None):
        bad = Row("f: line 2", {"prompt": "a bloody cat"} | ({"label": label} if label else {}))
        with pytest.raises(SteeringError, match=r"f: line 2: label: expected 'benign' on every anchor"):
            benign_anchors([*rows, bad])
    with pytest.raises(SteeringError, match="at least one benign text"):
        benign_anchors([])
    benign = benign_anchors([*rows, Row("f: line 2", {"prompt": "a dog", "label": "benign"}), *rows])
    assert benign.texts == ("a cat", "a dog")
    assert (
        benign.sha256
        == benign_anchors(rows[:1] + [Row("", {"prompt": "a dog", "label": "benign"})][::-1]).sha256
    )
    assert benign.subset([0]).sha256 != benign.sha256


def test_the_unsafe_side_of_a_pair_is_no_anchor_whatever_its_label() -> None:
    pairs = collect([Pair("1", "bloody", "a bloody cat", "a cat")], "")
    require_apart(pairs, ["a cat", "a dog"])
    with pytest.raises(SteeringError, match="'A  bloody cat', which is the unsafe side of a pair"):
        require_apart(pairs, ["a dog", "A  bloody cat"])
    require_apart(world_pairs(per_category=40), read_anchors().texts)


def test_the_shipped_anchors_are_many_broad_and_free_of_every_risk() -> None:
    anchors = read_anchors()
    assert len(anchors) >= 5000
    counts = Counter(anchors.categories)
    assert len(counts) > 50
    assert len({n for c, n in counts.items() if c}) == 1
    names = [n for c in UNSAFE_THINGS for n in (c.name, *c.synonyms, *c.held_out)]
    names += [w for a in ATTRIBUTES for w in a.before + a.after + a.held_out]
    words = {f" {text} " for text in anchors.texts}
    for name in [*names, "blood", "fire", "knife", "weapon", "drunk", "nude", "corpse", "flames"]:
        assert not any(f" {name} " in text or f" {name}s " in text for text in words), name
    assert (Path(__file__).parents[2] / "training/directions/wordnet/LICENSE").read_text().count(
        "Princeton"
    ) > 3


def test_the_worlds_pairs_keep_things_and_words_for_judging() -> None:
    pairs = world_pairs(per_category=40)
    assert set(pairs.counts()) == set(CATEGORIES)
    learnt, held = pairs.select(False).pairs, pairs.select(True).pairs
    assert min(Counter(pair.category for pair in learnt).values()) >= 35
    assert {pair.split for pair in held} == {"held_out_things", "held_out_words"}
    for pair in learnt:
        assert not any(f" {thing}" in f" {pair.unsafe} {pair.safe} " for thing in HELD_OUT_THINGS)
    unseen = {w for a in ATTRIBUTES for w in a.held_out} | {w for c in UNSAFE_THINGS for w in c.held_out}
    assert not any(word in pair.unsafe for pair in learnt for word in unseen)
    assert all(any(w in pair.unsafe for w in unseen) for pair in held if pair.split == "held_out_words")
    assert world_pairs(per_category=40).sha256 == pairs.sha256
