"""The graph of tasks: order, side by side, partial failure, interruption, selection."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ConfigError, DataError, TransientError
from headrace.run.graph import DependencyResolver, Task, execute, select
from headrace.run.report import Event


def _task(name: str, *needs: str, action: Callable[[], object] = lambda: None, **more: object) -> Task:
    return Task(name, needs, action, **{"base": 0.0, **more})  # type: ignore[arg-type]


def _raise(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


def _alive() -> list[str]:
    """Our threads that are still there after a moment to end in."""
    for _ in range(100):
        if not _threads():
            break
        time.sleep(0.02)
    return _threads()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("headrace")]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_task_runs_once_after_its_needs(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    ran: list[str] = []
    tasks = [
        _task(
            f"t{n}",
            *(f"t{m}" for m in data.draw(st.sets(st.integers(0, n - 1)) if n else st.just(set()))),
            action=lambda n=n: ran.append(f"t{n}"),
        )
        for n in range(size)
    ]
    shuffled = data.draw(st.permutations(tasks))
    results = execute(shuffled, parallel=data.draw(st.integers(1, 4)))
    assert sorted(ran) == sorted(task.name for task in tasks)
    assert all(ran.index(need) < ran.index(task.name) for task in tasks for need in task.needs)
    assert {result.status for result in results.values()} == {"success"}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_failure_skips_exactly_what_needs_it(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 10))
    bad = data.draw(st.sets(st.integers(0, size - 1)))
    tasks = [
        _task(
            f"t{n}",
            *(
                f"t{m}"
                for m in data.draw(st.sets(st.integers(0, n - 1), max_size=2) if n else st.just(set()))
            ),
            action=_raise(DataError("bad")) if n in bad else int,
        )
        for n in range(size)
    ]
    results = execute(tasks, parallel=2)
    graph = DependencyResolver(tasks)
    for n, task in enumerate(tasks):
        broken = any(f"t{m}" in graph.upstream(task.name) for m in bad)
        assert results[task.name].status == ("skipped" if broken else "failed" if n in bad else "success")


def test_independent_tasks_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    results = execute([_task("a", action=both.wait), _task("b", action=both.wait)], parallel=2)
    assert [result.status for result in results.values()] == ["success", "success"]


def test_no_more_than_parallel_run_at_once() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def action() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1

    execute([_task(f"t{n}", action=action) for n in range(12)], parallel=3)
    assert most == 3


def test_results_tell_how_it_went() -> None:
    slow = _task("slow", action=lambda: (time.sleep(0.02), 7)[1])
    results = execute(
        [slow, _task("bad", action=_raise(DataError("no", where="f.csv:3"))), _task("after", "bad")]
    )
    good, bad, after = results["slow"], results["bad"], results["after"]
    assert (good.value, good.retry_count, good.error) == (7, 0, None)
    assert good.seconds >= 0.02
    assert good.started is not None
    assert good.ended is not None
    assert good.started < good.ended
    assert bad.reason == "DataError: f.csv:3: no"
    assert bad.error_class == "data"
    assert (after.status, after.reason, after.started) == ("skipped", "`bad` failed", None)


def test_skipping_goes_on_with_its_reason() -> None:
    results = execute([_task("a", action=_raise(ValueError())), _task("b", "a"), _task("c", "b")])
    assert results["c"].reason == "`b` was skipped"


def test_whoever_needs_an_optional_task_goes_on() -> None:
    events: list[str] = []
    tasks = [
        _task("land", action=_raise(DataError("x")), optional=True),
        _task("refine", "land", action=lambda: events.append("refined")),
    ]
    results = execute(tasks)
    assert [result.status for result in results.values()] == ["failed", "success"]
    assert events == ["refined"]


def test_transient_errors_are_retried_and_counted() -> None:
    left = [TransientError("one"), TransientError("two")]
    heard: list[Event] = []

    def action() -> str:
        if left:
            raise left.pop(0)
        return "ok"

    result = execute([_task("a", action=action)], listener=heard.append)["a"]
    assert (result.status, result.retry_count, result.value) == ("success", 2, "ok")
    assert [event.kind for event in heard] == ["start", "retry", "retry", "end"]
    assert "one" in heard[1].message


def test_retries_end() -> None:
    result = execute([_task("a", action=_raise(TransientError("busy")), attempts=2)])["a"]
    assert (result.status, result.retry_count, result.error_class) == ("failed", 2, "transient")
    assert result.error is not None
    assert result.error.__notes__ == ["gave up after 2 retries"]


def test_a_listener_hears_one_thing_at_a_time_and_cannot_break_the_run() -> None:
    inside = threading.Lock()

    def listener(event: Event) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.001)
        inside.release()
        if event.kind == "end":
            raise BrokenPipeError("nobody reads")

    with pytest.warns(UserWarning, match="nobody reads"):
        results = execute([_task(f"t{n}") for n in range(8)], parallel=4, listener=listener)
    assert {result.status for result in results.values()} == {"success"}


def test_a_circle_is_named() -> None:
    tasks = [_task("a", "b"), _task("b", "c"), _task("c", "a"), _task("free")]
    with pytest.raises(ConfigError) as caught:
        execute(tasks)
    text = caught.value.message
    assert any(
        circle in text
        for circle in ("`a` → `b` → `c` → `a`", "`b` → `c` → `a` → `b`", "`c` → `a` → `b` → `c`")
    )
    with pytest.raises(ConfigError, match="`a` → `a`"):
        execute([_task("a", "a")])


def test_unknown_needs_and_double_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs `lnad`") as caught:
        execute([_task("land"), _task("refine", "lnad")])
    assert "did you mean `land`?" in str(caught.value)
    with pytest.raises(ConfigError, match="two tasks"):
        execute([_task("a"), _task("a")])


def test_nothing_to_do() -> None:
    assert execute([]) == {}


def test_an_interruption_ends_running_tasks_and_starts_no_more() -> None:
    ended, later = threading.Event(), threading.Event()
    cancelled: list[int] = []

    def long() -> None:
        _thread.interrupt_main()
        assert ended.wait(20)

    def cancel() -> None:
        cancelled.append(1)
        if len(cancelled) == 2:  # as a query that began after the first request would
            ended.set()

    tasks = [_task("long", action=long, cancel=cancel), _task("later", "long", action=later.set)]
    with pytest.raises(KeyboardInterrupt):
        execute(tasks, parallel=1)
    assert len(cancelled) == 2
    assert not later.is_set()
    assert not _alive()


def test_a_failing_cancel_keeps_others_from_nothing() -> None:
    stop, ended = threading.Event(), threading.Event()

    def first() -> None:
        begun.wait()
        stop.set()
        assert ended.wait(20)

    begun = threading.Barrier(2, timeout=20)

    def second() -> None:
        begun.wait()
        assert ended.wait(20)

    tasks = [
        _task("a", action=first, cancel=_raise(OSError("no"))),
        _task("b", action=second, cancel=ended.set),
    ]
    with pytest.warns(UserWarning, match="`a` could not be asked to end"):
        results = execute(tasks, parallel=2, stop=stop)
    assert results["a"].status == "success"
    assert not _alive()


def test_stop_skips_the_rest() -> None:
    stop, ended = threading.Event(), threading.Event()

    def first() -> None:
        stop.set()
        assert ended.wait(20)

    tasks = [_task("a", action=first, cancel=ended.set), _task("b", "a"), _task("c")]
    results = execute(tasks, parallel=1, stop=stop)
    assert results["a"].status == "success"
    assert [(results[name].status, results[name].reason) for name in "bc"] == [("skipped", "stopped")] * 2
    assert not _alive()


def test_stop_ends_the_wait_for_a_retry() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.perf_counter()
    result = execute([_task("a", action=_raise(TransientError("x")), base=60)], stop=stop)["a"]
    assert result.status == "failed"
    assert time.perf_counter() - began < 20


@pytest.fixture
def shop() -> list[Task]:
    return [
        _task("land:orders"),
        _task("land:stock"),
        _task("refine:sales", "land:orders"),
        _task("refine:stock", "land:stock"),
        _task("gold", "refine:sales", "refine:stock"),
    ]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["land:orders", "land:stock", "refine:sales", "refine:stock", "gold"]),
        (["sales"], ["refine:sales"]),
        (["sales+"], ["refine:sales", "gold"]),
        (["+sales"], ["land:orders", "refine:sales"]),
        (["+sales+"], ["land:orders", "refine:sales", "gold"]),
        (["+gold"], ["land:orders", "land:stock", "refine:sales", "refine:stock", "gold"]),
        (["land:*"], ["land:orders", "land:stock"]),
        (["stock"], ["land:stock", "refine:stock"]),
        (["gold", "land:orders"], ["land:orders", "gold"]),
        (["s*s"], ["refine:sales"]),
    ],
)
def test_selection(shop: list[Task], patterns: list[str], names: list[str]) -> None:
    assert [task.name for task in select(shop, patterns)] == names


def test_what_is_selected_needs_only_what_is_selected(shop: list[Task]) -> None:
    chosen = select(shop, ["sales+"])
    assert {task.name: task.needs for task in chosen} == {"refine:sales": (), "gold": ("refine:sales",)}
    assert {result.status for result in execute(chosen).values()} == {"success"}


def test_a_pattern_without_a_match_is_refused(shop: list[Task]) -> None:
    with pytest.raises(ConfigError, match="`saels\\+` matches no task") as caught:
        select(shop, ["saels+"])
    assert "did you mean `sales`?" in str(caught.value)
