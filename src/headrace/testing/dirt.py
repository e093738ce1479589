"""Ways to spoil a sales record, each with the rules that it then breaks in the contract of examples/sales."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

from .storefiles import Row, StoreFormat
from .truth import Line

Spoil = Callable[[dict[str, str], Row, StoreFormat], tuple[str, ...]]
"""Spoils the spelled texts in place and names the rules that they then break."""


def spoiled(random: Random, row: Row, how: StoreFormat) -> Line:
    """A line that must go to quarantine."""
    if random.random() < 0.2:
        line = how.line(how.texts(row))
        if not how.delimiter:
            return Line(line[: len(line) * 2 // 3], "bad", rules=("json.malformed",))
        if random.random() < 0.5:
            return Line(line + how.delimiter + "x", "bad", rules=("csv.too_many_columns",))
        plain = how.line(how.texts({**row, "product_name": "Mug"}))
        return Line(
            how.delimiter.join(plain.split(how.delimiter)[:-4]), "bad", rules=("csv.missing_columns",)
        )
    texts = how.texts(row)
    spoil = random.choice(_SPOILS)
    rules = spoil(texts, row, how)
    return Line(how.line(texts), "bad", rules=rules)


def _set(field_: str, value: Any, *rules: str) -> Spoil:
    """Puts a value in the store's own spelling, or text as it is."""

    def spoil(texts: dict[str, str], _row: Row, how: StoreFormat) -> tuple[str, ...]:
        texts[field_] = value if isinstance(value, str) else how.spell(field_, value)
        return rules

    return spoil


def _no_quantity(texts: dict[str, str], _row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts.update(quantity="0", discount="", total_amount=how.spell("total_amount", Decimal("0.00")))
    return ("quantity.min",)


def _odd_total(texts: dict[str, str], row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts["total_amount"] = how.spell("total_amount", row["total_amount"] + 1)
    return ("total_adds_up",)


def _too_generous(texts: dict[str, str], row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts["discount"] = how.spell("discount", row["unit_price"] * row["quantity"] + 1)
    texts["total_amount"] = how.spell("total_amount", Decimal("-1.00"))
    return ("discount_within_price", "total_amount.min")


def _negative_discount(texts: dict[str, str], row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts["discount"] = how.spell("discount", Decimal("-1.00"))
    texts["total_amount"] = how.spell("total_amount", row["unit_price"] * row["quantity"] + 1)
    return ("discount.min",)


def _from_the_future(texts: dict[str, str], row: Row, how: StoreFormat) -> tuple[str, ...]:
    for name in ("order_ts", "updated_at"):
        texts[name] = how.spell(name, row[name].replace(year=2126, day=min(row[name].day, 28)))
    return ("order_not_in_future",)


def _updated_too_soon(texts: dict[str, str], row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts["updated_at"] = how.spell("updated_at", row["order_ts"] - timedelta(days=1))
    return ("updated_after_order",)


def _impossible_date(texts: dict[str, str], _row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts["order_ts"] = "31.02.2026 10:00:00" if how.folder == "filialen" else "2026-02-31 10:00:00"
    return ("order_ts.type",)


def _cash_online(texts: dict[str, str], _row: Row, how: StoreFormat) -> tuple[str, ...]:
    texts["channel"], texts["payment_method"] = (
        how.spell("channel", "phone"),
        how.spell("payment_method", "cash"),
    )
    return ("cash_only_in_store",)


_SPOILS: tuple[Spoil, ...] = (
    _set("unit_price", "abc", "unit_price.type"),
    _set("unit_price", "", "unit_price.required"),
    _set("quantity", "1.5", "quantity.type"),
    _set("order_id", "", "order_id.required"),
    _set("order_id", "X-12", "order_id.pattern"),
    _set("store_id", "S00", "store_id.reference"),
    _set("status", "lost", "status.values"),
    _set("payment_method", "shells", "payment_method.values"),
    _set("customer_id", "K17", "customer_id.pattern"),
    _no_quantity,
    _odd_total,
    _too_generous,
    _negative_discount,
    _from_the_future,
    _updated_too_soon,
    _impossible_date,
    _cash_online,
)
