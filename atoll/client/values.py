"""Values of objects: getting them, turning errors into exceptions, futures."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atoll.client.core.records import INLINE, STORED
from atoll.exceptions import ObjectLostError, TaskError, UnserializableException
from atoll.protocol.serialization import deserialize

if TYPE_CHECKING:
    from atoll.client.session import Session
    from atoll.object_ref import ObjectRef


def load(session: Session, object_id: bytes) -> Any:
    """Return the value of an object that is ready.

    Raises:
        TaskError: The task raised; the exception is also an instance of the user's own class.
        AtollError: Whatever else is there instead of a value.
    """
    state, value = session.resolved(object_id)
    if state == INLINE:
        return deserialize(value)
    if state == STORED:
        return session.store.read(object_id)
    error = load_error(value)
    if isinstance(error, ObjectLostError) and not session.core.objects.owns(object_id):
        try:  # its owner is gone, but the cluster may have adopted it under a name
            return session.store.read(object_id)
        except ObjectLostError:
            pass
    raise error


def load_all(session: Session, object_ids: Sequence[bytes]) -> list[Any]:
    """As `load`, for many."""
    entries = session.core.objects.entries
    found = []
    for object_id in object_ids:
        entry = entries[object_id]
        found.append(deserialize(entry.value) if entry.state == INLINE else load(session, object_id))  # type: ignore[arg-type]
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
        session.deliver_outputs()
        try:
            value = load(session, ref._id)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def hand_over() -> None:
        # Loading may wait for the node agent, which a thread that reads sockets must not do.
        session.loaders().submit(finish)

    session.when_ready(ref._id, hand_over)
