"""Digests of arrays, frames and tables: their content, in an order that does not depend on how they were made.

Two equal frames may be laid out differently inside, and a slice of a table holds all of the table's memory; so columns
are digested one by one, as what they show.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any, Protocol


class Walk(Protocol):
    """What a value is added to; see `values`."""

    def write(self, kind: str, payload: bytes = b"") -> None:
        """Add a piece."""
        ...

    def add(self, value: Any) -> None:
        """Add a value."""
        ...

    def add_all(self, kind: str, values: Any) -> None:
        """Add several values in their order."""
        ...

    def add_memory(self, memory: Any) -> None:
        """Add the bytes of a contiguous buffer."""
        ...


def find(value: Any) -> Callable[[Any, Any], None] | None:
    """Return what adds a value of a library that is loaded; None for another value."""
    kind = type(value)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and kind is getattr(numpy, "ndarray", None):
        return add_array
    if numpy is not None and isinstance(value, getattr(numpy, "dtype", ())):
        return _add_dtype
    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and hasattr(pandas, "Categorical"):
        if isinstance(value, pandas.DataFrame):
            return _add_frame
        if isinstance(value, pandas.Series):
            return _add_series
        if isinstance(value, pandas.MultiIndex):
            return _add_multi_index
        if isinstance(value, pandas.Index):
            return _add_index
        if isinstance(value, pandas.Categorical):
            return _add_categorical
    arrow: Any = sys.modules.get("pyarrow")
    if arrow is not None and isinstance(value, getattr(arrow, "Table", ())):
        return _add_table
    if arrow is not None and isinstance(value, getattr(arrow, "ChunkedArray", ())):
        return _add_chunked
    return None


def _add_dtype(walk: Walk, dtype: Any) -> None:
    walk.write("dtype", repr((dtype.str, dtype.descr if dtype.fields else None, dtype.metadata)).encode())


def add_array(walk: Walk, array: Any) -> None:
    """Add a numpy array: type, shape, order and elements. A view counts as what it shows."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    walk.write("array", repr((array.shape, "F" if fortran else "C")).encode())
    if array.dtype.kind == "T" or (array.dtype.hasobject and array.dtype.kind != "O"):
        walk.add(array.tolist())
        walk.write("of", str(array.dtype).encode())
        return
    _add_dtype(walk, array.dtype)
    if array.dtype.hasobject:
        walk.add_all("elements", array.ravel().tolist())
        return
    flat = array.T if fortran else array
    if not flat.flags.c_contiguous:
        flat = flat.copy()
    # Dates and the like have no buffer of their own.
    walk.add_memory(flat.reshape(-1).view("u1") if flat.dtype.itemsize and flat.size else b"")


def _add_values(walk: Walk, values: Any) -> None:
    """Add a column: an array of numpy, or one of pandas' own."""
    arrow: Any = sys.modules.get("pyarrow")
    inner = getattr(values, "_pa_array", None)
    if arrow is not None and inner is not None and isinstance(inner, arrow.ChunkedArray):
        walk.write("arrow column", str(values.dtype).encode())
        _add_chunked(walk, inner)
        return
    walk.add(values)


def _labels(thing: Any) -> list[Any]:
    """Return what a frame or series is besides its values."""
    kept = {name: getattr(thing, name, None) for name in thing._metadata}
    return [type(thing), thing.attrs, thing.flags.allows_duplicate_labels, kept]


def _add_frame(walk: Walk, frame: Any) -> None:
    walk.add_all("frame", _labels(frame))
    walk.add(frame.columns)
    walk.add(frame.index)
    for place in range(frame.shape[1]):
        _add_values(walk, frame.iloc[:, place]._values)


def _add_series(walk: Walk, series: Any) -> None:
    walk.add_all("series", _labels(series))
    walk.add(series.index)
    _add_values(walk, series._values)


def _add_index(walk: Walk, index: Any) -> None:
    freq = getattr(index, "freqstr", None)
    walk.add_all("index", [type(index), list(index.names), freq])
    if hasattr(index, "start") and hasattr(index, "step"):
        walk.add_all("range", [index.start, index.stop, index.step])
    else:
        _add_values(walk, index._values)


def _add_multi_index(walk: Walk, index: Any) -> None:
    walk.add_all("levels", [type(index), list(index.names)])
    for level, codes in zip(index.levels, index.codes, strict=True):
        walk.add(level)
        walk.add(codes)


def _add_categorical(walk: Walk, values: Any) -> None:
    walk.add_all("categorical", [values.ordered])
    walk.add(values.categories)
    walk.add(values.codes)


class _Digesting(io.RawIOBase):
    """A file whose content goes into a digest."""

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self._walk = walk

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._walk.add_memory(data) if size else None
        return size


def _add_table(walk: Walk, table: Any) -> None:
    """Add a table as it would be sent: a slice without the rest, in pieces that do not depend on how it was read."""
    import pyarrow as pa

    with pa.ipc.new_stream(pa.PythonFile(_Digesting(walk), mode="w"), table.schema) as writer:
        writer.write_table(table.combine_chunks())


def _add_chunked(walk: Walk, column: Any) -> None:
    import pyarrow as pa

    _add_table(walk, pa.table({"values": column}))
