"""Headrace beside its peers, in one run on one machine: wall and CPU seconds, peak memory, and ratios.

    python bench/compare.py dirty --rows 5000000 --peers .venv-bench/bin/python
    python bench/compare.py retail --input online_retail.csv --peers .venv-bench/bin/python
    python bench/compare.py daily --input by-day/

Contenders take turns (A B C, A B C …), so that a drift of the machine's speed falls on all; the table shows
medians. On a machine that others use, too, the ratio of CPU seconds says more than that of wall time.
`--peers` names a Python that has dlt, pandas, polars and pyspark (bench/requirements.txt), `--jars` a folder
with Delta for Spark (bench/pom.xml): without it PySpark writes plain Parquet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"


@dataclass(frozen=True)
class Contender:
    name: str
    command: list[str]
    project: Path | None = None
    """A Headrace project that is copied into the scratch folder and run there."""


@dataclass(frozen=True)
class Measure:
    wall: float
    cpu: float
    peak: float
    """Of the largest process, MB."""
    code: int


def measure(contender: Contender, source: Path, scratch: Path) -> Measure:
    """One run in an empty folder, page cache warm."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    command = [part.replace("{in}", str(source)).replace("{out}", str(folder)) for part in contender.command]
    if contender.project:
        shutil.copytree(contender.project, folder, dirs_exist_ok=True)
    env = {**os.environ, "BENCH_INPUT": str(source), "ONLINE_RETAIL": str(source)}
    log = scratch / f"{contender.name.split()[0]}.log"
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    shutil.rmtree(folder, ignore_errors=True)  # a JVM may still be tidying up
    if process.returncode:
        print(f"{contender.name} failed ({process.returncode}):\n{log.read_text()[-800:]}", file=sys.stderr)
    return Measure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode)


def compare(contenders: list[Contender], source: Path, runs: int) -> None:
    """Prints a Markdown table; the first contender is the limit that all are compared with."""
    found: dict[str, list[Measure]] = {contender.name: [] for contender in contenders}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        for _ in range(runs):
            for contender in contenders:
                found[contender.name].append(measure(contender, source, Path(scratch)))
    first = found[contenders[0].name]
    limit = statistics.median(item.wall for item in first)
    limit_cpu = statistics.median(item.cpu for item in first)
    print(f"\n{source.name}: {_size(source) / 1e6:,.0f} MB, {os.cpu_count()} cores, median of {runs}\n")
    print("| | wall s | CPU s | peak MB | x limit | x its CPU |\n|---|--:|--:|--:|--:|--:|")
    for name, measures in found.items():
        if any(item.code for item in measures):
            print(f"| {name} | failed | | | | |")
            continue
        wall = statistics.median(item.wall for item in measures)
        cpu = statistics.median(item.cpu for item in measures)
        peak = max(item.peak for item in measures)
        ratios = f"{wall / limit:.2f} | {cpu / limit_cpu:.2f}"
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:,.0f} | {ratios} |")


def daily(source: Path, runs: int) -> None:
    """One day file after the other into one lake, a quarter re-delivered; wall and CPU ms a batch."""
    from headrace.run.runner import run
    from headrace.spec.load import load

    files = sorted(source.glob("*.csv"))
    for size in (len(files) // 10, len(files)):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            root = Path(folder)
            shutil.copytree(EXAMPLES / "online_retail", root, dirs_exist_ok=True)
            (root / "days").mkdir()
            os.environ["ONLINE_RETAIL"] = str(root / "days" / "*.csv")
            pipeline = (root / "pipeline.yml").read_text().replace("gold: {dbt: dbt}\n", "")
            (root / "pipeline.yml").write_text(pipeline)
            for file in files[: size - runs]:
                shutil.copy(file, root / "days")
            project = load(root)
            run(project)
            took: list[float] = []
            busy: list[float] = []
            before: list[str] = []
            for file in files[size - runs : size]:
                lines = file.read_text().splitlines(keepends=True)
                again = before[1 : 1 + len(lines) // 4]
                (root / "days" / file.name).write_text("".join([*lines, *again]))
                before = lines
                started, worked = time.monotonic(), time.process_time()
                report = run(project)
                took.append((time.monotonic() - started) * 1000)
                busy.append((time.process_time() - worked) * 1000)
                assert report.status == "success", report
            wall, cpu = statistics.median(took), statistics.median(busy)
            print(f"{size} days in the table: {wall:.0f} ms a batch, {cpu:.0f} ms CPU (medians of {runs})")


def _size(source: Path) -> int:
    files = source.rglob("*") if source.is_dir() else [source]
    return sum(path.stat().st_size for path in files if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["dirty", "retail", "daily"])
    parser.add_argument("--input", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", help="a Python with the peers installed")
    parser.add_argument("--jars", type=Path, help="a folder with the jars of Delta for Spark")
    parser.add_argument("--only", nargs="*", help="names of contenders beside the limit")
    asked = parser.parse_args()
    ours, peers = sys.executable, asked.peers and str(Path(asked.peers).absolute())
    run = [ours, "-m", "headrace", "run", "--quiet"]
    script = str(HERE / "peers")
    contenders = [Contender("limit: bare COPY + file copy", [ours, f"{script}/limit.py", "{in}", "{out}"])]
    if asked.what == "daily":
        daily(asked.input, asked.runs)
        return
    if asked.what == "dirty":
        if not asked.input:
            asked.input = Path(tempfile.gettempdir()) / f"dirty-{asked.rows}.csv"
        if not asked.input.exists():
            subprocess.run(
                [ours, str(HERE / "data.py"), str(asked.input), "--rows", str(asked.rows)], check=True
            )
        contenders.append(Contender("headrace", run, HERE / "dirty"))
        if peers:
            for name in ("polars", "pandas", "spark"):
                jars = [str(asked.jars.resolve())] if name == "spark" and asked.jars else []
                contenders.append(
                    Contender(name, [peers, f"{script}/{name}_dirty.py", "{in}", "{out}", *jars])
                )
    else:
        contenders.append(Contender("headrace", [*run, "--select", "+sales"], EXAMPLES / "online_retail"))
    if peers:
        contenders.append(
            Contender("dlt (default path)", [peers, f"{script}/dlt_default.py", "{in}", "{out}"])
        )
    if asked.only is not None:
        contenders = [c for n, c in enumerate(contenders) if n == 0 or c.name.split()[0] in asked.only]
    compare(contenders, asked.input.resolve(), asked.runs)


if __name__ == "__main__":
    main()
