"""What headers and texts say by their form: names, identifiers, codes, personal data, missing values."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

NULL_WORDS = (
    *("N/A", "n/a", "NA", "#N/A", "NULL", "Null", "null", "None", "none", "NONE", "NaN", "nan", "nil"),
    *("-", "--", "?", "\\N", "empty", "Empty", "EMPTY", "missing", "Missing", "unknown", "Unknown", "TBD"),
)
"""Texts that people and programs write for "no value"."""


RESERVED = frozenset(("rowid", "file_index", "file_row_number"))
"""What the engine calls the place of a row: no column of a table can have these names."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CODES = _words(
    "zip zipcode postal postcode plz phone mobile fax tel telephone ean upc gtin isbn issn sku iban"
    " bic swift account card ssn code codes vat taxid barcode serial"
)
_IDS = _words("id ids no nr num number key code uuid guid sku ref reference")
_COUNTERS = _words("index idx row rownum line lineno position seq unnamed")
_POSITIVE = _words(
    "price quantity qty count age weight length width height size ounces year month week day"
    " hours minutes seconds duration distance percent pct rate tax"
)
_MONEY = _words("price amount total cost value sales revenue discount disc tax fee net gross balance salary")
_CHANGED = _words(
    "updated_at modified_at changed_at last_updated last_modified update_time updated_on modified_date"
    " updated modified last_update change_date version"
)
_PERSONS = _words(
    "customer contact person patient employee user client buyer seller cardholder holder member"
)
_NAMES = _words("firstname lastname surname fullname forename givenname familyname maidenname")

_PII_TOKENS = {
    "email": "email",
    "mail": "email",
    "phone": "phone",
    "mobile": "phone",
    "fax": "phone",
    "telephone": "phone",
    "tel": "phone",
    "ssn": "national_id",
    "passport": "national_id",
    "iban": "iban",
    "dob": "birth_date",
    "birthdate": "birth_date",
    "birthday": "birth_date",
    "street": "address",
    "address": "address",
    "addr": "address",
    "ip": "ip",
}


def column_name(header: str) -> str:
    """`header` as a column name: snake_case, letters, digits and _, starting with a letter.

    >>> [column_name(h) for h in ("InvoiceNo", "CustomerID", "Unit Price (€)", "Größe", "2nd", "?")]
    ['invoice_no', 'customer_id', 'unit_price', 'grosse', 'c_2nd', 'c']
    """
    plain = unicodedata.normalize("NFKD", header.replace("ß", "ss")).encode("ascii", "ignore").decode()
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain)
    name = re.sub(r"[^A-Za-z0-9]+", "_", split).strip("_").lower()
    return name if name[:1].isalpha() else f"c_{name}".rstrip("_")


def column_names(headers: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """A different column name for each header, in order, and none of `taken` (whatever its case).

    >>> column_names(["Name", "name ", "NAME"], taken=["name_2"])
    ['name', 'name_3', 'name_4']
    >>> column_names(["RowID", "rowid"])
    ['row_id', 'rowid_2']
    """
    used = {*RESERVED, *(name.lower() for name in taken)}
    names: list[str] = []
    for header in headers:
        base = name = column_name(header)
        place = 2
        while name in used:
            name, place = f"{base}_{place}", place + 1
        used.add(name)
        names.append(name)
    return names


def _tokens(name: str) -> set[str]:
    return set(name.split("_"))


def is_code(name: str) -> bool:
    """Numbers in such a column are names, not amounts: they stay text."""
    return bool(_tokens(name) & _CODES)


def key_rank(name: str, table: str) -> int | None:
    """How likely `name` identifies a row of `table`: less is likelier; None for columns that do not.

    Counters are none: they start anew in every file.
    """
    tokens = name.split("_")
    if set(tokens) & _COUNTERS:
        return None
    if name in ("id", "uuid", "guid"):
        return 0
    if tokens[-1] in ("id", "uuid", "guid"):
        return 1 if tokens[0].rstrip("s") == table.split("_")[-1].rstrip("s") else 2
    return 3 if tokens[-1] in _IDS else None


def is_amount(name: str) -> bool:
    """Values of such a column have decimals, even if those seen so far are whole."""
    return bool(_tokens(name) & _MONEY)


def is_never_negative(name: str) -> bool:
    return bool(_tokens(name) & _POSITIVE)


def says_date(name: str) -> bool:
    return bool(_tokens(name) & {"date", "day", "dt", "datum", "on", "at", "dob", "time", "timestamp"})


def tells_version(name: str) -> bool:
    """Whether the column says which of two versions of a row is newer."""
    return name in _CHANGED or name.endswith(("_updated_at", "_modified_at", "_changed_at"))


def personal(name: str) -> str | None:
    """The kind of personal data that a column of this name probably holds.

    >>> [personal(n) for n in ("customer_email", "ip_address", "last_name", "product_name", "address_1")]
    ['email', 'ip', 'name', None, 'address']
    """
    tokens = name.split("_")
    if "id" in tokens and "national" not in tokens:
        return None
    for token in ("email", "mail", "ip"):
        if token in tokens:
            return _PII_TOKENS[token]
    for token in tokens:
        if token in _PII_TOKENS:
            return _PII_TOKENS[token]
    joined = "".join(tokens)
    if any(word in joined for word in _NAMES) or (tokens[-1] == "name" and set(tokens) & _PERSONS):
        return "name"
    if "birth" in tokens:
        return "birth_date"
    if "card" in tokens and tokens[-1] in ("number", "no", "card"):
        return "card"
    return None


_LOOKS = {
    "email": re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"),
    "phone": re.compile(r"\+[0-9][0-9 ()./-]{6,18}|\(?[0-9]{2,5}\)?[ ./-][0-9][0-9 ./-]{4,12}[0-9]"),
    "iban": re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9 ]{11,34}"),
    "card": re.compile(r"[0-9](?:[ -]?[0-9]){12,18}"),
    "ip": re.compile(
        r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}"
    ),
    "uuid": re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"),
    "json": re.compile(r"\{.*\}|\[.*\]", re.DOTALL),
}


def look(text: str) -> str | None:
    """What a text looks like: email, phone, iban, card, ip, uuid or json.

    >>> [look(t) for t in ("a@b.org", "4111 1111 1111 1111", "4111 1111 1111 1112", "10.0.0.1", "2026-01-31")]
    ['email', 'card', None, 'ip', None]
    """
    for kind, pattern in _LOOKS.items():
        if pattern.fullmatch(text) and _is_real(kind, text):
            return kind
    return None


def _is_real(kind: str, text: str) -> bool:
    if kind == "phone":
        return (
            not re.match(r"\d{1,4}[./-]\d{1,2}[./-]\d{2,4}", text) and 7 <= sum(map(str.isdigit, text)) <= 15
        )
    if kind == "iban":
        moved = text.replace(" ", "")
        return int("".join(str(int(c, 36)) for c in moved[4:] + moved[:4])) % 97 == 1
    if kind == "card":
        digits = [int(c) for c in text if c.isdigit()][::-1]
        return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * d, 10)) for d in digits[1::2]) % 10
    return True
