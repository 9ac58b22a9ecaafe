"""What the objects look like that a cell was given: how each kind is compared with what it was, see `given`."""

from __future__ import annotations

import array
import collections
import functools
import hashlib
import io
import operator
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from atoll.kernel_ext.buffers import dirty_runs, token
from atoll.kernel_ext.namespace_pickle import Namespace, NamespacePickler, whole_classes
from atoll.kernel_ext.taking_over import attributes_of, bytes_of, members_of

UNCHANGING = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    range,
    slice,
    types.ModuleType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.CodeType,
    pickle.PickleBuffer,
    memoryview,
)


class Look:
    """What one object looked like.

    Attributes:
        thing: The object.
        number: That both sides gave to it.
    """

    how = ""

    def __init__(self, thing: Any, number: int) -> None:
        self.thing = thing
        self.number = number

    def changed(self) -> bool:
        """Whether it looks different now."""
        raise NotImplementedError

    def refers_to(self) -> Iterable[int]:
        """Return the identities of what it holds now."""
        return ()

    def content(self) -> Any:
        """Return what it is to be given at the other side.

        Raises:
            Unfit: It cannot be given new content.
        """
        raise NotImplementedError


class Unfit(Exception):
    """The object has changed and cannot be given new content from outside."""


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


class PartsLook(Look):
    """Something that holds other objects: a container, an instance, a function, a class, a closure's cell."""

    def __init__(self, thing: Any, number: int, how: str, parts: Callable[[Any], tuple[Any, ...]]) -> None:
        super().__init__(thing, number)
        self.how = how
        self._parts = parts
        self._before = parts(thing)

    def changed(self) -> bool:
        """See `Look`."""
        return not _same(self._before, self._parts(self.thing))

    def refers_to(self) -> Iterable[int]:
        """See `Look`."""
        return map(id, self._parts(self.thing))

    def content(self) -> Any:
        """See `Look`."""
        return _CONTENT[self.how](self.thing)


class InstanceLook(Look):
    """An instance whose attributes are all that it is. Only those that changed travel."""

    how = "instance"

    def __init__(self, thing: Any, number: int) -> None:
        super().__init__(thing, number)
        self._before = attributes_of(thing)

    def changed(self) -> bool:
        """See `Look`."""
        now = attributes_of(self.thing)
        return not (_same(tuple(self._before), tuple(now)) and _same(tuple(self._before.values()), tuple(now.values())))

    def refers_to(self) -> Iterable[int]:
        """See `Look`."""
        return map(id, attributes_of(self.thing).values())

    def content(self) -> Any:
        """See `Look`."""
        now = attributes_of(self.thing)
        absent = object()
        fresh = {name: value for name, value in now.items() if self._before.get(name, absent) is not value}
        # Nothing is fresh where it is something inside of an attribute that takes no new content: then all go.
        return (fresh or now, [name for name in self._before if name not in now])


def _instance_parts(thing: Any) -> tuple[Any, ...]:
    attributes = attributes_of(thing)
    return (*attributes, *attributes.values())


def _dict_parts(thing: dict[Any, Any]) -> tuple[Any, ...]:
    return (*thing, *thing.values(), *_instance_parts(thing)) if type(thing) is not dict else (*thing, *thing.values())


def _row_parts(thing: Any) -> tuple[Any, ...]:
    return (*thing, *_instance_parts(thing)) if type(thing) is not list else tuple(thing)


def _set_parts(thing: set[Any]) -> tuple[Any, ...]:
    return (*sorted(thing, key=id), *_instance_parts(thing))


def _function_parts(thing: types.FunctionType) -> tuple[Any, ...]:
    keyword = thing.__kwdefaults__ or {}
    return (thing.__code__, *_instance_parts(thing), *(thing.__defaults__ or ()), *keyword, *keyword.values())


def _class_parts(thing: type) -> tuple[Any, ...]:
    members = members_of(thing)
    return (*members, *members.values())


_EMPTY = object()


def _cell_parts(thing: types.CellType) -> tuple[Any, ...]:
    try:
        return (thing.cell_contents,)
    except ValueError:
        return (_EMPTY,)


def _cell_content(thing: types.CellType) -> Any:
    try:
        return (thing.cell_contents,)
    except ValueError:
        return ()


_CONTENT: dict[str, Callable[[Any], Any]] = {
    "list": lambda thing: (list(thing), attributes_of(thing)),
    "deque": lambda thing: (list(thing), attributes_of(thing)),
    "dict": lambda thing: (list(thing.items()), attributes_of(thing)),
    "set": lambda thing: (list(thing), attributes_of(thing)),
    "bytearray": bytes,
    "array": lambda thing: thing.tobytes(),
    "function": lambda thing: (vars(thing), thing.__defaults__, thing.__kwdefaults__),
    "class": members_of,
    "cell": _cell_content,
    "error": lambda thing: (thing.args, dict(vars(thing))),
}


class BytesLook(Look):
    """A row of plain bytes or numbers."""

    def __init__(self, thing: Any, number: int, how: str) -> None:
        super().__init__(thing, number)
        self.how = how
        self._before = bytes(thing)

    def changed(self) -> bool:
        """See `Look`."""
        return bytes(self.thing) != self._before

    def content(self) -> Any:
        """See `Look`."""
        return _CONTENT[self.how](self.thing)


