"""What a session asks of the cluster's names: claim one, give it to an object, give a claim up, drop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atoll.client.connection import failure
from atoll.client.session import Session
from atoll.object_ref import ObjectRef
from atoll.protocol.messages import AbandonName, ClaimName, DropName, ListNames, NameClaimed, NameList, PublishName
from atoll.protocol.values import NameInfo


class Watch:
    """Who is told which object has a name, when this process asks or says so; nobody usually."""

    tell: Callable[[str, bytes], None] | None = None


def claim(session: Session, name: str, *, compute: bool, request: int = 0) -> NameClaimed:
    """Ask for the object of a name; with `compute`, for the duty to make it if there is none.

    Waits while another process computes it.

    Args:
        session: This process's.
        name: The name.
        compute: Whether the caller will compute it, and publish or abandon it, if that is the answer.
        request: The claim's number, for a caller that may `withdraw` it meanwhile.

    Raises:
        Exception: What the scheduler objects to.
        BaseException: The wait was interrupted; then the claim is withdrawn.
    """
    message = ClaimName(request or session.next_request(), name, compute)
    try:
        with session.hooks.blocking():
            answer = session.ask_scheduler(message, timeout_s=None)
    except BaseException:
        # Or the answer could give nobody the duty to compute, and all others would wait for it.
        withdraw(session, name, message.request)
        raise
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, NameClaimed)
    if Watch.tell is not None:
        Watch.tell(name, answer.location.object_id if answer.location is not None else b"")
    return answer


def withdraw(session: Session, name: str, request: int = 0) -> None:
    """Give up a claim: one that waits is answered at once, and what was to be computed is left to the next.

    Args:
        session: This process's.
        name: The name.
        request: The claim's number; 0 for whatever this process computes under that name.
    """
    session.tell_scheduler(AbandonName(name, request))


def publish(session: Session, name: str, ref: ObjectRef[Any]) -> None:
    """Give a name to an object that is there. It belongs to the cluster when this returns.

    Raises:
        Exception: What the scheduler objects to.
    """
    with session.lock:
        location = session.core.objects.location(ref.binary())
    answer = session.ask_scheduler(PublishName(session.next_request(), name, location))
    error = failure(answer)
    if error is not None:
        raise error
    if Watch.tell is not None:
        Watch.tell(name, location.object_id)


def drop(session: Session, name: str) -> bool:
    """Take a name away; False if there is no such name."""
    answer = session.ask_scheduler(DropName(session.next_request(), name))
    return failure(answer) is None


def names_of(session: Session) -> list[NameInfo]:
    """Return all names of the cluster, with state, size in bytes and time of making."""
    answer = session.ask_scheduler(ListNames(session.next_request()))
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, NameList)
    return answer.names
