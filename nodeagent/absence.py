"""What a worker does while its actor has given its devices up: it holds calls until they are back.

The main thread is where calls run; so as long as it is here, none does. It comes here between two calls, asks the
actor to give up what it has on its devices if it does that itself, and stays until it is told to restore.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from atoll.client.session import Session
from atoll.protocol.leave_messages import DevicesOffloaded, DevicesRestored, WantDevices

OFFLOAD, RESTORE = "offload", "restore"


def offloads(actor: Any) -> bool:
    """Whether an actor gives up and takes back what it has on its devices itself."""
    return callable(getattr(actor, OFFLOAD, None)) and callable(getattr(actor, RESTORE, None))


class Absence:
    """The worker's part of `atoll.nodeagent.core.device_leave`.

    Args:
        session: The worker's.
        step: Does a piece of user code in the main thread.
        waits: Whether a call waits.
        wait: Returns when something may have changed; its argument says whether nothing has yet.
    """

    def __init__(
        self,
        session: Session,
        step: Callable[[Callable[[], Any]], Any],
        waits: Callable[[], bool],
        wait: Callable[[Callable[[], bool]], None],
    ) -> None:
        self._session = session
        self._step = step
        self._waits = waits
        self._wait = wait
        self._back = False
        self._ending = False

    def give_up(self, actor: Any, lease_id: int) -> None:
        """Give the devices up, if nothing is to be done, and return when they are back. In the main thread."""
        own = offloads(actor)
        if self._waits():
            self._session.tell_agent(DevicesOffloaded(lease_id, own, busy=True))
            return
        self._back = False
        text = self._try(getattr(actor, OFFLOAD)) if own else ""
        self._session.tell_agent(DevicesOffloaded(lease_id, own, text))
        if text:
            return
        wanted = False
        while not (self._back or self._ending):
            if self._waits() and not wanted:
                wanted = True
                self._session.tell_agent(WantDevices(lease_id))
            self._wait(self._nothing if wanted else self._no_call)
        if self._back:
            text = self._try(getattr(actor, RESTORE)) if own else ""
            self._session.tell_agent(DevicesRestored(lease_id, text))
            while text and not self._ending:  # nobody knows what it still has: no call runs until the agent ends it
                self._wait(lambda: not self._ending)

    def _nothing(self) -> bool:
        return not (self._back or self._ending)

    def _no_call(self) -> bool:
        return self._nothing() and not self._waits()

    def come_back(self) -> None:
        """The devices are back. The caller wakes the main thread."""
        self._back = True

    def end(self) -> None:
        """The worker ends. The caller wakes the main thread."""
        self._ending = True

    def _try(self, method: Callable[[], Any]) -> str:
        """Run a method of the actor's and return what it raised, in a line; the traceback is in the worker's log."""
        try:
            self._step(method)
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
        return ""
