"""Values of objects: getting them, turning errors into exceptions, futures."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atoll.client.core.events import ObjectMissing
from atoll.client.core.records import INLINE, PENDING, STORED
from atoll.exceptions import GetTimeoutError, ObjectLostError, TaskError, UnserializableException
from atoll.protocol.serialization import deserialize

if TYPE_CHECKING:
    from atoll.client.session import Session
    from atoll.object_ref import ObjectRef


LOSSES = 5
"""A value that is lost again as often as it was computed again is given up."""


def load(session: Session, object_id: bytes, until: float | None = None) -> Any:
    """Return the value of an object that is ready. One that was lost is computed again, if that is possible.

    Args:
        session: The session.
        object_id: The object.
        until: As long to wait for one that is computed again: an instant of `time.monotonic`.

    Raises:
        TaskError: The task raised; the exception is also an instance of the user's own class.
        GetTimeoutError: It was lost, and was not there again in time.
        AtollError: Whatever else is there instead of a value.
    """
    state, value = _resolved(session, object_id, until)
    if state == INLINE:
        return deserialize(value)
    if state == STORED:
        return _read(session, object_id, value.node_id, until)
    error = load_error(value)
    if isinstance(error, ObjectLostError) and not session.core.objects.owns(object_id):
        try:  # its owner is gone, but the cluster may have adopted it under a name
            return session.store.read(object_id)
        except ObjectLostError:
            pass
    raise error


def _read(session: Session, object_id: bytes, node_id: bytes, until: float | None) -> Any:
    """Return a value in the store of a node; have it computed again if it was lost."""
    for _attempt in range(LOSSES):
        try:
            return session.store.read(object_id, node_id)
        except ObjectLostError:
            pass
        session.handle(ObjectMissing(object_id))
        state, value = _resolved(session, object_id, until)
        if state != STORED:
            return load(session, object_id, until)
        node_id = value.node_id
    return session.store.read(object_id, node_id)


def _resolved(session: Session, object_id: bytes, until: float | None) -> tuple[int, Any]:
    """Return state and value of an object that was ready. One that is computed again is waited for.

    That it is lost may have been found by another thread since, or by a task that takes it.
    """
    entries = session.core.objects.entries
    while entries[object_id].state == PENDING:
        left = None if until is None else max(0.0, until - time.monotonic())
        with session.hooks.blocking():
            done = session.wait_for([object_id], 1, left)
        if not done:
            raise GetTimeoutError("a value was lost, and was not computed again in time")
    return session.resolved(object_id)


def load_all(session: Session, object_ids: Sequence[bytes], until: float | None = None) -> list[Any]:
    """As `load`, for many."""
    entries = session.core.objects.entries
    found = []
    for object_id in object_ids:
        entry = entries[object_id]
        found.append(deserialize(entry.value) if entry.state == INLINE else load(session, object_id, until))  # type: ignore[arg-type]
    return found


def load_error(payload: bytes) -> Exception:
    """Return the exception in a payload, as an instance of the user's own class where it is a task's."""
    try:
        error = deserialize(payload)
    except Exception as problem:  # a user's exception may do anything when it is unpickled
        text = f"a task failed, and its exception cannot be shown here: {type(problem).__name__}: {problem}"
        return UnserializableException(text)
    if isinstance(error, TaskError):
        return error.as_instance_of_cause()
    assert isinstance(error, Exception)
    return error


def resolve_future(session: Session, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
    """Give a future the object's value, or its error, when it is there. Keeps the ref until then."""
    future.set_running_or_notify_cancel()

    def finish() -> None:
        session.outputs.deliver()
        try:
            value = load(session, ref._id)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def hand_over() -> None:
        # Loading may wait for the node agent, which a thread that reads sockets must not do.
        session.loaders().submit(finish)

    session.loaders().expect()
    session.when_ready(ref._id, hand_over)
