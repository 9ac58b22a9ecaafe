"""`%%remote fit bg`: the cell ends at once, `fit` is a handle to what runs on.

The names that a background cell sets do not come into the notebook by themselves: they would change under the hands of
whoever works there. `fit["model"]` takes one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from typing import Any

from atoll.exceptions import TaskCancelledError
from atoll.kernel_ext.cell_messages import LAST, CellResult
from atoll.kernel_ext.engine import Running
from atoll.kernel_ext.errors import cell_result_of, failure_to_raise, one_line, with_header
from atoll.kernel_ext.namespace_pickle import Namespace
from atoll.kernel_ext.outputs import NoSink, Sink, replay
from atoll.kernel_ext.remote_cell import values_of


class BackgroundCell:
    """A cell that runs in the background.

    `fit.result()` waits and returns the value of its last expression, `await fit` does so in an async cell;
    `fit["model"]` waits and returns what the cell has set; `fit.cancel()` ends it.

    Attributes:
        name: What it is called.
        record: Its number in the cluster: `%logs t42` shows its output, from any notebook.
    """

    def __init__(self, name: str, namespace: Namespace, record: str = "") -> None:
        self.name = name
        self.record = record
        self._namespace = namespace
        self._running: Running | None = None
        self._values: Namespace | None = None

    def attach(self, running: Running) -> None:
        """Say what runs. Called once, as soon as the cell is sent."""
        self._running = running

    @property
    def _started(self) -> Running:
        assert self._running is not None, "a handle is given out only after its cell was sent"
        return self._running

    @property
    def status(self) -> str:
        """`running`, `done`, `failed` or `cancelled`."""
        future = self._started.future
        if not future.done():
            return "running"
        if future.cancelled():
            return "cancelled"
        error = future.exception()
        if error is None:
            return "done"
        failed = cell_result_of(error)
        interrupted = failed is not None and failed.failure is not None and failed.failure.kind == "KeyboardInterrupt"
        return "cancelled" if interrupted or isinstance(error, TaskCancelledError) else "failed"

    def done(self) -> bool:
        """Whether it has ended."""
        return self._started.future.done()

    def cancel(self) -> None:
        """Interrupt it, or take it back if it has not begun. Does nothing if it has ended."""
        if not self.done():
            self._started.cancel()

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the end and return the value of the cell's last expression, or None.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            Exception: What the cell raised.
        """
        return self._all(timeout_s).get(LAST)

    def __getitem__(self, name: str) -> Any:
        values = self._all(None)
        if name not in values:
            known = ", ".join(self) or "nothing"
            raise KeyError(f"the cell {self.name} has set no {name!r}; it has set {known}")
        return values[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._all(None) if name != LAST)

    def __contains__(self, name: object) -> bool:
        return name in self._all(None)

    def keys(self) -> list[str]:
        """Wait for the end and return the names that the cell has set."""
        return list(self)

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        yield from asyncio.wrap_future(self._started.future).__await__()
        return self.result()

    def _all(self, timeout_s: float | None) -> Namespace:
        if self._values is not None:
            return self._values
        try:
            result: CellResult = self._started.future.result(timeout_s)
        except (TimeoutError, CancelledError):
            raise
        except Exception as error:
            failed = cell_result_of(error)
            if failed is None:
                raise one_line(error) from None
            raise failure_to_raise(failed, self._namespace, f"%%remote {self.name}") from None
        # Functions of the cell see what the cell has set and what the notebook had; the notebook's own names stay.
        home = dict(self._namespace)
        values, _lost = values_of(result, home, result.names)
        home.update({name: value for name, value in values.items() if name != LAST})
        self._values = values
        return values

    def __repr__(self) -> str:
        number = f" ({self.record})" if self.record else ""
        return f"<background cell {self.name}{number}: {self.status}>"


class BackgroundOutput:
    """Shows the output of a background cell in the cell that started it, and its error when it fails.

    Args:
        sink: Where it is shown, from any thread.
        quiet: Whether to show nothing.
    """

    def __init__(self, sink: Sink, quiet: bool) -> None:
        self._sink = NoSink() if quiet else sink

    def take(self, kind: str, payload: bytes) -> None:
        """Show a piece of output: the `on_output` of an engine."""
        replay(kind, payload, self._sink)

    def ended(self, cell: BackgroundCell) -> None:
        """Say how the cell failed, if it did: nobody may ever ask for its result."""
        future = cell._started.future
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            return
        failed = cell_result_of(error)
        if failed is None:
            text = str(error)
            self._sink.error(type(error).__name__, text, [f"{type(error).__name__}: {text}"])
        elif failed.failure is not None:
            where = f"%%remote {cell.name} on {failed.node} (pid {failed.pid})"
            self._sink.error(failed.failure.kind, failed.failure.text, with_header(failed.failure, where))
