"""Token buckets, and what a server and a key may ask at a time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessile.api.limits import Limits, RequestLimits
from sessile.domain.rates import Rates
from sessile.wire.errors import Overloaded, TooManyRequests


def test_a_key_has_its_burst_and_then_its_rate() -> None:
    rates = Rates(rate=2, burst=3)
    assert [rates.take("k", 100.0) for _ in range(3)] == [0, 0, 0]
    assert rates.take("k", 100.0) == pytest.approx(0.5)
    assert rates.take("other", 100.0) == 0
    assert rates.take("k", 100.4) == pytest.approx(0.1)
    assert rates.take("k", 100.5) == 0
    assert rates.take("k", 100.5) == pytest.approx(0.5)


def test_what_is_refused_does_not_count() -> None:
    rates = Rates(rate=1, burst=1)
    rates.take(None, 0.0)
    for _ in range(100):
        assert rates.take(None, 0.5) == pytest.approx(0.5)
    assert rates.take(None, 1.0) == 0


@settings(deadline=None)
@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=100),
)
def test_no_span_holds_more_than_the_burst_and_the_rate(rate: float, burst: int, pauses: list[float]) -> None:
    rates, now, taken = Rates(rate, burst), 0.0, list[float]()
    for pause in pauses:
        now += pause
        wait = rates.take("k", now)
        if wait == 0:
            taken.append(now)
        else:
            assert rates.take("k", now + wait) == 0  # what it says is true
            taken.append(now := now + wait)
    for i, first in enumerate(taken):
        for j, last in enumerate(taken[i:], 1):
            assert j <= burst + rate * (last - first) + 1e-3


def test_many_keys_need_bounded_memory_and_full_buckets_none() -> None:
    rates = Rates(rate=1, burst=5, remembered=100)
    for number in range(10_000):
        rates.take(str(number), number / 1000)
    assert len(rates) <= 100
    rates.take("later", 1_000_000.0)
    assert len(rates) <= 100


def test_a_rate_is_of_each_key_and_none_without_a_limit() -> None:
    limits = Limits(RequestLimits(per_second=1, burst=2), now=lambda: 5.0)
    for key in ("a", None):
        limits.check_rate(key)
        limits.check_rate(key)
        with pytest.raises(TooManyRequests) as refused:
            limits.check_rate(key)
        assert refused.value.retry_after == 1
    unlimited = Limits(RequestLimits())
    for _ in range(10_000):
        unlimited.check_rate("a")
    unlimited.check_server()


def test_followers_of_a_key_and_of_all() -> None:
    limits = Limits(RequestLimits(followers=3, followers_per_key=2))
    first = limits.follow("a")
    limits.follow("a")
    with pytest.raises(TooManyRequests):
        limits.follow("a")
    limits.follow("b")
    with pytest.raises(Overloaded):
        limits.follow("c")
    first()
    first()
    limits.follow("c")
    with pytest.raises(Overloaded):
        limits.follow("a")


def test_requests_in_flight() -> None:
    limits = Limits(RequestLimits(in_flight=2))
    limits.in_flight = 2
    limits.check_server()
    limits.in_flight = 3
    with pytest.raises(Overloaded):
        limits.check_server()


def test_bytes_of_bodies() -> None:
    limits = Limits(RequestLimits(body_bytes=100))
    limits.hold(60)
    with pytest.raises(Overloaded):
        limits.hold(41)
    limits.hold(40)
    limits.release(60)
    limits.hold(60)
