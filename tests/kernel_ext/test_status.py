"""The line below a cell that is waited for."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.kernel_ext.lines import Part, bundle_of, duration
from atoll.kernel_ext.status import Status, StatusLine, describe_run
from atoll.progress_messages import Progress
from tests.kernel_ext.test_views import state


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.2, "12 s"), (65, "1 min 05 s"), (3725, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def said(status: Status) -> str:
    return bundle_of(status.state, [], status.parts)["text/plain"]


def test_what_a_cell_does_now() -> None:
    assert said(describe_run(state(), "j1", "fit", 2.0)) == "● runs on reef · GPU 0 · 2.0 s"
    assert said(describe_run(state(), "j1", "next", 2.0)) == "○ waits · 1 GPU is held by fit · 2.0 s"
    assert said(describe_run(state(), "j2", "fit", 2.0)) == "◌ remote · 2.0 s"
    assert said(describe_run(None, "j1", "fit", 2.0)) == "◌ remote · 2.0 s"
    assert said(describe_run(state(), "j1", "fit", 2.0, Progress(3, 4, "epochs"))).endswith(" · 75% 3/4 epochs")


def test_what_users_have_named_is_inert() -> None:
    shown = bundle_of("failed", [Part("<b>x</b>", strong=True)], [Part("a", title='"><script>'), Part("<i>")])
    assert "<b>&lt;b&gt;x&lt;/b&gt;</b>" in shown["text/html"]
    assert "<script>" not in shown["text/html"]
    assert "<i>" not in shown["text/html"]
    assert shown["text/plain"] == "✗ <b>x</b>  a · <i>"


class Shown:
    def __init__(self, updates: bool = True) -> None:
        self.updates = updates
        self.events: list[tuple[str, bool]] = []

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        assert transient["display_id"]
        self.events.append((data["text/plain"], update))

    text = result = clear = error = page = display


def seconds_of(elapsed_s: float) -> Status:
    return Status.of("running", f"{elapsed_s} s <b>")


def test_nothing_is_shown_for_a_short_cell() -> None:
    sink = Shown()
    line = StatusLine(sink, seconds_of, enabled=True)
    assert line.wait_s(0.1) == pytest.approx(0.3)
    line.tick(0.1)
    line.end("done", "ran")
    assert sink.events == []


def test_one_line_is_updated_and_replaced() -> None:
    sink = Shown()
    line = StatusLine(sink, seconds_of, enabled=True)
    for elapsed_s in (0.5, 1.5, 1.5):
        line.tick(elapsed_s)
    line.end("done", "ran")
    assert sink.events == [("● 0.5 s <b>", False), ("● 1.5 s <b>", True), ("✓ ran", True)]
    assert line.wait_s(2.0) == 1.0


def test_no_line_comes_into_the_midst_of_output() -> None:
    sink = Shown()
    line = StatusLine(sink, seconds_of, enabled=True)
    line.output_comes()
    line.tick(0.5)
    line.end("done", "ran")
    assert sink.events == []
    line = StatusLine(sink, seconds_of, enabled=True)
    line.tick(0.5)
    line.output_comes()
    line.tick(1.5)
    assert len(sink.events) == 2, "one that is there stays above it"


def test_a_terminal_gets_a_line_only_when_something_else_is_the_case() -> None:
    sink = Shown(updates=False)
    line = StatusLine(sink, seconds_of, enabled=True)
    for elapsed_s in (0.5, 1.5, 2.5):
        line.tick(elapsed_s)
    line.end("done", "ran")
    assert [text for text, _update in sink.events] == ["● 0.5 s <b>", "✓ ran"]


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_STATUS", "off")
    sink = Shown()
    line = StatusLine(sink, seconds_of)
    assert line.wait_s(0.0) is None
    line.tick(5.0)
    line.end("done")
    assert sink.events == []
