"""`Pool`: the standard library's `multiprocessing.Pool` on the cluster.

    from atoll.util.multiprocessing import Pool

    with Pool() as pool:
        print(pool.map(fit, parts))

Names, arguments and semantics are those of the standard library. There are no processes that belong to a pool: it
borrows the cluster's workers while it has work, so a pool costs nothing while it is idle and starts at once. The
initializer runs in each worker before the pool's first call there.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import TimeoutError as PoolTimeoutError
from typing import Any

from atoll.util import remote_calls
from atoll.util.calls import Call, CallQueue

__all__ = ["AsyncResult", "IMapIterator", "Pool", "TimeoutError"]

TimeoutError = PoolTimeoutError  # noqa: A001 - the standard library's name

Callback = Callable[[Any], object]

_CHUNKS_A_WORKER = 4
_AHEAD = 2
"""An `imap` has so many chunks submitted for each worker, beyond those whose results were taken."""


class AsyncResult:
    """What will be the result of calls: of one, or of all chunks of a map.

    Args:
        chunks: How many results it is made from; None for the one result of one call.
        callback: Told the value.
        error_callback: Told what was raised.
    """

    def __init__(self, chunks: int | None, callback: Callback | None, error_callback: Callback | None) -> None:
        self._single = chunks is None
        self._parts: list[Any] = [None] * (1 if chunks is None else chunks)
        self._missing = len(self._parts)
        self._error: BaseException | None = None
        self._callback = callback
        self._error_callback = error_callback
        self._lock = threading.Lock()
        self._done = threading.Event()
        if not self._missing:
            self._finish()

    def _took(self, index: int, value: Any, error: BaseException | None) -> None:
        """A part is there. The first error is the result, at once."""
        with self._lock:
            if self._done.is_set():
                return
            self._missing -= 1
            if error is None:
                self._parts[index] = value
            elif self._error is None:
                self._error = error
            if self._missing and self._error is None:
                return
        self._finish()

    def _finish(self) -> None:
        if self._error is None:
            if not self._single:
                self._parts = list(itertools.chain.from_iterable(self._parts))
            if self._callback is not None:
                self._callback(self._parts[0] if self._single else self._parts)
        elif self._error_callback is not None:
            self._error_callback(self._error)
        self._done.set()

    def ready(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether it has ended without raising.

        Raises:
            ValueError: It has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Return when it has ended, or the time is over (in seconds)."""
        self._done.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Return the value.

        Raises:
            TimeoutError: `multiprocessing.TimeoutError`: it was not there in time.
            Exception: What the call raised.
        """
        if not self._done.wait(timeout):
            raise PoolTimeoutError
        if self._error is not None:
            raise self._error
        return self._parts[0] if self._single else self._parts


class IMapIterator:
    """The results of `imap` and `imap_unordered`, as they come.

    Items are taken from the iterable as results are taken from here, some chunks ahead, so that it may be endless.

    Args:
        submit: Submits a chunk of items.
        items: To be mapped.
        chunksize: So many travel and run together.
        ahead: So many chunks are submitted beforehand.
        ordered: Whether results come in the order of the items.
    """

    def __init__(
        self,
        submit: Callable[[list[Any], Callable[[Any, BaseException | None], None]], None],
        items: Iterable[Any],
        chunksize: int,
        ahead: int,
        ordered: bool,
    ) -> None:
        self._submit = submit
        self._items = iter(items)
        self._chunksize = chunksize
        self._ordered = ordered
        self._condition = threading.Condition()
        self._ended: dict[int, tuple[Any, BaseException | None]] = {}
        self._submitted = 0
        self._taken = 0
        self._values: deque[Any] = deque()
        for _ in range(ahead):
            self._submit_next()

    def _submit_next(self) -> None:
        number = self._submitted
        error: BaseException | None = None
        try:
            chunk = list(itertools.islice(self._items, self._chunksize))
        except Exception as problem:  # the iterable's own: raised when its turn comes
            chunk, error = [], problem
            self._items = iter(())
        if not chunk and error is None:
            return
        self._submitted += 1
        if error is not None:
            self._end(number, None, error)
        else:
            self._submit(chunk, lambda value, raised: self._end(number, value, raised))

    def _end(self, number: int, value: Any, error: BaseException | None) -> None:
        with self._condition:
            self._ended[number] = value, error
            self._condition.notify_all()

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Args:
            timeout: In seconds; None waits for ever.

        Raises:
            StopIteration: There are no more.
            TimeoutError: `multiprocessing.TimeoutError`: it was not there in time.
            Exception: What a call of its chunk raised.
        """
        while not self._values:
            if self._taken == self._submitted:
                raise StopIteration
            value, error = self._next_chunk(timeout)
            self._taken += 1
            self._submit_next()
            if error is not None:
                raise error
            self._values.extend(value)
        return self._values.popleft()

    def _next_chunk(self, timeout: float | None) -> tuple[Any, BaseException | None]:
        def here() -> bool:
            return self._taken in self._ended if self._ordered else bool(self._ended)

        with self._condition:
            if not self._condition.wait_for(here, timeout):
                raise PoolTimeoutError
            return self._ended.pop(self._taken if self._ordered else next(iter(self._ended)))


