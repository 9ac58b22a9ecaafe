"""When the background thread leads, and what a turn reads: by the order of events, in one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from atoll.client.reactor import HURRIED_TICK_S, QUIET_TICKS, TICK_S, Reactor


class Ticks:
    """In the place of the event by which the background thread waits for its next look: no time passes.

    Args:
        reactor: Whose.
        during: Called with the number of each tick, from 1.
    """

    def __init__(self, reactor: Reactor, during: Callable[[int], None]) -> None:
        self.waited: list[float | None] = []
        self._reactor = reactor
        self._during = during

    def wait(self, timeout_s: float | None = None) -> None:
        assert len(self.waited) < 20, "it never led"
        self.waited.append(timeout_s)
        self._during(len(self.waited))

    def set(self) -> None: ...

    def clear(self) -> None: ...


class Led:
    """A reactor whose background thread is this one, and ends when it leads."""

    def __init__(self) -> None:
        self.pauses = 0
        self.reactor = Reactor(lambda: None, lambda: None, self._pause, lambda: None)

    def _pause(self) -> None:
        self.pauses += 1
        if self.reactor._background_leads:
            self.reactor.closed = True

    def ticks_until_it_leads(self, during: Callable[[int], None] = lambda _tick: None) -> list[float | None]:
        """Return how long the background thread waited for each of its looks."""
        ticks = self.reactor._unpark = Ticks(self.reactor, during)  # type: ignore[assignment]
        self.reactor._background()
        self.reactor.closed = False
        return ticks.waited


@pytest.fixture
def led() -> Iterator[Led]:
    made = Led()
    yield made
    made.reactor.close()


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    """Two pipes: reading and writing end of the first, then of the second."""
    ends = [*os.pipe(), *os.pipe()]
    yield ends
    for end in ends:
        os.close(end)


def test_the_background_thread_leads_when_nobody_has_for_some_looks(led: Led) -> None:
    assert led.ticks_until_it_leads() == [TICK_S] * QUIET_TICKS


def test_for_a_callback_it_leads_at_the_first_quiet_look_and_looks_sooner(led: Led) -> None:
    led.reactor.hurry()
    assert led.ticks_until_it_leads() == [HURRIED_TICK_S]
    assert led.ticks_until_it_leads() == [TICK_S] * QUIET_TICKS, "it has led: the hurry is over"


def test_a_hurry_does_not_disturb_who_submits(led: Led) -> None:
    led.reactor.hurry()
    found = led.ticks_until_it_leads(lambda tick: led.reactor.touch() if tick <= 3 else None)
    assert found == [HURRIED_TICK_S] * 4


def test_a_hurry_in_the_middle_of_a_wait_counts_from_the_next_look_on(led: Led) -> None:
    led.reactor.touch()
    found = led.ticks_until_it_leads(lambda tick: led.reactor.hurry() if tick == 1 else None)
    assert found == [TICK_S], "it was quiet"


def test_who_leads_already_need_not_hurry(led: Led) -> None:
    led.reactor._background_leads = True
    led.reactor.hurry()
    led.reactor._background_leads = False
    assert led.ticks_until_it_leads() == [TICK_S] * QUIET_TICKS


def test_a_turn_reads_all_that_has_come_and_what_comes_of_it_and_waits_for_nothing(led: Led, pipes: list[int]) -> None:
    first, into_first, second, into_second = pipes
    read: list[bytes] = []

    def of_first(_mask: int) -> None:
        read.append(os.read(first, 10))
        os.write(into_second, b"second")

    led.reactor.register(first, of_first)
    led.reactor.register(second, lambda _mask: read.append(os.read(second, 10)))
    led.reactor.turn()
    assert (read, led.pauses) == ([], 0)
    os.write(into_first, b"first")
    led.reactor.turn()
    assert (read, led.pauses) == ([b"first", b"second"], 2)
    assert not led.reactor._lead.locked()


def test_a_turn_leaves_the_reading_to_a_thread_that_leads(led: Led, pipes: list[int]) -> None:
    led.reactor.register(pipes[0], lambda _mask: pytest.fail("it is another thread's"))
    os.write(pipes[1], b"first")
    led.reactor._lead.acquire()
    led.reactor.turn()
    led.reactor._lead.release()
    led.reactor.unregister(pipes[0])


def test_a_turn_takes_the_lead_from_the_background_thread(led: Led, pipes: list[int]) -> None:
    reactor, read = led.reactor, []
    reactor.register(pipes[0], lambda _mask: read.append(os.read(pipes[0], 10)))
    os.write(pipes[1], b"first")
    reactor._lead.acquire()
    reactor._background_leads = True

    def woken() -> None:
        assert reactor._yield, "it is asked to stop"
        reactor._background_leads = False
        reactor._lead.release()

    reactor.wake = woken  # type: ignore[method-assign]
    reactor.turn()
    del reactor.wake
    assert read == [b"first"]
