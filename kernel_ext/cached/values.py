"""Digests of values by their content: equal in every kernel for equal values, different for whatever a cell could tell.

A value is walked as pickle would walk it, but what pickle leaves to chance is put in order: sets are sorted by their
elements' digests, texts count by what they say and not by which object they are, and nothing depends on addresses.
What a cell could tell counts: the type (`1`, `1.0` and `True` differ), the sign of zero, the order of a dict, the
layout of an array, and which mutable objects are one and the same.

Functions and classes from cells count with their code, defaults, closures and attributes; the names that they read
become values of their own (`reads`). What a module defines is known by its name, and the module is noted (`modules`).

What cannot be compared, such as a generator or a lock, raises `Incomparable`.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import itertools
import marshal
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import Any

import cloudpickle

from atoll.kernel_ext.cached.bytecode import Mentions, code_digest, mentions_of
from atoll.kernel_ext.cached.hashing import digest_memory
from atoll.kernel_ext.namespace_pickle import Namespace, object_ref_class

_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})
_MARSHAL_VERSION = 2
"""The last one that writes what values say and nothing of which objects they are."""

_MADE_BY_PYTHON = 1 << 9
"""The flag of a class that some code has made, and not the interpreter."""

_OF_CLASSES_OWN = frozenset(
    {
        "__dict__",
        "__weakref__",
        "__module__",
        "__firstlineno__",
        "__static_attributes__",
        "_abc_impl",
        "__abstractmethods__",
    }
)
"""What Python itself puts into a class, and what follows from the rest of it."""


_LIVING = frozenset(
    {
        ("atoll.actor", "ActorHandle"),
        ("atoll.kernel_ext.actors", "CellActorHandle"),
        ("atoll.kernel_ext.background.handle", "BackgroundCell"),
    }
)
"""Handles: what they stand for is not what they hold."""


class Incomparable(Exception):
    """A value has no content that could be compared."""


class ValueDigests:
    """Digests of the values of one cell.

    Args:
        home: The notebook's namespace, whose functions are compared by their code.

    Attributes:
        reads: Names of the namespace that functions read, in order of appearance.
        modules: Modules that values refer to.
        mentions: What the code of functions mentions.
        paths: Paths among the values.
    """

    def __init__(self, home: Namespace) -> None:
        self.reads: dict[str, None] = {}
        self.modules: dict[str, None] = {}
        self.mentions = Mentions()
        self.paths: dict[str, None] = {}
        self.home = home
        self.numbers: dict[int, bytes] = {}
        self.alive: list[Any] = []
        self.code: set[int] = set()
        self.in_code = 0
        self.references: Any = object_ref_class()

    def digest(self, name: str, value: Any) -> str:
        """Return the digest of a variable's value.

        Raises:
            Incomparable: It has none.
        """
        walk = _Walk(self, name)
        try:
            walk.add(value)
        except Incomparable:
            raise
        except Exception as error:  # a value's own code may fail in any way, and recursion may go too deep
            raise Incomparable(f"{type(error).__name__}: {error}") from error
        return walk.hasher.hexdigest()

    def see_code(self, code: types.CodeType) -> None:
        """Note what a function's code mentions."""
        found = mentions_of(code)
        self.mentions.add(found)
        for name in found.reads:
            if name in self.home:
                self.reads.setdefault(name)


