"""The kernel's side of `given`: its own objects get the content that their copies in the worker have now."""

from __future__ import annotations

import array
import collections
import pickle
import types
from collections.abc import Callable
from typing import Any


def attributes_of(thing: Any) -> dict[str, Any]:
    """Return an instance's attributes, in its `__dict__` and in its slots."""
    found = dict(getattr(thing, "__dict__", None) or {})
    for name in slots_of(type(thing)):
        try:
            found[name] = getattr(thing, name)
        except AttributeError:
            continue
    return found


def slots_of(kind: type) -> tuple[str, ...]:
    """Return the names of a class's slots, and of its bases'."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names[f"_{base.__name__.lstrip('_')}{name}" if private else name] = None
    return tuple(names)


def members_of(thing: type) -> dict[str, Any]:
    """Return what a class defines itself and may be set again."""
    own = ("__dict__", "__weakref__", "__module__", "__qualname__", "__slotnames__", "__annotations__")
    return {name: item for name, item in vars(thing).items() if name not in own and not name.startswith("_abc_")}


def bytes_of(thing: Any) -> memoryview | None:
    """Return a contiguous array's memory."""
    if not thing.size:
        return None
    rows = thing if thing.flags.c_contiguous else thing.T
    if not rows.flags.c_contiguous:
        return None
    import numpy as np

    return memoryview(rows.reshape(-1).view(np.uint8))


def take_over(thing: Any, how: str, content: Any) -> None:
    """Give an object of the kernel the content that its copy has now.

    Raises:
        Exception: Whatever the object's own code raises.
    """
    if not isinstance(thing, pickle.PickleBuffer):  # an array's own memory, whose copy is an object in the worker
        _TAKE_OVER[how](thing, content)


def _set_attributes(thing: Any, attributes: dict[str, Any]) -> None:
    own = getattr(thing, "__dict__", None)
    slots = slots_of(type(thing))
    if own is not None:
        own.clear()
        own.update({name: value for name, value in attributes.items() if name not in slots})
    for name in slots:
        if name in attributes:
            object.__setattr__(thing, name, attributes[name])
        elif hasattr(thing, name):
            object.__delattr__(thing, name)


def _take_row(thing: Any, content: Any) -> None:
    items, attributes = content
    if isinstance(thing, list):
        list.__setitem__(thing, slice(None), items)
    else:
        thing.clear()
        thing.extend(items)
    _set_attributes(thing, attributes)


def _take_dict(thing: dict[Any, Any], content: Any) -> None:
    items, attributes = content
    kind = collections.OrderedDict if isinstance(thing, collections.OrderedDict) else dict
    kind.clear(thing)
    for key, value in items:
        kind.__setitem__(thing, key, value)
    _set_attributes(thing, attributes)


def _take_set(thing: set[Any], content: Any) -> None:
    items, attributes = content
    set.clear(thing)
    set.update(thing, items)
    _set_attributes(thing, attributes)


def _take_array(thing: Any, content: Any) -> None:
    thing[:] = array.array(thing.typecode, content)


def _take_function(thing: types.FunctionType, content: Any) -> None:
    attributes, thing.__defaults__, thing.__kwdefaults__ = content
    vars(thing).clear()
    vars(thing).update(attributes)


def _take_class(thing: type, content: dict[str, Any]) -> None:
    now = members_of(thing)
    for name in now:
        if name not in content:
            delattr(thing, name)
    for name, value in content.items():
        if name not in now or now[name] is not value:
            setattr(thing, name, value)


def _take_cell(thing: types.CellType, content: tuple[Any, ...]) -> None:
    if content:
        thing.cell_contents = content[0]
    else:
        del thing.cell_contents


def _take_error(thing: BaseException, content: Any) -> None:
    thing.args, attributes = content
    vars(thing).clear()
    vars(thing).update(attributes)


def _take_instance(thing: Any, content: Any) -> None:
    fresh, gone = content
    own, slots = getattr(thing, "__dict__", None), slots_of(type(thing))
    for name, value in fresh.items():
        if own is not None and name not in slots:
            own[name] = value
        else:
            object.__setattr__(thing, name, value)
    for name in gone:
        if own is not None and name in own:
            del own[name]
        elif name in slots and hasattr(thing, name):
            object.__delattr__(thing, name)


def _take_state(thing: Any, state: Any) -> None:
    if hasattr(type(thing), "__setstate__"):
        thing.__setstate__(state)
    else:
        _set_attributes(thing, state)


def _take_ndarray(thing: Any, content: Any) -> None:
    shape, writeable, runs, new = content
    if thing.shape != shape:
        thing.shape = shape
    if not thing.flags.writeable and (runs or new is not None):
        thing.flags.writeable = True
    if new is not None:
        thing[...] = new
    elif runs:
        flat = bytes_of(thing)
        copy = None if flat is not None else thing.copy()
        memory = flat if flat is not None else bytes_of(copy)
        assert memory is not None, "an array that has changed pages is not empty"
        for start, data in runs:
            memory[start : start + len(data)] = data
        if copy is not None:
            thing[...] = copy
    if thing.flags.writeable != writeable:
        thing.flags.writeable = writeable


def _take_bytes(thing: bytearray, content: bytes) -> None:
    thing[:] = content


_TAKE_OVER: dict[str, Callable[[Any, Any], None]] = {
    "list": _take_row,
    "deque": _take_row,
    "dict": _take_dict,
    "set": _take_set,
    "bytearray": _take_bytes,
    "array": _take_array,
    "function": _take_function,
    "class": _take_class,
    "cell": _take_cell,
    "error": _take_error,
    "instance": _take_instance,
    "state": _take_state,
    "ndarray": _take_ndarray,
}
