"""Names and values to bytes and back, so that a cell finds in the worker what it would find in the kernel.

All names of a cell go into one pickle, so that what was one object stays one. Three things are special in it:

* A function that was defined in a cell has the namespace of the notebook as its globals. It is bound to the
  *receiving* namespace when it arrives, so that it sees the names there, and those set later, as it would at home.
  What it reads travels with it where the sender asks for that (`carry`): on the way to a worker everything, on the way
  back only what the cell has set.
* `ObjectRef`s are taken out and travel beside the pickle, where the cluster can see who holds them.
* Large buffers (arrays, tables) are not copied into the pickle but lie beside it (pickle protocol 5). A buffer that
  could be written to can be written to when it arrives: as a private mapping of shared memory where it can be one.

Both sides number the objects of a pickle alike: it is what pickle itself does to save what it meets twice once. With
`remember` these numbers are kept, so that the way back can say "the object that you sent as number 7" (`seeds`), and
what was one object at home is the same object after the way there and back. `given` builds on this.

Objects of pandas are whole (`_part`): what is inside of them has no number. Their arrays are shared between frames in
ways that only pandas knows, and nobody else may write to them.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import threading
import types
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from atoll.kernel_ext import buffers

Namespace = dict[str, Any]


@dataclass
class PackedNames:
    """Names and values as bytes.

    Attributes:
        data: The pickle of a dict.
        buffers: What lies beside it, in order: `pickle.PickleBuffer`s, or what became of them on the way.
        writable: For each buffer, whether it could be written to.
        refs: `ObjectRef`s in order of first appearance.
        code_files: File names of the functions from cells that were met, in order of first appearance.
        seeds: Numbers that the receiver gave to the objects which this pickle takes for known, in order.
        known: The objects in the pickle by their number, where it was asked to remember them. Does not travel.
    """

    data: bytes
    buffers: list[Any] = field(default_factory=list)
    writable: list[bool] = field(default_factory=list)
    refs: list[Any] = field(default_factory=list)
    code_files: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    known: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[PackedNames], tuple[Any, ...]]:
        return PackedNames, (self.data, self.buffers, self.writable, self.refs, self.code_files, self.seeds)

    def objects(self, numbers: Sequence[int]) -> list[Any]:
        """Return the objects of some numbers. It must have been asked to remember them."""
        return [self.known[number] for number in numbers]


class _Everything:
    """Contains any name."""

    def __contains__(self, name: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()


class AllBut:
    """Contains any name that is not among some.

    Args:
        names: Those.
    """

    def __init__(self, names: Container[str]) -> None:
        self._names = names

    def __contains__(self, name: object) -> bool:
        return name not in self._names


class _Arriving(threading.local):
    """What the pickle that this thread is reading is bound to."""

    namespace: Namespace | None = None
    refs: Sequence[Any] = ()
    buffers: Iterator[Any] = iter(())


_arriving = _Arriving()


def _receiving_namespace() -> Namespace:
    assert _arriving.namespace is not None, "only `unpack_names` reads such a pickle"
    return _arriving.namespace


def _arrived_ref(index: int) -> Any:
    return _arriving.refs[index]


def _fill_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    cell.cell_contents = contents[0]


def _reduced_cell(cell: types.CellType) -> tuple[Any, ...]:
    """Save a closure's cell: empty first, so that it may hold the function that it belongs to."""
    try:
        contents = (cell.cell_contents,)
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), contents, None, None, _fill_cell


def _arrived_part(data: bytes) -> Any:
    """Read an object that is whole; its buffers come next in the row of all."""
    return pickle.loads(data, buffers=_arriving.buffers)


