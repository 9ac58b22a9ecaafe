"""The dashboard as a widget: live beside its cell, still when saved.

Dashboard()                 in a cell's last line, or `%dashboard`
Dashboard().show()          the same, and `close` leaves a still picture in its place
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from atoll.exceptions import AtollError
from atoll.protocol.state import ClusterState, encode_state
from atoll.widgets.sources import ClusterSource, StateSource
from atoll.widgets.static_view import static_html, text
from atoll.widgets.updater import Updater

_logger = logging.getLogger("atoll.widgets")


@lru_cache(maxsize=1)
def _bundle() -> str:
    """Return the committed JavaScript."""
    return (Path(__file__).parent / "static" / "dashboard.js").read_text(encoding="utf-8")


class _Busy:
    """Knows whether IPython runs a cell now. Without IPython, never."""

    def __init__(self) -> None:
        self._busy = False
        try:
            from IPython.core.getipython import get_ipython
        except ImportError:
            return
        shell = get_ipython()  # type: ignore[no-untyped-call,unused-ignore] # IPython annotates it in some versions
        if shell is None:
            return
        # Made by a cell that is running; that it ends will be told.
        self._busy = True
        shell.events.register("pre_run_cell", self._begun)
        shell.events.register("post_run_cell", self._ended)

    def _begun(self, *_info: object) -> None:
        self._busy = True

    def _ended(self, *_result: object) -> None:
        self._busy = False

    def __call__(self) -> bool:
        return self._busy


@lru_cache(maxsize=1)
def _is_busy() -> _Busy:
    return _Busy()


class Dashboard(anywidget.AnyWidget):  # type: ignore[misc] # anywidget comes without types for mypy
    """The cluster, live: nodes, GPUs, what runs where, a timeline, and the objects in shared memory.

    In the browser it is fed by the Jupyter server where the server has Atoll's extension, else by a thread of this
    kernel. Either works while a cell runs. The thread ends when nobody looks any more.

    Args:
        source: Where the state comes from; by default the scheduler of this kernel's cluster.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _state = traitlets.Unicode("").tag(sync=True)
    _cluster_id = traitlets.Unicode("").tag(sync=True)

    def __init__(self, source: StateSource | None = None) -> None:
        self._source: StateSource = ClusterSource() if source is None else source
        self._shown_by: Any = None
        self._updater = Updater(self._source, self._deliver, _is_busy())
        super().__init__(_esm=_bundle())
        self.on_msg(self._heard)

    def _deliver(self, content: dict[str, object], buffers: list[bytes]) -> None:
        if self._source.cluster_id and self._cluster_id != self._source.cluster_id:
            self._cluster_id = self._source.cluster_id
        self.send(content, buffers)

    def _heard(self, _widget: object, content: object, _buffers: object) -> None:
        """Take what a view says. It is of the browser, so it is checked."""
        if not isinstance(content, dict):
            return
        view, watch = content.get("view"), content.get("watch")
        if isinstance(view, str) and 0 < len(view) <= 64 and watch in ("kernel", "server", "nobody"):
            self._updater.hear(view, watch)

    def _current(self) -> ClusterState | None:
        """Return the state now, remembered for whoever opens the saved notebook; None without a cluster."""
        try:
            state = self._source.current()
        except (AtollError, TimeoutError) as error:
            _logger.warning("the dashboard has no state to show: %s", error)
            return None
        self._cluster_id = state.cluster_id
        self._state = encode_state(state).decode()
        return state

    def _still(self) -> dict[str, str]:
        state = self._current()
        if state is None:
            return {"text/plain": "Atoll: no cluster answers", "text/html": "<p>Atoll: no cluster answers</p>"}
        return {"text/plain": text(state), "text/html": static_html(state)}

    def _repr_mimebundle_(self, **_options: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the live view, with a still picture beside it for where no widget can run."""
        bundle = super()._repr_mimebundle_()
        if bundle is None:
            return None
        data, metadata = bundle
        self._updater.expect()
        return {**data, **self._still()}, metadata

    def show(self) -> None:
        """Display it here, so that `close` can put a still picture in its place."""
        from IPython.display import display

        bundle = self._repr_mimebundle_()
        assert bundle is not None, "a dashboard that was closed has no view"
        self._shown_by = display(bundle[0], metadata=bundle[1], raw=True, display_id=True)

    def close(self) -> None:
        """Stop the updates and end the view. What `show` displayed becomes a still picture."""
        self._updater.stop()
        if self._shown_by is not None:
            self._shown_by.update(self._still(), raw=True)
            self._shown_by = None
        super().close()
