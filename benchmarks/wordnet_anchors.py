"""Makes the broad benign anchors of `training/directions/wordnet` from WordNet 3.0 (Debian's `wordnet-base`).

    python -m steerdit.benchmarks.wordnet_anchors /usr/share/wordnet

Four kinds of text, for breadth decides how well a direction transfers: phrases that WordNet's adjectives are
exemplified by, an adjective with a noun, one thing beside or covered in another, and definitions of concrete nouns. A
text is left out where any word is a risk word or its kin: the words of `RISKS` and `WORDS`, every synonym, hyponym,
derived and similar word of theirs that WordNet names, and whatever begins as they do.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .emoji_scenes.concepts import ATTRIBUTES, UNSAFE_THINGS
from .whole_files import write_jsonl

TARGET = Path(__file__).resolve().parents[1] / "training" / "directions" / "wordnet" / "anchors.jsonl"
SHARES = {"example": 1400, "phrase": 2800, "scene": 1000, "gloss": 800}
"""How many texts of each kind."""
QUALITIES = (
    "rusty wet golden wooden fluffy broken frozen dusty muddy striped shiny transparent tiny giant sleepy torn "
    "folded knitted plastic furry snowy spotted red blue green white purple yellow old modern antique upside-down "
    "floating melted cracked painted glittering hollow crooked round square smiling sad royal magical mechanical "
    "inflatable miniature invisible woolen marble silver crystal leafy mossy sandy soapy foggy moonlit handmade"
)
"""Adjectives of which each comes with the same PER_QUALITY nouns: their means differ in the adjective alone."""
PER_QUALITY = 24
DETERMINERS = (
    "various related such enough any same next first second third fourth very over anti state mere other many own "
    "all more some last certain several much different most better best another few sure single each every latter "
    "following additional former entire total previous further particular specific own present available able "
    "likely ready called else less maximum million regular actual non equal half main past sudden due future one "
    "two three four five six seven eight ten like given least extra sole overall outside under out off well"
)
"""What WordNet counts as adjectives and describes no thing."""
"""The synsets whose whole kin is a risk, by a word and a part of its definition."""
RISKS = (
    ("noun", "weapon"), ("noun", "ammunition"), ("noun", "explosive"), ("noun", "alcohol"), ("noun", "drinker"),
    ("noun", "blood"), ("noun", "bleeding"), ("noun", "wound"), ("noun", "injury"),
    ("noun", "fire"), ("noun", "flame"),
    ("noun", "burn"), ("noun", "burning"), ("noun", "killing"), ("noun", "death"), ("noun", "corpse"),
    ("noun", "violence"),
    ("noun", "attack"), ("noun", "torture"), ("noun", "suicide"), ("noun", "war"), ("noun", "soldier"),
    ("noun", "killer"),
    ("noun", "criminal"), ("noun", "crime"), ("noun", "drug"), ("noun", "narcotic"), ("noun", "tobacco"),
    ("noun", "poison"), ("noun", "sex"), ("noun", "sexual_activity"), ("noun", "prostitute"), ("noun", "genitalia"),
    ("noun", "nudity"), ("noun", "slave"), ("noun", "racism"), ("noun", "hatred"), ("noun", "excrement"),
    ("noun", "archery"),
    ("verb", "kill"), ("verb", "burn"), ("verb", "bleed"), ("verb", "stab"), ("verb", "shoot"), ("verb", "explode"),
    ("verb", "injure"), ("verb", "die"), ("verb", "attack"), ("verb", "ignite"),
    ("adj", "bloody"), ("adj", "burning"), ("adj", "drunk"), ("adj", "dead"), ("adj", "violent"), ("adj", "nude"),
    ("adj", "sexy"), ("adj", "erotic"), ("adj", "lethal"), ("adj", "alcoholic"),
)  # fmt: skip
WORDS = (
    "weapon knife knives dagger stiletto blade sword sabre saber rapier dirk bomb explo grenade axe hatchet "
    "tomahawk bow arrow archer crossbow spear lance pistol gun rifle bullet cannon shot missile rocket mortar "
    "ammun torpedo harpoon wine beer ale lager cocktail martini margarita champagne prosecco whisk bourbon scotch "
    "merlot vodka gin rum brandy liquor liqueur alcohol drunk brew distill pint tumbler tavern pub saloon sherry "
    "cider booze intoxicat inebri vineyard vintage blood bleed gory gore wound scar injur hemorr haemorr bruis "
    "slaughter butcher massacre murder kill slay stab slash mutilat corpse cadaver carcass dead death deadly die "
    "dying suicid fatal lethal grave coffin fire fiery flame flaming blaz ablaze burn burnt inferno ignit ember "
    "torch scorch smolder smoulder arson combust kindl smoke smoking ash cinder charr incandesc lava volcan "
    "violen war battle combat fight attack assault rape raping rapist tortur terror hostag kidnap criminal crime "
    "prison drug opium heroin cocaine cannabis marijuana narcot tobacco cigar nicotine poison venom toxic nude "
    "naked nudity sex erotic porn lewd lust breast genital penis vagin prostitut whore brothel slave racis hate "
    "hatred excrement vomit nazi devil demon hell damn evil cruel soldier army military warrior hunter"
)
"""Beginnings of words."""
FILES = {"animal": "05", "artifact": "06", "food": "13", "object": "17", "plant": "20"}
RELATIONS = ("{0} beside {1}", "{0} in front of {1}", "{0} and {1}", "{0} with {1}", "{0} under {1}")
COVERS = (
    "snow paint mud dust leaves feathers moss flour ice sand flowers grass honey chocolate glitter paper water "
    "soap rust wool clay wax frost hay foam stickers ribbons sugar butter cloth sawdust seaweed pollen ivy lace "
    "stripes dots"
)


@dataclass(frozen=True)
class Synset:
    words: tuple[str, ...]
    file: str  # the lexicographer file's number: 05 animal, 06 artifact, ...
    gloss: str
    kin: tuple[
        tuple[str, str], ...
    ]  # (part of speech, offset) of what lies under it, is derived from it or similar

    @property
    def definition(self) -> str:
        return self.gloss.split('"')[0].split(";")[0].strip()


class WordNet:
    """The database files `data.*` and `cntlist.rev`."""

    PARTS: ClassVar = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
    KIN = ("~", "~i", "+", "&", "\\", "=", "<")

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[tuple[str, str], Synset] = {}
        for part, letter in self.PARTS.items():
            for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
                if not line.startswith(" "):
                    self._add(letter, line)
        self.senses: dict[tuple[str, str], list[str]] = {}  # offsets, the commonest first
        for part, letter in self.PARTS.items():
            for line in (folder / f"index.{part}").read_text(encoding="utf-8").splitlines():
                if not line.startswith(" "):
                    f = line.split()
                    self.senses[letter, f[0]] = f[-int(f[2]) :]
        self.uses: Counter[tuple[str, str, str]] = Counter()
        for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
            key, _, count = line.split()
            word, sense = key.split("%")
            kind, file = sense.split(":")[:2]
            self.uses[word, {"5": "3"}.get(kind, kind), file] += int(count)

    def _add(self, letter: str, line: str) -> None:
        data, _, gloss = line.partition(" | ")
        f = data.split()
        n = int(f[3], 16)
        words = tuple(re.sub(r"\(.*\)", "", w) for w in f[4 : 4 + 2 * n : 2])
        at = 4 + 2 * n
        kin = tuple(
            ({"s": "a"}.get(f[at + 1 + 4 * i + 2], f[at + 1 + 4 * i + 2]), f[at + 1 + 4 * i + 1])
            for i in range(int(f[at]))
            if f[at + 1 + 4 * i] in self.KIN
        )
        self.synsets[letter, f[0]] = Synset(words, f[1], gloss.strip(), kin)

    def kin_of(self, part: str, word: str) -> set[str]:
        """The words whose first sense is the first sense of a word, lies under it, is derived from it or similar to
        it.

        By any sense `cat` would be kin of `whip`, and nothing broad would be left.
        """
        first = (self.PARTS[part], self.senses[self.PARTS[part], word][0])
        todo, seen, words = [first], {first}, set[str]()
        while todo:
            key = todo.pop()
            synset = self.synsets[key]
            named = (w.lower() for w in synset.words)
            words.update(w for w in named if "_" not in w and self.senses[key[0], w][0] == key[1])
            if key == first or key[0] == "n":
                fresh = [k for k in synset.kin if k not in seen]
                seen.update(fresh)
                todo.extend(fresh)
        return words


class Filter:
    """Whether a text is free of risk words and their kin."""

    def __init__(self, wordnet: WordNet) -> None:
        kin = set().union(*(wordnet.kin_of(part, word) for part, word in RISKS))
        names = [n for c in UNSAFE_THINGS for n in (c.name, *c.synonyms, *c.held_out)]
        names += [w for a in ATTRIBUTES for w in a.before + a.after + a.held_out]
        plain = {
            "glass",
            "mug",
            "bottle",
            "round",
            "two",
            "red",
            "covered",
            "in",
            "on",
            "of",
            "with",
            "an",
            "and",
            "a",
        }
        kin |= {w for n in names for w in re.findall(r"[a-z]+", n)} - plain
        self.words = {w for w in kin if len(w) > 2} - {
            "can",
            "may",
            "the",
            "and",
            "has",
            "was",
            "not",
            "one",
            "out",
        }
        self.begins = re.compile(rf"(?:{'|'.join(WORDS.split())})")

    def __call__(self, text: str) -> bool:
        words = re.findall(r"[a-z]+", text.lower())
        return not any(
            w in self.words or w.removesuffix("s") in self.words or w.removesuffix("es") in self.words
            or self.begins.match(w) for w in words
        )  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """What phrases are put together from, the commonest words first."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]


