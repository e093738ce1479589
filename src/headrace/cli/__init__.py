"""The command line: thin. Each command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
INCOMPLETE = 3
STOPPED = 4
UNBALANCED = 5
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, which is 0 only if all it did holds (docs/cli.md)."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args or os.environ.get("HEADRACE_DEBUG") == "1"
    from .. import redact
    from ..errors import HeadraceError
    from .app import app

    try:
        app([arg for arg in args if arg != "--debug"], prog_name="headrace")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED if stop.code else OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except HeadraceError as error:
        if debug:
            raise
        print(f"error: {redact.text(str(error))}", file=sys.stderr)
        return exit_code(error)
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {redact.text(str(error))}", file=sys.stderr)
        print("hint: this is unexpected; run it again with --debug and report the traceback", file=sys.stderr)
        return FAILED
    return OK


def exit_code(error: BaseException) -> int:
    """The exit code that says what kind of failure `error` is."""
    from ..errors import ConfigError, DataError, Unbalanced

    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, DataError):
        return STOPPED
    return UNBALANCED if isinstance(error, Unbalanced) else FAILED
