"""What a worker adds to a session: the places at which the same code does more there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from atoll.protocol.machine import Peer
from atoll.protocol.messages import Message

_NOT_BLOCKING = contextlib.nullcontext()


class Hooks:
    """What a worker adds to a session; a kernel leaves it as it is. Those marked * are called with the lock held.

    Attributes:
        pushed: * Takes a batch of a direct channel before the core does: the channel's peer and the messages. Returns
            those that are not a worker's.
        control: * Takes news from scheduler and agent that answer nothing.
        caller_lost: * Told of channels that are gone.
        agent_lost: * The node is gone.
        say_again: * Returns what a scheduler that we are linked to again must hear before all else.
        borrowed: Told of refs that come in.
        timer: Called a while after `set_timer`.
        has_late_answers: Whether answers wait for longer than they should; asked a few hundred times a second.
        send_late_answers: * Queues them.
        blocking: Makes a context in which this process waits for others; a worker lends its CPU meanwhile.
    """

    def __init__(self) -> None:
        self.pushed: Callable[[Peer, list[Any]], list[Any]] | None = None
        self.control: Callable[[Peer, Any], None] = lambda _peer, _message: None
        self.caller_lost: Callable[[Peer], None] = lambda _peer: None
        self.agent_lost: Callable[[], None] = lambda: None
        self.say_again: Callable[[], Sequence[Message]] = lambda: ()
        self.borrowed: Callable[[bytes], None] = lambda _object_id: None
        self.timer: Callable[[], None] = lambda: None
        self.has_late_answers: Callable[[], bool] = lambda: False
        self.send_late_answers: Callable[[], None] = lambda: None
        self.blocking: Callable[[], contextlib.AbstractContextManager[None]] = lambda: _NOT_BLOCKING
