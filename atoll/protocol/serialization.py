"""Values to bytes and back: pickle protocol 5, large buffers kept apart, cloudpickle only where pickle fails.

A value becomes `Serialized`: a pickle, and the large buffers in it (arrays, tables, tensors) which are not copied into
the pickle but lie beside it. Small values are one `bytes`. Large ones are laid out in shared memory:

    ┌────────┬───┬──────────┬───┬──────────┐
    │ pickle │pad│ buffer 0 │pad│ buffer 1 │   each begins at a multiple of 64 bytes; `Layout` says where
    └────────┴───┴──────────┴───┴──────────┘

Plain pickle is several times faster than cloudpickle, but it saves what is defined in `__main__` by name, which no
other process knows. So a pickle that refers to `__main__` is made again by cloudpickle, which saves it by value
(`by_value`).

`ObjectRef`s met on the way are collected: whoever sends a value must know which objects it refers to.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from atoll.exceptions import SerializationError
from atoll.protocol.by_value import MAIN, dump_by_value, refers_to_main
from atoll.protocol.reducers import Table, library_reducers, with_registered

ALIGNMENT_BYTES = 64
"""Where buffers begin: a cache line, and what numpy, Arrow and vector instructions like."""

IN_BAND_BYTES = 16 * 1024
"""Smaller buffers are copied into the pickle: keeping them apart costs more than the copy."""


class Layout(msgspec.Struct, array_like=True, frozen=True):
    """How a serialized value lies in one piece of memory.

    Attributes:
        pickle_bytes: The pickle is the first so many bytes.
        buffers: Offset and size in bytes of each buffer.
        total_bytes: All of it.
    """

    pickle_bytes: int
    buffers: list[tuple[int, int]]
    total_bytes: int


class Serialized:
    """A value as bytes.

    Attributes:
        data: The pickle.
        buffers: The large buffers that it refers to, in order; views into the value's own memory.
        contained: The `ObjectRef`s inside, in order of first appearance.
    """

    __slots__ = ("buffers", "contained", "data")

    def __init__(self, data: bytes, buffers: list[memoryview], contained: list[Any]) -> None:
        self.data = data
        self.buffers = buffers
        self.contained = contained

    @property
    def total_bytes(self) -> int:
        """Bytes of pickle and buffers together, without padding."""
        return len(self.data) + sum(view.nbytes for view in self.buffers) if self.buffers else len(self.data)

    def layout(self) -> Layout:
        """Return where everything lies when it is written into one piece of memory."""
        end = len(self.data)
        places = []
        for view in self.buffers:
            start = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            places.append((start, view.nbytes))
            end = start + view.nbytes
        return Layout(len(self.data), places, end)


class _Collector(threading.local):
    """The refs that the thread's current serialization has met, or None outside of one."""

    refs: list[Any] | None = None


_collector = _Collector()


def note_contained(ref: Any) -> None:
    """Remember a ref that is being pickled. `ObjectRef.__reduce__` calls it.

    Raises:
        SerializationError: The ref is pickled by somebody else's pickle call, who would not keep its object alive.
    """
    if _collector.refs is None:
        raise SerializationError(
            "an ObjectRef was pickled outside of Atoll; pass it as an argument, return it or put it instead"
        )
    _collector.refs.append(ref)


def is_serializing() -> bool:
    """Whether this thread is in `serialize`, whose caller keeps alive what it collects."""
    return _collector.refs is not None


class _LargeBytes:
    """Pickles a bytes-like object as a buffer, so that its megabytes are copied once."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self.value), (pickle.PickleBuffer(self.value),)


def serialize(value: Any) -> Serialized:
    """Turn a value into bytes.

    Raises:
        SerializationError: It does not pickle; the message says why. The original error is its `__cause__`.
    """
    buffers: list[memoryview] = []

    def keep_apart(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: pickle copies it
            return True
        if view.nbytes < IN_BAND_BYTES:
            return True
        buffers.append(view)
        return False

    if type(value) in (bytes, bytearray) and len(value) >= IN_BAND_BYTES:
        value = _LargeBytes(value)
    outer = _collector.refs
    refs: list[Any] = []
    _collector.refs = refs
    try:
        data = _dump(value, keep_apart, buffers, refs)
    finally:
        _collector.refs = outer
    return Serialized(data, buffers, list(dict.fromkeys(refs)) if len(refs) > 1 else refs)


_NONE = pickle.dumps(None, protocol=5)
_NUMBERS = frozenset({bool, int, float, complex})
_TEXTS = frozenset({str, bytes})


def is_plain(value: Any) -> bool:
    """Whether a value is None, a number, or a text of moderate size: it holds no refs, no buffers and no code."""
    kind = type(value)
    if value is None or kind in _NUMBERS:
        return True
    return kind in _TEXTS and len(value) < IN_BAND_BYTES


def serialize_plain(value: Any) -> bytes | None:
    """Return the pickle of a plain value that fits into a message, as many results are; None for any other."""
    if value is None:
        return _NONE
    if not is_plain(value):
        return None
    data = pickle.dumps(value, protocol=5)
    return data if len(data) <= 4 * IN_BAND_BYTES else None  # a number can have any number of digits


def _dump(
    value: Any, keep_apart: Callable[[pickle.PickleBuffer], bool], buffers: list[memoryview], refs: list[Any]
) -> bytes:
    table = library_reducers()
    try:
        if table is None:
            data = pickle.dumps(value, protocol=5, buffer_callback=keep_apart)
        else:
            data = _dump_with(table, value, keep_apart)
        if MAIN not in data or not refers_to_main(data, value, table):
            return data
    except SerializationError:
        raise
    except Exception:  # what pickle cannot do, cloudpickle may; its error is the one to show
        data = b""
    buffers.clear()
    refs.clear()
    try:
        return dump_by_value(table, value, keep_apart)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"cannot send a {type(value).__name__}: {_why(error)}") from error


def _dump_with(table: Table, value: Any, keep_apart: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=keep_apart)
    pickler.dispatch_table = with_registered(table)
    pickler.dump(value)
    return file.getvalue()


def _why(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def pack_inline(serialized: Serialized, value: Any) -> bytes:
    """Return the value as one pickle, for a message: buffers, if any, are copied in."""
    if not serialized.buffers:
        return serialized.data
    outer = _collector.refs
    _collector.refs = []
    try:
        return _dump(value, lambda _buffer: True, [], _collector.refs)
    finally:
        _collector.refs = outer


def deserialize(data: bytes | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """Turn bytes back into the value.

    Args:
        data: The pickle.
        buffers: What was kept apart, in order. The value's arrays are views of these.

    Raises:
        Exception: Whatever the value's own code raises.
    """
    return pickle.loads(data, buffers=buffers) if buffers else pickle.loads(data)


def serialize_code(value: Any) -> tuple[bytes, list[Any]]:
    """Turn a function or class into bytes: by reference if a module has it, by value otherwise.

    Returns:
        The bytes, and the refs that the code has captured; their objects must live as long as the code is used.

    Raises:
        SerializationError: Something that it refers to does not pickle.
    """
    serialized = serialize(value)
    return pack_inline(serialized, value), serialized.contained
