"""Connections to MongoDB: verified TLS, bounded waits, and the driver's errors by what to do about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from bson import Timestamp
from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from ..drivers.hosts import local
from ..errors import ConfigError, Gap, HeadraceError, SystemFault, TransientError
from .mongo_json import RAW

ACCESS = (13, 18, 8000)
LOST = (136, 280, 286)
"""Capped position lost, fatal for a change stream, change stream history lost."""
ALONE = (40573, 20)
"""Change streams are for replica sets; a command that a standalone server does not take."""
TOO_LARGE = 10334
PASSING = (6, 7, 24, 43, 50, 63, 89, 91, 112, 133, 150, 175, 189, 202, 234, 237, 246, 251, 262, 290, 9001)
PASSING_TOO = (10107, 11600, 11602, 13388, 13435, 13436)
UNVERIFIED = ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "Hostname mismatch")

RIGHTS = (
    "correct user and password in `dsn`, or grant it the role `read` on the database (find, listCollections, "
    "changeStream): db.grantRolesToUser(user, [{role: 'read', db: database}])"
)

Raw = Any
"""A document or database whose values are bytes until somebody looks."""


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    uuid: str
    """Hexadecimal; a collection that is dropped and made again has another one. Empty for a view."""
    kind: str
    images: bool
    """Whether the server keeps documents as they were before and after each change."""


@dataclass(slots=True)
class Server:
    """How to reach one database, as `mongodb://user:password@host1,host2/database?replicaSet=…`."""

    dsn: str = field(repr=False)
    name: str
    """Of the source, for messages."""
    timeout: float = 60.0
    database: str = ""
    tls: bool | None = None
    """True where the DSN says nothing and bytes leave this machine."""

    def __post_init__(self) -> None:
        hint = "such as ${MONGO_DSN} with MONGO_DSN=mongodb://user:password@host:27017/database"
        if not self.dsn.startswith(("mongodb://", "mongodb+srv://")):
            raise ConfigError(f"source {self.name}: `dsn` is no URL of a MongoDB database", hint=hint)
        head, _, rest = self.dsn.partition("://")
        hosts, slash, tail = rest.rpartition("@")[2].partition("/")
        self.database = tail.partition("?")[0]
        if head == "mongodb":
            try:  # mongodb+srv is looked up, and has TLS, when the client is made
                found = parse_uri(self.dsn)
            except (PyMongoError, ValueError):
                # What the driver says may quote the user name.
                what = "correct the hosts, the options, and escape user and password as in a URL"
                raise ConfigError(f"source {self.name}: `dsn` cannot be read", hint=what) from None
            self.database = str(found["database"] or "")
            said = {key.lower() for key in found["options"]}
            near = all(local(host) for host, _ in found["nodelist"])
            self.tls = None if near or said & {"tls", "ssl"} else True
        if not slash or not hosts or not self.database:
            raise ConfigError(f"source {self.name}: `dsn` names no database", hint=hint)

    @contextmanager
    def connected(self) -> Iterator[MongoClient[Any]]:
        """A client that gives up where a server does not answer; closed with all its threads."""
        wait = int(self.timeout * 1000)
        with self.talking("connect"):
            secured: Any = {"tls": True} if self.tls else {}
            client: MongoClient[Any] = MongoClient(
                self.dsn,
                appname="headrace",
                serverSelectionTimeoutMS=wait,
                connectTimeoutMS=min(wait, 20_000),
                socketTimeoutMS=wait + 10_000,
                maxIdleTimeMS=300_000,
                **secured,
            )
        try:
            yield client
        finally:
            client.close()

    def raw(self, client: MongoClient[Any]) -> Database[Raw]:
        """The database as bytes: what the majority of the servers has, and no failover takes back."""
        return client.get_database(self.database, codec_options=RAW, read_concern=ReadConcern("majority"))

    def now(self, client: MongoClient[Any], session: ClientSession) -> Timestamp:
        """The operation up to which the server has come. Raises `ConfigError` where it counts none."""
        with self.talking("look where the server is"):
            client.admin.command("ping", session=session)
        time = session.operation_time
        if time is None:
            raise ConfigError(
                f"source {self.name}: changes need a replica set, and this server is none",
                hint="start mongod with --replSet and run rs.initiate() once (one server alone may be a "
                "replica set); or `mode: snapshot`",
            )
        return time

    def collections(self, client: MongoClient[Any], wanted: Sequence[str]) -> dict[str, Collection]:
        """The collections that `wanted` names or matches, by name. Raises `ConfigError` for one that is not
        there."""
        with self.talking("list the collections"):
            listed = list(client.get_database(self.database).list_collections())
        every = {each.name: each for each in map(_collection, listed) if not each.name.startswith("system.")}
        found: dict[str, Collection] = {}
        for pattern in wanted:
            some = [n for n in sorted(every) if n == pattern or ("*" in pattern and fnmatchcase(n, pattern))]
            if not some:
                there = ", ".join(list(every)[:12]) or "none"
                raise ConfigError(
                    f"source {self.name}: no collection `{pattern}` in {self.database}",
                    hint=f"there are {there}; correct `collections`, or look whether it was dropped",
                )
            found |= {name: every[name] for name in some}
        return found

    @contextmanager
    def talking(self, doing: str) -> Iterator[None]:
        """Errors of the driver within come out by class, with where and what."""
        try:
            yield
        except HeadraceError:
            raise
        except (PyMongoError, BSONError) as error:
            raise self.explain(error, doing) from None
        except OSError as error:
            raise TransientError(f"source {self.name}: {doing}: {error}") from None

    def explain(self, error: Exception, doing: str) -> HeadraceError:
        code = (error.code or 0) if isinstance(error, OperationFailure) else 0
        said = str(error).partition(", full error:")[0].partition(" (configured timeouts:")[0]
        message = f"source {self.name}: {doing}: {said[:500]}" + (f" ({code})" if code else "")
        if code in LOST:
            return Gap(message, hint=self.again())
        if code in ACCESS:
            return ConfigError(message, hint=RIGHTS)
        if code in ALONE:
            return ConfigError(message, hint="changes need a replica set: mongod --replSet, rs.initiate()")
        if code == TOO_LARGE:
            return ConfigError(
                message,
                hint="a change with its documents is over 16 MB: set `images: false`, or raise `restart`",
            )
        if isinstance(error, ServerSelectionTimeoutError) and any(sign in said for sign in UNVERIFIED):
            return ConfigError(message, hint="its certificate is not trusted: add ?tlsCAFile=… to `dsn`")
        if isinstance(error, ConfigurationError):
            return ConfigError(message, hint="correct the options in `dsn`")
        passing = isinstance(error, ConnectionFailure | CursorNotFound) or code in (*PASSING, *PASSING_TOO)
        if passing or getattr(error, "timeout", False) or _labelled(error):
            return TransientError(message, hint="is the server up, and reachable from here?")
        return SystemFault(message)

    def again(self) -> str:
        return (
            "what was changed since is not known any more: raise `restart` of this source by one to read "
            "every collection again, and let the oplog reach back further than the longest pause "
            "(replSetResizeOplog, minRetentionHours)"
        )


def _labelled(error: Exception) -> bool:
    return isinstance(error, PyMongoError) and any(
        error.has_error_label(label) for label in ("RetryableError", "ResumableChangeStreamError")
    )


def _collection(listed: Mapping[str, Any]) -> Collection:
    uuid = listed.get("info", {}).get("uuid")
    options = listed.get("options") or {}
    kept = bool((options.get("changeStreamPreAndPostImages") or {}).get("enabled"))
    return Collection(
        str(listed["name"]), bytes(uuid).hex() if uuid else "", str(listed.get("type", "collection")), kept
    )


def stamp(time: Timestamp) -> str:
    """Fixed width, so that the order of texts is the order of times.

    >>> stamp(Timestamp(1700000000, 5))
    '6553F10000000005'
    """
    return f"{time.time:08X}{time.inc:08X}"


def unstamp(text: str) -> Timestamp:
    """
    >>> unstamp("6553F10000000005")
    Timestamp(1700000000, 5)
    """
    return Timestamp(int(text[:8], 16), int(text[8:], 16))
