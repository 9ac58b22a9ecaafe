"""Actors that answer several calls at once: by threads, or by coroutines on event loops.

    main thread ── begin(call) ──▶ Threads     a pool of threads for each concurrency group, and one for the rest
                                   EventLoops  an event loop in a thread of its own for each of them

The main thread only hands over, in the order in which calls came. A group begins calls in that order, so many at once
as it may; the others wait in it. Groups do not wait for each other, whatever one of them does with its thread.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Protocol

from atoll.actor_methods import said_of
from atoll.client.context import TaskContext
from atoll.protocol.channel_messages import CallMethod
from atoll.protocol.machine import Peer

USUAL_COROUTINES = 1000
"""So many calls of an actor with coroutine methods run at once, if nothing else is said. Ray's number."""


class Call:
    """A call that runs, or waits to.

    Attributes:
        peer: Who made it.
        message: The call.
        context: What its code can ask about it.
        began: When it came, monotonic.
        begun: Whether its code has begun.
        cancelled: Its caller wants it no more.
    """

    __slots__ = ("began", "begun", "cancelled", "context", "message", "peer")

    def __init__(self, peer: Peer, message: CallMethod, context: TaskContext) -> None:
        self.peer = peer
        self.message = message
        self.context = context
        self.began = time.monotonic()
        self.begun = False
        self.cancelled = False

    @property
    def key(self) -> tuple[Peer, int]:
        """What names it in this process."""
        return self.peer, self.message.sequence


