"""Fails unless all code together, and each package that keeps data safe, is covered by tests."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import coverage

OVERALL = 80.0
CAREFUL = 85.0
PACKAGES = ("core", "spec", "sql", "store", "run")


def main() -> int:
    measured = coverage.Coverage()
    measured.load()
    if list(Path().glob(".coverage.*")):  # of processes that ended after their test did
        measured.combine(keep=False)
    root = Path("src/headrace").resolve()
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path in sorted(root.rglob("*.py")):
        _, statements, _, missing, _ = measured.analysis2(str(path))
        package = path.relative_to(root).parts[0].removesuffix(".py")
        lines[package][0] += len(statements)
        lines[package][1] += len(statements) - len(missing)
    total = [sum(column) for column in zip(*lines.values(), strict=True)]
    failed = False
    for name, (known, hit) in [*sorted(lines.items()), ("all", total)]:
        share = 100 * hit / known if known else 100.0
        limit = OVERALL if name == "all" else CAREFUL if name in PACKAGES else 0.0
        verdict = "" if share >= limit else f"  below {limit:.0f}%"
        failed |= bool(verdict)
        print(f"{name:<12} {hit:>6} of {known:>6} lines  {share:5.1f}%{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