class Pool:
    """Workers of the cluster, as a pool of processes.

    Args:
        processes: How many calls may run at once; as many as the cluster has CPUs for if None.
        initializer: Run in each worker process before the pool's first call there.
        initargs: Its arguments.
        maxtasksperchild: A worker process is replaced after so many tasks.
        context: The standard library's; nothing is forked here.
        ray_address: Ray's; the cluster is this user's.
        ray_remote_args: Ray's name for `remote_args`.
        remote_args: Options of the tasks, as for `@atoll.remote`: `num_cpus`, `num_gpus`, `runtime_env`...

    Raises:
        ValueError: `processes` or `maxtasksperchild` is less than 1, or an option makes no sense.
        TypeError: The initializer cannot be called.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
        *,
        remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        if processes is not None and processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and maxtasksperchild <= 0:
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        options = dict(ray_remote_args or {}) | dict(remote_args or {})
        if maxtasksperchild is not None:
            options["max_calls"] = maxtasksperchild
        self._calls = CallQueue(processes, options, initializer, tuple(initargs))
        self._state = "running"

    # --------------------------------------------------------------------------------------------- one call

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> Any:
        """Call `func(*args, **kwds)` in a worker and return its value; raises what it raises."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `apply`, without waiting. Callbacks are called in another thread, and must return soon."""
        result = AsyncResult(None, callback, error_callback)
        self._submit(
            func, tuple(args), dict(kwds or {}), remote_calls.ONE, lambda value, error: result._took(0, value, error)
        )
        return result

    # ------------------------------------------------------------------------------------------------- maps

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Return `[func(item) for item in iterable]`, computed in chunks."""
        result: list[Any] = self.map_async(func, iterable, chunksize).get()
        return result

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `map`, without waiting."""
        return self._map(func, iterable, chunksize, callback, error_callback, remote_calls.EACH)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """As `map`, with `func(*item)`."""
        result: list[Any] = self.starmap_async(func, iterable, chunksize).get()
        return result

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `starmap`, without waiting."""
        return self._map(func, iterable, chunksize, callback, error_callback, remote_calls.EACH_STARRED)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
        mode: int,
    ) -> AsyncResult:
        self._check_running()
        items = list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (self._calls.limit * _CHUNKS_A_WORKER)))
        _check_chunksize(chunksize)
        starts = range(0, len(items), chunksize)
        result = AsyncResult(len(starts), callback, error_callback)
        for index, start in enumerate(starts):
            chunk = items[start : start + chunksize]

            def took(value: Any, error: BaseException | None, index: int = index) -> None:
                result._took(index, value, error)

            self._submit(func, (chunk,), {}, mode, took)
        return result

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Return an iterator over the results in the order of the items, each as soon as it is there."""
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """As `imap`, in the order in which results are there."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> IMapIterator:
        self._check_running()
        _check_chunksize(chunksize)

        def submit(chunk: list[Any], finish: Callable[[Any, BaseException | None], None]) -> None:
            self._send(Call(func, (chunk,), {}, begin=_always, finish=finish, mode=remote_calls.EACH))

        return IMapIterator(submit, iterable, chunksize, self._calls.limit * _AHEAD, ordered)

    def _submit(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mode: int,
        finish: Callable[[Any, BaseException | None], None],
    ) -> None:
        self._check_running()
        self._send(Call(func, args, kwargs, begin=_always, finish=finish, mode=mode))

    def _send(self, call: Call) -> None:
        broken = self._calls.broken
        if broken is not None:
            call.finish(None, broken)
        else:
            self._calls.submit(call)

    # ---------------------------------------------------------------------------------------------- the end

    def _check_running(self) -> None:
        if self._state != "running":
            raise ValueError("Pool not running")

    def close(self) -> None:
        """Take nothing more; what was submitted is done."""
        if self._state == "running":
            self._state = "closed"

    def terminate(self) -> None:
        """Take nothing more, give up what waits and interrupt what runs; their results raise `TaskCancelledError`."""
        from atoll.exceptions import TaskCancelledError

        self._state = "terminated"
        for call in self._calls.drop_waiting():
            call.finish(None, TaskCancelledError("the pool was terminated before the call had begun"))
        self._calls.cancel_running()

    def join(self) -> None:
        """Return when everything has ended.

        Raises:
            ValueError: The pool still takes calls: `close` or `terminate` it first.
        """
        if self._state == "running":
            raise ValueError("Pool is still running")
        self._calls.wait_idle()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.terminate()

    def __reduce__(self) -> tuple[Any, ...]:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _always() -> bool:
    return True


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")
