"""The outputs of a planned restore: commits that name files of an older version, and the done record."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .. import __version__
from ..core import Commit, Written
from ..errors import Fenced
from ..failpoints import reach
from ..store.base import newest
from ..store.delta import Change, Table
from ..store.records import Done, Plan, RefineLog, utc
from ..store.storage import Storage
from .report import Ledger


def rewound(storage: Storage, log: RefineLog, target: Done, versions: Mapping[str, int], reason: str) -> Plan:
    """An epoch that makes the outputs what they were at `versions`, and reads on from `target`."""
    return replace(
        log.planned(target.epoch),
        prev=log.epoch,
        next=log.next_number(),
        mode="restore",
        inputs={source: (upto, upto) for source, upto in target.inputs.items()},
        references={},
        engine={"headrace": __version__},
        now=utc(),
        reason=reason,
        writer=uuid.uuid4().hex,
        base=newest(storage),
        restores=target.epoch,
        versions=versions,
    )


def table_of(storage: Storage, output: str) -> Table:
    return Table(storage.root.joinpath(*output.split(".")), output)


def resume(storage: Storage, plan: Plan, log: RefineLog) -> Done:
    """Does what is left to do of a planned restore; raises `Fenced` if others moved a table meanwhile."""
    stream = f"headrace:{plan.table}"
    results: dict[str, Mapping[str, Any]] = {}
    for output, version in plan.versions.items():
        table = table_of(storage, output)
        snapshot = table.snapshot(stream)
        if snapshot.txn > plan.next:
            raise Fenced(f"table `{output}` is ahead of this restore, at epoch {snapshot.txn}")
        if snapshot.txn == plan.next:
            at, _ = table.applied(stream, plan.next, snapshot.at.version)
        else:
            then = table.at(version)
            live = {file.path for file in snapshot.at.files}
            wanted = {file.path for file in then.files}
            rows = sum(file.rows for file in then.files)
            written = Written(output, snapshot.at.version, unchanged=rows)
            change = Change(
                snapshot,
                Commit(stream, snapshot.txn, plan.next),
                "RESTORE",
                then.columns or snapshot.at.columns,
                then.partition_by or snapshot.at.partition_by,
                [file for file in then.files if file.path not in live],
                [file for file in snapshot.at.files if file.path not in wanted],
                {"written": asdict(written), "restored": version},
            )
            at = table.commit(change)
            reach("restore.commit")
        results[output] = {"id": table.snapshot(stream).table_id, "version": at, "log": table.digest(at)}
    done = replace(
        log.finished(plan.restores),
        epoch=plan.next,
        fingerprint=plan.fingerprint,
        outputs=results,
        ledger=asdict(Ledger()),
        by_rule={},
        warned={},
        checks=[],
        files={},
        now=plan.now,
        time=utc(),
        mode="restore",
        run_id="",
    )
    log.finish(done)
    reach("restore.done")
    return done
