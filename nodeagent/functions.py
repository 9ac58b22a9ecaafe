"""The code that a worker was sent: declared by digest, unpickled when it is called first."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from atoll.client.retry import RetryOn
from atoll.exceptions import AtollError
from atoll.protocol.channel_messages import CallMethod, DeclareFunction, RunTask
from atoll.protocol.serialization import deserialize


class Functions:
    """The functions of a worker's tasks.

    Args:
        used_up: Called when the last call that a function may have here begins.
    """

    def __init__(self, used_up: Callable[[], None]) -> None:
        self._used_up = used_up
        self._code: dict[bytes, DeclareFunction] = {}
        self._loaded: dict[bytes, Callable[..., Any]] = {}
        self._retried: dict[bytes, tuple[type[Exception], ...]] = {}

    def declare(self, message: DeclareFunction) -> None:
        """Take code, which tasks that come later call."""
        self._code[message.digest] = message

    def of(self, message: RunTask) -> Callable[..., Any]:
        """Return what a task calls.

        Raises:
            AtollError: It was not declared.
            Exception: Whatever its code raises when it is unpickled.
        """
        function = self._loaded.get(message.function)
        return self._load(message.function) if function is None else function

    def _load(self, digest: bytes) -> Callable[..., Any]:
        code = self._code.get(digest)
        if code is None:
            raise AtollError(f"the code of function {digest.hex()} was not declared on this channel")
        function: Any = deserialize(code.payload)
        if type(function) is RetryOn:
            self._retried[digest] = function.exceptions
            function = function.function
        if code.maximum_calls:
            function = self._counted(function, code.maximum_calls)
        self._loaded[digest] = function
        return function  # type: ignore[no-any-return]

    def _counted(self, function: Callable[..., Any], maximum: int) -> Callable[..., Any]:
        calls = itertools.count(1)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == maximum:
                self._used_up()
            return function(*args, **kwargs)

        return counted

    def retried(self, message: RunTask) -> tuple[type[Exception], ...]:
        """Return the exceptions after which a task may be tried again, if it may at all."""
        return self._retried.get(message.function, (Exception,))

    def name_of(self, message: RunTask | CallMethod) -> str:
        """Return what people call a task or call."""
        if type(message) is CallMethod:
            return message.name or message.method
        code = self._code.get(message.function)  # type: ignore[union-attr]
        return code.name if code is not None else "?"
