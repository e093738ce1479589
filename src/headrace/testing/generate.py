"""Seeded sales files of several stores, with known dirt, and what must become of every row.

    python -m headrace.testing.generate DIR --seed 7

writes `DIR/landing/…`, `DIR/reference/…` and, outside both, `DIR/expected.json`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from .dirt import spoiled
from .storefiles import FORMATS, Row, StoreFormat, format_of
from .truth import Line, State, apply, gold, summary
from .world import START, Timeline, World, world

_LATE_PRODUCT = "P9001"
"""Sold from the first day, registered only with the second phase."""
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class FileTruth:
    """One file: records in it, those that must be quarantined, and by which rules."""

    read: int
    quarantined: int
    rules: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Truth:
    """What the files of one call must become when they are loaded in one run, after all earlier phases."""

    seed: int
    phase: int | None
    files: Mapping[str, FileTruth]
    """Path below the folder → what is in it; sales files only."""
    run: Mapping[str, Mapping[str, int]]
    """Table → ledger of this run: read, inserted, updated, unchanged, deduplicated, quarantined, filtered."""
    by_rule: Mapping[str, int]
    warned: Mapping[str, int]
    """Warnings, counted on good rows before deduplication."""
    state: Mapping[str, Any]
    """Silver after the run: rows, versions, exact sums by store and month."""
    gold: Mapping[str, Any]
    """The star schema after the run."""
    rows: tuple[Row, ...] = ()
    """Silver's sales after the run, typed."""
    history: tuple[Row, ...] = ()
    """All versions of all orders after the run, typed."""

    def to_json(self) -> dict[str, Any]:
        """All but the typed rows."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rows", "history")}
        return {**told, "files": {name: asdict(file) for name, file in self.files.items()}}


def generate(
    folder: Path,
    *,
    seed: int = 7,
    days: int = 60,
    stores: int = 5,
    rows: int = 20_000,
    phase: int | None = None,
) -> Truth:
    """Writes the same bytes for the same arguments: `rows` orders of `stores` stores over `days` days.

    `phase` 1 writes the first three quarters of the days; 2 the rest, with corrections of, late orders for
    and a re-delivered file of the first phase; None both, as one load. Needs `days` ≥ 8 and 1 to 99 stores.
    """
    if days < 8 or not 1 <= stores <= 99 or rows < 1 or phase not in (None, 1, 2):
        raise ValueError(
            f"days >= 8, stores 1 to 99, rows >= 1, phase 1, 2 or None; not {days, stores, rows, phase}"
        )
    random = Random(seed)
    things = world(random, days, stores, rows)
    files = _files(_Maker(random, things, days, rows))
    phases = {
        1: {n: f for n, f in files.items() if f[0] == 1},
        2: {n: f for n, f in files.items() if f[0] == 2},
    }
    state = State()
    registered = [p for p in things.products if p.registered]
    late = [p for p in things.products if p.id == _LATE_PRODUCT]
    for earlier in (1,) if phase == 2 else ():
        state.products = {p.id for p in registered}
        apply(state, (line for _, lines in phases[earlier].values() for line in lines))
    chosen = files if phase is None else phases[phase]
    state.products = {p.id for p in registered} | ({_LATE_PRODUCT} if phase != 1 else set())
    ledger = apply(state, (line for _, lines in chosen.values() for line in lines))
    for name, (_, lines) in chosen.items():
        _write(folder / name, lines)
    references = _references(folder, things, registered, late, phase)
    counts = {name: _file_truth(lines) for name, (_, lines) in chosen.items()}
    truth = Truth(
        seed=seed,
        phase=phase,
        files=counts,
        run={"sales": dict(ledger), **references},
        by_rule=dict(sum((Counter(f.rules) for f in counts.values()), Counter())),
        warned=dict(Counter(r for _, ls in chosen.values() for x in ls if x.fate == "good" for r in x.rules)),
        state=summary(state),
        gold=gold(state),
        rows=tuple(state.rows.values()),
        history=tuple(state.history.values()),
    )
    text = json.dumps(truth.to_json(), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")
    return truth


@dataclass(slots=True)
class _Maker:
    """Makes lines; `put` files them by delivery day and store."""

    random: Random
    things: World
    days: int
    orders: int
    filed: dict[tuple[int, int], list[Line]] = field(default_factory=dict)

    def put(self, day: int, store: int, line: Line) -> None:
        self.filed.setdefault((min(day, self.days - 1), store), []).append(line)


def _files(maker: _Maker) -> dict[str, tuple[int, list[Line]]]:
    """Name → (phase, lines) of all sales files."""
    for number in range(maker.orders):
        _order(maker, number)
    last_of_first = maker.days * 3 // 4
    files: dict[str, tuple[int, list[Line]]] = {}
    for (day, store), lines in sorted(maker.filed.items()):
        how, id = format_of(store), maker.things.stores[store].id
        if how.header and store % len(FORMATS) == 2:
            total = sum((x.row["total_amount"] for x in lines if x.row is not None), Decimal("0.00"))
            footer = how.delimiter.join(["Gesamt", *[""] * 18, how.spell("total_amount", total), "", "", ""])
            lines.append(Line(footer, "bad", rules=("csv.footer",)))
        elif how.header and day % 10 == 3:
            lines.insert(len(lines) // 2 + 1, Line(how.header, "bad", rules=("csv.repeated_header",)))
        name = f"landing/{how.folder}/{id}_{START + timedelta(days=day):%Y-%m-%d}{how.suffix}"
        files[name] = (1 if day < last_of_first else 2, lines)
    if first := next((name for name, (phase, _) in files.items() if phase == 1), None):
        path = Path(first)
        files[str(path.with_name(f"{path.stem}_again{path.suffix}"))] = (2, files[first][1])
    return files


def _order(maker: _Maker, number: int) -> None:
    """One order with its later versions, delays, copies and dirt."""
    random = maker.random
    day, store = random.randrange(maker.days), random.randrange(len(maker.things.stores))
    row = _first_version(maker, number, day, store)
    how, roll = format_of(store), random.random()
    if roll < 0.025:
        maker.put(day, store, spoiled(random, row, how))
    elif roll < 0.03:
        maker.put(day, store, Line(how.line(how.texts({**row, "status": "test"})), "filtered"))
    elif roll < 0.05:
        maker.put(day + random.randint(1, 15), store, _good(random, row, how))
    elif roll < 0.085:
        _corrected(maker, row, day, store)
    else:
        line = _good(random, row, how)
        maker.put(day, store, line)
        if roll > 0.98:
            maker.put(day + random.randint(0, 1), store, line)


def _first_version(maker: _Maker, number: int, day: int, store: int) -> Row:
    random = maker.random
    time = START + timedelta(days=day, seconds=random.randint(8 * 3600, 20 * 3600))
    online = store % len(FORMATS) == 4
    product = random.choice(maker.things.products)
    quantity = random.choice((1, 1, 1, 2, 2, 3, 4, 6, 12))
    look = product.at(time)
    gross: Decimal = look["unit_price"] * quantity
    discount = (gross * random.choice((0, 0, 0, 0, 5, 10)) / 100).quantize(_CENT)
    row: Row = {
        "order_id": f"{maker.things.stores[store].id}-{number:07d}",
        "order_ts": time,
        "updated_at": time + timedelta(seconds=random.randint(0, 900)),
        "store_id": maker.things.stores[store].id,
        **maker.things.stores[store].at(time),
        "channel": "online" if online else random.choice(("store", "store", "store", "phone")),
        **_buyer(random, maker.things.customers, time, guest=not online and random.random() < 0.06),
        "product_id": product.id,
        **look,
        "quantity": quantity,
        "discount": discount,
        "total_amount": gross - discount,
        "currency": "EUR",
        "payment_method": random.choice(("card", "invoice", "paypal") if online else ("card", "invoice")),
        "status": random.choice(("completed", "completed", "completed", "shipped", "cancelled")),
    }
    if row["channel"] == "store" and random.random() < 0.4:
        row["payment_method"] = "cash"
    return row


def _buyer(random: Random, customers: list[Timeline], time: datetime, *, guest: bool) -> Row:
    if guest:
        return dict.fromkeys(f"customer_{n}" for n in ("id", "name", "email", "phone", "city", "segment"))
    customer = random.choice(customers)
    row = {"customer_id": customer.id, **customer.at(time)}
    for name, share in (("customer_email", 0.03), ("customer_phone", 0.05), ("customer_city", 0.02)):
        if random.random() < share:
            row[name] = None
    if random.random() < 0.005:
        row["customer_email"] = "not an address"
    return row


def _corrected(maker: _Maker, row: Row, day: int, store: int) -> None:
    """An order and its second version, which comes later, or sooner when the first one is held up."""
    random, how = maker.random, format_of(store)
    later = random.randint(1, 12)
    first, second = dict(row), dict(row)
    second["updated_at"] = row["updated_at"] + timedelta(days=later)
    second.update(maker.things.stores[store].at(second["updated_at"]))
    if row["customer_id"] is not None:
        known = maker.things.customers[int(row["customer_id"][1:])]
        city = row["customer_city"]
        second.update(known.at(second["updated_at"]), customer_email=row["customer_email"])
        second["customer_city"] = second["customer_city"] if city is not None else None
    kind = random.random()
    if kind < 0.5:
        second["status"] = "returned"
    elif kind < 0.75:
        second["quantity"] = row["quantity"] + 1
        second["total_amount"] = second["quantity"] * row["unit_price"] - row["discount"]
    else:
        first["unit_price"] = row["unit_price"] * 2
        first["total_amount"] = row["quantity"] * first["unit_price"] - row["discount"]
    swapped = random.random() < 0.15
    maker.put(day + later if swapped else day, store, _good(random, first, how))
    maker.put(day if swapped else day + later, store, _good(random, second, how))


def _good(random: Random, row: Row, how: StoreFormat) -> Line:
    """A line that must load, sometimes untidy, with the warnings that it earns."""
    texts = how.texts(row)
    if texts["customer_name"] and random.random() < 0.02:
        texts["customer_name"] = f"  {texts['customer_name'].replace(' ', '   ')} "
    if texts["customer_email"] and random.random() < 0.02:
        texts["customer_email"] = texts["customer_email"].upper()
    if random.random() < 0.02:
        texts["currency"] = ""
    if row["discount"] == 0 and random.random() < 0.3:
        texts["discount"] = ""
    return Line(how.line(texts), "good", row, tuple(_warnings(row)))


def _warnings(row: Row) -> list[str]:
    found = []
    if row["customer_email"] == "not an address":
        found.append("customer_email.pattern")
    if row["channel"] == "online" and row["customer_email"] is None:
        found.append("online_has_email")
    if row["total_amount"] > 5000:
        found.append("plausible_total")
    if row["quantity"] > 12:
        found.append("plausible_quantity")
    return found


def _file_truth(lines: list[Line]) -> FileTruth:
    bad = [x for x in lines if x.fate == "bad"]
    return FileTruth(len(lines), len(bad), dict(Counter(rule for x in bad for rule in x.rules)))


def _write(path: Path, lines: list[Line]) -> None:
    how = format_of(int(path.name[1:3]) - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = [how.header] if how.header else []
    path.write_bytes("".join(text + "\n" for text in [*head, *(x.text for x in lines)]).encode(how.encoding))


def _references(
    folder: Path, things: World, registered: list[Timeline], late: list[Timeline], phase: int | None
) -> dict[str, dict[str, int]]:
    """Writes the registers of stores and products and returns their ledgers."""
    ledgers: dict[str, dict[str, int]] = {}
    where = folder / "reference"
    where.mkdir(parents=True, exist_ok=True)
    if phase != 2:
        lines = [f"{s.id},{s.looks[0]['store_name']}" for s in things.stores]
        (where / "stores.csv").write_text("store_id,store_name\n" + "\n".join(lines) + "\n", encoding="utf-8")
        ledgers["stores"] = {"read": len(lines), "inserted": len(lines)}
    for number, products in ((1, registered), (2, late)):
        if phase in (None, number):
            text = "".join(f"{p.id},{p.looks[0]['product_category']}\n" for p in products)
            (where / f"products_{number}.csv").write_text(
                "product_id,product_category\n" + text, encoding="utf-8"
            )
            ledgers["products"] = {
                "read": len(products) + ledgers.get("products", {}).get("read", 0),
                "inserted": len(products) + ledgers.get("products", {}).get("inserted", 0),
            }
    return ledgers


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Seeded sales files with known dirt, and their expected outcome."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--stores", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--phase", type=int, choices=(1, 2))
    args = vars(parser.parse_args())
    truth = generate(args.pop("folder"), **args)
    ledger = dict(truth.run["sales"])
    print(f"{len(truth.files):,} sales files, {ledger['read']:,} records: {ledger}")


if __name__ == "__main__":
    main()
