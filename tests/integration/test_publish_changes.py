"""Tables of changes are published as readers see them: no tombstones, and histories with their validity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from projects import go, make
from targets import Place, publishing, silver
from targets import place as place

PIPELINE = """
name: shop
sources:
  later: {type: files, path: "data/*.jsonl", envelope: headrace}
tables:
  orders:
    from: later
    keys: [id]
    history: true
    changes: {deletes: HOW}
    contract:
      columns: {id: {type: integer}, qty: {type: integer}, note: {}}
"""


def event(op: str, sequence: int, key: int, after: Mapping[str, Any] | None = None) -> str:
    said = {"id": key, **after} if after else None
    return json.dumps(
        {
            "op": op,
            "sequence": f"{sequence:010}",
            "committed": f"2026-01-01T00:00:{sequence:02}Z",
            "key": {"id": key},
            "before": None,
            "after": said,
        }
    )


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_changes_and_their_history(tmp_path: Path, place: Place, how: str) -> None:
    root = make(tmp_path / "p", {}, publishing(place, PIPELINE.replace("HOW", how)))
    steps = [
        [event("c", n, n, {"qty": n, "note": "new"}) for n in range(1, 9)],
        [event("u", 20, 1, {"qty": 100, "note": "more"}), event("d", 21, 2), event("c", 22, 9, {"qty": 9})],
        [event("d", 31, 1), event("c", 32, 2, {"qty": 2, "note": "back"}), event("u", 30, 3, {"qty": 3})],
        [event("u", 25, 3, {"qty": 7, "note": "late"}), event("d", 40, 9)],
    ]
    for number, lines in enumerate(steps):
        (root / f"data/{number}.jsonl").write_text("\n".join(lines) + "\n")
        report = go(root)
        assert report.status == "success", report
        for table in ("orders", "orders_history"):
            assert place.rows(table) == silver(root, table), (number, table)
    ids = sorted(row[0] for row in place.ask(f"select id from {place.schema}.orders")[1])
    assert ids == ([2, 3, 4, 5, 6, 7, 8] if how == "hard" else [1, 2, 3, 4, 5, 6, 7, 8, 9])
    # of order 3: made, changed late (25) and changed (30), each valid until the next
    asked = f"select _valid_from, _valid_to from {place.schema}.orders_history where id = 3 order by 1"
    _, spans = place.ask(asked)
    assert [start.second for start, _ in spans] == [3, 25, 30]
    assert [stop.second if stop else None for _, stop in spans] == [25, 30, None]
    assert all(load.sent < 8 for load in report.loads), "only what differs is sent"