class _Walk:
    """The way through one value."""

    def __init__(self, all_values: ValueDigests, name: str) -> None:
        self.hasher = hashlib.sha256()
        self._all = all_values
        self._name = name
        self._count = 0
        self._mine: list[int] = []

    def write(self, kind: str, payload: bytes = b"") -> None:
        """Add a piece. No two rows of pieces are the same bytes."""
        self.hasher.update(f"{kind} {len(payload)}:".encode() + payload)

    def add(self, value: Any) -> None:
        """Add a value."""
        kind = type(value)
        if kind in _SCALARS:
            self.write("plain", marshal.dumps(value, _MARSHAL_VERSION))
            return
        if kind in (tuple, frozenset):  # which of two equal ones it is, no cell can tell by its content
            _KINDS[kind](self, value)
            return
        if self._met(value):
            return
        found = _KINDS.get(kind)
        if isinstance(value, (type, types.FunctionType)):
            self._all.in_code += 1
            self._add_code(value)
            self._all.in_code -= 1
        elif found is not None:
            found(self, value)
        elif not _add_of_library(self, value):
            self._add_object(value)

    def _met(self, value: Any) -> bool:
        """Whether a mutable object came before; then it is said where."""
        before = self._all.numbers.get(id(value))
        if before is not None:
            self.write("again", before)
            return True
        self._all.numbers[id(value)] = f"{self._name} {self._count}".encode()
        if self._all.in_code or isinstance(value, (type, types.FunctionType)):
            self._all.code.add(id(value))
        self._all.alive.append(value)  # or another object could get its address
        self._mine.append(id(value))
        self._count += 1
        return False

    def add_all(self, kind: str, values: Iterable[Any]) -> None:
        """Add several values in their order."""
        row = list(values)
        self.write(kind, len(row).to_bytes(8, "little"))
        if _is_plain(row):
            self.write("row", marshal.dumps(row, _MARSHAL_VERSION))
            return
        for value in row:
            self.add(value)

    def add_unordered(self, kind: str, values: Iterable[Any]) -> None:
        """Add values whose order does not count."""
        row = list(values)
        if _is_plain(row):
            self.write(kind, b"".join(sorted(_digest(marshal.dumps(value, _MARSHAL_VERSION)) for value in row)))
            return
        found: dict[bytes, _Walk] = {}
        numbers = self._all.numbers
        for value in row:
            inner = _Walk(self._all, "")
            inner.add(value)
            digest = inner.hasher.digest()
            if digest in found and inner._mine:
                raise Incomparable("a set with two objects that look the same")
            found[digest] = inner
            for number in inner._mine:  # another element that holds the same is to look as if it came first
                del numbers[number]
        for digest in sorted(found):  # from now on they are known by what they are, not by when they came
            for place, number in enumerate(found[digest]._mine):
                if number not in numbers:
                    self._mine.append(number)
                    numbers[number] = f"{self._name} {digest.hex()} {place}".encode()
                elif number not in self._all.code:
                    raise Incomparable("a set whose elements share an object")
        self.write(kind, b"".join(sorted(found)))

    def add_memory(self, memory: Any) -> None:
        """Add the bytes of a contiguous buffer."""
        self.write("memory", digest_memory(memory))

    # ------------------------------------------------------------------------------------ code

    def add_function(self, function: types.FunctionType) -> None:
        """Add a function: what it does if a cell has defined it, else where it is found."""
        own = function.__globals__ is self._all.home or function.__module__ == "__main__"
        if not own and _is_found(function.__module__, function.__qualname__, function):
            self._add_reference(function.__module__, function.__qualname__)
            return
        self.write("function", code_digest(function.__code__))
        self._all.see_code(function.__code__)
        if not own:
            self._all.modules.setdefault(function.__module__)
        elif function.__globals__ is not self._all.home:  # from another namespace: what it reads goes along with it
            reads = mentions_of(function.__code__).reads
            known = function.__globals__
            self.add_all("globals", [(name, known[name]) for name in sorted(reads) if name in known])
        contents = [_contents(cell) for cell in function.__closure__ or ()]
        self.add_all("closure", contents)
        self.add_all("defaults", [function.__defaults__, function.__kwdefaults__, function.__doc__])
        self.add_all("attributes", [function.__annotations__, vars(function)])

    def _add_code(self, value: Any) -> None:
        if isinstance(value, type):
            self._add_class(value)
        else:
            self.add_function(value)

    def _add_class(self, kind: type) -> None:
        if kind.__module__ != "__main__":
            self._all.modules.setdefault(kind.__module__)
            if not kind.__flags__ & _MADE_BY_PYTHON or _is_found(kind.__module__, kind.__qualname__, kind):
                self._add_reference(kind.__module__, kind.__qualname__)
                return
        self._add_class_content(kind)

    def _add_class_content(self, kind: type) -> None:
        self.write("class", kind.__qualname__.encode())
        self.add_all("bases", [type(kind), *kind.__bases__])
        members = {name: member for name, member in vars(kind).items() if name not in _OF_CLASSES_OWN}
        for name, member in members.items():
            self.write("member", name.encode())
            if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                continue  # a slot: its name says all
            self.add(member)

    def _add_reference(self, module: str, name: str) -> None:
        self._all.modules.setdefault(module)
        self.write("reference", f"{module}:{name}".encode())

    # --------------------------------------------------------------------------------- objects

    def _add_object(self, value: Any) -> None:
        """Add any other object, as it would be pickled."""
        if (type(value).__module__, type(value).__qualname__) in _LIVING:
            raise Incomparable("something that lives on the cluster and changes there")
        if isinstance(value, io.IOBase) and not isinstance(value, (io.StringIO, io.BytesIO)):
            raise Incomparable("an open file")
        if isinstance(value, PurePath):
            self._all.paths.setdefault(str(value))
        if self._all.references is not None and isinstance(value, self._all.references):
            self.write("object", value.binary())  # what it refers to never changes
            return
        reduced = _reduced(value)
        if isinstance(reduced, str):
            self._add_reference(getattr(value, "__module__", None) or "builtins", reduced)
            return
        function, arguments, state, rows, items, *more = (*reduced, None, None, None)[:6]
        self.write("object")
        self.add(function)
        self.add_all("arguments", arguments)
        self.add(state)
        self.add_all("rows", rows or ())
        self.add_all("items", items or ())
        for part in more:
            self.add(part)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _is_plain(row: list[Any]) -> bool:
    """Whether a row has nothing but plain values, or tuples of them: these are digested at once."""
    kinds = set(map(type, row))
    if kinds == {tuple}:
        kinds = set(map(type, itertools.chain.from_iterable(row)))
    return bool(row) and kinds <= _SCALARS


