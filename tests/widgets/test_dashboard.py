from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from atoll.exceptions import ClusterNotFoundError
from atoll.protocol.state import ClusterState, decode_state, encode_state
from atoll.widgets.dashboard import Dashboard
from tests.widgets.sample_state import sample_state

WIDGET = "application/vnd.jupyter.widget-view+json"


class Source:
    cluster_id = "5f3a9c01d2e4b677"

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def current(self) -> ClusterState:
        if self._error:
            raise self._error
        return sample_state()

    def watch(self, interval_s: float, stopped: threading.Event) -> Iterator[bytes]:
        while not stopped.wait(0.01):
            yield encode_state(sample_state())


def bundle(dashboard: Dashboard) -> dict[str, Any]:
    made = dashboard._repr_mimebundle_()
    assert made is not None
    return made[0]


def test_the_view_has_a_still_picture_beside_it() -> None:
    dashboard = Dashboard(Source())
    data = bundle(dashboard)
    assert data[WIDGET]["model_id"] == dashboard.model_id
    assert "<table>" in data["text/html"]
    assert "dromedary" in data["text/plain"]
    assert decode_state(dashboard._state.encode()) == sample_state(), "a saved widget opens with it"
    dashboard.close()


def test_closing_ends_the_thread() -> None:
    dashboard = Dashboard(Source())
    bundle(dashboard)
    assert any(thread.name == "atoll-dashboard" for thread in threading.enumerate())
    dashboard.close()
    assert not any(thread.name == "atoll-dashboard" for thread in threading.enumerate())


def test_without_a_cluster_it_says_so() -> None:
    dashboard = Dashboard(Source(ClusterNotFoundError("no cluster")))
    data = bundle(dashboard)
    assert "no cluster" in data["text/plain"]
    assert WIDGET in data
    dashboard.close()


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        "kernel",
        [],
        {},
        {"view": 1, "watch": "kernel"},
        {"view": "x" * 65, "watch": "kernel"},
        {"view": "a", "watch": "all"},
    ],
)
def test_what_a_browser_says_is_checked(content: object) -> None:
    dashboard = Dashboard(Source())
    dashboard._heard(dashboard, content, [])
    assert not any(thread.name == "atoll-dashboard" for thread in threading.enumerate())
    dashboard.close()


def test_the_bundle_asks_for_nothing_beyond_the_page() -> None:
    import re

    from atoll.widgets.dashboard import _bundle

    addresses = set(re.findall(r"https?://[\w./-]+", _bundle()))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "import("):
        assert word not in _bundle(), word