class ArrayLook(Look):
    """A numpy array: its bytes, or its elements if they are objects."""

    how = "ndarray"

    def __init__(self, thing: Any, number: int) -> None:
        super().__init__(thing, number)
        self._before = self._look()
        self._memory = thing.ctypes.data

    def _look(self) -> tuple[Any, ...]:
        thing = self.thing
        if thing.dtype.hasobject:
            return (thing.shape, *thing.ravel().tolist())
        flat = thing if bytes_of(thing) is not None else thing.copy()
        buffer = bytes_of(flat)
        return (thing.shape, thing.dtype, thing.flags.writeable, token(buffer) if buffer is not None else None)

    def changed(self) -> bool:
        """See `Look`."""
        now = self._look()
        if self.thing.dtype.hasobject:
            return now[0] != self._before[0] or not _same(now[1:], self._before[1:])
        return now != self._before

    def refers_to(self) -> Iterable[int]:
        """See `Look`."""
        return map(id, self.thing.ravel().tolist()) if self.thing.dtype.hasobject else ()

    def content(self) -> Any:
        """See `Look`."""
        thing = self.thing
        if thing.dtype != self._before[1] and not thing.dtype.hasobject:
            raise Unfit
        if thing.shape != self._before[0] and thing.size != _product(self._before[0]):
            raise Unfit
        buffer = bytes_of(thing) if not thing.dtype.hasobject else None
        runs = dirty_runs(buffer) if buffer is not None and thing.ctypes.data == self._memory else None
        # A view: the array itself is known at the other side, and would go as its number.
        return (thing.shape, thing.flags.writeable, runs, thing.view() if runs is None else None)


def _product(shape: tuple[int, ...]) -> int:
    return functools.reduce(operator.mul, shape, 1)


class _ShallowPickler(NamespacePickler):
    """Saves one object, and the others that are known by their numbers."""

    def __init__(self, file: io.BytesIO, root: Any, home: Namespace, numbers: dict[int, int]) -> None:
        super().__init__(file, home, ())
        self.met: list[int] = []
        self._root = root
        self._numbers = numbers

    def persistent_id(self, obj: Any) -> int | None:
        """Pickle's hook: an object that is known needs no saving."""
        if obj is self._root:
            return None
        number = self._numbers.get(id(obj))
        if number is not None:
            self.met.append(id(obj))
        return number


class WholeLook(Look):
    """An object that says what it is only by being pickled."""

    how = "state"

    def __init__(self, thing: Any, number: int, home: Namespace, numbers: dict[int, int]) -> None:
        super().__init__(thing, number)
        self._home = home
        self._numbers = numbers
        self._met: list[int] = []
        self._before = self._look()

    def _look(self) -> Any:
        file = io.BytesIO()
        pickler = _ShallowPickler(file, self.thing, self._home, self._numbers)
        try:
            pickler.dump(self.thing)
        except Exception:  # it came as a pickle but does not go as one; whether it changed cannot be told
            return None
        self._met = pickler.met
        digest = hashlib.blake2b(file.getbuffer(), digest_size=16).digest()
        return (digest, *(token(buffer.raw()) for buffer in pickler.buffers))

    def changed(self) -> bool:
        """See `Look`."""
        return bool(self._look() != self._before)

    def refers_to(self) -> Iterable[int]:
        """See `Look`."""
        return self._met

    def content(self) -> Any:
        """See `Look`."""
        reduced = self.thing.__reduce_ex__(5)
        state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
        if state is None or not (hasattr(type(self.thing), "__setstate__") or isinstance(state, dict)):
            raise Unfit
        return state


class TupleLook(Look):
    """A tuple: it never changes, but what it holds may be something that is bound anew."""

    def changed(self) -> bool:
        """See `Look`."""
        return False

    def refers_to(self) -> Iterable[int]:
        """See `Look`."""
        return map(id, self.thing)

    def content(self) -> Any:
        """See `Look`."""
        raise Unfit


def _is_plain_instance(kind: Any) -> bool:
    """Whether an object's attributes are all that it is."""
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and (kind.__flags__ & (1 << 9)) != 0  # made by a class statement
        and all(base.__flags__ & (1 << 9) or base is object for base in kind.__mro__)
    )


_FAMILIES: tuple[tuple[Any, str, Callable[[Any], tuple[Any, ...]]], ...] = (
    (list, "list", _row_parts),
    (dict, "dict", _dict_parts),
    (set, "set", _set_parts),
    (collections.deque, "deque", _row_parts),
    (types.CellType, "cell", _cell_parts),
    (BaseException, "error", lambda thing: (thing.args, *thing.args, *_instance_parts(thing))),
)


def look_at(thing: Any, number: int, home: Namespace, numbers: dict[int, int]) -> Look | None:
    """Return an object's looks, or None for one that cannot change."""
    kind = type(thing)
    if isinstance(thing, tuple):
        return TupleLook(thing, number)
    for family, how, parts in _FAMILIES:
        if isinstance(thing, family):
            return PartsLook(thing, number, how, parts)
    if isinstance(thing, types.FunctionType):
        return PartsLook(thing, number, "function", _function_parts) if thing.__module__ == "__main__" else None
    if isinstance(thing, type):
        own = thing.__module__ == "__main__" and type(thing).__module__ != "enum"
        return PartsLook(thing, number, "class", _class_parts) if own else None
    if isinstance(thing, (bytearray, array.array)):
        return BytesLook(thing, number, "array" if isinstance(thing, array.array) else "bytearray")
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is getattr(numpy, "ndarray", None):
        return ArrayLook(thing, number)
    if _is_plain_instance(kind) and not isinstance(thing, whole_classes()):
        return InstanceLook(thing, number)
    return WholeLook(thing, number, home, numbers)
