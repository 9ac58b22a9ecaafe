"""Processes of actors that a lost node agent has left behind: an actor begins elsewhere when its old process is gone.

    alive ─ its node is lost ─▶ stray ─┬─ its own connection to the scheduler ends ───────▶ gone: the actor may begin
                                       ├─ its node is back and has it: the node ends it ──▶ gone when that has ended
                                       └─ `GONE_WITHIN_S` ────────────────────────────────▶ taken for gone

An agent's death is heard at once, that of its workers a moment later; one that hangs in a driver takes longer. The
system closes a process's connections when it ends, so the end of its connection is the word that it is gone.
"""

from __future__ import annotations

from atoll.scheduler.core.actor import Actor
from atoll.scheduler.core.turn import Turn

TIMER = "strays"

GONE_WITHIN_S = 2.0
"""So long the processes of a node may outlive its agent. One that is cut off as well can tell nothing of its end."""


class Strays:
    """All such processes, by their ids.

    Args:
        turn: Where the deadline goes.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._actors: dict[bytes, tuple[Actor, float]] = {}

    def add(self, actor: Actor, worker_id: bytes) -> None:
        """The node of an actor's process is lost, and the process may not have noticed yet."""
        self.forget(actor)
        until = self._turn.in_s(GONE_WITHIN_S)
        actor.stray = worker_id
        self._actors[worker_id] = (actor, until)
        self._turn.set_earlier(TIMER, until)

    def forget(self, actor: Actor) -> None:
        """An actor waits for no stray any more."""
        self._actors.pop(actor.stray, None)
        actor.stray = b""

    def gone(self, worker_id: bytes) -> Actor | None:
        """Take a process for gone and return the actor that has waited for that, if one has."""
        actor, _until = self._actors.get(worker_id, (None, 0.0))
        if actor is not None:
            self.forget(actor)
        return actor

    def due(self) -> list[Actor]:
        """Return the actors that have waited long enough."""
        found = [actor for actor, until in self._actors.values() if until <= self._turn.now]
        for actor in found:
            self.forget(actor)
        for _actor, until in self._actors.values():
            self._turn.set_earlier(TIMER, self._turn.in_s(until - self._turn.now))
        return found

    def __contains__(self, worker_id: bytes) -> bool:
        return worker_id in self._actors