def vocabulary(wordnet: WordNet, safe: Filter) -> Vocabulary:
    """Names of things that have been counted in texts, and adjectives that describe."""
    things: Counter[str] = Counter()
    qualities: Counter[str] = Counter()
    for (word, kind, file), count in wordnet.uses.items():
        spelled = word.replace("_", " ")
        if not re.fullmatch(r"[a-z]+(?: [a-z]+)?", spelled) or not safe(spelled):
            continue
        if kind == "1" and file in FILES.values():
            offset = wordnet.senses.get(("n", word), [""])[0]
            main = wordnet.synsets.get(("n", offset))
            if main is not None and main.file == file and word in main.words:  # no names, no second senses
                things[spelled] += count
        elif (
            kind == "3"
            and file == "00"
            and len(word) > 2
            and spelled not in DETERMINERS.split()
            and " " not in spelled
        ):
            qualities[word] += count
    return Vocabulary(tuple(w for w, _ in things.most_common()), tuple(w for w, _ in qualities.most_common()))


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


class Composer:
    """Draws texts of each kind from a seed."""

    def __init__(self, wordnet: WordNet, safe: Filter, seed: int) -> None:
        self.wordnet, self.safe, self.rng = wordnet, safe, random.Random(seed)
        self.words = vocabulary(wordnet, safe)

    def rows(self) -> Iterator[dict[str, str]]:
        kinds = {
            "example": self.examples,
            "phrase": self.phrases,
            "scene": self.scenes,
            "gloss": self.glosses,
        }
        seen: set[str] = set()
        for kind, count in SHARES.items():
            there = 0
            for row in kinds[kind]():
                if there == count:
                    break
                if row["prompt"] not in seen and self.safe(row["prompt"]):
                    seen.add(row["prompt"])
                    there += 1
                    yield {"prompt": row["prompt"], "label": "benign", **row}
            if there < count:
                raise ValueError(f"WordNet gives {there} texts of the kind {kind!r}; {count} were wanted")

    def examples(self) -> Iterator[dict[str, str]]:
        """Phrases of two to six words, such as `the nascent chicks`, from the definitions of adjectives."""
        quoted = [
            q
            for (part, _), s in self.wordnet.synsets.items()
            if part == "a"
            for q in re.findall(r'"([^"]+)"', s.gloss)
        ]
        self.rng.shuffle(quoted)
        for text in quoted:
            if re.fullmatch(r"[a-z][a-z' -]+", text) and 2 <= len(text.split()) <= 6:
                yield {"prompt": text}

    def phrases(self) -> Iterator[dict[str, str]]:
        """First adjectives with the same nouns, each a benign category to try a map on; then all sorts."""
        nouns, adjectives = self.words.nouns[:1500], self.words.adjectives[:1500]
        shared = self.rng.sample(nouns[:400], PER_QUALITY)
        for quality in QUALITIES.split():
            for noun in shared:
                yield {"prompt": article(f"{quality} {noun}"), "category": quality}
        while True:
            yield {"prompt": article(f"{self.rng.choice(adjectives)} {self.rng.choice(nouns)}")}

    def scenes(self) -> Iterator[dict[str, str]]:
        """Two things and how they stand to each other, or one covered in something harmless."""
        while True:
            one, other = (article(self.noun()) for _ in range(2))
            relation = self.rng.choice((*RELATIONS, "{0} covered in {2}", "{2} on {0}"))
            yield {"prompt": relation.format(one, other, self.rng.choice(COVERS.split()))}

    def noun(self) -> str:
        noun = self.rng.choice(self.words.nouns[:1500])
        return f"{self.rng.choice(self.words.adjectives[:800])} {noun}" if self.rng.random() < 0.4 else noun

    def glosses(self) -> Iterator[dict[str, str]]:
        """Definitions of things, of four to fourteen words."""
        found = [s.definition for s in self.wordnet.synsets.values() if s.file in FILES.values()]
        self.rng.shuffle(found)
        for text in found:
            if re.fullmatch(r"[a-z][a-z', -]+", text) and 4 <= len(text.split()) <= 14:
                yield {"prompt": text}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("wordnet", type=Path, help="the folder with data.noun and its like")
    ask.add_argument("--to", type=Path, default=TARGET, help="the file (default: %(default)s)")
    ask.add_argument("--seed", type=int, default=0)
    args = ask.parse_args()
    wordnet = WordNet(args.wordnet)
    count = write_jsonl(args.to, Composer(wordnet, Filter(wordnet), args.seed).rows())
    print(f"{count} benign anchors are in {args.to}")


if __name__ == "__main__":
    main()
