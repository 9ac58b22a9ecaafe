"""`ObjectRef`: a promise of a value that a task computes, or the name of a value that was put."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from atoll.ids import ObjectId, task_of
from atoll.protocol.serialization import note_contained

if TYPE_CHECKING:
    from atoll.client.session import Session

T_co = TypeVar("T_co", covariant=True)


class ObjectRef(Generic[T_co]):
    """A reference to a value of the cluster. As long as one exists anywhere, the value does.

    Refs are made by `.remote()`, `atoll.put` and `atoll.wait`, can be passed to tasks and actors, can be put into
    containers and objects, and are awaitable. Two refs to the same object are equal.
    """

    __slots__ = ("__weakref__", "_id", "_session")

    def __init__(self, object_id: ObjectId, session: Session) -> None:
        self._id = object_id
        self._session = session

    def __del__(self) -> None:
        try:
            self._session.release(self._id)
        except AttributeError:  # it was never wholly made, or the interpreter ends
            return

    def binary(self) -> bytes:
        """Return the id as bytes."""
        return self._id

    def hex(self) -> str:
        """Return the id as hexadecimal digits."""
        return self._id.hex()

    def task_id(self) -> bytes:
        """Return the id of the task that returns the object."""
        return task_of(self._id)

    def future(self) -> concurrent.futures.Future[T_co]:
        """Return a `concurrent.futures.Future` that gets the value, or the error."""
        from atoll.client import values

        future: concurrent.futures.Future[T_co] = concurrent.futures.Future()
        values.resolve_future(self._session, self, future)
        return future

    def __await__(self) -> Generator[Any, None, T_co]:
        import asyncio  # whoever awaits has imported it

        return asyncio.wrap_future(self.future()).__await__()

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> ObjectRef[T_co]:
        return self  # a copy of a reference refers to the same object

    def __reduce__(self) -> tuple[Any, ...]:
        note_contained(self)
        return _restore, (self._id,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"


def _restore(object_id: ObjectId) -> ObjectRef[Any]:
    """Make a ref that came from another process: borrowed from its owner, or our own come back."""
    from atoll.client.current import current_session

    session = current_session()
    session.borrow(object_id)
    return ObjectRef(object_id, session)
