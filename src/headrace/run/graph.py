"""Runs tasks in the order of their needs, side by side where it can; one failure stops only what needs it."""

from __future__ import annotations

import difflib
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from threading import Event as Flag
from threading import Lock
from typing import Literal

from ..errors import ConfigError, ErrorClass, classify
from .report import Event, Listener
from .retry import retry

Status = Literal["success", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Task:
    """A named piece of work; `action` runs in a thread of its own once all of `needs` have succeeded."""

    name: str
    needs: tuple[str, ...]
    action: Callable[[], object]
    optional: bool = False
    """Whoever needs this task waits for it, but goes on if it fails (bronze is valid without new files)."""
    attempts: int = 3
    """Retries after a transient error."""
    base: float = 1.0
    """Seconds of the first wait, before jitter."""
    cancel: Callable[[], None] | None = None
    """Asks a running action to end soon (by interrupting its query, say). Called from another thread, and
    again until the action has ended."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended. `error` is set if it failed, `reason` if it failed or was skipped."""

    name: str
    status: Status
    seconds: float = 0.0
    value: object = None
    error: BaseException | None = None
    reason: str = ""
    retry_count: int = 0
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def error_class(self) -> ErrorClass | None:
        return None if self.error is None else classify(self.error)


@dataclass(frozen=True)
class DependencyResolver:
    """A checked graph of tasks: names are unique, needs exist, and nothing needs itself by any way round."""

    tasks: Sequence[Task]

    def __post_init__(self) -> None:
        names: set[str] = set()
        for task in self.tasks:
            if task.name in names:
                raise ConfigError(f"two tasks are called `{task.name}`", hint="give each its own name")
            names.add(task.name)
        for task in self.tasks:
            for need in task.needs:
                if need not in names:
                    raise ConfigError(
                        f"task `{task.name}` needs `{need}`, which is not there", hint=_similar(need, names)
                    )
        try:
            self.sorter().prepare()
        except CycleError as error:
            # graphlib gives each name before the one that needs it; people read "needs" the other way
            cycle = " → ".join(f"`{name}`" for name in reversed(error.args[1]))
            raise ConfigError(
                f"tasks need each other in a circle: {cycle}", hint="take one of these needs away"
            ) from None

    @cached_property
    def by_name(self) -> Mapping[str, Task]:
        return {task.name: task for task in self.tasks}

    @cached_property
    def dependants(self) -> Mapping[str, tuple[str, ...]]:
        """Task → the tasks that need it directly, in the order given."""
        return {name: tuple(task.name for task in self.tasks if name in task.needs) for name in self.by_name}

    def sorter(self) -> TopologicalSorter[str]:
        return TopologicalSorter({task.name: task.needs for task in self.tasks})

    def order(self) -> list[str]:
        """Every task after all that it needs."""
        return list(self.sorter().static_order())

    def upstream(self, name: str) -> set[str]:
        """All that `name` needs, directly or not."""
        return _reach(name, lambda one: self.by_name[one].needs)

    def downstream(self, name: str) -> set[str]:
        """All that needs `name`, directly or not."""
        return _reach(name, lambda one: self.dependants[one])


@dataclass(frozen=True)
class TaskExecutor:
    """Runs single tasks, with retries, and tells the listener; a listener's failure never fails a task."""

    listener: Listener | None = None
    stop: Flag = field(default_factory=Flag)
    """Once set, no wait for a retry goes on and no new task starts."""
    active: dict[str, Task] = field(default_factory=dict, init=False)
    """Tasks whose action may be running now."""
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def execute_task(self, task: Task) -> TaskResult:
        """How `task` ended: any error is in the result, only an interruption of the process is raised."""
        retries = 0

        def notify(attempt: int, seconds: float, error: BaseException) -> None:
            nonlocal retries
            retries = attempt
            message = f"retry {attempt} of {task.attempts} in {seconds:.1f} s: {error}"
            self.tell(Event(task.name, "retry", attempt, task.attempts, "retries", message))

        self.active[task.name] = task
        if self.stop.is_set():
            del self.active[task.name]
            return TaskResult(task.name, "skipped", reason="stopped")
        self.tell(Event(task.name, "start"))
        started, clock = datetime.now(UTC), time.perf_counter()
        result = TaskResult(task.name, "success", started=started)
        try:
            value = retry(
                task.action, attempts=task.attempts, base=task.base, wait=self.stop.wait, notify=notify
            )
            result = replace(result, value=value)
        except (Exception, SystemExit) as error:
            result = replace(result, status="failed", error=error, reason=f"{type(error).__name__}: {error}")
        finally:
            del self.active[task.name]
        ended = replace(
            result, retry_count=retries, seconds=time.perf_counter() - clock, ended=datetime.now(UTC)
        )
        self.tell(Event(task.name, "end", message=ended.reason or ended.status))
        return ended

    def tell(self, event: Event) -> None:
        if self.listener is None:
            return
        with self._lock:  # a listener hears one thing at a time, whatever thread it comes from
            try:
                self.listener(event)
            except Exception as error:
                warnings.warn(f"a listener failed on {event}: {error!r}", stacklevel=2)


def execute(
    tasks: Sequence[Task],
    parallel: int = 2,
    listener: Listener | None = None,
    stop: Flag | None = None,
) -> Mapping[str, TaskResult]:
    """Results of all tasks, by name, in an order of their needs; at most `parallel` run at once.

    What needs a failed or skipped task is skipped with the reason; all else goes on. If the process is
    interrupted, or `stop` is set, no further task starts and running ones are asked to end and waited
    for: no thread is left. An interruption is then raised again; after `stop`, the rest is skipped.

    >>> double = Task("double", ("load",), lambda: 2 * 21)
    >>> results = execute([double, Task("load", (), lambda: 21)])
    >>> [(r.name, r.status, r.value) for r in results.values()]
    [('load', 'success', 21), ('double', 'success', 42)]
    """
    graph = DependencyResolver(tasks)
    sorter = graph.sorter()
    sorter.prepare()
    executor = TaskExecutor(listener, stop or Flag())
    place = {task.name: at for at, task in enumerate(tasks)}
    results: dict[str, TaskResult] = {}
    waiting: list[str] = []
    running: dict[Future[TaskResult], str] = {}
    with ThreadPoolExecutor(max_workers=max(1, parallel), thread_name_prefix="headrace") as pool:
        try:
            while sorter.is_active():
                waiting = sorted([*waiting, *sorter.get_ready()], key=lambda name: place[name])
                for name in list(waiting):
                    task = graph.by_name[name]
                    reason = "stopped" if executor.stop.is_set() else _blocked(task, graph.by_name, results)
                    if reason:
                        results[name] = TaskResult(name, "skipped", reason=reason)
                        executor.tell(Event(name, "end", message=f"skipped: {reason}"))
                    elif len(running) < parallel:
                        running[pool.submit(executor.execute_task, task)] = name
                    else:
                        continue
                    waiting.remove(name)
                    if reason:
                        sorter.done(name)
                if not running:
                    continue
                for future in wait(running, timeout=_GLANCE, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    results[name] = future.result()
                    sorter.done(name)
                if executor.stop.is_set():
                    _cancel(executor.active)
        except BaseException:
            executor.stop.set()
            # By what is active, not by `running`: the interruption may fall between a start and its record.
            while executor.active:
                _cancel(executor.active)
                time.sleep(_GLANCE)
            raise
    return results


def select(tasks: Sequence[Task], patterns: Iterable[str]) -> list[Task]:
    """The tasks that any of `patterns` names, in their order, needing only one another; all without patterns.

    A pattern is a task's name or a glob; `+x` adds all that x needs, `x+` all that needs x. Without a `:`
    it also matches what follows the `:` of a name: `sales` is `refine:sales` too.

    >>> graph = [Task("land:orders", (), list), Task("refine:sales", ("land:orders",), list),
    ...          Task("gold", ("refine:sales",), list)]
    >>> [task.name for task in select(graph, ["sales+"])]
    ['refine:sales', 'gold']
    >>> [task.name for task in select(graph, ["+sales"])]
    ['land:orders', 'refine:sales']
    """
    wanted = list(patterns)
    if not wanted:
        return list(tasks)
    graph = DependencyResolver(tasks)
    chosen: set[str] = set()
    for pattern in wanted:
        core = pattern.removeprefix("+").removesuffix("+")
        hits = {name for name in graph.by_name if _matches(name, core)}
        if not hits:
            raise ConfigError(f"select: `{pattern}` matches no task", hint=_similar(core, graph.by_name))
        chosen |= hits
        for name in hits:
            if pattern.startswith("+"):
                chosen |= graph.upstream(name)
            if pattern.endswith("+"):
                chosen |= graph.downstream(name)
    return [
        replace(task, needs=tuple(need for need in task.needs if need in chosen))
        for task in tasks
        if task.name in chosen
    ]


_GLANCE = 0.2
"""Seconds between looks at `stop` while tasks run."""


def _blocked(task: Task, tasks: Mapping[str, Task], results: Mapping[str, TaskResult]) -> str:
    for need in task.needs:
        if results[need].status != "success" and not tasks[need].optional:
            return f"`{need}` {'failed' if results[need].status == 'failed' else 'was skipped'}"
    return ""


def _cancel(active: Mapping[str, Task]) -> None:
    """Asks again at each glance: a query that starts after the first request must end too."""
    for task in list(active.values()):
        if task.cancel:
            try:
                task.cancel()
            except Exception as error:
                warnings.warn(f"task `{task.name}` could not be asked to end: {error!r}", stacklevel=2)


def _reach(start: str, step: Callable[[str], Iterable[str]]) -> set[str]:
    seen: set[str] = set()
    front = [start]
    while front:
        fresh = set(step(front.pop())) - seen
        seen |= fresh
        front.extend(fresh)
    return seen


def _matches(name: str, pattern: str) -> bool:
    if fnmatchcase(name, pattern):
        return True
    return ":" not in pattern and fnmatchcase(name.partition(":")[2], pattern)


def _similar(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, [*names, *(one.partition(":")[2] for one in names)], n=1)
    known = f"tasks: {', '.join(sorted(names))}"
    return f"did you mean `{close[0]}`? {known}" if close and close[0] else known