class Host(Protocol):
    """What the groups need of the executor. All but `answers` run user code or may wait."""

    def begin_call(self, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return the method and its arguments."""
        ...

    async def stream(self, call: Call, values: Any) -> Any:
        """Send what a generator yields, and return what `end_call` takes then."""
        ...

    def end_call(self, call: Call, value: Any) -> Any:
        """Return the answer for a value."""
        ...

    def fail_call(self, call: Call, error: BaseException) -> Any:
        """Return the answer for what was raised; None if there is none, for the process ends."""
        ...

    def answers(self, peer: Peer, answers: list[Any]) -> None:
        """Send answers."""
        ...


class Concurrency(Protocol):
    """One of the two kinds."""

    def construct(self, make: Callable[[], Any]) -> Any:
        """Run the constructor where calls run."""
        ...

    def begin(self, call: Call) -> None:
        """Take a call, in the order of calls. Called by the main thread."""
        ...

    def cancel(self, peer: Peer, sequence: int) -> None:
        """Cancel a call that was taken. Any thread; nothing happens if it has ended."""
        ...

    def current(self) -> Call | None:
        """Return the call that this code belongs to."""
        ...

    def about_to_block(self) -> None:
        """Code of a call is about to block its thread."""
        ...


def group_of(actor: Any, message: CallMethod) -> str:
    """Return the group that a call belongs to."""
    if message.group:
        return message.group
    return said_of(getattr(type(actor), message.method, None)).concurrency_group or ""


class UnknownGroupError(ValueError):
    """A call names a concurrency group that its actor does not have."""


def _unknown(group: str, known: Mapping[str, Any]) -> UnknownGroupError:
    names = ", ".join(repr(name) for name in known if name) or "none"
    return UnknownGroupError(f"the actor has no concurrency group {group!r}; it has {names}")


class _Current(threading.local):
    call: Call | None = None


class Threads:
    """Calls in threads.

    Args:
        host: Runs the code.
        limit: Calls that no group runs, at once.
        groups: The limits of the groups.
    """

    def __init__(self, host: Host, limit: int, groups: Mapping[str, int]) -> None:
        self._host = host
        self._actor: Any = None
        self._pools = {
            name: ThreadPoolExecutor(count, thread_name_prefix=f"atoll-call-{name}" if name else "atoll-call")
            for name, count in {"": limit, **groups}.items()
        }
        self._calls: dict[tuple[Peer, int], tuple[Call, Future[None]]] = {}
        self._lock = threading.Lock()
        self._current = _Current()

    def construct(self, make: Callable[[], Any]) -> Any:
        """Run the constructor in the main thread."""
        self._actor = make()
        return self._actor

    def begin(self, call: Call) -> None:
        """Take a call."""
        group = group_of(self._actor, call.message)
        pool = self._pools.get(group)
        if pool is None:
            self._host.answers(call.peer, [self._host.fail_call(call, _unknown(group, self._pools))])
            return
        with self._lock:
            self._calls[call.key] = (call, pool.submit(self._run, call))

    def _run(self, call: Call) -> None:
        self._current.call = call
        try:
            answer = _run_now(self._host, call)
        finally:
            self._current.call = None
        with self._lock:
            self._calls.pop(call.key, None)
        if answer is not None:
            self._host.answers(call.peer, [answer])

    def cancel(self, peer: Peer, sequence: int) -> None:
        """Cancel a call. One that runs in a thread goes on, and is said to be cancelled when it ends, as in Ray."""
        with self._lock:
            call, future = self._calls.get((peer, sequence), (None, None))
            if call is None or future is None:
                return
            call.cancelled = True
            waits = future.cancel()
            if waits:
                del self._calls[call.key]
        if waits:
            self._host.answers(peer, [self._host.fail_call(call, asyncio.CancelledError())])

    def current(self) -> Call | None:
        """Return the call that this thread runs."""
        return self._current.call

    def about_to_block(self) -> None:
        """Nobody minds: the thread is the call's own."""


def _run_now(host: Host, call: Call) -> Any:
    """Run a call in this thread and return its answer."""
    try:
        method, args, kwargs = host.begin_call(call)
        value = method(*args, **kwargs)
        del method, args, kwargs
        if call.cancelled:
            raise asyncio.CancelledError
        return host.end_call(call, value)
    except BaseException as error:  # whatever it raises is its answer
        return host.fail_call(call, error)


_coroutine_call: ContextVar[Call | None] = ContextVar("atoll_call", default=None)


class EventLoops:
    """Calls as coroutines. A method that is no coroutine runs on the loop, too, and holds it up meanwhile, as in Ray.

    Args:
        host: Runs the code.
        limit: Calls that no group runs, at once.
        groups: The limits of the groups.
    """

    def __init__(self, host: Host, limit: int, groups: Mapping[str, int]) -> None:
        self._host = host
        self._actor: Any = None
        self._loops = {name: _Loop(host, name, count) for name, count in {"": limit, **groups}.items()}

    def construct(self, make: Callable[[], Any]) -> Any:
        """Run the constructor on the loop of the calls that no group runs: tasks that it begins live there."""
        self._actor = self._loops[""].run(make)
        return self._actor

    def begin(self, call: Call) -> None:
        """Take a call."""
        group = group_of(self._actor, call.message)
        loop = self._loops.get(group)
        if loop is None:
            self._host.answers(call.peer, [self._host.fail_call(call, _unknown(group, self._loops))])
            return
        loop.begin(call)

    def cancel(self, peer: Peer, sequence: int) -> None:
        """Cancel a call: its coroutine gets `asyncio.CancelledError`."""
        for loop in self._loops.values():
            loop.cancel((peer, sequence))

    def current(self) -> Call | None:
        """Return the call that this code belongs to: a coroutine's, those it has begun, and their threads'."""
        return _coroutine_call.get()

    def about_to_block(self) -> None:
        """Warn if the thread is that of a loop: no other call of the group runs until it goes on."""
        if any(loop.thread is threading.current_thread() for loop in self._loops.values()):
            text = "atoll.get and atoll.wait block the event loop of this actor: write `await ref` in its coroutines"
            warnings.warn(text, RuntimeWarning, stacklevel=6)


class _Loop:
    """An event loop in a thread of its own, and the calls that it runs."""

    def __init__(self, host: Host, name: str, limit: int) -> None:
        self._host = host
        self._limit = limit
        self._loop = asyncio.new_event_loop()
        self._came: deque[Call] = deque()
        self._woken = False
        self._waiting: deque[Call] = deque()
        self._tasks: dict[tuple[Peer, int], tuple[Call, asyncio.Task[None]]] = {}
        self._answers: dict[Peer, list[Any]] = {}
        self.thread = threading.Thread(target=self._serve, name=f"atoll-loop-{name or 'actor'}", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, make: Callable[[], Any]) -> Any:
        """Run something on the loop and wait for it. Called by another thread."""

        async def made() -> Any:
            try:
                return make(), None
            except BaseException as error:  # the loop must not end of it
                return None, error

        value, error = asyncio.run_coroutine_threadsafe(made(), self._loop).result()
        if error is not None:
            raise error
        return value

    def begin(self, call: Call) -> None:
        """Take a call. Those that come while the loop is busy are handed over together."""
        self._came.append(call)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False
        while self._came:
            self._waiting.append(self._came.popleft())
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._tasks) < self._limit:
            call = self._waiting.popleft()
            task = self._loop.create_task(self._run(call))
            self._tasks[call.key] = (call, task)

    async def _run(self, call: Call) -> None:
        _coroutine_call.set(call)
        call.begun = True
        host = self._host
        try:
            try:
                if call.cancelled:
                    raise asyncio.CancelledError
                method, args, kwargs = host.begin_call(call)
                value = method(*args, **kwargs)
                del method, args, kwargs
                if inspect.isawaitable(value):
                    value = await value
                if call.message.returns < 0:
                    value = await host.stream(call, value)
                answer = host.end_call(call, value)
                del value
            except BaseException as error:  # whatever it raises is its answer
                answer = host.fail_call(call, error)
        finally:
            self._tasks.pop(call.key, None)
        if answer is not None:
            self._answer(call.peer, answer)
        if self._waiting:
            self._fill()

    def _answer(self, peer: Peer, answer: Any) -> None:
        """Send an answer, together with those of this turn of the loop."""
        if not self._answers:
            self._loop.call_soon(self._send_answers)
        self._answers.setdefault(peer, []).append(answer)

    def _send_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for peer, waiting in answers.items():
            self._host.answers(peer, waiting)

    def cancel(self, key: tuple[Peer, int]) -> None:
        """Cancel a call, if it is here. Any thread."""
        self._loop.call_soon_threadsafe(self._cancel, key)

    def _cancel(self, key: tuple[Peer, int]) -> None:
        call, task = self._tasks.get(key, (None, None))
        if call is not None and task is not None:
            call.cancelled = True
            if call.begun:  # one that is cancelled before its first step would never answer
                task.cancel()
            return
        self._take()  # it may have come with the order to cancel it
        for waiting in list(self._waiting):
            if waiting.key == key:
                self._waiting.remove(waiting)
                waiting.cancelled = True
                self._answer(waiting.peer, self._host.fail_call(waiting, asyncio.CancelledError()))
                return
        if key in self._tasks:  # it began just now
            self._cancel(key)
