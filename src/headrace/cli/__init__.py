"""The command line: thin. Each command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import errno
import gc
import os
import sys
import warnings
from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
INCOMPLETE = 3
STOPPED = 4
UNBALANCED = 5
INTERRUPTED = 130

GARBAGE = 50_000
"""New objects between two looks for cycles among them: by default start-up alone has hundreds of looks."""

DISK = {
    errno.EACCES: "give this user the right to write there (chown, chmod), or name another place",
    errno.EPERM: "give this user the right to write there (chown, chmod), or name another place",
    errno.EROFS: "mount it for writing, or name another place; `status` and `query` only read",
    errno.ENOSPC: "make room there and run it again: nothing is lost",
    errno.EDQUOT: "make room within the quota and run it again: nothing is lost",
}
"""What to do about a file or folder that cannot be written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, which is 0 only if all it did holds (docs/cli.md)."""
    args = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(GARBAGE)
    debug = "--debug" in args or os.environ.get("HEADRACE_DEBUG") == "1"
    try:
        return _command(args, debug)
    except KeyboardInterrupt:
        return _interrupted()


def _command(args: list[str], debug: bool) -> int:
    from .. import redact
    from ..errors import HeadraceError
    from .app import app

    if not debug:  # people need no path of ours; where logs are configured, warnings go there
        warnings.formatwarning = lambda message, *_args, **_more: f"warning: {redact.text(str(message))}\n"
    try:
        app([arg for arg in args if arg != "--debug"], prog_name="headrace")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # Typer's, which says nothing
            return _interrupted()
        return stop.code if isinstance(stop.code, int) else FAILED if stop.code else OK
    except HeadraceError as error:
        if debug:
            raise
        print(f"error: {redact.text(str(error))}", file=sys.stderr)
        return exit_code(error)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in DISK and error.filename:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            print(f"hint: {DISK[error.errno]}", file=sys.stderr)
            return FAILED
        print(f"error: {type(error).__name__}: {redact.text(str(error))}", file=sys.stderr)
        print("hint: this is unexpected; run it again with --debug and report the traceback", file=sys.stderr)
        return FAILED
    return OK


def _interrupted() -> int:
    print("interrupted; run it again, it goes on where it was", file=sys.stderr)
    return INTERRUPTED


def exit_code(error: BaseException) -> int:
    """The exit code that says what kind of failure `error` is."""
    from ..errors import ConfigError, DataError, Unbalanced

    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, DataError):
        return STOPPED
    return UNBALANCED if isinstance(error, Unbalanced) else FAILED
