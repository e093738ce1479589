"""Encryption of single values: the same text gives the same cipher text, so that a replay changes nothing."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from ...errors import ConfigError, DataError, MissingExtra
from .frame import Session, ident

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    from .engine import DuckEngine

PORTION = 10_000


def sealer(secret: bytes | None) -> AESSIV:
    """AES-256 in SIV mode under a key of 64 bytes derived from `secret` (used as it is if it has 64)."""
    if not secret:
        raise ConfigError("a column is masked by encrypt, but there is no key", hint="set `pii_key`")
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV
    except ImportError as error:
        raise MissingExtra(
            "`mask: encrypt` needs the package `cryptography`", hint="pip install 'headrace[crypto]'"
        ) from error
    return AESSIV(secret if len(secret) == 64 else hashlib.sha512(b"headrace pii\0" + secret).digest())


def encrypt(cipher: AESSIV, column: str, value: str) -> str:
    """Base64 of the value sealed for `column`; equal values of one column look equal, of two columns not."""
    return base64.b64encode(cipher.encrypt(value.encode(), [column.encode()])).decode()


def decrypt(secret: bytes, column: str, value: str) -> str:
    """The clear text of what `mask: encrypt` stored; raises DataError if the key or column is wrong."""
    from cryptography.exceptions import InvalidTag

    try:
        return sealer(secret).decrypt(base64.b64decode(value), [column.encode()]).decode()
    except (InvalidTag, ValueError) as error:
        raise DataError(
            f"column `{column}`: the value cannot be decrypted", hint="use the `pii_key` it was stored under"
        ) from error


def encrypt_into(session: Session, values: str, column: str, engine: DuckEngine) -> None:
    """Makes table `cipher_<column>` (plain, cipher) of the distinct values of the query `values`."""
    con, table = session.con, ident("cipher_" + column)
    cipher = sealer(engine.pii_key)
    con.execute(
        f"CREATE TEMP TABLE plain_values AS SELECT DISTINCT v FROM ({values}) q(v) WHERE v IS NOT NULL"
    )
    con.execute(f"CREATE TEMP TABLE {table} (plain VARCHAR, cipher VARCHAR)")
    start = 0
    while rows := con.execute(
        f"SELECT v FROM plain_values WHERE rowid >= {start} AND rowid < {start + PORTION}"
    ).fetchall():
        plain = [row[0] for row in rows]
        con.execute(
            f"INSERT INTO {table} SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
            [plain, [encrypt(cipher, column, value) for value in plain]],
        )
        start += PORTION
    con.execute("DROP TABLE plain_values")
