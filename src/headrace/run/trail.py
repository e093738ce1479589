"""Whether the logs that refinement rests on are still what its own records say they were."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Corrupt
from ..store.delta import Table
from ..store.records import Done, LandLog, Plan, RefineLog


def heads_of(lands: Mapping[str, LandLog], inputs: Mapping[str, int]) -> dict[str, str]:
    """sha256 of each land stream's record at the epoch given, which stands for all before it."""
    return {
        name: lands[name].records[epoch].sha256
        for name, epoch in inputs.items()
        if name in lands and 0 <= epoch <= lands[name].epoch
    }


def check_heads(lands: Mapping[str, LandLog], inputs: Mapping[str, int], known: Plan | Done) -> None:
    """Raises `Corrupt` if land records that `known` counts as read are gone, or others have their numbers."""
    found = heads_of(lands, inputs)
    for name, digest in known.heads.items():
        if name in lands and found.get(name) != digest:
            raise Corrupt(
                f"land stream `{lands[name].stream}`: record {inputs[name]} is not the one that was refined"
                f" into `{known.table}`: it is gone, or was replaced",
                hint=f"restore _headrace/land/{lands[name].stream}/ from a backup; nothing was written",
            )


def check_trail(log: RefineLog, tables: Mapping[str, Table], erased: int) -> None:
    """Raises `Corrupt` if a log entry that readers of a table still read is not what was committed.

    Readers start from the newest checkpoint, and a rebuild has dropped all that was before: so it looks at
    some twenty small files per table, however long the log is. An erasure (`erased` is the newest) has
    rewritten statistics in the entries before it.
    """
    floors = {name: table.checkpoint() for name, table in tables.items()}
    ids: dict[str, str] = {}
    for done in log.back():
        versions = {
            name: item["version"]
            for name, item in done.outputs.items()
            if name in floors and item["id"] == ids.setdefault(name, item["id"])  # else it was lost
        }
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
