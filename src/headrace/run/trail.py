"""Whether what a table's log says is still what its done records say it said."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Corrupt
from ..store.delta import Table
from ..store.records import RefineLog


def check_trail(log: RefineLog, tables: Mapping[str, Table], erased: int) -> None:
    """Raises `Corrupt` if a log entry that readers of a table still read is not what was committed.

    Readers start from the newest checkpoint, and a rebuild has dropped all that was before: so it looks at
    some twenty small files per table, however long the log is. An erasure (`erased` is the newest) has
    rewritten statistics in the entries before it.
    """
    floors = {name: table.checkpoint() for name, table in tables.items()}
    for done in log.back():
        versions = {name: item["version"] for name, item in done.outputs.items() if name in floors}
        left = [name for name, version in versions.items() if version > floors[name]]
        if done.forgotten < erased or not left:
            return
        for name in left:
            known = done.outputs[name]
            if tables[name].digest(known["version"]) != known["log"]:
                raise Corrupt(
                    f"table `{name}`: the log entry of version {known['version']} was changed",
                    hint="restore that file of its _delta_log from a backup; nothing was written",
                )
        if done.mode == "rebuild":
            return