def _contents(cell: types.CellType) -> Any:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def _is_found(module: str | None, name: str, thing: Any) -> bool:
    """Whether a thing is what its module has under its name."""
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is thing


def _reduced(value: Any) -> Any:
    kind = type(value)
    reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(kind)
    if reduce is None:
        reduce = cloudpickle.CloudPickler.dispatch_table.get(kind)
    if reduce is not None:
        return reduce(value)
    return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _add_dict(walk: _Walk, value: dict[Any, Any]) -> None:
    walk.add_all("dict", value.keys())
    walk.add_all("values", value.values())


def _add_module(walk: _Walk, value: types.ModuleType) -> None:
    walk._all.modules.setdefault(value.__name__)
    walk.write("module", value.__name__.encode())


def _add_builtin(walk: _Walk, value: types.BuiltinFunctionType) -> None:
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        walk._add_reference(value.__module__ or "builtins", value.__qualname__)
    else:
        walk.write("method", value.__name__.encode())
        walk.add(owner)


def _add_cached_function(walk: _Walk, value: Any) -> None:
    """Add a function with `lru_cache`: what it remembers does not count."""
    if _is_found(getattr(value, "__module__", None), getattr(value, "__qualname__", ""), value) and (
        value.__module__ != "__main__"
    ):
        walk._add_reference(value.__module__, value.__qualname__)
        return
    walk.add_all("cached", [value.__wrapped__, value.cache_parameters()])


_Kind = Callable[[_Walk, Any], None]

_KINDS: dict[type, _Kind] = {
    tuple: lambda walk, value: walk.add_all("tuple", value),
    frozenset: lambda walk, value: walk.add_unordered("frozenset", value),
    list: lambda walk, value: walk.add_all("list", value),
    set: lambda walk, value: walk.add_unordered("set", value),
    dict: _add_dict,
    types.CodeType: lambda walk, value: walk.write("code", code_digest(value)),
    types.CellType: lambda walk, value: walk.add_all("cell", _contents(value)),
    types.ModuleType: _add_module,
    types.BuiltinFunctionType: _add_builtin,
    types.MethodType: lambda walk, value: walk.add_all("bound", [value.__func__, value.__self__]),
    functools._lru_cache_wrapper: _add_cached_function,
    property: lambda walk, value: walk.add_all("property", [value.fget, value.fset, value.fdel, value.__doc__]),
    classmethod: lambda walk, value: walk.add_all("classmethod", [value.__func__]),
    staticmethod: lambda walk, value: walk.add_all("staticmethod", [value.__func__]),
    functools.cached_property: lambda walk, value: walk.add_all("cached property", [value.func, value.attrname]),
    bytearray: lambda walk, value: walk.add_memory(value),
    pickle.PickleBuffer: lambda walk, value: walk.add_memory(value.raw()),
}


def _add_of_library(walk: _Walk, value: Any) -> bool:
    """Add a value of numpy, pandas or pyarrow by its content; False if it is none."""
    from atoll.kernel_ext.cached import libraries

    add = libraries.find(value)
    if add is None:
        return False
    add(walk, value)
    return True
