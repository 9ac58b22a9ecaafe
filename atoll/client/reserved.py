"""Memory of the store that a process writes to before it is an object: what `atoll.empty` gives, and its handing over.

    reserve ─▶ an array ─▶ written to ─▶ put: sealed where it is, and read-only from then on
                              └─▶ the last view of it goes: given back

Sealed bytes never change, so memory is handed over only if nobody here can write to it afterwards: if the arrays over
it are known. numpy gives every view of an array the same base, so the base's references tell how many there are. If
there are others, put copies, as it copies any array.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from atoll.client.mapping import Segment
from atoll.ids import ObjectId

HEADER_BYTES = 1024
"""Left before the array for the pickle that describes it."""


def _references(one: object) -> int:
    return sys.getrefcount(one)


def _references_of_a_variable() -> int:
    """Return what is counted of an object that only one variable refers to, which differs between Pythons."""
    one = object()
    return _references(one)


_OWN_REFERENCES = _references_of_a_variable()


class Reserved:
    """Memory that is reserved for an object, and written to through arrays.

    Args:
        object_id: Of the object that it will be.
        segment: Mapped for writing.
        readable: The same, mapped for reading.
        offset: Where in it the object begins.
        size_bytes: Of the array.
        on_release: Called with this when the last view is gone.

    Attributes:
        owned: Whether it was handed over, and there is an object that a ref keeps.
    """

    def __init__(
        self,
        object_id: ObjectId,
        segment: Segment,
        readable: Segment,
        offset: int,
        size_bytes: int,
        on_release: Callable[[Reserved], object],
    ) -> None:
        self.object_id = object_id
        self.segment = segment
        self.readable = readable
        self.offset = offset
        self.size_bytes = size_bytes
        self.owned = False
        self._on_release = on_release
        self._root: weakref.ref[Any] | None = None
        self._array: weakref.ref[Any] | None = None

    @property
    def address(self) -> int:
        """Where the array begins."""
        return self.segment.address + self.offset + HEADER_BYTES

    def array(self, shape: Any, dtype: Any, order: Any) -> Any:
        """Return a new array over the memory. To be called once."""
        import numpy as np

        view = self.segment.writable_view(self.offset + HEADER_BYTES, self.size_bytes, lambda: self._on_release(self))
        root = np.ndarray(shape, dtype, buffer=view, order=order)
        array = root[...]
        self._root = weakref.ref(root)
        self._array = weakref.ref(array)
        return array

    def take(self, *arrays: Any) -> list[Any] | None:
        """Make the arrays over the memory read-only.

        Args:
            arrays: What is handed over, and whatever pickle has made of it: those that are arrays over the memory
                are known, and so is the one that `array` has returned.

        Returns:
            Those arrays, or None if there are others.
        """
        root = self._root() if self._root is not None else None
        array = self._array() if self._array is not None else None
        known = list({id(one): one for one in (*arrays, array) if getattr(one, "base", None) is root}.values())
        if root is None or not known:
            return None
        if _references(root) - _OWN_REFERENCES != len(known):
            return None
        known.append(root)
        for one in known:
            one.flags.writeable = False
        return known
