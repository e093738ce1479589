"""Logs: lines for people or JSON for machines, on stderr and in a file; no secret is ever in one.

Standard logging and warnings, ours and other people's, come out the same way. Only faces configure logs;
connectors raise and never log.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loguru import logger

from .. import redact
from ..errors import ConfigError

if TYPE_CHECKING:
    from loguru import Record

__all__ = ["configure", "logger"]

Form = Literal["human", "json"]
LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")

_handlers: list[int] = [0]
"""Loguru's numbers of the handlers that the next `configure` replaces; 0 is its own default."""


def configure(
    *,
    level: str | None = None,
    form: Form | None = None,
    file: Path | str | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """From now on, all logs of `level` or above come out in `form` on stderr and in `file`, without secrets.

    What is not given comes from HEADRACE_LOG_LEVEL (INFO), HEADRACE_LOG (`human` or `json`) and
    HEADRACE_LOG_FILE (none). A file is begun anew at 10 MB or so, and the last five are kept. May be called
    again; raises `ConfigError` for an unknown level or form.
    """
    redact.register(secrets)
    chosen = _one_of("HEADRACE_LOG_LEVEL", (level or _environ("LEVEL", "INFO")).upper(), LEVELS)
    shape = _one_of("HEADRACE_LOG", form or os.environ.get("HEADRACE_LOG") or "human", ("human", "json"))
    path = file or os.environ.get("HEADRACE_LOG_FILE")
    line = _json if shape == "json" else _human
    while _handlers:
        try:
            logger.remove(_handlers.pop())
        except ValueError:
            continue  # somebody else removed it
    colour = shape == "human" and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    safe: dict[str, Any] = {"level": chosen, "format": line, "backtrace": False, "diagnose": False}
    _handlers.append(logger.add(_stderr, colorize=colour, **safe))
    if path:
        try:
            _handlers.append(logger.add(path, rotation="10 MB", retention=5, encoding="utf-8", **safe))
        except OSError as error:
            raise ConfigError(f"log file `{path}`: {error.strerror}", hint="see HEADRACE_LOG_FILE") from error
    _catch_standard_logging(chosen)


class Standard(logging.Handler):
    """Hands a record of standard logging to Loguru, with the place that it came from."""

    def emit(self, record: logging.LogRecord) -> None:
        name = record.levelname if record.levelname in LEVELS else record.levelno

        def origin(target: Record) -> None:
            target["name"], target["function"] = record.name, record.funcName
            target["line"] = record.lineno

        logger.patch(origin).opt(exception=record.exc_info).log(name, "{}", record.getMessage())


def _catch_standard_logging(level: str) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Standard)]:
        root.removeHandler(handler)
    root.addHandler(Standard())
    root.setLevel(logger.level(level).no)
    logging.captureWarnings(True)


def _stderr(message: str) -> None:
    sys.stderr.write(message)  # looked up each time: it may have been redirected since


def _human(record: Record) -> str:
    extra = [f"{name}={redact.field(name, value)}" for name, value in _context(record)]
    record["extra"]["_line"] = "  ".join([redact.text(record["message"]), *extra]) + _exception(record, "\n")
    return "{time:HH:mm:ss} <level>{level: <8}</level> {extra[_line]}\n"


def _json(record: Record) -> str:
    fields: dict[str, Any] = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record["level"].name,
        "logger": record["name"],
        "message": redact.text(record["message"]),
        **{name: redact.field(name, value) for name, value in _context(record)},
    }
    if record["exception"]:
        fields["exception"] = _exception(record)
    record["extra"]["_line"] = json.dumps(fields, ensure_ascii=False, default=str)
    return "{extra[_line]}\n"


def _context(record: Record) -> list[tuple[str, object]]:
    return [(name, value) for name, value in record["extra"].items() if name != "_line"]


def _exception(record: Record, before: str = "") -> str:
    # Formatted here: Loguru's own formatting would add variables, and comes after the masking.
    found = record["exception"]
    if not found:
        return ""
    return before + redact.text("".join(traceback.format_exception(*found)).rstrip())


def _environ(name: str, default: str) -> str:
    return os.environ.get(f"HEADRACE_LOG_{name}") or default


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{what} is `{value}`", hint=f"one of {', '.join(known)}")
    return value
