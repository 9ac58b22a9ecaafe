"""What of an ordinary call runs in the worker: its code is found, its pool's initializer has run, its errors are kept.

A function that a module has travels by its name. One that is defined in a notebook or script travels by value: it is
pickled once by whoever submits, and read once by each worker, which knows it by its digest.
"""

from __future__ import annotations

import traceback
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from atoll.protocol.serialization import deserialize, serialize

KNOWN_FUNCTIONS = 128
"""A worker remembers so many functions that came by value, those that were used last."""

ONE = 0
EACH = 1
EACH_STARRED = 2


class Header(NamedTuple):
    """What comes before the arguments of a call.

    Attributes:
        function: Itself; or, by value, the digest of `code`.
        code: The pickle of `(function, initializer, initargs)`; empty for a function that travels by name.
        pool: Which pool it belongs to, if that one has an initializer.
        mode: `ONE` call with the arguments; or one call for `EACH` item of the only argument, starred or not.
    """

    function: Any
    code: bytes
    pool: bytes
    mode: int


class CallFailed(Exception):
    """A call raised. This is what travels back, so that it can be told from what went wrong around the call.

    Attributes:
        error: What it raised.
        text: The traceback.
    """

    def __init__(self, error: BaseException | None, text: str) -> None:
        super().__init__(text)
        self.error = error
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return CallFailed, (self.error, self.text)


class InitializerFailed(Exception):
    """A pool's initializer raised in a worker; the text is its traceback."""


class Code:
    """A function by value, as it is pickled: the initializer goes along, so that both see the same globals."""

    __slots__ = ("function", "initargs", "initializer")

    def __init__(self, function: Any, initializer: Any, initargs: tuple[Any, ...]) -> None:
        self.function = function
        self.initializer = initializer
        self.initargs = initargs


_functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
_initialized: dict[bytes, dict[str, Any]] = {}


def run(header: Header, /, *args: Any, **kwargs: Any) -> Any:
    """Make a call, or one for each of several items. Runs as a task.

    Raises:
        CallFailed: The function raised.
        InitializerFailed: The pool's initializer did.
    """
    function = _find(header)
    try:
        if header.mode == ONE:
            return _checked(function(*args, **kwargs))
        if header.mode == EACH:
            return [_checked(function(item)) for item in args[0]]
        return [_checked(function(*item)) for item in args[0]]
    except KeyboardInterrupt:  # the task is cancelled
        raise
    except BaseException as error:
        text = "".join(traceback.format_exception(type(error), error, _own_part(error)))
        raise CallFailed(error.with_traceback(None), text) from None


def _checked(value: Any) -> Any:
    """Return the value, pickled once for nothing if its class says in Python how: what that raises is the caller's."""
    if isinstance(getattr(type(value), "__reduce__", None), types.FunctionType):
        serialize(value)
    return value


def _own_part(error: BaseException) -> Any:
    """Return the traceback without the frames of this module."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return trace


def _find(header: Header) -> Callable[..., Any]:
    """Return the function, after the pool's initializer has run in this process."""
    if not header.code:
        found: Callable[..., Any] = header.function
        return found
    known = _functions.get(header.function)
    if known is not None:
        _functions.move_to_end(header.function)
        return known
    code: Code = deserialize(header.code)
    if code.initializer is not None:
        _initialize(header.pool, code)
    function: Callable[..., Any] = code.function
    _functions[header.function] = function
    while len(_functions) > KNOWN_FUNCTIONS:
        _functions.popitem(last=False)
    return function


def _initialize(pool: bytes, code: Code) -> None:
    """Run the initializer, once in this process.

    A second function that came by value has globals of its own: it gets the names that the initializer has set.
    """
    names: dict[str, Any] = getattr(code.initializer, "__globals__", {})
    if pool in _initialized:
        if names.get("__name__") == "__main__":
            names.update(_initialized[pool])
        return
    before = dict(names)
    try:
        code.initializer(*code.initargs)
    except BaseException as error:
        text = "".join(traceback.format_exception(type(error), error, _own_part(error)))
        raise InitializerFailed(text) from None
    missing = object()
    _initialized[pool] = {name: value for name, value in names.items() if before.get(name, missing) is not value}
