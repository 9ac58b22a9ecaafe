"""Arrays that lie in the object store from the beginning, so that putting them copies nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from atoll.client.current import current_session
from atoll.protocol.channel_messages import INLINE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

__all__ = ["empty", "empty_like"]


def empty(shape: int | tuple[int, ...], dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> NDArray[Any]:
    """Return a new array in the object store, without initializing it: `numpy.empty`, in shared memory.

    Write to it as to any array, then `atoll.put` it: nothing is copied, and the array is read-only from then on. The
    whole array is put, also as a view of all of it (reshaped, transposed) or inside of a small container.

    What is put is copied, as any array is, if other views of it are left, through which it could be written to; if
    it is a part; and if it is given to a task instead of put, since it stays yours then. A `memoryview` of it, or a
    tensor made from it, is not seen: do not write through one after `put`. Memory that is never put goes back with the
    last view. What other processes hold is not touched by any of this.

    Args:
        shape: As for numpy.
        dtype: Of numbers, dates or structures; objects have no place in shared memory.
        order: `C` or `F`.

    Raises:
        TypeError: The type contains Python objects.
        ObjectStoreFullError: There is no room for it.
    """
    import numpy as np

    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"atoll.empty of {kind}: Python objects cannot lie in shared memory; use numpy.empty")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    size_bytes = math.prod(sizes) * kind.itemsize
    if size_bytes <= INLINE_BYTES:  # so small that it travels in messages
        return np.empty(sizes, kind, order)
    session = current_session()
    object_id = session.ids.object_id()
    try:
        made: NDArray[Any] = session.store.reserve(object_id, size_bytes).array(sizes, kind, order)
    except BaseException:  # an interrupt, say
        session.store.give_up(object_id)
        raise
    return made


def empty_like(
    prototype: NDArray[Any], dtype: DTypeLike | None = None, shape: int | tuple[int, ...] | None = None
) -> NDArray[Any]:
    """Return a new array in the object store with another one's shape, type and order of axes: see `empty`.

    Args:
        prototype: The other one.
        dtype: Another type.
        shape: Another shape.
    """
    fortran: np.bool | bool = prototype.flags.f_contiguous and not prototype.flags.c_contiguous
    kind = prototype.dtype if dtype is None else dtype
    return empty(prototype.shape if shape is None else shape, kind, "F" if fortran else "C")
