"""`inspect_serializability`: which part of a function or object keeps it from travelling."""

from __future__ import annotations

import inspect
import sys
from typing import Any, NamedTuple, TextIO

from atoll.exceptions import SerializationError
from atoll.protocol.serialization import serialize


class FailureTuple(NamedTuple):
    """Something that does not pickle.

    Attributes:
        obj: What.
        name: The variable or attribute that it was found in.
        parent: What refers to it.
    """

    obj: Any
    name: str
    parent: Any

    def __hash__(self) -> int:
        return hash((id(self.obj), self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FailureTuple) and other.obj is self.obj and other.name == self.name

    def __repr__(self) -> str:
        return f"FailTuple({self.name} [obj={self.obj!r}, parent={self.parent!r}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Find what keeps an object from being sent to another process, and print the way to it.

    Args:
        base_obj: A function, class or other object.
        name: What it is called in what is printed.
        depth: So many steps are followed: from a function to its globals and closure, from an object to its attributes.
        print_file: Where to print; standard output if not given.

    Returns:
        Whether it can be sent, and the parts that cannot.
    """
    search = _Search(print_file or sys.stdout)
    label = name or str(getattr(base_obj, "__qualname__", None) or type(base_obj).__name__)
    search.say(0, f"can {label} be sent to another process?")
    found = search.look(base_obj, label, None, depth, 0)
    if found:
        search.say(0, "yes")
        return True, set()
    search.say(0, "no. What cannot: " + ", ".join(failure.name for failure in search.failures))
    search.say(0, "Make it where it is used, inside of the function or method, or pass something that it is made from.")
    return False, set(search.failures)


class _Search:
    """One search; remembers what it has seen, so that it ends."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._seen: dict[int, Any] = {}
        self.failures: list[FailureTuple] = []

    def say(self, level: int, text: str) -> None:
        print("    " * level + text, file=self._file)

    def look(self, value: Any, name: str, parent: Any, depth: int, level: int) -> bool:
        """Return whether the value can be sent; note what in it cannot."""
        try:
            serialize(value)
        except SerializationError as error:
            self.say(level + 1, f"{name} ({type(value).__name__}) cannot: {error}")
        except Exception as error:  # a value's own code may do anything when it is pickled
            self.say(level + 1, f"{name} ({type(value).__name__}) cannot: {type(error).__name__}: {error}")
        else:
            return True
        before = len(self.failures)
        if depth > 0 and id(value) not in self._seen:
            self._seen[id(value)] = value
            for part_name, part in _parts(value):
                if not self.look(part, part_name, value, depth - 1, level + 1):
                    break
        if len(self.failures) == before:
            self.failures.append(FailureTuple(value, name, parent))
        return False


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return what a value refers to, by name: what of it is pickled along."""
    function = inspect.unwrap(value) if callable(value) else value
    if inspect.ismethod(function):
        return [("self", function.__self__)]
    if inspect.isfunction(function):
        closure = inspect.getclosurevars(function)
        defaults = {f"default {n}": d for n, d in enumerate(function.__defaults__ or ())}
        return [*closure.globals.items(), *closure.nonlocals.items(), *defaults.items()]
    if isinstance(value, dict):
        return [(repr(key), part) for key, part in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"item {index}", part) for index, part in enumerate(value)]
    try:
        attributes = dict(vars(value))
    except TypeError:
        attributes = {
            name: getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)
        }
    return [(name, part) for name, part in attributes.items() if not (name.startswith("__") and name.endswith("__"))]
