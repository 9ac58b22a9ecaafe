"""Asking scheduler and node agent, and telling them: what waits for an answer waits here."""

from __future__ import annotations

import threading
import time
from typing import Any

from atoll.client.interrupts import Interrupts
from atoll.client.reactor import Reactor, Waiter
from atoll.client.switchboard import Switchboard
from atoll.client.uplinks import LOST_AFTER_S, Uplinks
from atoll.exceptions import ClusterLostError
from atoll.protocol.messages import Message


class Requests:
    """Control requests of a session. Its methods are called without the session's lock.

    Args:
        lock: The session's.
        switchboard: Sends.
        uplinks: The daemons' connections; answers come to them.
        reactor: Waits.
        interrupts: Puts Ctrl-C off while it does.
    """

    def __init__(
        self,
        lock: threading.Lock,
        switchboard: Switchboard,
        uplinks: Uplinks,
        reactor: Reactor,
        interrupts: Interrupts,
    ) -> None:
        self._lock = lock
        self._switchboard = switchboard
        self._uplinks = uplinks
        self._reactor = reactor
        self._interrupts = interrupts

    def ask(self, role: str, message: Any, timeout_s: float | None) -> Message:
        """Send a request and wait for its answer, which may be a `Failed`.

        Raises:
            ClusterLostError: The daemon is gone.
            ProtocolError: It cannot be asked that: something in the message cannot be sent.
            AtollError: It wants nothing to do with us.
            TimeoutError: No answer in time.
            KeyboardInterrupt: The user pressed interrupt.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._wait_linked(role, until)
        with self._interrupts as interrupted:
            with self._lock:
                pending = self._uplinks.begin(role, message)
            if pending is not None:
                self._reactor.wait(pending.waiter, until, interrupted)
        if pending is None:
            raise ClusterLostError(self._uplinks.ended or f"the {role} of the cluster is gone; run `atoll status`")
        with self._lock:
            self._uplinks.give_up(message.request)
        if pending.answer is None:
            raise TimeoutError(f"the {role} did not answer {type(message).__name__} within {timeout_s} s")
        return pending.answer

    def _wait_linked(self, role: str, until: float | None) -> None:
        """Wait for a daemon that is being restarted."""
        uplink = self._uplinks.by_role[role]
        if uplink.linked:
            return
        give_up = time.monotonic() + LOST_AFTER_S
        until = give_up if until is None else min(until, give_up)
        with self._interrupts as interrupted:

            def over() -> bool:
                return (
                    uplink.linked
                    or uplink.refusal is not None
                    or self._reactor.closed
                    or (interrupted is not None and interrupted())
                )

            self._reactor.wait(Waiter(1), until, over)

    def tell(self, role: str, message: Any) -> None:
        """Send a message that is not answered, if the daemon is there."""
        with self._lock:
            self.tell_locked(role, message)

    def tell_locked(self, role: str, message: Any) -> None:
        """As `tell`, for whoever holds the lock."""
        uplink = self._uplinks.by_role[role]
        if uplink.channel is not None and uplink.linked:
            self._switchboard.send_control(uplink.channel, message)
