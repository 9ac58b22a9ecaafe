from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

from atoll.exceptions import ClusterLostError
from atoll.protocol.state import ClusterState, decode_state, encode_state
from atoll.widgets.updater import SILENT_S, Audience, Updater
from tests.patience import PATIENCE_S
from tests.widgets.sample_state import sample_state


class Source:
    """Yields what the test puts in, as fast as it is asked."""

    cluster_id = "5f3a9c01d2e4b677"

    def __init__(self, troubles: int = 0) -> None:
        self.watches = 0
        self._troubles = troubles

    def current(self) -> ClusterState:
        return sample_state()

    def watch(self, interval_s: float, stopped: threading.Event) -> Iterator[bytes]:
        self.watches += 1
        if self.watches <= self._troubles:
            raise ClusterLostError("the scheduler is gone")
        seed = 0
        while not stopped.wait(0.02):
            seed += 1
            yield encode_state(sample_state(seed=seed))


class Page:
    """Takes what is delivered."""

    def __init__(self) -> None:
        self.contents: list[dict[str, object]] = []
        self.states: list[ClusterState] = []
        self.threads: set[str] = set()

    def __call__(self, content: dict[str, object], buffers: list[bytes]) -> None:
        self.threads.add(threading.current_thread().name)
        self.contents.append(content)
        self.states += [decode_state(each) for each in buffers]


def until(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_states_come_at_most_four_a_second_from_a_thread_of_its_own() -> None:
    page = Page()
    updater = Updater(Source(), page, lambda: False)
    updater.expect()
    began = time.monotonic()
    until(lambda: len(page.states) >= 4)
    assert time.monotonic() - began > 3 * 0.125 - 0.02
    assert page.threads == {"atoll-dashboard"}
    updater.stop()
    assert not updater.is_running


def test_it_ends_when_the_server_serves_and_begins_again_when_it_does_not() -> None:
    page = Page()
    updater = Updater(Source(), page, lambda: False)
    updater.expect()
    updater.hear("view", "server")
    until(lambda: not updater.is_running)
    updater.hear("view", "kernel")
    assert updater.is_running
    many = len(page.states)
    until(lambda: len(page.states) > many)
    updater.hear("view", "nobody")
    until(lambda: not updater.is_running)


def test_trouble_is_told_and_tried_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("atoll.widgets.updater._AGAIN_S", 0.05)
    page = Page()
    updater = Updater(Source(troubles=2), page, lambda: False)
    updater.expect()
    until(lambda: bool(page.states))
    updater.stop()
    assert [content["kind"] for content in page.contents[:3]] == ["trouble", "trouble", "update"]
    assert "scheduler is gone" in json.dumps(page.contents[0])


def test_whom_we_expect_counts_until_a_view_speaks() -> None:
    audience = Audience()
    assert not audience.needs_kernel(0.0)
    audience.expect(0.0)
    assert audience.needs_kernel(1.0)
    audience.hear("one", "server", 1.0)
    assert not audience.needs_kernel(1.1)


def test_one_of_several_views_is_enough() -> None:
    audience = Audience()
    audience.hear("one", "kernel", 0.0)
    audience.hear("other", "server", 0.0)
    assert audience.needs_kernel(0.1)
    audience.hear("one", "nobody", 0.2)
    assert not audience.needs_kernel(0.3)


def test_silence_counts_only_while_the_kernel_could_have_heard() -> None:
    audience = Audience()
    audience.hear("one", "kernel", 0.0)
    for second in range(0, 100, 5):
        audience.deaf(float(second))
        assert audience.needs_kernel(float(second))
    assert audience.needs_kernel(95 + SILENT_S - 1)
    assert not audience.needs_kernel(95 + SILENT_S + 1)
