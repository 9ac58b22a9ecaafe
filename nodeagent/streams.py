"""Generators as a worker runs them: each value is an answer of its own, while the task goes on.

    OpenStream ─▶ waits for its task ─▶ runs ──next value──▶ TaskYielded
                                          │ ▲
                                          ▼ │ ReadStream
                                     `limit` values are untaken

`CloseStream` closes the generator at its next `yield`; a cancelled task's is interrupted wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from atoll.client.core.records import DYNAMIC
from atoll.client.reactor import Waiter
from atoll.client.session import Session
from atoll.exceptions import StreamingGeneratorReplayInconsistentError
from atoll.nodeagent.results import ResultWriter
from atoll.object_ref_generator import DynamicObjectRefGenerator
from atoll.protocol.channel_messages import CallMethod, CloseStream, OpenStream, ReadStream, RunTask, TaskYielded
from atoll.protocol.machine import Peer

if TYPE_CHECKING:
    from atoll.nodeagent.async_streams import LoopWaiter

Task = RunTask | CallMethod


class Flow:
    """What a worker knows of a stream: how far its reader is.

    Attributes:
        limit: So many values may be untaken; 0 for any number.
        received: So many values are not sent again.
        replayed: Except for these.
        taken: So many were taken.
        closed: Nobody reads it any more.
        waiter: What waits for the reader, a thread or a coroutine, if it does.
    """

    __slots__ = ("closed", "limit", "received", "replayed", "taken", "waiter")

    def __init__(self, opened: OpenStream) -> None:
        self.limit = opened.limit
        self.received = opened.received
        self.replayed = opened.replayed
        self.taken = opened.taken
        self.closed = False
        self.waiter: Waiter | LoopWaiter | None = None

    def wants(self, index: int) -> bool:
        """Whether a value is to be sent."""
        return index >= self.received or index in self.replayed

    def must_wait(self, yielded: int) -> bool:
        """Whether the generator may not go on after so many values."""
        return 0 < self.limit <= yielded - self.taken and not self.closed


class StreamRunner:
    """Runs generators for callers.

    Args:
        session: The worker's.
        results: Turns values into answers.
        step: Calls user code in the main thread so that it can be interrupted; in another thread, just so.
        error_payload: Returns the pickled error for what the code of a task raised.
    """

    def __init__(
        self,
        session: Session,
        results: ResultWriter,
        step: Callable[[Callable[[], Any]], Any],
        error_payload: Callable[[Task, BaseException], bytes],
    ) -> None:
        self._session = session
        self._results = results
        self._step = step
        self._error_payload = error_payload
        self._flows: dict[tuple[Peer, int], Flow] = {}

    # -------------------------------------------------------------------------- what comes (the lock is held)

    def take(self, peer: Peer, message: OpenStream | ReadStream | CloseStream) -> None:
        """Take a message about a stream; one about a stream that is over says nothing any more."""
        key = (peer, message.sequence)
        if isinstance(message, OpenStream):
            self._flows[key] = Flow(message)
            return
        flow = self._flows.get(key)
        if flow is None:
            return
        if isinstance(message, ReadStream):
            flow.taken = max(flow.taken, message.taken)
        else:
            flow.closed = True
        if flow.waiter is not None:
            flow.waiter.remaining = 0
            flow.waiter.wake()

    def forget(self, peer: Peer, sequence: int) -> None:
        """A task will not run here."""
        self._flows.pop((peer, sequence), None)

    def caller_lost(self, peer: Peer) -> None:
        """Nobody reads the streams of a lost caller."""
        for key, flow in list(self._flows.items()):
            if key[0] == peer:
                flow.closed = True
                if flow.waiter is not None:
                    flow.waiter.remaining = 0
                    flow.waiter.wake()

    # ------------------------------------------------------------------------------------------- a task's thread

    def run(self, peer: Peer, message: Task, values: Any) -> tuple[Any, list[bytes]]:
        """Send a generator's values, each when it comes, and return what the task as a whole returned.

        Returns:
            The task's own value, and the ids of the objects that it refers to: of the values, if `DYNAMIC`.

        Raises:
            BaseException: Whatever the generator raises.
        """
        flow = self.begin(peer, message)
        try:
            if not isinstance(values, Iterator):
                raise TypeError(f"the values of a {type(values).__name__} cannot be streamed: return a generator")
            sent = self._send_all(peer, message, values, flow)
        finally:
            with self._session.lock:
                self.forget(peer, message.sequence)
        return self.whole(message, sent)

    def begin(self, peer: Peer, message: Task) -> Flow:
        """Return what is known of a stream whose task begins."""
        with self._session.lock:
            return self._flows.get((peer, message.sequence)) or Flow(OpenStream(message.sequence))

    def whole(self, message: Task, sent: int) -> tuple[Any, list[bytes]]:
        """Return the value of the task as a whole, and the ids of the values that it refers to."""
        if message.returns != DYNAMIC:
            return None, []
        object_ids = [self._results.item_id(message, index) for index in range(sent)]
        refs = [self._results.ref_to(object_id) for object_id in object_ids]
        return DynamicObjectRefGenerator(refs), [*object_ids]

    def failed(self, message: Task, count: int, error: Exception) -> TaskYielded:
        """Return the answer for what was raised in the place of the next value."""
        return self._results.failed(message, count, self._error_payload(message, error))

    def _send_all(self, peer: Peer, message: Task, values: Iterator[Any], flow: Flow) -> int:
        caller = self._session.process_of(peer)
        done = object()
        count = 0
        try:
            while True:
                if flow.must_wait(count):
                    self._step(partial(self._wait, flow, count))
                if flow.closed:
                    return count
                try:
                    value = self._step(partial(next, values, done))
                    if value is done:
                        self.check_end(count, flow)
                        return count
                    answer = self._results.yielded(message, count, value, caller) if flow.wants(count) else None
                except Exception as error:
                    if message.returns != DYNAMIC:
                        raise
                    answer = self.failed(message, count, error)
                    value = done
                if answer is not None:
                    self._session.reply(peer, [answer])
                count += 1
                if value is done:
                    return count
                del value, answer
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                self._step(close)

    @staticmethod
    def check_end(count: int, flow: Flow) -> None:
        """Raise StreamingGeneratorReplayInconsistentError if a generator that ran again has yielded less."""
        if count < flow.received:
            text = f"it yielded {flow.received} values when it ran first and {count} when it ran again"
            raise StreamingGeneratorReplayInconsistentError(text)

    def _wait(self, flow: Flow, count: int) -> None:
        """Wait for the reader; a worker's CPU is lent meanwhile."""
        session = self._session
        while True:
            with session.lock:
                if not flow.must_wait(count):
                    return
                waiter = flow.waiter = Waiter(1)
            with session.interrupts as interrupted, session.hooks.blocking():
                session.reactor.wait(waiter, None, interrupted)
            flow.waiter = None
