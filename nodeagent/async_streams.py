"""Generators of actors with coroutine methods: as `streams`, on an event loop, which goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

from atoll.client.core.records import DYNAMIC
from atoll.client.session import Session
from atoll.nodeagent.results import ResultWriter
from atoll.nodeagent.streams import Flow, StreamRunner, Task
from atoll.protocol.machine import Peer

_DONE: Any = object()


class LoopWaiter:
    """A coroutine that waits for the reader of its stream. Woken as a thread's `Waiter` is, by any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.remaining = 1
        self.woken = asyncio.Event()

    def wake(self) -> None:
        """Let it look again."""
        self._loop.call_soon_threadsafe(self.woken.set)


class AsyncStreams:
    """Runs generators on event loops, those that yield asynchronously and those that do not.

    Args:
        session: The worker's.
        results: Turns values into answers.
        streams: What this worker knows of its streams.
    """

    def __init__(self, session: Session, results: ResultWriter, streams: StreamRunner) -> None:
        self._session = session
        self._results = results
        self._streams = streams

    async def run(self, peer: Peer, message: Task, values: Any) -> tuple[Any, list[bytes]]:
        """As `StreamRunner.run`."""
        flow = self._streams.begin(peer, message)
        try:
            if not isinstance(values, Iterator | AsyncIterator):
                raise TypeError(f"the values of a {type(values).__name__} cannot be streamed: return a generator")
            sent = await self._send_all(peer, message, values, flow)
        finally:
            with self._session.lock:
                self._streams.forget(peer, message.sequence)
        return self._streams.whole(message, sent)

    async def _send_all(self, peer: Peer, message: Task, values: Iterator[Any] | AsyncIterator[Any], flow: Flow) -> int:
        caller = self._session.process_of(peer)
        count = 0
        try:
            while not flow.closed:
                if flow.must_wait(count):
                    await self._wait(flow, count)
                    continue
                try:
                    value = await anext(values, _DONE) if isinstance(values, AsyncIterator) else next(values, _DONE)
                except Exception as error:
                    if message.returns != DYNAMIC:
                        raise
                    self._session.reply(peer, [self._streams.failed(message, count, error)])
                    return count + 1
                if value is _DONE:
                    self._streams.check_end(count, flow)
                    break
                if count >= flow.received:
                    self._session.reply(peer, [self._results.yielded(message, count, value, caller)])
                count += 1
                del value
                if not isinstance(values, AsyncIterator):
                    await asyncio.sleep(0)  # one that never waits leaves the loop to others between two values
            return count
        finally:
            if isinstance(values, AsyncGenerator):
                await values.aclose()
            elif isinstance(values, Generator):
                values.close()

    async def _wait(self, flow: Flow, count: int) -> None:
        """Wait for the reader."""
        waiter = LoopWaiter()
        with self._session.lock:
            if not flow.must_wait(count):
                return
            flow.waiter = waiter
        try:
            await waiter.woken.wait()
        finally:
            flow.waiter = None
