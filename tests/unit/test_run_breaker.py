"""The circuit breaker: opens after failures in a row, lets one probe through, survives the process."""

from __future__ import annotations

import json
import threading

import pytest

from headrace.errors import CircuitOpen, ConfigError, DataError, SystemFault, TransientError
from headrace.run.breaker import CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _fail(error: BaseException = SystemFault("down")):  # noqa: B008 - an exception is as good as a constant
    def call() -> None:
        raise error

    return call


def _open(breaker: CircuitBreaker) -> None:
    for _ in range(breaker.failure_threshold):
        with pytest.raises(SystemFault, match="down"):
            breaker.call(_fail())


def test_it_opens_after_failures_in_a_row(clock: Clock) -> None:
    breaker = CircuitBreaker(3, 60, name="warehouse", clock=clock)
    for _ in range(2):
        with pytest.raises(SystemFault):
            breaker.call(_fail())
    assert breaker.call(lambda: "up") == "up"
    for _ in range(3):
        assert not breaker.is_open()
        with pytest.raises(SystemFault, match="down"):
            breaker.call(_fail())
    assert breaker.is_open()
    called: list[int] = []
    with pytest.raises(CircuitOpen) as caught:
        breaker.call(lambda: called.append(1))
    assert not called
    assert "warehouse" in str(caught.value)
    assert "SystemFault: down" in str(caught.value)
    assert "next try in 60 s" in str(caught.value)


def test_one_probe_decides(clock: Clock) -> None:
    breaker = CircuitBreaker(2, 60, clock=clock)
    _open(breaker)
    clock.now += 60
    assert not breaker.is_open()
    with pytest.raises(SystemFault, match="down"):
        breaker.call(_fail())
    assert breaker.is_open()
    clock.now += 59
    assert breaker.is_open()
    clock.now += 1
    assert breaker.call(lambda: 7) == 7
    with pytest.raises(SystemFault):
        breaker.call(_fail())
    assert not breaker.is_open(), "a success forgets the failures before it"


def test_others_are_refused_while_the_probe_is_under_way(clock: Clock) -> None:
    breaker = CircuitBreaker(1, 60, clock=clock)
    _open(breaker)
    clock.now += 60
    inside, leave = threading.Event(), threading.Event()
    out: list[str] = []

    def probe() -> str:
        inside.set()
        assert leave.wait(10)
        return "back"

    thread = threading.Thread(target=lambda: out.append(breaker.call(probe)))
    thread.start()
    assert inside.wait(10)
    assert breaker.is_open()
    with pytest.raises(CircuitOpen, match="probe"):
        breaker.call(lambda: out.append("second"))
    leave.set()
    thread.join(10)
    assert out == ["back"]
    assert not breaker.is_open()


def test_a_call_from_before_the_opening_decides_nothing(clock: Clock) -> None:
    breaker = CircuitBreaker(1, 60, clock=clock)

    def slow() -> str:
        _open(breaker)  # meanwhile, another call fails
        return "late"

    assert breaker.call(slow) == "late"
    assert breaker.is_open()


@pytest.mark.parametrize("error", [TransientError("x"), OSError("x"), RuntimeError("x")])
def test_what_counts(clock: Clock, error: Exception) -> None:
    breaker = CircuitBreaker(1, 60, clock=clock)
    with pytest.raises(type(error)):
        breaker.call(_fail(error))
    assert breaker.is_open()


@pytest.mark.parametrize("error", [DataError("x"), ConfigError("x"), KeyboardInterrupt()])
def test_what_does_not_count(clock: Clock, error: BaseException) -> None:
    breaker = CircuitBreaker(1, 60, clock=clock)
    with pytest.raises(type(error)):
        breaker.call(_fail(error))
    assert not breaker.is_open()


@pytest.mark.parametrize(
    ("error", "failures"), [(DataError("x"), 0), (ConfigError("x"), 1), (KeyboardInterrupt(), 1)]
)
def test_a_probe_always_ends(clock: Clock, error: BaseException, failures: int) -> None:
    breaker = CircuitBreaker(1, 60, clock=clock)
    _open(breaker)
    clock.now += 60
    with pytest.raises(type(error)):
        breaker.call(_fail(error))
    assert not breaker.is_open(), "the next call may probe"
    assert breaker.state()["failures"] == failures


def test_the_state_survives_the_process(clock: Clock) -> None:
    kept: list[str] = []
    breaker = CircuitBreaker(2, 60, clock=clock, on_change=lambda state: kept.append(json.dumps(state)))
    _open(breaker)
    assert len(kept) == 2
    later = CircuitBreaker(2, 60, clock=clock)
    later.restore(json.loads(kept[-1]))
    assert later.is_open()
    assert later.state() == breaker.state()
    clock.now += 60
    assert not later.is_open()
    breaker.reset()
    assert json.loads(kept[-1]) == {"failures": 0, "opened_at": None, "last_error": ""}
    assert not breaker.is_open()


def test_a_clock_set_back_never_lengthens_the_wait(clock: Clock) -> None:
    breaker = CircuitBreaker(1, 60, clock=clock)
    _open(breaker)
    clock.now -= 100_000
    assert breaker.is_open()
    clock.now += 60
    assert not breaker.is_open()


def test_a_state_that_cannot_be_kept_hides_nothing(clock: Clock) -> None:
    def broken(_: object) -> None:
        raise OSError("disk full")

    breaker = CircuitBreaker(1, 60, clock=clock, on_change=broken)
    with pytest.warns(UserWarning, match="disk full"), pytest.raises(SystemFault, match="down"):
        breaker.call(_fail())
    assert breaker.is_open()


def test_many_threads_count_every_failure(clock: Clock) -> None:
    breaker = CircuitBreaker(10_000, 60, clock=clock)

    def work() -> None:
        for _ in range(200):
            with pytest.raises(SystemFault):
                breaker.call(_fail())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.state()["failures"] == 1600


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError):
        CircuitBreaker(0, 60)
    with pytest.raises(ValueError):
        CircuitBreaker(1, -1)
