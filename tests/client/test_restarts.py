"""How often daemons are started again."""

from __future__ import annotations

from atoll.client.restarts import RESTARTS, WITHIN_S, Restarts


def test_so_many_within_so_long_and_no_more() -> None:
    restarts = Restarts()
    assert all(restarts.begin(1000.0 + number) for number in range(RESTARTS))
    assert not restarts.begin(1000.0 + WITHIN_S - 0.1)
    assert restarts.begin(1000.0 + WITHIN_S), "the first is long ago; what was refused is not counted"
    assert not restarts.begin(1000.0 + WITHIN_S), "the second is not"


def test_those_that_lie_far_apart_are_never_too_many() -> None:
    restarts = Restarts()
    assert all(restarts.begin(number * WITHIN_S / (RESTARTS - 1)) for number in range(10 * RESTARTS))
