"""Names and values to bytes and back, so that a cell finds in the worker what it would find in the kernel.

All names of a cell go into one pickle, so that what was one object stays one. Three things are special in it:

* A function that was defined in a cell has the namespace of the notebook as its globals. It is bound to the
  *receiving* namespace when it arrives, so that it sees the names there, and those set later, as it would at home.
  What it reads travels with it where the sender asks for that (`carry`): on the way to a worker everything, on the way
  back only what the cell has set.
* `ObjectRef`s are taken out and travel beside the pickle, where the cluster can see who holds them.
* Large buffers (arrays, tables) are not copied into the pickle but lie beside it (pickle protocol 5). A buffer that
  could be written to can be written to when it arrives.
"""

from __future__ import annotations

import functools
import io
import pickle
import threading
import types
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

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
    """

    data: bytes
    buffers: list[Any] = field(default_factory=list)
    writable: list[bool] = field(default_factory=list)
    refs: list[Any] = field(default_factory=list)
    code_files: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Bytes of the pickle and what lies beside it."""
        return len(self.data) + sum(memoryview(buffer).nbytes for buffer in self.buffers)


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


_arriving = _Arriving()


def _receiving_namespace() -> Namespace:
    assert _arriving.namespace is not None, "only `unpack_names` reads such a pickle"
    return _arriving.namespace


def _arrived_ref(index: int) -> Any:
    return _arriving.refs[index]


def _cached(function: Callable[..., Any], parameters: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Make a function with an empty `lru_cache` again."""
    cached = functools.lru_cache(**parameters)(function)
    cached.__dict__.update(attributes)
    return cached


class _HomeNamespace(dict[str, Any]):
    """Stands for the notebook's namespace in a pickle; cloudpickle takes it for a function's globals."""

    def __reduce__(self) -> tuple[Callable[[], Namespace], tuple[()]]:
        return _receiving_namespace, ()


class _NamespacePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle, with functions of one namespace bound to the namespace where they arrive."""

    def __init__(self, file: io.BytesIO, home: Namespace, carry: Container[str], ref_class: type | None) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        self.refs: list[Any] = []
        self.code_files: dict[str, None] = {}
        self._home = home
        self._carry = carry
        self._ref_class = ref_class
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
        reduced = super().reducer_override(obj)
        if type(obj) is types.FunctionType and reduced is not NotImplemented and obj.__globals__ is self._home:
            self.code_files.setdefault(obj.__code__.co_filename)
            slots = reduced[2][1]
            slots["__globals__"] = {name: value for name, value in slots["__globals__"].items() if name in self._carry}
        return reduced


IN_BAND_BYTES = 4 * 1024
"""Smaller buffers are copied into the pickle."""


def object_ref_class() -> type | None:
    """Return the API's class of references."""
    try:
        from atoll.object_ref import ObjectRef
    except ImportError:
        return None
    return ObjectRef


def pack_names(values: Mapping[str, Any], home: Namespace, carry: Container[str] = EVERYTHING) -> PackedNames:
    """Turn names and values into bytes.

    Args:
        values: What is to travel.
        home: The namespace that functions of cells have as their globals.
        carry: Which of the names that such a function reads travel with it.

    Raises:
        Exception: A value does not pickle; what is raised is the pickle's or the value's own error.
    """
    file = io.BytesIO()
    pickler = _NamespacePickler(file, home, carry, object_ref_class())
    pickler.dump(dict(values))
    writable = [not buffer.raw().readonly for buffer in pickler.buffers]
    return PackedNames(file.getvalue(), list(pickler.buffers), writable, pickler.refs, list(pickler.code_files))


def unpack_names(packed: PackedNames, namespace: Namespace) -> Namespace:
    """Turn bytes back into names and values.

    What functions carry is put into `namespace`; the names themselves are returned, and putting them there is the
    caller's.

    Args:
        packed: What `pack_names` made.
        namespace: Becomes the globals of functions that were defined in cells.

    Raises:
        Exception: Whatever the values' own code raises.
    """
    buffers = [_as_it_was(buffer, writable) for buffer, writable in zip(packed.buffers, packed.writable, strict=True)]
    outer = (_arriving.namespace, _arriving.refs)
    _arriving.namespace, _arriving.refs = namespace, packed.refs
    try:
        values: Namespace = pickle.loads(packed.data, buffers=buffers)
    finally:
        _arriving.namespace, _arriving.refs = outer
    return values


def _as_it_was(buffer: Any, writable: bool) -> Any:
    """Return a buffer that can be written to if it could be. What arrives in shared memory is read-only for all."""
    if writable and memoryview(buffer).readonly:
        return bytearray(buffer)
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


def _names_in(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_in(constant)
    return names


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
