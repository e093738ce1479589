"""The commands. Their docstrings are the help; each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import HeadraceError
from . import FAILED, INCOMPLETE, OK, STOPPED, UNBALANCED, USAGE, exit_code
from .diff import diff
from .fix import register
from .maintain import backup, forget, maintain, recover, restore
from .plan import plan
from .prove import prove
from .webhook import webhook

if TYPE_CHECKING:
    from ..run.report import RunReport
    from ..spec.project import Project

app = typer.Typer(
    help="Data pipelines with no row lost and a way to check it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 all holds, 1 failed, 2 usage or configuration, 3 incomplete, 4 stopped by data, "
    "5 unbalanced, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
quarantine = typer.Typer(
    help="Rows that broke a rule, with their raw text and reasons.", no_args_is_help=True
)
app.add_typer(quarantine, name="quarantine")


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


Where = Annotated[Path, typer.Option("--path", "-p", help="Pipeline file, or a folder with pipeline.yml.")]
Env = Annotated[str | None, typer.Option("--env", "-e", help="Environment overlay; default $HEADRACE_ENV.")]
As = Annotated[Format, typer.Option("--format", "-f", help="How rows are printed.")]
HERE = Path()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (also after the command).")] = False,
) -> None:
    """Data pipelines with no row lost and a way to check it."""
    del debug  # `main` takes it from anywhere in the line


@app.command()
def init(
    name: Annotated[str | None, typer.Argument(help="Folder to make; default: the file's name.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Propose a contract from this file, or URL of an API.")
    ] = None,
) -> None:
    """Make a project that runs at once.

    With --from, a contract is proposed from the data: types, keys, ranges, suspected personal data.
    """
    from .start import create

    for line in create(name, source):
        typer.echo(line)


@app.command()
def run(
    path: Annotated[Path, typer.Argument(help="Pipeline file, or a folder with pipeline.yml.")] = HERE,
    select: Annotated[
        list[str] | None, typer.Option("--select", "-s", help="Part of the graph: sales, +gold, orders+, s*.")
    ] = None,
    rebuild: Annotated[
        list[str] | None, typer.Option("--rebuild", help="Compute this table anew from bronze; repeatable.")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Make breaking changes of tables; see `headrace plan`.")
    ] = False,
    env: Env = None,
    as_json: Annotated[bool, typer.Option("--json", help="One machine-readable document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what went wrong.")] = False,
) -> None:
    """Land what is new, refine it, build gold.

    Prints one line per table that counts every row. The exit code is 0 only if every ledger balances.
    """
    import json

    try:
        project = _load(path, env)
        from .. import redact
        from ..observe import logs
        from ..run.runner import run as run_pipeline
        from .output import run_lines, where_to_look
        from .progress import progress

        logs.configure(level=os.environ.get("HEADRACE_LOG_LEVEL", "WARNING"), secrets=project.secrets)
        with progress(quiet=quiet or as_json) as listener:
            report = run_pipeline(
                project,
                select=tuple(select or ()),
                listener=listener,
                rebuild=tuple(rebuild or ()),
                accept_changes=accept_changes,
            )
    except HeadraceError as error:
        if as_json:
            typer.echo(json.dumps({"status": "failed", "error": str(error), "exit_code": exit_code(error)}))
        raise
    code = verdict(report)
    if as_json:
        typer.echo(json.dumps({**report.to_json(), "exit_code": code}, default=str))
    elif not quiet or code:
        for line in run_lines(report):
            typer.echo(redact.text(line), err=quiet)
        if not quiet and any(not table.noop for table in report.tables):
            typer.echo("")
            for line in where_to_look(report, Path.cwd()):
                typer.echo(line)
    raise typer.Exit(code)


def verdict(report: RunReport) -> int:
    """The exit code of a run: the worst thing that its report tells."""
    if any(item.error_type == "Unbalanced" for item in report.tables):
        return UNBALANCED
    if any(not item.ledger.balanced for item in report.tables):
        return UNBALANCED
    classes = {item.error_class for item in report.tables if item.error}
    if report.gold and report.gold.error:
        classes.add(report.gold.error_class)
    if "data" in classes:
        return STOPPED
    if "configuration" in classes:
        return USAGE
    if report.status == "success":
        return OK
    return INCOMPLETE if report.status == "incomplete" else FAILED


@app.command()
def status(path: Where = HERE, env: Env = None, format: As = Format.table, runs: int = 5) -> None:
    """Tables, their freshness, and the latest runs."""
    project = _load(path, env)
    from ..run.inspect import recent_runs, tables, targets
    from .output import FORMATS

    if format is Format.json:
        _status_json(project, runs)
        return
    columns, rows = tables(project)
    FORMATS[format](columns, rows)
    if format is Format.table:
        if project.config.targets:
            FORMATS[format](*targets(project))
        FORMATS[format](*recent_runs(project, runs))


@app.command()
def query(sql: str, path: Where = HERE, env: Env = None, format: As = Format.table) -> None:
    """Ask in SQL, read-only.

    Sees bronze.*, silver.*, quarantine.*, gold.* and runs. `-` reads the SQL from stdin.
    """
    from ..run.inspect import query as ask
    from .output import FORMATS

    columns, rows = ask(_load(path, env), sys.stdin.read() if sql == "-" else sql)
    FORMATS[format](columns, rows)


@quarantine.command("list")
def quarantine_list(path: Where = HERE, env: Env = None, format: As = Format.table) -> None:
    """Count them by table and rule."""
    from ..run.inspect import quarantine_rules
    from .output import FORMATS

    columns, rows = quarantine_rules(_load(path, env))
    rows = list(rows)
    FORMATS[format](columns, rows)
    if any(str(row[columns.index("rule")]).endswith(".unchanged") for row in rows):
        hint = "`ALTER TABLE … REPLICA IDENTITY FULL` at a PostgreSQL source makes changes tell old values"
        typer.echo(f"hint: {hint} (docs/changes.md)", err=True)


@quarantine.command("show")
def quarantine_show(
    table: Annotated[str, typer.Argument(help="The silver table whose bad rows to show.")],
    rule: Annotated[str | None, typer.Option("--rule", "-r", help="Only rows that broke this rule.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
    path: Where = HERE,
    env: Env = None,
    format: As = Format.table,
) -> None:
    """Show them with file, line and reasons.

    Personal data is masked.
    """
    from ..run.inspect import quarantine_rows
    from .output import FORMATS

    columns, rows = quarantine_rows(_load(path, env), table, limit, rule)
    FORMATS[format](columns, rows)


@app.command()
def doctor(
    path: Where = HERE,
    env: Env = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every hash in the lake.")] = False,
    drill: Annotated[
        Path | None, typer.Option("--drill", help="Recover this backup aside, and compare.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Fill a lost catalog from the lake.")] = False,
) -> None:
    """Check the installation and the project here.

    Only --rebuild changes anything, and only in the catalog.
    """
    from .doctor import examine, report

    if verify or drill or rebuild:
        from .maintain import examined

        findings = examined(path, env, drill=drill, rebuild=rebuild, verify=verify)
    else:
        findings = examine(path, env)
    typer.echo(report(findings, as_json=as_json))
    raise typer.Exit(FAILED if any(finding.level == "fail" for finding in findings) else OK)


# What is used daily comes first in `headrace --help`, in this order.
app.command()(plan)
app.command()(diff)
register(app, quarantine)
app.command()(maintain)
app.command()(restore)
app.command()(backup)
app.command()(recover)
app.command()(forget)
app.command()(prove)
app.command()(webhook)


@app.command()
def version() -> None:
    """Print the version."""
    from .. import __version__

    typer.echo(f"headrace {__version__}")


def _load(path: Path, env: str | None) -> Project:
    from ..spec.load import load

    return load(path, env)


def _status_json(project: Project, runs: int) -> None:
    import io
    import json

    from ..run.inspect import recent_runs, tables, targets
    from .output import as_json

    document = {}
    parts = {"tables": tables(project), "runs": recent_runs(project, runs)}
    if project.config.targets:
        parts["targets"] = targets(project)
    for name, (columns, rows) in parts.items():
        text = io.StringIO()
        as_json(columns, rows, text)
        document[name] = json.loads(text.getvalue())
    typer.echo(json.dumps(document))
