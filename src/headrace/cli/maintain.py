"""Commands that look after a lake: maintain, restore. They print one line for each thing they did."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..run.report import Step

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


def _tell(steps: Iterable[Step], otherwise: str) -> None:
    told = False
    for step in steps:
        typer.echo(str(step))
        told = True
    if not told:
        typer.echo(otherwise)
