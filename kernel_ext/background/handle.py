"""`%%remote fit bg`: the cell ends at once, `fit` is a handle to what runs on.

The names that a background cell sets do not come into the notebook by themselves: they would change under the hands of
whoever works there. `fit["model"]` takes one.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import Any

from atoll import exceptions
from atoll.kernel_ext.background.ear import CANCEL, say
from atoll.kernel_ext.background.line import why_it_failed
from atoll.kernel_ext.background.live import Page
from atoll.kernel_ext.background.story import CANCELLED, CellStory
from atoll.kernel_ext.background.watcher import Follower, Line, watcher
from atoll.kernel_ext.cell_messages import LAST, CellFailure, CellResult
from atoll.kernel_ext.engine.contract import Running
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.errors import failure_to_raise, named_error, with_header
from atoll.kernel_ext.namespace_pickle import Namespace, PackedNames
from atoll.kernel_ext.outputs import NoSink, Sink, sink_here, sink_later
from atoll.kernel_ext.records import Ending, RecordReader, head_of, write_ending


class BackgroundCell:
    """A cell that runs in the background.

    `fit.result()` waits and returns the value of its last expression, `await fit` does so in an async cell;
    `fit["model"]` waits and returns what the cell has set; `fit.cancel()` ends it; `fit.logs()` shows what it has
    shown. It belongs to the cluster, not to the kernel: `%attach t42` finds it after a restart, in any notebook.

    Attributes:
        name: What it is called.
        record: Its number in the cluster.
    """

    def __init__(self, story: CellStory, namespace: Namespace, running: Running | None = None) -> None:
        self.name = story.name
        self.record = story.record
        self._story = story
        self._namespace = namespace
        self._running = running
        self._follower: Follower | None = None
        self._values: Namespace | None = None
        self._lost: dict[str, str] = {}
        self._collected = False

    @classmethod
    def found(cls, record: str, namespace: Namespace | None = None) -> BackgroundCell:
        """Return a cell by its number.

        Raises:
            KeyError: There is no background cell of that number.
        """
        head = head_of(current_engine().directory(), record)
        if head is None:
            raise KeyError(f"there is no background cell {record}")
        return cls(CellStory.of(record, head), namespace if namespace is not None else {"__name__": "__main__"})

    def follow(self, sink: Sink) -> Follower:
        """Have this process follow it, and show its output; called once."""
        follower = Follower(self._story, RecordReader(current_engine().directory(), self.record), sink, self._running)
        self._follower = follower
        return follower

    def _over(self) -> Future[CellStory]:
        if self._follower is None:
            watcher().follow(self.follow(NoSink()))
        assert self._follower is not None
        return self._follower.over

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end, however it comes.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
        """
        self._collected = True
        over = self._over()
        if not over.done():
            from atoll.client.current import current_session

            with current_session().hooks.blocking():
                over.result(timeout_s)

    @property
    def status(self) -> str:
        """`sent`, `waiting`, `running`, `done`, `failed` or `cancelled`."""
        self._over()
        return self._story.phase

    @property
    def story(self) -> CellStory:
        """What is known of it."""
        return self._story

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self._story.seconds

    @property
    def is_news(self) -> bool:
        """Whether nobody has asked for its result yet."""
        return not self._collected

    def done(self) -> bool:
        """Whether it has ended."""
        return self._over().done()

    def cancel(self, *, force: bool = False) -> None:
        """Interrupt it, or take it back if it has not begun. Does nothing if it has ended.

        Args:
            force: End its process at once, whatever it does. What it has set is lost.
        """
        if self.done():
            return
        if self._running is not None:
            self._running.cancel()
            return
        directory = current_engine().directory()
        if not force and say(directory, self.record, CANCEL):
            return
        current_engine().end_cell(self.record)
        with contextlib.suppress(FileNotFoundError):
            write_ending(directory, self.record, Ending("failed", ["KeyboardInterrupt"], kind="KeyboardInterrupt"))

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the end and return the value of the cell's last expression, or None.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            Exception: What the cell raised.
        """
        return self._all(timeout_s).get(LAST)

    def logs(self) -> None:
        """Show again, here, what it has shown so far."""
        from atoll.kernel_ext.detached import show

        show(RecordReader(current_engine().directory(), self.record), sink_here())

    def __getitem__(self, name: str) -> Any:
        values = self._all(None)
        if name not in values:
            if name in self._lost:
                raise KeyError(f"{name!r} was not kept: {self._lost[name]}")
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

        yield from asyncio.wrap_future(self._over()).__await__()
        return self.result()

    def _all(self, timeout_s: float | None) -> Namespace:
        if self._values is not None:
            return self._values
        self.wait(timeout_s)
        story = self._story
        try:
            result, ref = current_engine().kept(self.record)
        except KeyError:
            raise self._without_values(story) from None
        if result.failure is not None:
            raise failure_to_raise(result, self._namespace, f"%%remote {self.name}") from None
        from atoll.kernel_ext.remote_cell import values_of

        # Functions of the cell see what the cell has set and what the notebook had; the notebook's own names stay.
        home = dict(self._namespace)
        values, lost = values_of(result, home, PackedNames(b""), ref)
        self._lost = {**result.left_out, **lost}
        home.update({name: value for name, value in values.items() if name != LAST})
        self._values = values
        return values

    def _without_values(self, story: CellStory) -> BaseException:
        """Return the error of a cell of which nothing is kept: its process died, or it never began."""
        ending = story.ending
        if ending is not None and ending.status == "done":
            text = f"what {self.name} ({self.record}) has set is not kept any more"
            return named_error("KeyError", text, [f"KeyError: {text}"])
        if ending is not None and story.phase == CANCELLED:
            return exceptions.TaskCancelledError(f"{self.name} ({self.record}) was cancelled")
        kind, _, text = why_it_failed(story).partition(": ")
        lines = [f"{kind}: {text}"]
        if ending is not None and ending.where:
            failure = CellFailure(ending.kind, ending.text, ending.traceback)
            lines = with_header(failure, f"%%remote {self.name} on {ending.where}")
        known = getattr(exceptions, kind, None)
        error = known(text) if isinstance(known, type) and issubclass(known, exceptions.AtollError) else None
        return named_error(kind, text, lines, error) if error is None else error

    def show_line(self, sink: Sink, *, output: bool = False) -> None:
        """Show its line in one more place, where it stays live, if lines are wanted.

        Args:
            sink: The place.
            output: Whether its output is shown there, too.
        """
        from atoll.kernel_ext.status import lines_are_shown

        if not lines_are_shown():
            return
        self._over()
        assert self._follower is not None
        page = Page(current_engine().cluster_id(), output) if sink.updates else None
        self._follower.add_line(Line(sink, secrets.token_hex(8), page))

    def _ipython_display_(self) -> None:
        """Show its line, live."""
        from atoll.kernel_ext.status import lines_are_shown

        if lines_are_shown():
            self.show_line(sink_later())
        else:
            sink_here().display({"text/plain": repr(self)}, {}, {}, update=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return BackgroundCell.found, (self.record,)

    def __repr__(self) -> str:
        return f"<background cell {self.name} ({self.record}): {self.status}>"


def result_of(cell: BackgroundCell) -> tuple[CellResult, Any]:
    """Return what a cell that has ended left, and the ref of it.

    Raises:
        BaseException: Nothing is kept; says why.
    """
    cell.wait()
    try:
        return current_engine().kept(cell.record)
    except KeyError:
        raise cell._without_values(cell._story) from None
