"""The three ways in which the generated stores write their sales: two CSV dialects and nested JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

Row = dict[str, Any]
"""One order in the canonical fields, typed: str, int, Decimal, datetime (UTC, naive) or None."""

_SPELLINGS = (
    # canonical, header of the plain CSV, header of the German CSV, path in the JSON
    ("order_id", "order_id", "Bestellnummer", "order.id"),
    ("order_ts", "order_ts", "Bestellt am", "order.placed_at"),
    ("updated_at", "updated_at", "Geändert am", "order.updated_at"),
    ("store_id", "store_id", "Filiale", "store.id"),
    ("store_name", "store_name", "Filialname", "store.name"),
    ("store_region", "region", "Region", "store.region"),
    ("channel", "channel", "Kanal", "order.channel"),
    ("customer_id", "customer_id", "Kundennummer", "customer.id"),
    ("customer_name", "customer_name", "Kunde", "customer.name"),
    ("customer_email", "email", "E-Mail", "customer.email"),
    ("customer_phone", "phone", "Telefon", "customer.phone"),
    ("customer_city", "city", "Ort", "customer.city"),
    ("customer_segment", "segment", "Kundengruppe", "customer.segment"),
    ("product_id", "product_id", "Artikelnummer", "product.id"),
    ("product_name", "product_name", "Artikel", "product.name"),
    ("product_category", "category", "Warengruppe", "product.category"),
    ("unit_price", "unit_price", "Einzelpreis", "product.unit_price"),
    ("quantity", "quantity", "Menge", "order.quantity"),
    ("discount", "discount", "Rabatt", "order.discount"),
    ("total_amount", "total", "Gesamtbetrag", "order.total"),
    ("currency", "currency", "Währung", "order.currency"),
    ("payment_method", "payment_type", "Zahlungsart", "payment.method"),
    ("status", "status", "Bestellstatus", "order.status"),
)
FIELDS, _PLAIN_HEADER, _GERMAN_HEADER, _JSON_PATHS = zip(*_SPELLINGS, strict=True)
"""The canonical schema without `order_date` (the contract derives it from `order_ts`), and its spellings."""

_GERMAN_WORDS: Mapping[str, Mapping[str, str]] = {
    "store_region": {"South": "Süd", "North": "Nord", "East": "Ost", "West": "West"},
    "channel": {"store": "Filiale", "online": "Webshop", "phone": "Telefon"},
    "customer_segment": {"consumer": "Privat", "business": "Gewerbe", "vip": "Stammkunde"},
    "product_category": {
        "Beverages": "Getränke",
        "Kitchen": "Küche",
        "Sweets": "Süßwaren",
        "Office": "Büro",
        "Garden": "Garten",
    },
    "currency": {"EUR": "Euro"},
    "payment_method": {"cash": "Bar", "card": "Karte", "invoice": "Rechnung", "paypal": "PayPal"},
    "status": {
        "completed": "abgeschlossen",
        "shipped": "versendet",
        "cancelled": "storniert",
        "returned": "retourniert",
        "test": "test",
    },
}

_NUMBERS = {"unit_price", "quantity", "discount", "total_amount"}
_CET = timezone(timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class StoreFormat:
    """How one kind of store writes: `texts` spells the values, `line` joins them into a record."""

    folder: str
    suffix: str
    encoding: str
    header: str
    """The header line, or empty."""
    spell: Callable[[str, Any], str]
    join: Callable[[Mapping[str, str]], str]
    delimiter: str

    def texts(self, row: Row) -> dict[str, str]:
        """Each canonical field as this store spells it; missing values are empty."""
        return {name: "" if row[name] is None else self.spell(name, row[name]) for name in FIELDS}

    def line(self, texts: Mapping[str, str]) -> str:
        """The record without its line end."""
        return self.join(texts)


def _quoted(value: str, delimiter: str) -> str:
    if delimiter in value or '"' in value or "\n" in value:
        return '"' + value.replace('"', '""') + '"'
    return value


def _iso(_name: str, value: Any) -> str:
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)


def _iso_with_sign(name: str, value: Any) -> str:
    return f"€{value}" if name == "unit_price" else _iso(name, value)


def _german(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%d.%m.%Y %H:%M:%S")
    if isinstance(value, Decimal):
        return f"{value:,.2f}".translate(str.maketrans(",.", ".,"))
    return _GERMAN_WORDS.get(name, {}).get(value, str(value))


def _nested(_name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).astimezone(_CET).isoformat()
    return str(value)


def _delimited(delimiter: str) -> Callable[[Mapping[str, str]], str]:
    def join(texts: Mapping[str, str]) -> str:
        return delimiter.join([_quoted(texts[name], delimiter) for name in FIELDS])

    return join


def _json_line(texts: Mapping[str, str]) -> str:
    tree: dict[str, list[str]] = {}
    for name, path in zip(FIELDS, _JSON_PATHS, strict=True):
        parent, _, leaf = path.partition(".")
        text = texts[name]
        if text == "":
            token = "null"
        elif name in _NUMBERS and text.replace(".", "", 1).removeprefix("-").isdigit():
            token = text
        else:
            token = json.dumps(text, ensure_ascii=False)
        tree.setdefault(parent, []).append(f'"{leaf}": {token}')
    return "{" + ", ".join(f'"{parent}": {{{", ".join(leaves)}}}' for parent, leaves in tree.items()) + "}"


_SHOPS = StoreFormat("shops", ".csv", "utf-8", ",".join(_PLAIN_HEADER), _iso, _delimited(","), ",")
_KIOSKS = StoreFormat(
    "shops", ".csv", "utf-8-sig", ",".join(_PLAIN_HEADER).upper(), _iso_with_sign, _delimited(","), ","
)
_FILIALEN = StoreFormat(
    "filialen", ".csv", "windows-1252", ";".join(_GERMAN_HEADER), _german, _delimited(";"), ";"
)
_ONLINE = StoreFormat("online", ".jsonl", "utf-8", "", _nested, _json_line, "")

FORMATS = (_SHOPS, _KIOSKS, _FILIALEN, _FILIALEN, _ONLINE)
"""Store n writes in format (n - 1) mod 5."""


def format_of(store: int) -> StoreFormat:
    """The format of the store with this number, counted from 0."""
    return FORMATS[store % len(FORMATS)]
