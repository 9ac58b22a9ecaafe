"""How libraries' values that pickle copies are taken apart, so that their memory travels as buffers.

numpy, pyarrow and pandas pickle their memory out of band themselves. These do not:

    torch.Tensor       on the CPU, dense, contiguous, without gradient: its memory; others as torch does it
    polars.DataFrame   and Series: the Arrow table that it is made of, if all types in it come back as they are
    memoryview         which pickle refuses

They are in tables of our own picklers, not in `copyreg`: what users pickle is theirs. A library that nobody has
imported costs nothing.

numpy has read-only arrays, torch has no read-only tensors. So a tensor gets memory that may be written to: a private
mapping of its own, which shows the shared pages until they are written to (`find_private`). What is written is the
tensor's alone.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

Reducer = Callable[[Any], Any]
Table = dict[type, Reducer]

TENSOR_BYTES = 16 * 1024
"""Smaller tensors are pickled as torch does it."""

find_private: Callable[[memoryview], memoryview | None] = lambda _view: None  # noqa: E731 - replaced by the store
"""Returns private, writable memory with the bytes of a buffer, if that can be had without a copy."""


def library_reducers() -> Table | None:
    """Return the reducers for libraries that are imported in this process; None if there are none."""
    modules = sys.modules
    if "torch" not in modules and "polars" not in modules:
        return None
    table: Table = {}
    torch = modules.get("torch")
    if hasattr(torch, "Tensor"):  # it is not in the middle of its own import
        table[torch.Tensor] = _reduce_tensor  # type: ignore[union-attr]
    polars = modules.get("polars")
    if hasattr(polars, "DataFrame") and hasattr(polars, "Series"):
        table[polars.DataFrame] = _reduce_frame  # type: ignore[union-attr]
        table[polars.Series] = _reduce_series  # type: ignore[union-attr]
    return table


def with_registered(table: Table) -> Table:
    """Return a table for a pickler: whoever has registered with `copyreg` is in it too."""
    return {**copyreg.dispatch_table, **table}


# ---------------------------------------------------------------------------------------------------------- torch


def _reduce_tensor(tensor: Any) -> Any:
    import torch

    plain = (
        type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.requires_grad
        and tensor.is_contiguous()
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )
    if not plain or tensor.nbytes < TENSOR_BYTES:
        return tensor.__reduce_ex__(5)
    data = tensor.reshape(-1).view(torch.uint8).numpy()
    return _restore_tensor, (PickleBuffer(data), str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _restore_tensor(buffer: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    import torch

    view = memoryview(buffer)
    private = find_private(view)
    if private is None:
        private = memoryview(bytearray(view))
    return torch.frombuffer(private, dtype=getattr(torch, dtype)).reshape(shape)


# --------------------------------------------------------------------------------------------------------- polars

_POLARS_TYPES = frozenset(
    {"Boolean", "Date", "Datetime", "Duration", "Time", "String", "Binary", "Float32", "Float64"}
    | {f"{sign}{bits}" for sign in ("Int", "UInt") for bits in (8, 16, 32, 64)}
)
"""Types that come back from Arrow as they were."""


def _reduce_frame(frame: Any) -> Any:
    import polars as pl

    if type(frame) is not pl.DataFrame or not frame.width or not all(map(_comes_back, frame.dtypes)):
        return frame.__reduce_ex__(5)
    return _restore_polars, (frame.to_arrow(compat_level=pl.CompatLevel.newest()), None)


def _comes_back(kind: Any) -> bool:
    return kind.base_type().__name__ in _POLARS_TYPES


def _reduce_series(series: Any) -> Any:
    import polars as pl

    if type(series) is not pl.Series or not _comes_back(series.dtype):
        return series.__reduce_ex__(5)
    return _restore_polars, (series.to_arrow(compat_level=pl.CompatLevel.newest()), series.name)


def _restore_polars(arrow: Any, name: str | None) -> Any:
    import polars as pl

    made = pl.from_arrow(arrow, rechunk=False)
    return made if name is None else made.alias(name)


# ----------------------------------------------------------------------------------------------------- memoryview


def reduce_memoryview(view: memoryview) -> Any:
    """Take a memoryview apart. What comes back is read-only and has its format and shape."""
    data = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    return _restore_memoryview, (PickleBuffer(data), view.format, view.shape)


def _restore_memoryview(buffer: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(buffer).toreadonly()
    if form == "B" and len(shape) == 1:
        return view
    return view.cast("B").cast(form, shape) if view.nbytes else view  # type: ignore[call-overload]
