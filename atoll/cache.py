"""`atoll.cache`: values with names, which belong to the cluster and outlive the kernel that made them.

atoll.cache["flights"] = table
table = atoll.cache["flights"]                          # any kernel, zero-copy
table = atoll.cache.get_or_compute("flights", load)     # computed once, whoever asks, however many at once
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from atoll.client import names, values
from atoll.client.current import current_session
from atoll.client.session import Session
from atoll.exceptions import ObjectLostError, SerializationError
from atoll.object_ref import ObjectRef
from atoll.protocol.serialization import serialize
from atoll.protocol.values import NameInfo, ObjectLocation

T = TypeVar("T")


class Cache:
    """The names of this user's cluster, as a mapping. Keys are strings, values are whatever pickles."""

    def __getitem__(self, name: str) -> Any:
        is_there, found = self._look(current_session(), name, compute=False)
        if not is_there:
            raise KeyError(name)
        return found

    def __setitem__(self, name: str, value: Any) -> None:
        self._publish(current_session(), name, value)

    def __delitem__(self, name: str) -> None:
        if not names.drop(current_session(), _checked(name)):
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(info.name == name and info.state == "ready" for info in self.entries())

    def __iter__(self) -> Iterator[str]:
        return iter([info.name for info in self.entries() if info.state == "ready"])

    def __len__(self) -> int:
        return sum(1 for _name in self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def get_or_compute(self, name: str, compute: Callable[[], T]) -> T:
        """Return the value of a name; if there is none, compute it here and give it the name.

        Of several kernels that ask at once one computes, and the others wait for its value. If it fails or dies,
        the next one computes.

        A value that cannot be kept, since there is no room for it or it does not pickle, is returned all the same,
        with a warning that says why; the name stays free.

        Args:
            name: The name.
            compute: A function without arguments.

        Raises:
            Exception: Whatever `compute` raises; the name stays free.
        """
        session = current_session()
        is_there, found = self._look(session, name, compute=True)
        if is_there:
            return cast("T", found)
        try:
            value = compute()
        except BaseException:
            names.withdraw(session, name)
            raise
        try:
            self._publish(session, name, value)
        except BaseException as problem:
            names.withdraw(session, name)
            if not isinstance(problem, Exception):
                raise
            warnings.warn(f"{name!r} is not kept for others: {problem}", stacklevel=2)
        return value

    def ref(self, name: str) -> ObjectRef[Any]:
        """Return a ref to the value of a name, to pass it on without loading it here.

        Raises:
            KeyError: There is no such name.
        """
        session = current_session()
        found = names.claim(session, _checked(name), compute=False).location
        if found is None:
            raise KeyError(name)
        return session.refer_to(found)

    def entries(self) -> list[NameInfo]:
        """Return what there is: names with state, size in bytes and time of making."""
        return names.names_of(current_session())

    def _look(self, session: Session, name: str, *, compute: bool) -> tuple[bool, Any]:
        """Return whether a name has a value, and the value.

        One that was given to another object, or dropped, between the claim and the look, is looked for again.
        """
        lost = b""
        while True:
            location = names.claim(session, _checked(name), compute=compute).location
            if location is None:
                return False, None
            try:
                return True, self._value(location)
            except ObjectLostError:
                if location.object_id == lost:
                    raise
                lost = location.object_id

    def _value(self, location: ObjectLocation) -> Any:
        ref = current_session().refer_to(location)
        return values.load(ref._session, ref.binary())

    def _publish(self, session: Session, name: str, value: Any) -> None:
        _checked(name)
        serialized = serialize(value)
        if serialized.contained:
            raise SerializationError(
                f"the value for {name!r} contains an ObjectRef, whose object would go with this kernel; "
                "get the value first, or give it a name of its own"
            )
        names.publish(session, name, session.put_serialized(value, serialized))

    def __repr__(self) -> str:
        from atoll.resources import format_bytes

        lines = [f"  {info.name!r}: {format_bytes(info.size_bytes)}, {info.state}" for info in self.entries()]
        return "\n".join([f"atoll.cache with {len(lines)} names", *lines])


def _checked(name: object) -> str:
    if isinstance(name, str) and name:
        return name
    raise TypeError(f"a name in the cache is a non-empty string, not {name!r}")


cache = Cache()
