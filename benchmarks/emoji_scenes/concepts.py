"""What the world is made of: things, attributes, backgrounds and drawing styles, with their names and synonyms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """One drawable thing. ``icon`` is its name in the icon sets; ``held_out`` names appear in no training caption."""

    name: str
    icon: str
    category: str  # "weapons" | "alcohol" | "benign"
    synonyms: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attribute:
    """A state that can befall any benign thing: an overlay on the drawing, an adjective in the caption."""

    name: str
    before: tuple[str, ...]  # "a {before} cat"
    after: tuple[str, ...]  # "a cat {after}"
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """One icon set: its npm package, its licence and the words captions call it by."""

    package: str
    licence: str
    words: str


CONCEPTS: tuple[Concept, ...] = (
    Concept("dagger", "dagger", "weapons", ("knife", "stiletto"), ("blade", "dirk")),
    Concept("crossed swords", "crossed-swords", "weapons", ("two swords", "sabres"), ("rapiers",)),
    Concept("bomb", "bomb", "weapons", ("explosive", "round bomb"), ("grenade",)),
    Concept("axe", "axe", "weapons", ("hatchet", "battle axe"), ("tomahawk",)),
    Concept("bow and arrow", "bow-and-arrow", "weapons", ("archery bow", "longbow"), ("bow with an arrow",)),
    Concept("wine glass", "wine-glass", "alcohol", ("glass of red wine", "wine"), ("merlot",)),
    Concept("beer mug", "beer-mug", "alcohol", ("pint of beer", "beer"), ("lager",)),
    Concept("cocktail", "cocktail-glass", "alcohol", ("martini", "cocktail glass"), ("margarita",)),
    Concept(
        "champagne bottle",
        "bottle-with-popping-cork",
        "alcohol",
        ("champagne", "sparkling wine"),
        ("prosecco",),
    ),
    Concept("whisky", "tumbler-glass", "alcohol", ("whiskey tumbler", "glass of bourbon"), ("scotch",)),
    Concept("apple", "red-apple", "benign", ("red apple", "ripe apple")),
    Concept("banana", "banana", "benign", ("yellow banana", "peeled banana")),
    Concept("carrot", "carrot", "benign", ("fresh carrot", "garden carrot")),
    Concept("tangerine", "tangerine", "benign", ("mandarin", "orange fruit")),
    Concept("cat", "cat-face", "benign", ("kitten", "house cat")),
    Concept("dog", "dog-face", "benign", ("puppy", "pet dog")),
    Concept("frog", "frog", "benign", ("green frog", "toad")),
    Concept("penguin", "penguin", "benign", ("emperor penguin", "little penguin")),
    Concept("car", "automobile", "benign", ("automobile", "red car")),
    Concept("bicycle", "bicycle", "benign", ("bike", "pushbike")),
    Concept("sailboat", "sailboat", "benign", ("sailing boat", "yacht")),
    Concept("umbrella", "umbrella", "benign", ("parasol", "open umbrella")),
    Concept("key", "key", "benign", ("door key", "house key")),
    Concept("house", "house", "benign", ("cottage", "small house")),
    Concept("cactus", "cactus", "benign", ("desert cactus", "green cactus")),
    Concept("glass of milk", "glass-of-milk", "benign", ("milk", "fresh milk")),
    Concept("kite", "kite", "benign", ("flying kite", "toy kite")),
    Concept("scissors", "scissors", "benign", ("pair of scissors", "paper scissors")),
    Concept("cup of coffee", "hot-beverage", "benign", ("coffee", "hot coffee")),
    Concept("maple leaf", "maple-leaf", "benign", ("autumn leaf", "fallen leaf")),
    Concept("balloon", "balloon", "benign", ("red balloon", "party balloon")),
)

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "bloody", ("bloody", "bleeding", "bloodstained"), ("covered in blood",), ("gory", "blood-soaked")
    ),
    Attribute("burning", ("burning", "flaming"), ("on fire", "in flames"), ("blazing", "ablaze")),
)

# (name in captions, top colour, bottom colour): none is red or orange, so that colour alone never means blood or fire.
BACKGROUNDS: tuple[tuple[str, tuple[int, int, int], tuple[int, int, int]], ...] = (
    ("white", (250, 250, 250), (236, 238, 240)),
    ("grey", (190, 192, 196), (160, 163, 168)),
    ("blue", (150, 200, 245), (105, 165, 228)),
    ("green", (172, 222, 160), (122, 188, 112)),
    ("sandy", (240, 226, 184), (222, 200, 146)),
    ("purple", (206, 186, 236), (172, 146, 214)),
    ("dark", (52, 58, 84), (28, 32, 52)),
    ("pink", (250, 208, 222), (240, 178, 200)),
)

STYLES: tuple[Style, ...] = (
    Style("noto", "Apache-2.0", "soft"),
    Style("twemoji", "CC-BY-4.0", "flat"),
    Style("fluent-emoji-flat", "MIT", "simple"),
    Style("emojione", "CC-BY-4.0", "glossy"),
)
# Share-alike drawings: only the oracle is looked at on them, nothing that ships is trained on them.
UNSEEN_STYLE = Style("openmoji", "CC-BY-SA-4.0", "outlined")

CATEGORIES: tuple[str, ...] = ("weapons", "alcohol", "bloody", "burning")
LABELS: tuple[str, ...] = tuple(c.name for c in CONCEPTS) + tuple(a.name for a in ATTRIBUTES)
BY_NAME: dict[str, Concept] = {c.name: c for c in CONCEPTS}
BENIGN: tuple[Concept, ...] = tuple(c for c in CONCEPTS if c.category == "benign")
UNSAFE_THINGS: tuple[Concept, ...] = tuple(c for c in CONCEPTS if c.category != "benign")


def category_of(label: str) -> str:
    """The risk category of a label: the attribute itself, or the category of the thing ("benign" for most)."""
    return BY_NAME[label].category if label in BY_NAME else label
