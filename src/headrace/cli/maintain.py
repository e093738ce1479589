"""Commands that look after a lake: maintain, restore, backup, recover; one line for each thing done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from . import INCOMPLETE

if TYPE_CHECKING:
    from ..run.report import Step
    from ..run.verify import Verdict
    from .doctor import Finding

Where = Annotated[Path, typer.Option("--path", "-p", help="Pipeline file, or a folder with pipeline.yml.")]
Env = Annotated[str | None, typer.Option("--env", "-e", help="Environment overlay; default $HEADRACE_ENV.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
HERE = Path()


def maintain(path: Where = HERE, env: Env = None, dry_run: Dry = False) -> None:
    """Compact, vacuum and sweep the lake, apply retention; safe beside a running pipeline.

    What cannot be done now is told and left for the next time.
    """
    from ..run.maintain import maintain as steps
    from ..spec.load import load

    _tell(steps(load(path, env), dry_run=dry_run), "nothing to do")


def restore(
    table: Annotated[str, typer.Argument(help="The silver table, with its quarantine and history.")],
    to_epoch: Annotated[int | None, typer.Option("--to-epoch", help="As it was after this epoch.")] = None,
    to_version: Annotated[
        int | None, typer.Option("--to-version", help="As silver was at this Delta version.")
    ] = None,
    to_time: Annotated[
        str | None, typer.Option("--to-time", help="As it was then, such as 2026-11-20T18:00:00Z.")
    ] = None,
    from_records: Annotated[
        bool, typer.Option("--from-records", help="As the last run left it, whatever others did since.")
    ] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Runs leave it there until --release.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Ends a hold; the next run goes on.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the lake's records.")] = "",
    path: Where = HERE,
    env: Env = None,
) -> None:
    """Make a table what it was; the next run replays what came later.

    With --hold, runs leave it as it is and say so, until --release.
    """
    from ..run.restore import Point, let_go
    from ..run.restore import restore as back
    from ..spec.load import load

    chosen = [to_epoch is not None, to_version is not None, to_time is not None, from_records, release]
    if sum(chosen) != 1:
        hint = "--to-epoch, --to-version, --to-time, --from-records or --release"
        raise ConfigError("restore needs one of its ways to say what to do", hint=hint)
    project = load(path, env)
    if release:
        free = let_go(project, table)
        typer.echo(f"{table}: {'released; the next run goes on' if free else 'nothing held it'}")
        return
    point = Point(to_epoch, to_version, to_time)
    _tell([back(project, table, point, hold=hold, reason=reason)], "")


def backup(
    to: Annotated[Path, typer.Argument(help="Where backups are kept; each adds only what is new.")],
    path: Where = HERE,
    env: Env = None,
) -> None:
    """Copy the lake and its catalog, beside a running pipeline.

    `recover` has any moment since the first backup; gold is built anew.
    """
    from ..run.backup import backup as copy
    from ..spec.load import load

    _tell([copy(load(path, env), to)], "")


def recover(
    folder: Annotated[Path, typer.Argument(help="Where the backups are.")],
    into: Annotated[Path, typer.Argument(help="The new lake; must be empty or not there.")],
    to_time: Annotated[
        str | None, typer.Option("--to-time", help="As it was then; default: at the last backup.")
    ] = None,
) -> None:
    """Make a lake from its backups, as it was at any moment since the first.

    Every file is checked against its hash; the lake appears whole or not at all.
    """
    from ..run.recover import recover as back

    _tell([back(folder, into, to_time)], "")


def forget(
    subject: Annotated[str, typer.Argument(help="COLUMN=VALUE, such as customer_email=ann@example.org.")],
    table: Annotated[str | None, typer.Option("--table", help="Only through this table's column.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the lake's records.")] = "",
    path: Where = HERE,
    env: Env = None,
    dry_run: Dry = False,
) -> None:
    """Erase one subject from bronze, tables, their old versions and gold.

    Tables are computed anew. The next backup erases from the backups in its folder, too.
    """
    from ..run.forget import forget as erase
    from ..spec.load import load

    column, equals, value = subject.partition("=")
    if not equals:
        raise ConfigError(f"`{subject}` is not COLUMN=VALUE", hint="such as customer_email=ann@example.org")
    steps = erase(load(path, env), column.strip(), value, table=table, reason=reason, dry_run=dry_run)
    if _tell(steps, ""):
        raise typer.Exit(INCOMPLETE)


def examined(
    path: Path, env: str | None, *, verify: bool, drill: Path | None, rebuild: bool
) -> list[Finding]:
    """What the long checks of `doctor` find."""
    from ..run.opened import open_catalog, open_storage
    from ..run.recover import drill as rehearse
    from ..run.remember import remember
    from ..run.verify import verify as check
    from ..spec.load import load
    from .doctor import Finding

    project = load(path, env)
    storage = open_storage(project)
    findings = []
    if rebuild:
        with open_catalog(project) as catalog:
            count = remember(project, storage, catalog)
        findings.append(Finding("catalog", "ok", f"{count} runs filled in from the lake"))
    if verify:
        findings += [_finding(item) for item in check(storage)]
    if drill:
        findings += [_finding(item) for item in rehearse(project, drill)]
    return findings


def _finding(verdict: Verdict) -> Finding:
    from .doctor import Finding

    if not verdict.faults:
        return Finding(verdict.what, "ok", verdict.told)
    more = f" (and {len(verdict.faults) - 1} more)" if len(verdict.faults) > 1 else ""
    first, *rest = verdict.faults[0].splitlines()
    hint = "\n".join(rest).removeprefix("hint: ") or "restore it from a backup: `headrace recover`"
    return Finding(verdict.what, "fail", first + more, hint)


def _tell(steps: Iterable[Step], otherwise: str) -> int:
    """Prints each step as it is done; how many could not be."""
    told = skipped = 0
    for step in steps:
        typer.echo(str(step))
        told += 1
        skipped += step.skipped
    if not told:
        typer.echo(otherwise)
    return skipped
