"""What is defined in `__main__`: whether a pickle refers to it by name, and how it is pickled by value instead.

pickle saves functions and classes by the names of their modules, and no other process has this one's `__main__`. Of
most pickles the bytes tell that nothing of it is inside: they do not mention it. Of those that do, some only contain
the word (scikit-learn sends warning filters along, one of which names `__main__`); to take these for the others would
send them through cloudpickle, which is several times slower. So:

    bytes that name a definition of `__main__`   by value
    bytes that mention it otherwise              pickled once more, to nowhere, looking at each object
    one of the objects is of `__main__`          by value
    none is                                      the first pickle is right
"""

from __future__ import annotations

import io
import pickle
import typing
from collections.abc import Callable
from typing import Any

from atoll.protocol.reducers import Table, reduce_memoryview, with_registered

MAIN = b"__main__"
_SAVED = b"\x8c\x08__main__\x94"
"""How pickle saves the text, the first time: SHORT_BINUNICODE, its length, MEMOIZE."""

_SHORT_TEXT, _MEMOIZE, _GLOBAL = 0x8C, 0x94, 0x93


def refers_to_main(data: bytes, value: Any, table: Table | None) -> bool:
    """Whether a pickle that mentions `__main__` refers to something by its name there.

    Args:
        data: The pickle, of protocol 5.
        value: What it was made of.
        table: The reducers that it was made with, if not pickle's own.
    """
    return _names_definition(data) or _holds_definition(value, table)


def _names_definition(data: bytes) -> bool:
    """Whether a name follows the first mention, and then the opcode that looks it up: so most definitions are saved."""
    name = data.find(_SAVED) + len(_SAVED)
    if name < len(_SAVED) or data[name] != _SHORT_TEXT:
        return False
    end = name + 2 + data[name + 1]
    return data[end : end + 2] == bytes((_MEMOIZE, _GLOBAL))


class _FoundError(Exception):
    """Something of `__main__` was met. Raised through pickle."""


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: bytes) -> int:
        return len(data)


class _Looking(pickle.Pickler):
    """Looks at every object that pickle does not save as a builtin one."""

    def reducer_override(self, value: Any) -> Any:
        module = getattr(value, "__module__", None)
        if module is None and hasattr(value, "__name__"):  # pickle looks where it might be, and ends at `__main__`
            module = pickle.whichmodule(value, value.__name__)  # type: ignore[attr-defined]
        if module == "__main__":
            raise _FoundError
        return NotImplemented


def _holds_definition(value: Any, table: Table | None) -> bool:
    pickler = _Looking(_Nowhere(), protocol=5, buffer_callback=_leave_out)
    if table is not None:
        pickler.dispatch_table = with_registered(table)
    try:
        pickler.dump(value)
    except Exception:  # `_FoundError`, or a reducer that does not bear a second call: cloudpickle knows better
        return True
    return False


def _leave_out(_buffer: pickle.PickleBuffer) -> bool:
    return False


def dump_by_value(table: Table | None, value: Any, keep_apart: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    """Return a value's pickle with what no module has inside it; raises whatever pickling raises.

    The table of reducers is a plain dict: cloudpickle's is a chain of two, looked through in Python for each object.
    """
    import cloudpickle

    reducers: Table = {}
    for each in reversed(cloudpickle.Pickler.dispatch_table.maps):
        reducers.update(each)
    file = io.BytesIO()
    pickler = cloudpickle.Pickler.__new__(cloudpickle.Pickler)
    pickler.dispatch_table = {**reducers, **_OURS, **(table or {})}  # it is looked up once, by `__init__`
    pickler.__init__(file, protocol=5, buffer_callback=keep_apart)
    pickler.dump(value)
    return file.getvalue()


def _reduce_new_type(new_type: typing.NewType) -> Any:
    """Take a `NewType` apart, which cloudpickle leaves to pickle, and that saves it by name."""
    if new_type.__module__ != "__main__":
        return new_type.__reduce__()
    return typing.NewType, (new_type.__name__, new_type.__supertype__)


_OURS: Table = {memoryview: reduce_memoryview, typing.NewType: _reduce_new_type}
