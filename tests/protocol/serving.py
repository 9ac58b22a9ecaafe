"""An endpoint in a thread of its own, for tests that speak to it from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from atoll.protocol.endpoint import Endpoint
from atoll.protocol.handshake import Identity
from atoll.protocol.machine import Event, Received
from atoll.protocol.messages import Done, GetState
from tests.patience import PATIENCE_S

KEY = b"k" * 32
SERVER = Identity("scheduler", b"server!!")
CLIENT = Identity("client", b"client!!")
ResultT = TypeVar("ResultT")


class Serving:
    """Listens in a background thread and answers every `GetState` with `Done`; use as a context manager."""

    def __init__(self, directory: Path, *, allowed_uid: int | None = None) -> None:
        self.path = str(directory / "socket")
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = self.answer
        self._allowed_uid = allowed_uid
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="serving")
        self._something = threading.Condition()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.endpoint = Endpoint(KEY, SERVER, self._deliver, allowed_uid=self._allowed_uid)
        self.endpoint.listen(self.path)
        self._started.set()
        await self._stop.wait()
        self.endpoint.close()

    def _deliver(self, event: Event) -> None:
        with self._something:
            self.events.append(event)
            self._something.notify_all()
        self.on_event(event)

    def answer(self, event: Event) -> None:
        if isinstance(event, Received) and isinstance(event.message, GetState):
            self.endpoint.send(event.peer, Done(event.message.request))

    def wait_for(self, condition: Callable[[list[Event]], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until the events fulfil a condition."""
        with self._something:
            assert self._something.wait_for(lambda: condition(self.events), timeout_s), self.events

    def call(self, function: Callable[[], ResultT]) -> ResultT:
        """Call a function in the thread of the loop."""

        async def run() -> ResultT:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE_S)

    def __enter__(self) -> Serving:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
