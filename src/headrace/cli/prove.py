"""`headrace prove`: hurts a copy of the pipeline in every way; the exit code is 0 only if it recovers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from . import FAILED, OK


def prove(
    path: Annotated[Path, typer.Argument(help="Pipeline file, or a folder with pipeline.yml.")] = Path(),
    kills: Annotated[int | None, typer.Option("--kills", min=0, help="Random kills (100; quick: 8).")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeats a proof; default: a new one.")] = None,
    report: Annotated[Path, typer.Option("--report", help="Where the report goes, as .md and .json.")] = Path(
        "proof.md"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer trials of every kind.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="A kind of trial, such as `kill`; repeatable.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="Only at this failpoint, such as sink.commit; repeatable."),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Stop at the first trial that does not hold.")
    ] = False,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", help="Where copies are made; default: a temporary folder.")
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", "-e", help="Environment overlay; default $HEADRACE_ENV.")
    ] = None,
) -> None:
    """Kill, pause, starve and double this pipeline on a copy of its data, and compare every table.

    Your lake, data and systems are not touched. The exit code is 0 only if every trial held.
    """
    from ..spec.load import load
    from ..testing.mutant import VARIABLE
    from ..testing.prove.proof import Wish, command_of, verdict_lines, write
    from ..testing.prove.proof import prove as run

    mutants = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    number = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    wish = Wish(number, kills, quick, tuple(only or ()), mutants, tuple(at or ()), first)
    project = load(path, env)
    # paused runs would stay for ever if nobody ended them
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="headrace-prove-", dir=scratch))
    try:
        proof = run(project, folder, wish, lambda line: typer.echo(line, err=True), command_of(path, wish))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    page, data = write(proof, report)
    for line in [*verdict_lines(proof), f"report      {page}, {data}", f"repeat      {proof.command}"]:
        typer.echo(line)
    raise typer.Exit(OK if proof.holds else FAILED)
