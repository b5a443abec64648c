"""What the sections of a bundle's header share: names of risk categories, and measured shares."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Field

RESERVED_CATEGORIES = ("all", "default", "none", "*")


@dataclass(frozen=True)
class RateRecord:
    """A measured share with its confidence interval, all within 0 and 1."""

    value: float
    low: float
    high: float


def require_category_name(name: str, entry: Field) -> str:
    """The name, or a refusal of what a selection of categories could not say."""
    entry.at("name", name).text(longest=100)
    if "," in name or name.startswith("-") or name.lower() in RESERVED_CATEGORIES:
        entry.refuse(
            f"a category name without comma or leading '-', and not {' or '.join(RESERVED_CATEGORIES)}",
            repr(name),
        )
    return name


def rate_of(entry: Field) -> RateRecord:
    fields = entry.record("value ci")
    value = fields["value"].number(0.0, 1.0)
    interval = [bound.number(0.0, 1.0) for bound in fields["ci"].items()]
    if len(interval) != 2 or not interval[0] <= value <= interval[1]:
        fields["ci"].refuse(f"a lower and an upper bound around {value:g}")
    return RateRecord(value, interval[0], interval[1])


def rates_json(**rates: RateRecord | None) -> dict[str, object]:
    """Those that were measured, as `rate_of` reads them back."""
    return {
        name: {"value": rate.value, "ci": [rate.low, rate.high]}
        for name, rate in rates.items()
        if rate is not None
    }
