"""`headrace quarantine fix | replay | fixes | export`, and `headrace backfill`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..run.corrections import Correction
    from ..spec.project import Project

Table = Annotated[str, typer.Argument(help="The silver table.")]
Rule = Annotated[str | None, typer.Option("--rule", "-r", help="Only rows that broke this rule.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the correction.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show personal data.")]
Where = Annotated[Path, typer.Option("--path", "-p", help="Pipeline file, or a folder with pipeline.yml.")]
Env = Annotated[str | None, typer.Option("--env", "-e", help="Environment overlay; default $HEADRACE_ENV.")]
HERE = Path()


def fix(
    table: Table,
    rule: Rule = None,
    where: Annotated[
        str | None, typer.Option("--where", "-w", help="Only rows for which this holds: SQL over the fields.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="`column = SQL over the fields`; repeatable.")
    ] = None,
    sql: Annotated[str | None, typer.Option("--sql", help="`set column = …, … where …` in one.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="An edited `headrace quarantine export`.")
    ] = None,
    reason: Reason = "",
    dry_run: Dry = False,
    reveal: Reveal = False,
    path: Where = HERE,
    env: Env = None,
) -> None:
    """Correct them; the next run puts them through the same rules.

    Fields are texts, as they came. The same correction twice changes nothing.
    """
    from ..run import corrections

    project = _load(path, env)
    if file is not None:
        if rule or where or sets or sql:
            raise ConfigError("an edited file says all", hint="leave out --rule, --where, --set and --sql")
        from .start import inspected

        if not file.is_file():
            raise ConfigError(f"`{file}` is no file", hint=f"headrace quarantine export {table} --out {file}")
        edits = inspected("edits", file)
        done = corrections.fix_from(project, table, file, edits, reason=reason, dry_run=dry_run)
    else:
        done = corrections.fix(
            project,
            table,
            rule=rule,
            where=where,
            sets=sets or (),
            statement=sql,
            reason=reason,
            dry_run=dry_run,
        )
    _tell(project, done, dry_run, reveal, rule)


def replay(
    table: Table,
    rule: Rule = None,
    reason: Reason = "",
    dry_run: Dry = False,
    path: Where = HERE,
    env: Env = None,
) -> None:
    """Put them through the rules again, as they are.

    For verdicts that depend on more than the row, such as a reference that has arrived since.
    """
    from ..run.corrections import replay as again

    project = _load(path, env)
    _tell(project, again(project, table, rule=rule, reason=reason, dry_run=dry_run), dry_run, False, rule)


def fixes(table: Table, path: Where = HERE, env: Env = None) -> None:
    """List corrections: who, when, why, and how many of their rows still apply."""
    from ..run.corrections import fixes as listed
    from .output import FORMATS

    FORMATS["table"](*listed(_load(path, env), table))


def export(
    table: Table,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .csv file to edit, or .jsonl.")],
    rule: Rule = None,
    reveal: Reveal = False,
    path: Where = HERE,
    env: Env = None,
) -> None:
    """Write them to a file; edited, it goes into `fix --file`.

    Personal data is masked; values that still show the mask are left alone.
    """
    from ..run.corrections import export as write

    rows = write(_load(path, env), table, out, rule=rule, reveal=reveal)
    typer.echo(f"{rows:,} rows in {out}; edit fields, then: headrace quarantine fix {table} --file {out}")


def _tell(project: Project, done: Correction, dry_run: bool, reveal: bool, rule: str | None) -> None:
    for line in _lines(project, done, dry_run, reveal, rule):
        typer.echo(line)
    if done.sample and dry_run:
        from .output import FORMATS

        FORMATS["table"](("file", "line", "field", "before", "after"), _changes(project, done, reveal))


def _lines(project: Project, done: Correction, dry_run: bool, reveal: bool, rule: str | None) -> list[str]:
    del project, reveal
    if not done.chosen:
        about = f" break {rule}" if rule else ""
        return [f"{done.table}  0 rows in quarantine{about}: nothing to correct"]
    verb = "would go" if dry_run else "go"
    lines = []
    if done.rows:
        good = done.rows - done.bad
        number = f" as correction {done.number}" if done.number is not None else ""
        lines.append(
            f"{done.table}  {done.rows:,} of {done.chosen:,} rows {verb} through the rules again{number}"
        )
        lines.append(f"{good:,} pass; {done.bad:,} stay in quarantine" + _still(done))
    if done.same:
        lines.append(
            f"{done.same:,} rows are left alone: nothing changes, or the same correction landed before"
        )
    if done.unparsed:
        lines.append(
            f"{done.unparsed:,} records have no fields to set: "
            f"`headrace quarantine export {done.table} --out bad.csv`, edit, `fix --file bad.csv`"
        )
    if done.number is not None:
        lines.append("`headrace run` applies it")
    return lines


def _still(done: Correction) -> str:
    told = ", ".join(f"{rule} {rows:,}" for rule, rows in sorted(done.still.items()))
    return f": {told}" if told else ""


def _changes(project: Project, done: Correction, reveal: bool) -> list[Sequence[Any]]:
    columns = project.config.tables[done.table].contract.columns
    private = {name for name, column in columns.items() if column.pii and not reveal}
    return [
        (row.file, row.line, name, *("***" if name in private and v else v for v in (row.before[name], new)))
        for row in done.sample
        for name, new in row.after.items()
    ]


def backfill(
    table: Table,
    files: Annotated[
        str | None, typer.Option("--files", help="Only files whose name matches this glob.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="Only what arrived from then on (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only what arrived before then (UTC).")] = None,
    portion: Annotated[
        int, typer.Option("--portion", min=1, help="Megabytes of bronze in one epoch.")
    ] = 1024,
    again: Annotated[
        bool, typer.Option("--again", help="Also what is refined: rows merge by their keys.")
    ] = False,
    dry_run: Dry = False,
    path: Where = HERE,
    env: Env = None,
) -> None:
    """Refine what landed before the table began (`start: now`), in portions; killed, it goes on where it was.

    With --again, a window of files or time once more. A run may come between two portions.
    """
    from ..run.backfill import backfill as portions
    from .output import run_lines

    for window, report in portions(
        _load(path, env),
        table,
        files=files,
        since=since,
        until=until,
        portion=portion << 20,
        again=again,
        dry_run=dry_run,
    ):
        for line in [str(window)] if report is None else run_lines(report):
            typer.echo(line)


def register(app: typer.Typer, quarantine: typer.Typer) -> None:
    """Adds the commands to theirs."""
    for command in (fix, replay, fixes, export):
        quarantine.command()(command)
    app.command()(backfill)


def _load(path: Path, env: str | None) -> Project:
    from ..spec.load import load

    return load(path, env)
