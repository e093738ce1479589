"""A seeded little retail world: stores, products and customers whose attributes change on known days."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

START = datetime(2026, 1, 1)
"""The first day of sales."""

_CITIES = ("Köln", "München", "Berlin", "Hamburg", "Zürich", "Wien", "Graz", "Bern", "Lübeck", "Fürth")
_REGIONS = ("South", "North", "East", "West")
_FIRST = ("Anna", "Carla", "David", "Eva", "Hanna", "Ivo", "Jörg", "Käthe", "Mia", "Noah", "Özlem", "Paul")
_LAST = ("Adler", "Bauer", "Conrad", "Engel", "Fuchs", "Groß", "Huber", "Krämer", "Lang", "Müller", "Schäfer")
_CATEGORIES = ("Beverages", "Kitchen", "Sweets", "Office", "Garden")
_THINGS = (
    "Tea, green",
    "Coffee",
    'Pan 24"',
    "Mug",
    "Chocolate",
    "Pen",
    "Notebook",
    "Rake",
    "Kettle",
    "Biscuits",
)
_SEGMENTS = ("consumer", "business", "vip")


@dataclass(slots=True)
class Timeline:
    """What something looked like from when on; `at` answers for any time."""

    id: str
    since: list[datetime]
    looks: list[dict[str, Any]]
    registered: bool = True

    def at(self, time: datetime) -> dict[str, Any]:
        return self.looks[max(bisect_right(self.since, time) - 1, 0)]

    def change(self, time: datetime, **attributes: Any) -> None:
        """From `time` on, after all earlier changes, these attributes differ."""
        self.since.append(time)
        self.looks.append({**self.looks[-1], **attributes})


@dataclass(slots=True)
class World:
    stores: list[Timeline] = field(default_factory=list)
    products: list[Timeline] = field(default_factory=list)
    customers: list[Timeline] = field(default_factory=list)


def world(random: Random, days: int, stores: int, orders: int) -> World:
    """The same world for the same random state, days, stores and orders."""
    made = World()
    for number in range(stores):
        made.stores.append(_store(random, number, days))
    count = max(12, min(400, orders // 100))
    for number in range(count):
        made.products.append(_product(random, number, days))
    for number in (9001, 9002):
        orphan = _product(random, number, days)
        orphan.registered = False
        made.products.append(orphan)
    for number in range(max(20, orders // 12)):
        made.customers.append(_customer(random, number, days))
    return made


def _midnights(random: Random, days: int, count: int) -> Sequence[datetime]:
    """Up to `count` different days after the first, in order."""
    return [
        START + timedelta(days=day) for day in sorted(random.sample(range(1, days), min(count, days - 1)))
    ]


def _store(random: Random, number: int, days: int) -> Timeline:
    name = f"Store {_CITIES[number % len(_CITIES)]}"
    looks = {"store_name": name, "store_region": _REGIONS[number % 4]}
    line = Timeline(f"S{number + 1:02d}", [START], [looks])
    for time in _midnights(random, days, number % 3):
        if random.random() < 0.5:
            line.change(
                time, store_region=random.choice([r for r in _REGIONS if r != line.looks[-1]["store_region"]])
            )
        else:
            line.change(time, store_name=f"{name} {len(line.since) + 1}")
    return line


def _product(random: Random, number: int, days: int) -> Timeline:
    looks = {
        "product_name": f"{_THINGS[number % len(_THINGS)]} {number}",
        "product_category": _CATEGORIES[number % len(_CATEGORIES)],
        "unit_price": Decimal(random.randint(150, 30_000)) / 100 + Decimal("0.00"),
    }
    if number % 37 == 5:
        looks["unit_price"] = Decimal(random.randint(110_000, 250_000)) / 100 + Decimal("0.00")
    line = Timeline(f"P{number:04d}", [START], [looks])
    for time in _midnights(random, days, random.choice((0, 0, 1, 1, 2, 3))):
        if random.random() < 0.85:
            factor = Decimal(random.choice((90, 95, 104, 108, 112)))
            price = (line.looks[-1]["unit_price"] * factor / 100).quantize(Decimal("0.01"))
            line.change(time, unit_price=price)
        else:
            line.change(time, product_category=random.choice(_CATEGORIES))
    return line


def _customer(random: Random, number: int, days: int) -> Timeline:
    first, last = random.choice(_FIRST), random.choice(_LAST)
    looks = {
        "customer_name": f"{first} {last}",
        "customer_email": f"kunde{number}@example.com",
        "customer_phone": f"+49 151 {random.randint(1_000_000, 9_999_999)}",
        "customer_city": random.choice(_CITIES),
        "customer_segment": random.choice(_SEGMENTS),
    }
    line = Timeline(f"C{number:06d}", [START], [looks])
    for time in _midnights(random, days, random.choice((0, 0, 0, 1, 2))):
        kind = random.random()
        if kind < 0.6:
            line.change(time, customer_city=random.choice(_CITIES))
        elif kind < 0.9:
            line.change(time, customer_segment=random.choice(_SEGMENTS))
        else:
            line.change(time, customer_name=f"{first} {random.choice(_LAST)}")
    return line
