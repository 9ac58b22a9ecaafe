"""`Executor`: `concurrent.futures.Executor` on the cluster.

    with Executor() as executor:
        futures = [executor.submit(fit, part) for part in parts]

It keeps the standard library's semantics, so that code written for `ProcessPoolExecutor` runs unchanged: pending
futures can be cancelled, running ones cannot; `shutdown` waits; the interpreter's exit waits too; what a call raises
is raised by `result()` with the remote traceback as its cause.

Two things differ. A worker that dies takes its own call with it (`BrokenProcessPool`) and not the whole executor.
And there are no processes that belong to an executor: it borrows the cluster's workers while it has calls.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

from atoll.client.current import current_session
from atoll.util import remote_calls
from atoll.util.calls import Call, CallQueue

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("concurrent.futures")
_living: weakref.WeakSet[Executor] = weakref.WeakSet()
_exiting = False


class Executor(concurrent.futures.Executor):
    """Runs calls on the cluster's workers.

    Args:
        max_workers: How many calls may run at once; as many as the cluster has CPUs for if None.
        mp_context: Taken for the sake of code written for `ProcessPoolExecutor`; nothing is forked here.
        initializer: Run once in every worker process before its first call of this executor.
        initargs: Its arguments.
        max_tasks_per_child: A worker process is replaced after so many calls.
        options: Of the tasks, as for `@atoll.remote`: `num_cpus`, `num_gpus`, `resources`, `runtime_env`...

    Raises:
        ValueError: `max_workers` or `max_tasks_per_child` is less than 1, or an option makes no sense.
        TypeError: The initializer cannot be called.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        **options: Any,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError(f"max_workers must be greater than 0, not {max_workers}")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if max_tasks_per_child <= 0:
                raise ValueError(f"max_tasks_per_child must be >= 1, not {max_tasks_per_child}")
            options["max_calls"] = max_tasks_per_child
        self._calls = CallQueue(max_workers, options, initializer, initargs)
        self._closed = False
        self._broken: BaseException | None = None
        _living.add(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        """Call `fn(*args, **kwargs)` on a worker.

        `ObjectRef`s among the arguments are replaced by their values.

        Raises:
            RuntimeError: The executor was shut down, or the interpreter ends.
            BrokenExecutor: The initializer has failed in a worker.
        """
        future: concurrent.futures.Future[T] = self._submit(fn, args, kwargs, remote_calls.ONE)
        return future

    def _submit(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mode: int) -> Any:
        if self._broken is not None:
            raise concurrent.futures.BrokenExecutor(str(self._broken))
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def finish(value: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(value)
                return
            if error is self._calls.broken and self._broken is None:
                self._broken = error
                _logger.critical("Exception in initializer:\n%s", error)
            future.set_exception(error)

        call = Call(fn, args, kwargs, begin=future.set_running_or_notify_cancel, finish=finish, mode=mode)
        current_session().loaders()  # the thread that takes results in: at the interpreter's end none is begun any more
        self._calls.submit(call)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **other: Any,
    ) -> Iterator[T]:
        """Return an iterator over `fn` applied to the items, in their order; the calls are submitted at once.

        Args:
            fn: What to call.
            iterables: Taken in step, as by `zip`.
            timeout: Seconds from now until the last result; None waits for ever.
            chunksize: So many items travel and run together.
            other: What later versions of Python add; `buffersize` bounds how many chunks are submitted beforehand.

        Raises:
            TimeoutError: When the next result is not there in time.
            ValueError: `chunksize` is less than 1.
        """
        buffersize = other.pop("buffersize", None)
        if other:
            raise TypeError(f"map() got an unexpected keyword argument {next(iter(other))!r}")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        until = None if timeout is None else time.monotonic() + timeout
        chunks = _chunked(zip(*iterables, strict=False), chunksize)
        return _results(self, fn, chunks, until, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more.

        Args:
            wait: Return when everything submitted has ended.
            cancel_futures: Cancel what has not begun.
        """
        self._closed = True
        if cancel_futures:
            for call in self._calls.drop_waiting():
                _cancel(call)
        if wait:
            self._calls.wait_idle()


def _cancel(call: Call) -> None:
    future: concurrent.futures.Future[Any] = call.begin.__self__  # type: ignore[attr-defined]
    future.cancel()
    call.begin()  # whoever waits for it is told


def _chunked(items: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    chunk: list[tuple[Any, ...]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _results(
    executor: Executor, fn: Any, chunks: Iterator[list[tuple[Any, ...]]], until: float | None, buffersize: int | None
) -> Iterator[Any]:
    """Submit the chunks now, and return what yields their results; what is not asked for any more is cancelled."""

    def submit_next() -> bool:
        chunk = next(chunks, None)
        if chunk is not None:
            futures.append(executor._submit(fn, (chunk,), {}, remote_calls.EACH_STARRED))
        return chunk is not None

    futures: list[concurrent.futures.Future[list[Any]]] = []
    while (buffersize is None or len(futures) < buffersize) and submit_next():
        pass
    futures.reverse()

    def results() -> Iterator[Any]:
        try:
            while futures:
                left_s = None if until is None else max(0.0, until - time.monotonic())
                values = _result_of(futures.pop(), left_s)
                values.reverse()
                while values:  # nothing keeps a value that was handed out
                    yield values.pop()
                if buffersize is not None:
                    futures.reverse()
                    submit_next()
                    futures.reverse()
        finally:
            for future in futures:
                future.cancel()

    return results()


def _result_of(future: concurrent.futures.Future[list[Any]], timeout_s: float | None) -> list[Any]:
    try:
        return future.result(timeout_s)
    finally:
        future.cancel()
        del future


def _wait_at_exit() -> None:
    """Let what was submitted end before the session does: as the standard library's executors."""
    global _exiting
    _exiting = True
    for executor in list(_living):
        executor.shutdown(wait=True)


# As the standard library's executors: before the interpreter waits for threads, which is before what `atexit` knows,
# the end of the session among it.
threading._register_atexit(_wait_at_exit)  # type: ignore[attr-defined]
