"""The line below a remote cell that says what it waits for.

Nothing is shown for 0.4 s, nor for a cell that shows something itself by then; then one line, updated once a second; at
the end it is replaced by what stays in the saved notebook. `ATOLL_STATUS=off` shows none, for notebooks whose outputs
are compared.

The text is made by pure functions of the cluster's state. The line is a display that is updated, so it works in any
front end; the thread that waits for the cell updates it. Where nothing can be updated, in a terminal, a line is printed
only when something else is the case.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

from atoll.kernel_ext.engine.contract import Glance
from atoll.kernel_ext.lines import Part, bundle_of, duration
from atoll.kernel_ext.outputs import Sink
from atoll.progress_messages import Progress
from atoll.protocol.state import ClusterState

__all__ = ["Status", "StatusLine", "describe_run", "duration", "lines_are_shown"]

FIRST_AFTER_S = 0.4
EVERY_S = 1.0


class Status(NamedTuple):
    """What is the case.

    Attributes:
        state: One of `lines.STATES`.
        parts: What is said.
    """

    state: str
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, state: str, *texts: str) -> Status:
        """Return a status of plain texts; empty ones are left out."""
        return cls(state, tuple(Part(text) for text in texts if text))


def lines_are_shown() -> bool:
    """Whether lines about cells are wanted: `ATOLL_STATUS`."""
    return os.environ.get("ATOLL_STATUS", "on") != "off"


def describe_run(
    state: ClusterState | Glance | None, job: str, label: str, elapsed_s: float, progress: Progress | None = None
) -> Status:
    """Return what a cell does now.

    Args:
        state: The cluster's, or None if it is not known.
        job: This session, in hex.
        label: What the cell is called.
        elapsed_s: Since it was sent.
        progress: What it has said of that.
    """
    time = duration(elapsed_s)
    if state is None:
        return Status.of("sent", "remote", time)
    names = {node.node_id: node.name for node in state.nodes}
    for lease in state.leases:
        if lease.job == job and label in (lease.label, lease.doing):
            where = names.get(lease.node_id, lease.node_id[:6])
            devices = f"GPU {', '.join(map(str, lease.devices))}" if lease.devices else ""
            said = Status.of("running", f"runs on {where}", devices, time)
            return Status(said.state, (*said.parts, *progress_parts(progress)))
    for demand in state.demands:
        if demand.job == job and demand.label == label:
            return Status.of("waiting", "waits", demand.reason or "for a worker", time)
    return Status.of("sent", "remote", time)


def progress_parts(progress: Progress | None) -> list[Part]:
    """Return how far something is."""
    if progress is None:
        return []
    count = f"{progress.done:g}" + (f"/{progress.total:g}" if progress.total else "")
    words = f"{count} {progress.text}".strip()
    share = progress.share
    return [Part(words) if share is None else Part(f"{share:.0%} {words}", share=share)]


class StatusLine:
    """One cell's line.

    Args:
        sink: Where it is shown.
        describe: Returns what is the case, for the seconds since the start.
        enabled: False to show nothing; by default as `ATOLL_STATUS` says.
    """

    def __init__(self, sink: Sink, describe: Callable[[float], Status], enabled: bool | None = None) -> None:
        self._sink = sink
        self._describe = describe
        self._enabled = enabled if enabled is not None else lines_are_shown()
        self._display_id = secrets.token_hex(8)
        self._shown: Status | None = None

    def output_comes(self) -> None:
        """The cell shows something: a line that is not there yet would stand in the midst of it, and is not needed."""
        if self._shown is None:
            self._enabled = False

    def wait_s(self, elapsed_s: float) -> float | None:
        """Return in how many seconds `tick` has something to do; None for never."""
        if not self._enabled:
            return None
        return FIRST_AFTER_S - elapsed_s if elapsed_s < FIRST_AFTER_S else EVERY_S

    def tick(self, elapsed_s: float) -> None:
        """Show or update the line, if it is time."""
        if self._enabled and elapsed_s >= FIRST_AFTER_S:
            self._show(self._describe(elapsed_s))

    def end(self, state: str, *texts: str) -> None:
        """Replace the line, if there is one, by what stays."""
        if self._shown is not None:
            self._show(Status.of(state, *texts))

    def conclude(self, state: str, *texts: str) -> None:
        """Show what stays, also where there was no line."""
        self._show(Status.of(state, *texts))

    def _show(self, status: Status) -> None:
        if status == self._shown:
            return
        if self._shown is None or self._sink.updates or status.state != self._shown.state:
            transient: dict[str, Any] = {"display_id": self._display_id}
            self._sink.display(bundle_of(status.state, [], status.parts), {}, transient, self._shown is not None)
        self._shown = status
