"""How a call of an actor that answers several at once is carried out, whatever thread it runs in."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from atoll.client import arguments
from atoll.client.session import Session
from atoll.nodeagent.async_streams import AsyncStreams
from atoll.nodeagent.concurrency import USUAL_COROUTINES, Call, Concurrency, EventLoops, Threads
from atoll.nodeagent.failures import cancelled_answer, error_payload, method_of, microseconds, retried_by
from atoll.nodeagent.leaving import ActorExit, announce_exit
from atoll.nodeagent.results import DependencyMissing, RaisedMidway, ResultWriter
from atoll.nodeagent.spans import SpanRecorder
from atoll.nodeagent.streams import StreamRunner
from atoll.protocol.channel_messages import DependencyLost, TaskRaised
from atoll.protocol.machine import Peer
from atoll.protocol.values import ActorSpec


class Streamed(NamedTuple):
    """What a generator as a whole has returned, after its values were sent."""

    value: Any
    contained: list[bytes]


class CallHost:
    """Runs the parts of calls that are not the user's.

    Args:
        session: The worker's.
        results: Turns values into answers.
        where: This process, as people read it.
        actor_id: The actor's.
        actor: Returns the actor.
        streams: What the worker knows of streams.

    Attributes:
        spans: Records what ran.
    """

    def __init__(
        self,
        session: Session,
        results: ResultWriter,
        where: str,
        actor_id: bytes,
        actor: Callable[[], Any],
        streams: StreamRunner,
    ) -> None:
        self._session = session
        self._results = results
        self._where = where
        self._actor_id = actor_id
        self._actor = actor
        self._registering = threading.Lock()
        self._streams = streams
        self._async_streams = AsyncStreams(session, results, streams)
        self._recording = threading.Lock()
        self.spans: SpanRecorder | None = None

    def begin_call(self, call: Call) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return the method and its arguments."""
        message = call.message
        method = method_of(self._actor(), message)
        values = self._results.load_all(message.dependencies) if message.dependencies else []
        args, kwargs = arguments.unpack(message.arguments, values)
        return method, args, kwargs

    async def stream(self, call: Call, values: Any) -> Streamed:
        """Send what a generator yields."""
        return Streamed(*await self._async_streams.run(call.peer, call.message, values))

    def end_call(self, call: Call, value: Any) -> Any:
        """Return the answer for a value."""
        if type(value) is Streamed:
            answer = self._results.whole(call.message, value.value, value.contained, microseconds(call.began))
        else:
            answer = self._results.answer(call.message, value, call.peer, microseconds(call.began))
        del value
        with self._registering:  # what another call registers for this one must be registered when this one answers
            self._results.register_borrowed()
        self._ended(call, failed=False)
        return answer

    def _ended(self, call: Call, *, failed: bool) -> None:
        """Send what the call has written, and record it."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if self.spans is not None:
            with self._recording:
                self.spans.begin(self._session.job, call.context.name, call.began)
                self.spans.end(time.monotonic(), failed=failed)
            self._session.set_timer(from_elsewhere=True)

    def fail_call(self, call: Call, error: BaseException) -> Any:
        """Return the answer for what was raised; None if the process ends of it."""
        if call.message.returns < 0:
            with self._session.lock:
                self._streams.forget(call.peer, call.message.sequence)
        if type(error) is DependencyMissing:
            return DependencyLost(call.message.sequence, [error.object_id])
        values, contained = [], []
        if type(error) is RaisedMidway:
            values, contained, error = error.values, error.contained, error.error
        if call.cancelled and isinstance(error, asyncio.CancelledError):
            return cancelled_answer(call.message.sequence)
        if isinstance(error, ActorExit):
            announce_exit(self._session, self._actor_id)
            return None
        self._ended(call, failed=True)
        if isinstance(error, SystemExit):
            os._exit(error.code if isinstance(error.code, int) else 1 if error.code else 0)
        payload = error_payload(error, call.context.name, self._where)
        again = isinstance(error, retried_by(self._actor(), call.message))
        return TaskRaised(call.message.sequence, payload, microseconds(call.began), again, values, contained)

    def answers(self, peer: Peer, answers: list[Any]) -> None:
        """Send answers."""
        self._session.reply(peer, answers)


def concurrency_for(spec: ActorSpec, coroutines: bool, host: CallHost) -> Concurrency | None:
    """Return what runs an actor's calls, or None for one that runs them one by one in the main thread."""
    if coroutines:
        return EventLoops(host, spec.maximum_concurrency or USUAL_COROUTINES, spec.concurrency_groups)
    if spec.maximum_concurrency > 1 or spec.concurrency_groups:
        return Threads(host, spec.maximum_concurrency or 1, spec.concurrency_groups)
    return None
