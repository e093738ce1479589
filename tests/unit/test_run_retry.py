"""Retries: only what passes by itself is tried again, as often and as long as promised."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import Busy, ConfigError, DataError, SystemFault, TransientError
from headrace.run.retry import LONGEST, delay, retry


class Flaky:
    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def _never(seconds: float) -> bool:
    raise AssertionError(f"waited {seconds} s")


@pytest.mark.parametrize("error", [Busy("held"), TransientError("x"), TimeoutError(), ConnectionResetError()])
def test_transient_errors_are_tried_again(error: Exception) -> None:
    waits: list[float] = []
    flaky = Flaky(error, error)
    assert retry(flaky, base=0.5, wait=lambda s: bool(waits.append(s))) == "done"
    assert flaky.calls == 3
    assert 0.5 <= waits[0] <= 1.0
    assert 1.0 <= waits[1] <= 1.5


@pytest.mark.parametrize("error", [DataError("x"), SystemFault("x"), ConfigError("x"), ValueError("x")])
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)) as caught:
        retry(flaky, wait=_never)
    assert flaky.calls == 1
    assert not getattr(caught.value, "__notes__", [])


def test_the_last_error_is_raised_with_the_count() -> None:
    flaky = Flaky(*(TransientError(f"no {n}") for n in range(9)))
    told: list[tuple[int, str]] = []
    with pytest.raises(TransientError, match="no 3") as caught:
        retry(flaky, base=0, wait=lambda _: False, notify=lambda n, _, e: told.append((n, str(e))))
    assert flaky.calls == 4
    assert caught.value.__notes__ == ["gave up after 3 retries"]
    assert told == [(1, "no 0"), (2, "no 1"), (3, "no 2")]


def test_no_attempts_means_one_call() -> None:
    flaky = Flaky(TransientError("x"))
    with pytest.raises(TransientError) as caught:
        retry(flaky, attempts=0, wait=_never)
    assert flaky.calls == 1
    assert not getattr(caught.value, "__notes__", [])
    with pytest.raises(ValueError, match="attempts"):
        retry(flaky, attempts=-1)


def test_a_set_event_ends_the_wait() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.perf_counter()
    with pytest.raises(TransientError) as caught:
        retry(Flaky(TransientError("x")), base=30, wait=stop.wait)
    assert time.perf_counter() - began < 10
    assert caught.value.__notes__ == ["stopped before retry 1 of 3"]


@given(st.integers(0, 1000), st.floats(0, 1e6))
def test_waits_grow_by_powers_of_two_with_jitter_and_end_at_an_hour(attempt: int, base: float) -> None:
    seconds = delay(attempt, base)
    low = base * 2.0 ** min(attempt, 64)
    assert min(low, LONGEST) <= seconds <= min(low + base, LONGEST) + 1e-6


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [(7, 7, 7), (7.5, 7.5, 7.5), (0.1, 1, 2), (1e18, LONGEST, LONGEST), ("soon", 1, 2), (float("nan"), 1, 2)],
)
def test_retry_after_is_a_lower_bound(asked: object, low: float, high: float) -> None:
    error = TransientError("too many requests")
    error.retry_after = asked  # type: ignore[attr-defined]
    assert low <= delay(0, 1, error) <= high


def test_jitter_differs() -> None:
    assert len({delay(0, 1) for _ in range(20)}) > 1
