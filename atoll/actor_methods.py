"""What an actor's class says of its methods: which can be called, with which arguments, and how.

A handle travels to processes that do not have the class. So what it must know of each method is described here, small
enough to travel with it: the parameters, and what `@atoll.method` says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from atoll.client import arguments
from atoll.options import CallOptions
from atoll.protocol.serialization import deserialize, serialize
from atoll.protocol.values import MethodSpec

TERMINATE = ("__atoll_terminate__", "__ray_terminate__")
"""Methods that every actor has: it ends when the calls before this one have ended."""

READY = ("__atoll_ready__", "__ray_ready__")
"""Likewise: True, as soon as the actor answers calls."""

_USUAL = CallOptions()


def method(*args: Any, **options: Any) -> Any:
    """Say how calls of an actor's method are made, as `@atoll.method(num_returns=2, concurrency_group="io")`.

    Takes `num_returns`, `concurrency_group`, `max_task_retries`, `retry_exceptions`, `enable_task_events` and
    `_generator_backpressure_num_objects`.

    Raises:
        TypeError: A value is of another type, or it is used on something else than a function.
        ValueError: There is no such option, or its value makes no sense.
    """
    if args:
        if len(args) != 1 or options or not callable(args[0]):
            raise TypeError("use @atoll.method with options by name: @atoll.method(num_returns=2)")
        return args[0]
    said = _USUAL.updated(options)

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        if isinstance(function, type):
            raise TypeError(f"@atoll.method is for functions of a class, not for {type(function).__name__}")
        function.__atoll_method__ = said  # type: ignore[attr-defined]
        return function

    return mark


def said_of(function: Any) -> CallOptions:
    """Return what `@atoll.method` says of a method."""
    said: CallOptions = getattr(function, "__atoll_method__", _USUAL)
    return said


def methods_of(user_class: type) -> dict[str, Any]:
    """Return the methods of a class that can be called, by name. Of those of `object` none."""
    return {
        name: member
        for name, member in inspect.getmembers(user_class, callable)
        if not isinstance(member, type) and name not in object.__dict__
    }


def describe(user_class: type) -> dict[str, MethodSpec]:
    """Return what a handle must know of each method of a class."""
    found = {}
    for name, member in methods_of(user_class).items():
        bound = isinstance(inspect.getattr_static(user_class, name), staticmethod | classmethod)
        said = said_of(member)
        found[name] = MethodSpec(
            arguments.Signature(member, skip_first=not bound).describe(),
            serialize(said.portable()).data if said is not _USUAL else b"",
            inspect.isgeneratorfunction(member) or inspect.isasyncgenfunction(member),
        )
    for name in (*TERMINATE, *READY):
        found[name] = MethodSpec([])
    return found


def options_in(spec: MethodSpec) -> CallOptions:
    """Return what a description says of calls."""
    return CallOptions(**deserialize(spec.options)) if spec.options else _USUAL


def is_asyncio(user_class: type) -> bool:
    """Whether a class has coroutine methods, so that its actors live on an event loop."""
    return any(
        inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        for member in methods_of(user_class).values()
    )
