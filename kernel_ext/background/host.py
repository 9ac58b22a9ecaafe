"""The process that a background cell has to itself. This side runs in the worker.

It is a detached actor, so nothing of it ends with the kernel that sent the cell. It gets the cell as its constructor's
argument, which the scheduler keeps while it waits for resources, and then calls itself: the cell begins also when the
kernel is gone by then. When the cell has ended, its values are the cluster's, and the process and what it holds are
given back.

A cell that reads what other background cells have yet to set waits for them here, in an actor that holds nothing, which
then makes the one that runs it.
"""

from __future__ import annotations

import signal
from typing import Any

from atoll.kernel_ext.background.bars import progress_of_bars
from atoll.kernel_ext.background.ear import CANCEL, Ear
from atoll.kernel_ext.background.story import NAMESPACE, WAITS
from atoll.kernel_ext.cell_messages import CellRequest
from atoll.kernel_ext.cell_runner import CellHost, finish, run_with
from atoll.kernel_ext.engine.contract import Engine, Options
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.local_modules import after_cell, before_cell
from atoll.kernel_ext.records import Ending, Recorder, directory_of, write_ending
from atoll.kernel_ext.time_limit import OVERTIME, CellTimeoutError
from atoll.options import ActorOptions
from atoll.progress_messages import PROGRESS, Progress, encode_progress


class BackgroundHost:
    """Runs one cell and ends.

    Args:
        request: The cell.
        label: What the cluster calls it.
        waits: Numbers of the cells whose results it reads and which may not have ended.
        options: Of the task that the cell is, for one that waits.
    """

    def __init__(self, request: CellRequest, label: str, waits: tuple[str, ...], options: Options) -> None:
        from atoll.client.current import current_session
        from atoll.runtime_context import get_runtime_context

        self._request = request
        self._label = label
        self._waits = waits
        self._options = options
        self._directory = current_session().cluster.directory
        self._recorder: Recorder | None = None
        self._said: Progress | None = None
        me = get_runtime_context().current_actor
        method = me.cell_wait if waits else me.cell_begin
        self._cell = method.options(name=label, _on_output=self._take_output).remote()
        me.cell_leave.options(name="(ends)").remote()

    def cell_begin(self) -> None:
        """Run the cell.

        Raises:
            RemoteCellError: It raised. That is told to nobody but the cluster, which shows the task as failed.
        """
        record = self._request.record
        self._recorder = Recorder(directory_of(self._directory) / record, self._emitted)
        ear = Ear(self._directory, record, self._hear, self._look_at_bars)
        began = before_cell()
        try:
            result = run_with(CellHost(), self._request, self._recorder)
        finally:
            after_cell(began)
            ear.close()
        finish(result)

    def cell_wait(self) -> None:
        """Wait for other cells, then have the process made that runs this one."""
        from atoll.kernel_ext.background.handle import BackgroundCell

        record = self._request.record
        ear = Ear(self._directory, record, self._hear, lambda: None)
        try:
            for other in self._waits:
                try:
                    cell = BackgroundCell.found(other)
                except KeyError:
                    if other in self._request.from_cells:
                        raise
                    continue  # so long ago that its record is gone: it was only to end before this one
                cell.wait()
                if other in self._request.from_cells and cell.status != "done":
                    names = ", ".join(self._request.from_cells[other])
                    text = f"{cell.name} ({other}), which sets {names}, {cell.status}"
                    ending = Ending("failed", [f"BackgroundCellFailed: {text}"], kind="BackgroundCellFailed", text=text)
                    write_ending(self._directory, record, ending)
                    return
        except KeyboardInterrupt:
            write_ending(self._directory, record, Ending("failed", ["KeyboardInterrupt"], kind="KeyboardInterrupt"))
            raise
        finally:
            ear.close()
        try:
            begin_cell(current_engine(), self._request, self._options, self._label, ())
        except Exception as error:
            kind, text = type(error).__name__, str(error)
            write_ending(self._directory, record, Ending("failed", [f"{kind}: {text}"], kind=kind, text=text))
            raise

    def cell_leave(self) -> None:
        """End this process. Called after the cell."""
        from atoll.actor import exit_actor

        exit_actor()

    def _hear(self, word: str) -> None:
        if word == CANCEL:
            from atoll.api import cancel

            cancel(self._cell)

    def _emitted(self, kind: str, _payload: bytes) -> None:
        """Take what was recorded; nobody else listens. A cell that goes on after its time is ended."""
        if kind == OVERTIME:
            error = CellTimeoutError(self._request.timeout_s, ended=True)
            name, text = type(error).__name__, str(error)
            write_ending(self._directory, self._request.record, Ending("failed", [f"{name}: {text}"], [], name, text))
            signal.raise_signal(signal.SIGKILL)

    def _take_output(self, kind: str, payload: bytes) -> None:
        """Take what the cell says past its own streams: how far it is, itself or the tasks that it has submitted."""
        if kind == PROGRESS and self._recorder is not None:
            self._recorder.note(kind, payload)

    def _look_at_bars(self) -> None:
        progress = progress_of_bars()
        if progress is not None and progress != self._said and self._recorder is not None:
            self._said = progress
            self._recorder.note(PROGRESS, encode_progress(progress))


def begin_cell(engine: Engine, request: CellRequest, options: Options, label: str, waits: tuple[str, ...]) -> None:
    """Have a cell run that outlives this process: what comes of it is found under the request's number.

    A cell has effects, so it is not begun again when its process dies, unless its line says so.

    Args:
        engine: The cluster.
        request: The cell.
        options: Of a task.
        label: What people see.
        waits: Numbers of the cells that must have ended first.

    Raises:
        TaskUnschedulableError: No node can ever give the resources.
    """
    known = ActorOptions.__struct_fields__
    wanted = {name: value for name, value in options.items() if name in known}
    held: dict[str, Any] = (
        {"num_cpus": 0} if waits else {"num_cpus": 1, **wanted, "max_restarts": options.get("max_retries", 0)}
    )
    name = request.record + (WAITS if waits else "")
    held["namespace"] = NAMESPACE
    engine.make_actor(host_class(label), name, held, request, label, waits, dict(options))


def host_class(label: str) -> type[BackgroundHost]:
    """Return the class under the name that people are to see for the cell."""
    return type(label, (BackgroundHost,), {"__doc__": "A background cell."})