def _cached(function: Callable[..., Any], parameters: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Make a function with an empty `lru_cache` again."""
    cached = functools.lru_cache(**parameters)(function)
    cached.__dict__.update(attributes)
    return cached


class _HomeNamespace(dict[str, Any]):
    """Stands for the notebook's namespace in a pickle; cloudpickle takes it for a function's globals."""

    def __reduce__(self) -> tuple[Callable[[], Namespace], tuple[()]]:
        return _receiving_namespace, ()


class NamespacePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle, with functions of one namespace bound to the namespace where they arrive."""

    def __init__(
        self, file: io.BytesIO, home: Namespace, carry: Container[str], outer: NamespacePickler | None = None
    ) -> None:
        self.buffers: list[pickle.PickleBuffer] = [] if outer is None else outer.buffers
        self.refs: list[Any] = [] if outer is None else outer.refs
        self.code_files: dict[str, None] = {} if outer is None else outer.code_files
        self._home = home
        self._carry = carry
        self._ref_class = object_ref_class()
        self._whole = () if outer is not None else whole_classes()
        super().__init__(file, protocol=5, buffer_callback=self._keep_apart)
        # `__name__` makes it differ from an empty dict, which cloudpickle would fill.
        self.globals_ref[id(home)] = _HomeNamespace(__name__="__main__")

    def _keep_apart(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            small = buffer.raw().nbytes < IN_BAND_BYTES
        except BufferError:  # not contiguous: pickle copies it
            return True
        if not small:
            self.buffers.append(buffer)
        return small

    def reducer_override(self, obj: Any) -> Any:
        """Cloudpickle's hook for whatever is no plain value."""
        if self._ref_class is not None and isinstance(obj, self._ref_class):
            self.refs.append(obj)
            return _arrived_ref, (len(self.refs) - 1,)
        if isinstance(obj, io.IOBase) and not isinstance(obj, (io.StringIO, io.BytesIO)):
            raise pickle.PicklingError(
                f"an open file ({getattr(obj, 'name', 'without a name')}) belongs to its process"
            )
        if isinstance(obj, functools._lru_cache_wrapper) and getattr(obj, "__module__", "") == "__main__":
            return _cached, (obj.__wrapped__, obj.cache_parameters(), vars(obj))
        if type(obj) is types.CellType:
            return _reduced_cell(obj)
        if self._whole and isinstance(obj, self._whole):
            return self._part(obj)
        reduced = super().reducer_override(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) > 2 and "." in obj.__qualname__:
            reduced[2][0]["__qualname__"] = obj.__qualname__  # cloudpickle forgets it
        if type(obj) is types.FunctionType and reduced is not NotImplemented and obj.__closure__:
            # Cloudpickle gives every function cells of its own; functions of one closure share them.
            reduced = (reduced[0], (*reduced[1][:4], obj.__closure__), *reduced[2:])
        if type(obj) is types.FunctionType and reduced is not NotImplemented and obj.__globals__ is self._home:
            self.code_files.setdefault(obj.__code__.co_filename)
            slots = reduced[2][1]
            slots["__globals__"] = {name: value for name, value in slots["__globals__"].items() if name in self._carry}
        return reduced

    def _part(self, obj: Any) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        """Save an object as one: what is inside of it gets no number."""
        file = io.BytesIO()
        NamespacePickler(file, self._home, self._carry, outer=self).dump(obj)
        return _arrived_part, (file.getvalue(),)


def whole_classes() -> tuple[type, ...]:
    """Return the classes whose objects are whole, if this process knows them."""
    pandas: Any = sys.modules.get("pandas")
    return (pandas.DataFrame, pandas.Series, pandas.Index) if hasattr(pandas, "Index") else ()


IN_BAND_BYTES = 4 * 1024
"""Smaller buffers are copied into the pickle."""


def object_ref_class() -> type | None:
    """Return the API's class of references."""
    try:
        from atoll.object_ref import ObjectRef
    except ImportError:
        return None
    return ObjectRef


def pack_names(
    values: Mapping[str, Any],
    home: Namespace,
    carry: Container[str] = EVERYTHING,
    *,
    remember: bool = False,
    seeds: Mapping[int, Any] | None = None,
) -> PackedNames:
    """Turn names and values into bytes.

    Args:
        values: What is to travel.
        home: The namespace that functions of cells have as their globals.
        carry: Which of the names that such a function reads travel with it.
        remember: Whether to keep the numbers of the objects in it, and the objects.
        seeds: Objects that the receiver has, by the numbers that it gave to them: they do not travel.

    Raises:
        Exception: A value does not pickle; what is raised is the pickle's or the value's own error.
    """
    file = io.BytesIO()
    pickler = NamespacePickler(file, home, carry)
    if seeds:
        pickler.memo = {id(thing): (place, thing) for place, thing in enumerate(seeds.values())}
    pickler.dump(dict(values))
    writable = [not buffer.raw().readonly for buffer in pickler.buffers]
    known = dict(pickler.memo.copy().values()) if remember else {}
    return PackedNames(
        file.getvalue(),
        list(pickler.buffers),
        writable,
        pickler.refs,
        list(pickler.code_files),
        list(seeds or ()),
        known,
    )


def unpack_names(
    packed: PackedNames,
    namespace: Namespace,
    *,
    remember: bool = False,
    seeds: Sequence[Any] = (),
    origin: Any = None,
) -> Namespace:
    """Turn bytes back into names and values.

    What functions carry is put into `namespace`; the names themselves are returned, and putting them there is the
    caller's.

    Args:
        packed: What `pack_names` made.
        namespace: Becomes the globals of functions that were defined in cells.
        remember: Whether to keep the objects by their numbers, in `packed.known`.
        seeds: The objects that the pickle takes for known: those of `packed.seeds`.
        origin: The ref of the cell's result that this is part of, if it is an object of the cluster.

    Raises:
        Exception: Whatever the values' own code raises.
    """
    assert len(seeds) == len(packed.seeds), "who sends and who receives must know the same objects"
    row = [
        _as_it_was(buffer, writable, origin, index)
        for index, (buffer, writable) in enumerate(zip(packed.buffers, packed.writable, strict=True))
    ]
    outer = (_arriving.namespace, _arriving.refs, _arriving.buffers)
    _arriving.namespace, _arriving.refs, _arriving.buffers = namespace, packed.refs, iter(row)
    try:
        unpickler: Any = _Unpickler(io.BytesIO(_seeding(len(seeds)) + packed.data), buffers=_arriving.buffers)
        if seeds:
            unpickler.seeds = seeds
            unpickler.load()
        values: Namespace = unpickler.load()
        if remember:
            packed.known = unpickler.memo.copy()
    finally:
        _arriving.namespace, _arriving.refs, _arriving.buffers = outer
    return values


class _Unpickler(pickle.Unpickler):
    """Is handed the objects that are known here. Python 3.13.0 takes no other `persistent_load` than a class's own."""

    seeds: Sequence[Any] = ()

    def persistent_load(self, pid: Any) -> Any:
        """Return the object of this number."""
        return self.seeds[pid]


def _seeding(count: int) -> bytes:
    """Return a pickle that gives the first numbers to objects which an unpickler is handed one by one.

    `Unpickler.memo` could be set to them, but CPython's C implementation loses what it is set to.
    """
    if not count:
        return b""
    number, ask, memoize, drop = pickle.BININT, pickle.BINPERSID, pickle.MEMOIZE, pickle.POP
    each = b"".join(number + place.to_bytes(4, "little") + ask + memoize + drop for place in range(count))
    return pickle.PROTO + bytes([5]) + each + pickle.NONE + pickle.STOP


def _as_it_was(buffer: Any, writable: bool, origin: Any, index: int) -> Any:
    """Return a buffer that can be written to if it could be. What arrives in shared memory is read-only for all."""
    if writable and memoryview(buffer).readonly:
        return buffers.writable(buffer, origin, index)
    return buffer


def split_names(
    values: Mapping[str, Any], home: Namespace, carry: Container[str] = EVERYTHING
) -> tuple[PackedNames, dict[str, str]]:
    """Pack what pickles and tell why the rest does not.

    Returns:
        The names that pickle, together; and the others, each with a reason in one line.
    """
    try:
        return pack_names(values, home, carry), {}
    except Exception:  # whose fault it is comes out below, name by name
        reasons: dict[str, str] = {}
    good: Namespace = {}
    for name, value in values.items():
        reason = why_not(name, value, home, carry)
        if reason is None:
            good[name] = value
        else:
            reasons[name] = reason
    return pack_names(good, home, carry), reasons


def why_not(name: str, value: Any, home: Namespace, carry: Container[str] = EVERYTHING) -> str | None:
    """Return why a value does not pickle, in one line, or None if it does.

    A function is often fine itself and reads a variable that is not; then that variable is named.
    """
    try:
        pack_names({name: value}, home, carry)
    except Exception as error:
        text = _one_line(error)
    else:
        return None
    for read in sorted(names_read_by(value, home)):
        if read != name and read in carry:
            inner = why_not_alone(read, home[read], home)
            if inner is not None:
                return f"it reads {read!r}: {inner}"
    return text


def why_not_alone(name: str, value: Any, home: Namespace) -> str | None:
    """Return why a value does not pickle even without what functions in it read."""
    try:
        pack_names({name: value}, home, ())
    except Exception as error:
        return _one_line(error)
    return None


def names_read_by(value: Any, home: Namespace) -> set[str]:
    """Return the names of the namespace that a function or class from a cell reads, itself or through others."""
    found: set[str] = set()
    functions = [value]
    while functions:
        thing = functions.pop()
        if isinstance(thing, type):
            functions += [member for member in vars(thing).values() if isinstance(member, types.FunctionType)]
        elif isinstance(thing, types.FunctionType) and thing.__globals__ is home:
            for name in _names_in(thing.__code__):
                if name in home and name not in found:
                    found.add(name)
                    functions.append(home[name])
    return found


def globals_of(value: Any, home: Namespace) -> list[str]:
    """Return the names that a function or class from a cell may read itself, whether they are there or not."""
    if isinstance(value, type):
        members = [getattr(member, "__func__", member) for member in vars(value).values()]
        return [name for member in members if not isinstance(member, type) for name in globals_of(member, home)]
    if isinstance(value, types.FunctionType) and value.__globals__ is home:
        return sorted(_names_in(value.__code__))
    return []


def _names_in(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_in(constant)
    return names


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
