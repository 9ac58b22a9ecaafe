"""The two connections that every session has, to the scheduler and to the node agent, and what is asked on them.

A daemon that is lost is dialled again until it is back, and everything that holds is said to it anew. A request that
it was answering fails; a new one waits for it, `LOST_AFTER_S` at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from atoll.client.channel import Channel
from atoll.client.connection import failure
from atoll.client.reactor import Waiter
from atoll.client.switchboard import Switchboard
from atoll.exceptions import AtollError, AuthenticationError, ProtocolError, VersionMismatchError
from atoll.protocol.machine import Peer
from atoll.protocol.messages import AttachProcess, Failed, JobRegistered, Message, ProcessAttached, RegisterJob
from atoll.protocol.values import Environment

RECONNECT_EVERY_S = 0.1
REFUSED_EVERY_S = 1.0
"""A daemon that has refused us may have been replaced by one that does not."""

LOST_AFTER_S = 15.0
"""So long a daemon may be away, to be restarted, before what waits for it fails."""

AWAY_S = 3.0
"""When a daemon has been away for so long, whoever looks after the cluster does not: then the session does."""

SCHEDULER = "scheduler"
AGENT = "agent"


class Introduction:
    """What a session says of itself when it connects.

    Args:
        kind: `kernel`, `script` or `server`; `worker` for a worker, which registers no job.
        name: Notebook or script, for people.
        namespace: Of actors' names.
        environment: For its workers.
        weight: What its job may have beside others.
    """

    def __init__(
        self,
        kind: str,
        name: str = "",
        namespace: str = "",
        environment: Environment | None = None,
        weight: float = 1.0,
    ) -> None:
        self.kind = kind
        self.name = name
        self.namespace = namespace
        self.environment = environment
        self.weight = weight


class Uplink:
    """The connection to one daemon.

    Attributes:
        channel: While there is one, proved or not.
        linked: The daemon knows us.
        retry_at: When to dial again, if there is no channel.
        introduced: The number of our introduction.
        refusal: Why it wants nothing to do with us, if it has said so; what is asked of it fails with that.
        away_since: When the daemon was lost, or when that was told last; None while it is there.
    """

    __slots__ = ("away_since", "channel", "introduced", "linked", "path", "refusal", "retry_at", "role")

    def __init__(self, role: str, path: str) -> None:
        self.role = role
        self.path = path
        self.channel: Channel | None = None
        self.linked = False
        self.retry_at: float | None = None
        self.introduced = 0
        self.refusal: Exception | None = None
        self.away_since: float | None = None


class PendingRequest:
    """A control request that was not answered yet."""

    __slots__ = ("answer", "peer", "waiter")

    def __init__(self, peer: Peer) -> None:
        self.waiter = Waiter(1)
        self.peer = peer
        self.answer: Message | None = None


class Uplinks:
    """Both connections. All methods are called with the session's lock held.

    Args:
        switchboard: Makes channels.
        introduction: What we say of ourselves.
        process_id: Of this process.
        paths: The daemons' sockets, by role.
        next_request: Makes request numbers.

    Attributes:
        by_role: Both.
        deadline: When a daemon is to be dialled again.
        on_linked: Called when a daemon knows us, again too.
        on_lost: Called when one that knew us is gone.
        on_refused: Called when a daemon and we cannot speak with each other at all, each time that it was tried.
        on_away: Called every `AWAY_S` while one that was there is away.
        ended: Why there is no cluster any more; empty while there is.
        answers: What was said when they linked: `JobRegistered` and `ProcessAttached`.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        introduction: Introduction,
        process_id: bytes,
        paths: dict[str, str],
        next_request: Callable[[], int],
    ) -> None:
        self._switchboard = switchboard
        self._introduction = introduction
        self._process_id = process_id
        self._next_request = next_request
        self._requests: dict[int, PendingRequest] = {}
        self.by_role = {role: Uplink(role, path) for role, path in paths.items()}
        self.deadline: float | None = None
        self.on_linked: Callable[[Uplink, Any], None] = lambda _uplink, _answer: None
        self.on_lost: Callable[[Uplink, Peer], None] = lambda _uplink, _peer: None
        self.on_refused: Callable[[Uplink, AtollError], None] = lambda _uplink, _error: None
        self.on_away: Callable[[], None] = lambda: None
        self.ended = ""

    def of(self, channel: Channel) -> Uplink | None:
        """Return the uplink that a channel is, if it is one."""
        for uplink in self.by_role.values():
            if uplink.channel is channel:
                return uplink
        return None

    # -------------------------------------------------------------------------------------------- connecting

    def connect(self, uplink: Uplink) -> None:
        """Dial a daemon; if nobody listens, it is tried again a moment later."""
        uplink.retry_at = None
        try:
            uplink.channel = self._switchboard.dial(uplink.path, control=True)
        except OSError:
            uplink.retry_at = time.monotonic() + RECONNECT_EVERY_S
        self._await_retries()

    def _await_retries(self) -> None:
        waiting = [uplink.retry_at for uplink in self.by_role.values() if uplink.retry_at is not None]
        self.deadline = min(waiting, default=None)

    def proved(self, uplink: Uplink) -> None:
        """Introduce ourselves. The answer makes the link; a worker's proof is introduction enough at the scheduler."""
        assert uplink.channel is not None
        about = self._introduction
        uplink.introduced = self._next_request()
        if uplink.role == AGENT:
            message: Message = AttachProcess(uplink.introduced, self._process_id, os.getpid())
        elif about.kind == "worker":
            self._link(uplink, None)
            return
        else:
            message = RegisterJob(
                uplink.introduced,
                self._process_id,
                about.kind,
                about.name,
                os.getpid(),
                about.namespace,
                about.environment,
                about.weight,
            )
        try:
            self._switchboard.send_control(uplink.channel, message)
        except ProtocolError as error:
            self._refused(uplink, ProtocolError(f"this session cannot be introduced to the {uplink.role}: {error}"))

    def take(self, uplink: Uplink, message: Any) -> bool:
        """Take a message if it is the answer to an introduction."""
        if isinstance(message, JobRegistered | ProcessAttached):
            self._link(uplink, message)
            return True
        if isinstance(message, Failed) and message.request == uplink.introduced:
            error = failure(message)
            assert isinstance(error, AtollError), "errors of daemons are Atoll's"
            self._refused(uplink, error)
            return True
        return False

    def _refused(self, uplink: Uplink, error: AtollError) -> None:
        uplink.refusal = error
        self.on_refused(uplink, error)

    def _link(self, uplink: Uplink, answer: Any) -> None:
        uplink.linked = True
        uplink.refusal = None
        uplink.away_since = None
        self.on_linked(uplink, answer)

    def lost(self, uplink: Uplink, error: AtollError | None) -> None:
        """A daemon's connection is gone: fail what it was asked, and dial again."""
        channel, was_linked = uplink.channel, uplink.linked
        assert channel is not None
        uplink.channel = None
        uplink.linked = False
        refused = isinstance(error, AuthenticationError | VersionMismatchError)
        uplink.retry_at = time.monotonic() + (REFUSED_EVERY_S if refused else RECONNECT_EVERY_S)
        self._await_retries()
        if error is not None and not was_linked:
            if refused:
                uplink.refusal = error
            self.on_refused(uplink, error)
        for number, request in list(self._requests.items()):
            if request.peer == channel.peer:
                text = f"the connection to the {uplink.role} was lost while it answered; try again"
                self.answer(number, Failed(number, "ClusterLostError", text))
        if was_linked:
            uplink.away_since = time.monotonic()
            self.on_lost(uplink, channel.peer)

    def retry(self, now: float) -> None:
        """Dial the daemons whose time has come, and tell of those that are away for long."""
        for uplink in self.by_role.values():
            if uplink.away_since is not None and now - uplink.away_since >= AWAY_S:
                uplink.away_since = now
                self.on_away()
            if uplink.retry_at is not None and uplink.retry_at <= now:
                self.connect(uplink)

    # ------------------------------------------------------------------------------------------------ asking

    def begin(self, role: str, message: Any) -> PendingRequest | None:
        """Send a request; None if the daemon is away.

        Raises:
            ProtocolError: The request cannot be sent.
            AtollError: The daemon wants nothing to do with us.
        """
        uplink = self.by_role[role]
        if uplink.channel is None or not uplink.linked:
            if uplink.refusal is not None:
                raise uplink.refusal
            return None
        self._switchboard.send_control(uplink.channel, message)
        pending = self._requests[message.request] = PendingRequest(uplink.channel.peer)
        return pending

    def give_up(self, number: int) -> None:
        """Expect no answer to a request any more."""
        self._requests.pop(number, None)

    def answer(self, number: int, answer: Any) -> bool:
        """Give an answer to who waits for it; False if nobody does."""
        pending = self._requests.pop(number, None)
        if pending is None:
            return False
        pending.answer = answer
        pending.waiter.remaining = 0
        pending.waiter.wake()
        return True

    def fail_all(self, text: str) -> None:
        """Fail every request that waits: the session ends."""
        self.ended = text
        for number in list(self._requests):
            self.answer(number, Failed(number, "ClusterLostError", text))
