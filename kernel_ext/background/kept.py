"""What a background cell has set, after its end: a value of the cluster's cache under the cell's number.

It stays in shared memory, or is spilled, until its handle is gone or the cell is forgotten, and nothing of it is copied
before somebody asks for a name.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from atoll.kernel_ext.cell_messages import CellResult


def name_of(record: str) -> str:
    """Return the name in the cache of what a cell has set."""
    return f"cell {record}"


def is_name(name: str) -> bool:
    """Whether a name in the cache is one of these."""
    prefix, _space, number = name.partition(" t")
    return prefix == "cell" and number.isdigit()


def keep(record: str, result: CellResult) -> None:
    """Give a result to the cluster. Called in the worker.

    Raises:
        ObjectStoreFullError: There is no room for it.
    """
    _api().cache[name_of(record)] = result


def kept(record: str) -> tuple[CellResult, Any]:
    """Return a cell's result, and the ref of the object that it is.

    Raises:
        KeyError: It is not kept, or not any more.
    """
    ref = _api().cache.ref(name_of(record))
    result: CellResult = _api().get(ref)
    return result, ref


def sweep(records: Callable[[str], bool]) -> None:
    """Drop what is kept of cells whose record is gone: nobody can name them any more.

    Args:
        records: Whether a number has a record.
    """
    for info in _api().cache.entries():
        number = info.name.removeprefix("cell ")
        if number != info.name and number[:1] == "t" and number[1:].isdigit() and not records(number):
            forget(number)


def forget(record: str) -> None:
    """Drop a cell's result, if it is kept."""
    with contextlib.suppress(KeyError):
        del _api().cache[name_of(record)]


def _api() -> Any:
    return importlib.import_module("atoll")  # whose names are not those of its modules
