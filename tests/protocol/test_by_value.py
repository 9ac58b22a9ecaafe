"""What is defined in `__main__` travels by value wherever it is; what only mentions the name does not."""

from __future__ import annotations

import enum
import functools
import pickle
import pickletools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.exceptions import SerializationError
from atoll.protocol import serialization
from atoll.protocol.by_value import refers_to_main
from atoll.protocol.serialization import deserialize, serialize, serialize_code

_SOURCE = """
import dataclasses, enum, typing

def double(x):
    return 2 * x

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return self.x == other.x
    def moved(self):
        return Point(self.x + 1)
    class Inner:
        pass

@dataclasses.dataclass
class Record:
    x: int

class Pairs(dict):
    pass

class Colour(enum.Enum):
    RED = 1

Named = typing.NamedTuple("Named", [("x", int)])
T = typing.TypeVar("T")
Metres = typing.NewType("Metres", int)
"""
NOTEBOOK: dict[str, Any] = {"__name__": "__main__"}
exec(_SOURCE, NOTEBOOK)


class Plain:
    """Of a module: travels by reference."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner


class Level(enum.Enum):
    LOW = 1


OF_MAIN = [
    NOTEBOOK["double"],
    NOTEBOOK["Point"],
    NOTEBOOK["Point"](3),
    NOTEBOOK["Point"](3).moved,
    NOTEBOOK["Point"].Inner,
    NOTEBOOK["Record"](4),
    NOTEBOOK["Pairs"](a=1),
    NOTEBOOK["Colour"].RED,
    NOTEBOOK["Named"](5),
    NOTEBOOK["T"],
    NOTEBOOK["Metres"],
    functools.partial(NOTEBOOK["double"], 3),
    Plain(NOTEBOOK["Point"](1)),
]
HARMLESS: list[Any] = ["__main__", b"__main__", "a __main__ b", 1, None, Fraction(1, 3), Plain("x"), Plain, len]
HARMLESS += [Level.LOW, pytest.raises]
HARMLESS += [Plain([1, "__main__"]), np.arange(3), np.add, "__main__\x94\x8c\x01x\x94\x93", functools.partial(max, 3)]


def globals_of(data: bytes) -> set[str]:
    """Return the modules whose names a pickle looks up, as pickle's own disassembler reads it."""
    found: set[str] = set()
    texts: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _position in pickletools.genops(data):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            texts.append(argument)
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            texts.append(memo[argument])
        elif opcode.name == "STACK_GLOBAL":
            found.add(texts[-2])
            texts.append("")
        else:
            texts.append("")
    return found


@pytest.fixture(autouse=True)
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle find the definitions in `__main__`, as it does in a notebook."""
    import __main__

    for name, value in NOTEBOOK.items():
        if not name.startswith("__"):
            monkeypatch.setattr(__main__, name, value, raising=False)


def _containers(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.tuples(inner, inner)
            | st.dictionaries(st.sampled_from(["__main__", "a", 1]), inner, max_size=3)
            | inner.map(Plain)
        ),
        max_leaves=8,
    )


_harmless = _containers(st.sampled_from(HARMLESS))


@given(_harmless)
def test_what_only_mentions_the_name_is_pickled_by_pickle(value: Any) -> None:
    assert serialize(value).data == pickle.dumps(value, protocol=5)


@given(_harmless, st.sampled_from(OF_MAIN), _harmless, st.integers(0, 3))
def test_what_is_of_main_travels_by_value_wherever_it_is(before: Any, found: Any, behind: Any, depth: int) -> None:
    value: Any = found
    for _level in range(depth):
        value = [before, {"__main__": value}, behind] if depth % 2 else Plain((before, value, behind))
    data = serialize(value).data
    assert "__main__" not in globals_of(data), "nothing is looked up in the receiver's `__main__`"
    pickle.loads(data)


@pytest.mark.parametrize("found", OF_MAIN, ids=lambda value: type(value).__name__)
def test_what_is_of_main_is_found_behind_a_mention_that_pickle_remembers(found: Any) -> None:
    module = "__main__"
    data = serialize([module, found, module]).data
    assert "__main__" not in globals_of(data)


def test_definitions_work_where_they_arrive() -> None:
    point, double = deserialize(serialize([NOTEBOOK["Point"](3), NOTEBOOK["double"]]).data)
    assert (point.moved().x, double(4)) == (4, 8)
    payload, _captured = serialize_code(lambda x: NOTEBOOK["double"](x) + 1)
    assert pickle.loads(payload)(3) == 7


def test_a_function_that_pickle_would_look_for_everywhere_is_of_main() -> None:
    ufunc = np.frompyfunc(NOTEBOOK["double"], 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        import __main__

        patch.setattr(__main__, ufunc.__name__, ufunc, raising=False)
        value = ["__main__", ufunc]
        assert refers_to_main(pickle.dumps(value, protocol=5), value, None)


def test_a_value_that_only_mentions_the_name_does_not_go_through_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> bytes:
        raise AssertionError("by value")

    monkeypatch.setattr(serialization, "dump_by_value", refuse)
    filters = [("ignore", None, UserWarning, "__main__", 0)]
    assert deserialize(serialize([filters, np.ones(3)]).data)[0] == filters
    with pytest.raises(SerializationError, match="by value"):
        serialize([filters, NOTEBOOK["Point"](1)])


def test_large_buffers_are_not_copied_to_look_whether_something_is_of_main() -> None:
    array = np.arange(100_000)
    serialized = serialize(["__main__", array])
    assert [view.nbytes for view in serialized.buffers] == [array.nbytes]
    assert len(serialized.data) < 1000
