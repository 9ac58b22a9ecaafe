"""How an actor ends itself: `exit_actor`; and the methods that every actor has."""

from __future__ import annotations

from typing import Any, NoReturn

from atoll.actor import ActorExit
from atoll.actor_methods import READY, TERMINATE
from atoll.client.session import Session
from atoll.protocol.messages import KillActor

__all__ = ["READY", "SHUTDOWN", "TERMINATE", "ActorExit", "announce_exit", "is_ready", "shut_down", "terminate"]

SHUTDOWN = ("__atoll_shutdown__", "__ray_shutdown__")
"""A method that an actor may have, called before it ends when it is not killed."""


def terminate() -> NoReturn:
    """End the actor: what a call of `__atoll_terminate__` runs."""
    raise ActorExit


def is_ready() -> bool:
    """Say that the actor answers calls: what a call of `__atoll_ready__` runs."""
    return True


def announce_exit(session: Session, actor_id: bytes, cause: str = "") -> None:
    """Have the scheduler take the actor for dead, so that it is not made again, and have this process asked to end."""
    cause = f"it ended itself: {cause or 'exit_actor() was called'}"
    session.ask_scheduler(KillActor(session.next_request(), actor_id, no_restart=True, cause=cause))


def shut_down(actor: Any) -> None:
    """Let an actor that is about to end put its things away, if it has a method for that."""
    for name in SHUTDOWN:
        method = getattr(actor, name, None)
        if callable(method):
            method()
            return
