"""The line below a remote cell that says what it waits for.

Nothing is shown for 0.4 s; then one line, updated once a second; at the end it is replaced by what stays in the saved
notebook. `ATOLL_STATUS=off` shows none, for notebooks whose outputs are compared.

The text is made by pure functions of the cluster's state. The line is a display that is updated, so it works in any
front end; the thread that waits for the cell updates it.
"""

from __future__ import annotations

import html
import os
import secrets
from collections.abc import Callable
from typing import Any

from atoll.kernel_ext.outputs import Sink
from atoll.protocol.state import ClusterState

FIRST_AFTER_S = 0.4
EVERY_S = 1.0


def duration(seconds: float) -> str:
    """Return a duration as people read it: `0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def describe_run(state: ClusterState | None, job: str, label: str, elapsed_s: float) -> str:
    """Return what a cell does now, in one line.

    Args:
        state: The cluster's, or None if it is not known.
        job: This session, in hex.
        label: What the cell is called.
        elapsed_s: Since it was sent.
    """
    time = duration(elapsed_s)
    if state is None:
        return f"◐ remote · {time}"
    names = {node.node_id: node.name for node in state.nodes}
    for lease in state.leases:
        if lease.job == job and label in (lease.label, lease.doing):
            where = names.get(lease.node_id, lease.node_id[:6])
            devices = f" · GPU {', '.join(map(str, lease.devices))}" if lease.devices else ""
            return f"● running on {where}, pid {lease.pid}{devices} · {time}"
    for demand in state.demands:
        if demand.job == job and demand.label == label:
            return f"○ waiting · {demand.reason or 'for a worker'} · {time}"
    return f"◐ remote · {time}"


def bundle(text: str) -> dict[str, str]:
    """Return a status line as text and as HTML. Everything in it is inert text."""
    style = "font-size:85%;opacity:.7;font-family:var(--jp-code-font-family,monospace)"
    return {"text/plain": text, "text/html": f'<div style="{style}">{html.escape(text)}</div>'}


class StatusLine:
    """One cell's line.

    Args:
        sink: Where it is shown.
        describe: Returns the text for the seconds since the start.
        enabled: False to show nothing; by default as `ATOLL_STATUS` says.
    """

    def __init__(self, sink: Sink, describe: Callable[[float], str], enabled: bool | None = None) -> None:
        self._sink = sink
        self._describe = describe
        self._enabled = enabled if enabled is not None else os.environ.get("ATOLL_STATUS", "on") != "off"
        self._display_id = secrets.token_hex(8)
        self._shown = ""

    def wait_s(self, elapsed_s: float) -> float | None:
        """Return in how many seconds `tick` has something to do; None for never."""
        if not self._enabled:
            return None
        return FIRST_AFTER_S - elapsed_s if elapsed_s < FIRST_AFTER_S else EVERY_S

    def tick(self, elapsed_s: float) -> None:
        """Show or update the line, if it is time."""
        if self._enabled and elapsed_s >= FIRST_AFTER_S:
            self._show(self._describe(elapsed_s))

    def end(self, text: str) -> None:
        """Replace the line, if there is one, by what stays."""
        if self._shown:
            self._show(text)

    def _show(self, text: str) -> None:
        if text != self._shown:
            transient: dict[str, Any] = {"display_id": self._display_id}
            self._sink.display(bundle(text), {}, transient, update=bool(self._shown))
            self._shown = text
