"""The thin shell around the scheduler's core: sockets, one timer, the journal. It decides nothing.

    Endpoint ── event ──▶ core.handle(event, now) ── actions, in order ──▶ Endpoint.send, Journal.write, exit
    loop     ── DeadlineReached when `core.next_deadline()` has come ──▶ core

Idle, it does nothing at all: there is no period, only the one timer that the core asks for.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

from atoll.exceptions import InternalError, ProtocolError
from atoll.ids import new_process_id
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.endpoint import Endpoint
from atoll.protocol.handshake import Identity
from atoll.protocol.machine import Action, ClosePeer, DeadlineReached, Event, Instant, Send
from atoll.scheduler.core.events import Exit, PersistRecord, RecordsRestored, RemoveRecord, StopAsked, Warn
from atoll.scheduler.core.scheduler import Scheduler
from atoll.scheduler.journal import Journal
from atoll.scheduler.policy.fair_share import Rules

FLUSH_WITHIN_S = 1.0
_LOOK_AGAIN_S = 0.005
_logger = logging.getLogger("atoll.scheduler")


class SchedulerServer:
    """A scheduler that listens.

    Args:
        cluster: What the connection file says.
        journal: Read at the start, written as the core asks; the caller closes it.
        rules: What was said about the shares of sessions.
    """

    def __init__(self, cluster: ClusterFile, journal: Journal, rules: Rules) -> None:
        self._cluster = cluster
        self._journal = journal
        self._core = Scheduler(
            Instant(time.monotonic()),
            wall_offset=time.time() - time.monotonic(),
            cluster_id=cluster.cluster_id,
            version=cluster.version,
            linger_s=cluster.linger_s,
            local_offset_s=time.localtime().tm_gmtoff,
            rules=rules,
        )
        self._endpoint = Endpoint(cluster.key_bytes(), Identity("scheduler", new_process_id()), self._deliver)
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.Future[str] | None = None

    async def run(self, ready: Callable[[], None]) -> str:
        """Serve until the cluster ends; return why it did.

        Args:
            ready: Called when it listens.

        Raises:
            InternalError: The core's state contradicts itself. A new process can take up from the journal.
            ClusterStartError: The socket cannot be listened at.
        """
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._deliver, StopAsked(f"signal {signal.Signals(number).name}"))
        try:
            self._deliver(RecordsRestored(self._journal.read()))
            self._endpoint.listen(self._cluster.scheduler_socket)
            ready()
            cause = await self._end
            await self._flush()
            return cause
        finally:
            self._endpoint.close()
            if self._timer is not None:
                self._timer.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _flush(self) -> None:
        """Let the last messages go out, for a bounded time."""
        deadline = time.monotonic() + FLUSH_WITHIN_S
        while self._endpoint.unsent_bytes and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _deliver(self, event: Event) -> None:
        """Let the core handle an event, and carry out what it decides."""
        assert self._end is not None, "events come while the server runs"
        if self._end.done():
            return
        try:
            for action in self._core.handle(event, Instant(time.monotonic())):
                self._carry_out(action)
        except (InternalError, AssertionError) as error:
            _logger.critical("the scheduler's state contradicts itself and it ends: %s", error, exc_info=True)
            self._end.set_exception(error)
            return
        self._set_timer()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send():
                try:
                    self._endpoint.send(action.peer, action.message)
                except ProtocolError as error:
                    _logger.error("a %s cannot be sent: %s", type(action.message).__name__, error)
            case PersistRecord():
                self._journal.write(action.table, action.key, action.value)
            case RemoveRecord():
                self._journal.remove(action.table, action.key)
            case ClosePeer():
                self._endpoint.close_peer(action.peer)
            case Warn():
                _logger.warning("%s", action.text)
            case Exit():
                _logger.info("the cluster ends: %s", action.cause)
                if self._end is not None and not self._end.done():
                    self._end.set_result(action.cause)
            case _:
                raise InternalError(f"a shell that cannot {type(action).__name__}")

    def _set_timer(self) -> None:
        """See to it that the core is called no later than at its next deadline; waking early is harmless, and rare."""
        when = self._core.next_deadline()
        if when is None or (self._timer is not None and self._timer.when() <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        when = self._core.next_deadline()
        if when is not None and when <= time.monotonic():
            self._deliver(DeadlineReached())
        else:
            self._set_timer()
