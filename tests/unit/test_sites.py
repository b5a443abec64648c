"""Sites have names that read back, and patterns that select them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerdit.steering import Site, SteeringError, select_sites
from steerdit.steering.sites import select_categories

NAMES = ["text", "double.1.text", "double.1.image", "double.10.image", "single.0.image", "single.3.reference"]
SITES = [Site.parse(name) for name in NAMES]

any_site = st.one_of(
    st.just(Site("text")),
    st.builds(
        Site,
        st.sampled_from(["double", "joint", "single"]),
        st.integers(0, 99),
        st.sampled_from(["text", "image", "reference", "attention"]),
    ),
)


@given(any_site)
def test_names_read_back(site: Site) -> None:
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    "name",
    ["", "Text", "double", "double.1", "double.01.image", "double.-1.image", "double.1.mask", "text.0.image"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SteeringError, match="site"):
        Site.parse(name)


@given(st.lists(any_site))
def test_sites_sort_by_depth(sites: list[Site]) -> None:
    order = ["text", "double", "joint", "single"]
    keys = [(order.index(site.block), -1 if site.index is None else site.index) for site in sorted(sites)]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", NAMES),
        ("default", NAMES),
        ("all", NAMES),
        (" text ", ["text"]),
        ("none", []),
        ("-all", []),
        ("-text", NAMES[1:]),
        ("all, -double, -*.*.reference", ["text", "single.0.image"]),
        ("double.*.image", ["double.1.image", "double.10.image"]),
        ("double.1", ["double.1.text", "double.1.image"]),
        ("double+single.0-1.image", ["double.1.image", "single.0.image"]),
        ("*.1+3.*", ["double.1.text", "double.1.image", "single.3.reference"]),
        ("single.3.*, text,", ["text", "single.3.reference"]),
        ("double, -double.1.text, double.1.text", ["double.1.text", "double.1.image", "double.10.image"]),
    ],
)
def test_a_list_of_patterns_selects(expression: str, expected: list[str]) -> None:
    assert [str(site) for site in select_sites(expression, reversed(SITES))] == expected


@pytest.mark.parametrize("expression", ["double.2.image", "joint", "-joint.0", "text, single.1-2.image"])
def test_a_term_that_matches_nothing_says_what_there_is(expression: str) -> None:
    with pytest.raises(SteeringError, match=r"double\.10\.image"):
        select_sites(expression, SITES)


@pytest.mark.parametrize(
    "expression", ["doubled", "double.x", "double.1-.image", "double.1.a", "double.1.image.0"]
)
def test_a_term_that_cannot_be_read_says_how_to_write_it(expression: str) -> None:
    with pytest.raises(SteeringError, match="Write for example"):
        select_sites(expression, SITES)


@given(st.sets(any_site, min_size=1))
def test_every_site_selects_itself(sites: set[Site]) -> None:
    for site in sites:
        assert select_sites(str(site), sites) == (site,)
    assert set(select_sites(", ".join(map(str, sites)), sites)) == sites


def test_categories() -> None:
    available = ["weapons", "bloody", "a*b"]
    assert select_categories("all", available) == ("weapons", "bloody", "a*b")
    assert select_categories("bloody, weapons", available) == ("weapons", "bloody")
    assert select_categories("-bloody", available) == ("weapons", "a*b")
    assert select_categories("none", available) == ()
    with pytest.raises(SteeringError, match=r"'weapon': expected one of weapons, bloody"):
        select_categories("weapon", available)


def test_an_attention_is_a_site_of_its_own_kind() -> None:
    sites = [Site.parse(name) for name in ("single.1.attention", "single.1.text", "single.2.attention")]
    assert [site.is_attention for site in sites] == [True, False, True]
    assert sorted([sites[2], sites[0], sites[1]]) == sites
    assert select_sites("single.*.attention", sites) == (sites[0], sites[2])
    assert select_sites("all, -*.*.attention", sites) == (sites[1],)
