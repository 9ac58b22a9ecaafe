"""The background cells of one kernel: sending them, waiting for those that another needs, telling when they end."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

from atoll.kernel_ext.background.handle import BackgroundCell
from atoll.kernel_ext.background.line import why_it_failed
from atoll.kernel_ext.background.notices import Notices
from atoll.kernel_ext.background.pending import PendingNames
from atoll.kernel_ext.background.story import DONE, CellStory
from atoll.kernel_ext.background.watcher import watcher
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.engine.contract import Options, Running
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.errors import named_error, one_line
from atoll.kernel_ext.outputs import NoSink, Sink, sink_for_later
from atoll.kernel_ext.records import directory_of, write_head
from atoll.kernel_ext.status import Status, StatusLine, duration
from atoll.progress_messages import PROGRESS

Needed = Mapping[BackgroundCell, tuple[str, ...]]
"""Cells that another one depends on, with the names that it takes from each."""


class KernelCells:
    """What a kernel knows of its background cells. Use `cells_of(shell)`.

    Args:
        shell: IPython's.

    Attributes:
        pending: The names that are still to come.
        notices: What is to be told.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = weakref.proxy(shell)
        self.pending = PendingNames()
        self.notices = Notices(self._shell)
        self._swept = False
        self._handles: weakref.WeakValueDictionary[str, BackgroundCell] = weakref.WeakValueDictionary()
        shell.events.register("pre_run_cell", self.notices.before_cell)

    def begin(
        self,
        request: CellRequest,
        options: Options,
        name: str,
        needed: Needed,
        *,
        behind: list[BackgroundCell],
        quiet: bool,
        notify: bool = False,
    ) -> BackgroundCell:
        """Send a cell that outlives this kernel.

        Args:
            request: The cell.
            options: Of a task.
            name: What it is called.
            needed: What it needs.
            behind: What stands before it in its queue, the first sent first.
            quiet: Whether to show no line.
            notify: Whether the browser is to tell of its end.

        Raises:
            Exception: It cannot be sent; in one line.
        """
        from atoll.kernel_ext.background.host import begin_cell

        engine = current_engine()
        if not self._swept:
            self._swept = True
            engine.sweep()
        waits = [cell for cell in dict.fromkeys([*behind, *needed]) if not cell.done()]
        told = [cell for cell in waits if cell in needed or cell is behind[-1]]
        story = CellStory(request.record, name, name, time.time(), waits_for=_listed(told), notify=notify)
        request.kept = True
        self._write_head(story)
        try:
            begin_cell(engine, request, options, name, tuple(cell.record for cell in waits))
        except Exception as error:
            (directory_of(engine.directory()) / request.record).unlink(missing_ok=True)
            raise one_line(error) from None
        return self._followed(BackgroundCell(story, self._shell.user_ns), quiet)

    def begin_inside(
        self, request: CellRequest, host: str, actor: Any, name: str, *, quiet: bool, notify: bool = False
    ) -> BackgroundCell:
        """Send a cell into an actor, and do not wait for it; see `begin`.

        Raises:
            Exception: It cannot be sent; in one line.
        """
        story = CellStory(request.record, name, f"{name} on {host}", time.time(), host=host, notify=notify)
        request.kept = True
        self._write_head(story)

        def take(kind: str, payload: bytes) -> None:
            if kind == PROGRESS:
                story.take(kind, payload, time.time())

        try:
            running: Running = actor.call("cell_run", request, on_output=take, label=story.label)
        except Exception as error:
            raise one_line(error) from None
        return self._followed(BackgroundCell(story, self._shell.user_ns, running), quiet)

    @staticmethod
    def _write_head(story: CellStory) -> None:
        write_head(current_engine().directory(), story.record, story.head)

    def _followed(self, cell: BackgroundCell, quiet: bool) -> BackgroundCell:
        self.adopt(cell, sink_for_later(self._shell), quiet=quiet)
        self.notices.expect(cell)
        return cell

    def handle_of(self, record: str, sink: Sink) -> BackgroundCell:
        """Return the handle of a cell by its number: the one that this kernel has, or a new one.

        Args:
            record: The number.
            sink: Takes its output, if the handle is new.

        Raises:
            KeyError: There is no background cell of that number.
        """
        cell = self._handles.get(record)
        if cell is None:
            cell = BackgroundCell.found(record, self._shell.user_ns)
            self.adopt(cell, sink)
        return cell

    def cell_of(self, record: str) -> BackgroundCell | None:
        """Return a cell of the cluster by its number, to be looked at; None if there is none.

        It is not adopted: what a cell of another notebook has set does not go with what this one knows of it.
        """
        known = self._handles.get(record)
        if known is not None:
            return known
        try:
            return BackgroundCell.found(record, self._shell.user_ns)
        except KeyError:
            return None

    def adopt(self, cell: BackgroundCell, sink: Sink, *, quiet: bool = False) -> None:
        """Show a cell where `sink` says, and have what it has set go with its handle."""
        follower = cell.follow(sink)
        if not quiet and not isinstance(sink, NoSink):
            cell.show_line(sink, output=True)
        watcher().follow(follower)
        self._handles[cell.record] = cell
        weakref.finalize(cell, self.notices.gone, cell.record).atexit = False

    def wait_for(self, needed: Needed, sink: Sink, *, quiet: bool) -> None:
        """Wait until cells have ended that another one needs, and say so.

        Raises:
            KeyboardInterrupt: The user does not wait any longer; the cells go on.
        """
        waits = [cell for cell in needed if not cell.done()]
        if not waits:
            return
        text = f"waits for {_listed(waits)}"
        describe = lambda elapsed_s: Status.of("waiting", text, duration(elapsed_s))  # noqa: E731
        status = StatusLine(sink, describe, enabled=False if quiet else None)
        started = time.monotonic()
        left = {cell._over() for cell in waits}
        while left:
            elapsed_s = time.monotonic() - started
            _ended, left = wait(left, status.wait_s(elapsed_s), FIRST_COMPLETED)
            if left:
                status.tick(time.monotonic() - started)
        status.end("done", f"waited for {_listed(waits)}", duration(time.monotonic() - started))


def from_cells(needed: Needed) -> dict[str, tuple[str, ...]]:
    """Return where a cell finds the names that come from others.

    Raises:
        CellError: One of those has failed.
    """
    for cell, names in needed.items():
        if names and cell.done() and cell.status != DONE:
            what = f"{cell.name} ({cell.record}), which sets {', '.join(names)}, {cell.status}"
            reason = why_it_failed(cell.story)
            text = f"{what}: {reason}" if reason else what
            raise named_error("BackgroundCellFailed", text, [f"BackgroundCellFailed: {text} (nothing was sent)"])
    return {cell.record: names for cell, names in needed.items() if names}


def _listed(cells: list[BackgroundCell]) -> str:
    return ", ".join(f"{cell.name} ({cell.record})" for cell in sorted(cells, key=lambda cell: int(cell.record[1:])))


_kernels: weakref.WeakKeyDictionary[Any, KernelCells] = weakref.WeakKeyDictionary()


def cells_of(shell: Any) -> KernelCells:
    """Return what a shell knows of its background cells."""
    cells = _kernels.get(shell)
    if cells is None:
        cells = _kernels[shell] = KernelCells(shell)
    return cells


def forget_cells(shell: Any) -> None:
    """Tell nothing more of a shell's cells; what runs, runs on."""
    cells = _kernels.pop(shell, None)
    if cells is not None:
        with contextlib.suppress(ValueError):
            shell.events.unregister("pre_run_cell", cells.notices.before_cell)
