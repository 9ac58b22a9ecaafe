"""Where the parts of the agent's core put their actions, in order."""

from __future__ import annotations

from atoll.protocol.machine import Action, Peer, Send
from atoll.protocol.messages import Message


class Outbox:
    """Collects the actions of one event.

    Attributes:
        scheduler: The scheduler's connection, or None while there is none.
    """

    def __init__(self) -> None:
        self._actions: list[Action] = []
        self.scheduler: Peer | None = None

    def do(self, action: Action) -> None:
        """Add an action."""
        self._actions.append(action)

    def send(self, peer: Peer, message: Message) -> None:
        """Add a message to a peer."""
        self._actions.append(Send(peer, message))

    def tell_scheduler(self, message: Message) -> None:
        """Add a message to the scheduler; without one it is dropped, since registering again tells all that lives."""
        if self.scheduler is not None:
            self._actions.append(Send(self.scheduler, message))

    def take(self) -> list[Action]:
        """Return what was collected and start afresh."""
        actions, self._actions = self._actions, []
        return actions
