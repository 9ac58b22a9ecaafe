"""The way there and back without a worker: what was changed in a copy is changed in the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from atoll.kernel_ext.cell_messages import CHANGES
from atoll.kernel_ext.given import Changes, Given, pack_result, reaching
from atoll.kernel_ext.namespace_pickle import Namespace, PackedNames, pack_names, unpack_names
from atoll.kernel_ext.taking_over import take_over


def there_and_back(home: Namespace, cell: Callable[[Namespace], object]) -> tuple[Namespace, Changes, dict[str, str]]:
    """Give copies of all names to a function; return what it set, what it changed, and what could not come back."""
    sent = pack_names(home, home, remember=True)
    arrived = PackedNames(*sent.__reduce__()[1])
    arrived.buffers = [bytearray(buffer) for buffer in arrived.buffers]
    there: Namespace = {}
    there.update(unpack_names(arrived, there, remember=True))
    before = dict(there)
    given = Given(arrived.known, there)
    cell(there)
    changes = given.compare()
    fresh = {
        name: value for name, value in there.items() if before.get(name) is not value or id(value) in changes.unfit
    }
    packed, left_out = pack_result(fresh, changes, there, set(fresh))
    packed.buffers = [bytearray(buffer) for buffer in packed.buffers]
    values = unpack_names(packed, home, seeds=sent.objects(packed.seeds))
    for number, how, content in values.pop(CHANGES, ()):
        take_over(sent.known[number], how, content)
    return values, changes, left_out


def test_every_name_for_an_object_sees_its_change() -> None:
    inner = [1]
    home: Namespace = {"a": {"x": inner}, "b": [inner]}
    values, _changes, _left = there_and_back(home, lambda ns: ns["a"]["x"].append(2))
    assert values == {}
    assert inner == [1, 2]
    assert home["a"]["x"] is inner is home["b"][0]


def test_what_is_not_changed_goes_back_as_the_very_object() -> None:
    home: Namespace = {"a": [1, 2], "big": np.zeros(100_000)}
    values, changes, _left = there_and_back(home, lambda ns: ns.update(b=ns["a"], c={"k": ns["big"]}))
    assert values["b"] is home["a"]
    assert values["c"]["k"] is home["big"]
    assert changes.updates == []


def test_a_new_object_may_hold_old_ones_and_the_other_way_round() -> None:
    home: Namespace = {"a": []}

    def cell(ns: Namespace) -> None:
        ns["new"] = {"holds": ns["a"]}
        ns["a"].append(ns["new"])

    values, _changes, _left = there_and_back(home, cell)
    assert values["new"]["holds"] is home["a"]
    assert home["a"][0] is values["new"]


def test_an_element_that_is_equal_and_another_type_is_a_change() -> None:
    home: Namespace = {"a": [1]}
    there_and_back(home, lambda ns: ns["a"].__setitem__(0, 1.0))
    assert type(home["a"][0]) is float


def test_functions_of_one_closure_share_its_cell() -> None:
    def make() -> tuple[Callable[[], None], Callable[[], int]]:
        n = 0

        def up() -> None:
            nonlocal n
            n += 1

        return up, lambda: n

    up, get = make()
    for function in (up, get):
        function.__module__ = "__main__"
    home: Namespace = {"up": up, "get": get}

    def cell(ns: Namespace) -> None:
        ns["up"]()
        assert ns["get"]() == 1

    there_and_back(home, cell)
    assert get() == 1
    up()
    assert get() == 2


def test_a_function_that_calls_itself_travels() -> None:
    def make() -> Callable[[int], int]:
        def count(n: int) -> int:
            return 0 if n == 0 else 1 + count(n - 1)

        return count

    count = make()
    count.__module__ = "__main__"
    there_and_back({"count": count}, lambda ns: [None for _ in range(1) if ns["count"](3) != 3 and 1 / 0])


def test_only_the_attributes_that_changed_go_back() -> None:
    class Thing:
        def __init__(self) -> None:
            self.a, self.b, self.c = 1, [2], 3

    Thing.__module__, Thing.__qualname__ = "__main__", "Thing"
    thing = Thing()
    held = thing.b

    def cell(ns: Namespace) -> None:
        ns["thing"].a = 10
        del ns["thing"].c

    _values, changes, _left = there_and_back({"thing": thing}, cell)
    assert vars(thing) == {"a": 10, "b": [2]}
    assert thing.b is held
    assert [content for _number, how, content in changes.updates if how == "instance"] == [({"a": 10}, ["c"])]


def test_an_array_is_changed_where_it_is() -> None:
    array = np.arange(6)
    view = array[2:4]
    there_and_back({"array": array}, lambda ns: ns["array"].__setitem__(2, 100))
    assert view[0] == 100


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_strided_array_is_changed_where_it_is(order: Any) -> None:
    base = np.zeros((4, 6), order=order)
    part = base[::2, 1:3]
    there_and_back({"part": part}, lambda ns: ns["part"].__setitem__((1, 1), 5))
    assert base[2, 2] == 5
    assert base.sum() == 5


def test_what_takes_no_new_content_is_bound_anew_with_what_holds_it() -> None:
    box: dict[str, Any] = {"it": iter([1])}
    home: Namespace = {"box": box, "it": box["it"]}
    values, changes, _left = there_and_back(home, lambda ns: list(ns["it"]))
    assert list(values["it"]) == []
    assert box["it"] is values["it"], "the dict takes the new iterator"
    assert len(changes.unfit) == 1


def test_a_tuple_with_something_that_is_bound_anew_is_bound_anew() -> None:
    pair = (iter([1]), 5)
    values, _changes, _left = there_and_back({"pair": pair}, lambda ns: list(ns["pair"][0]))
    assert list(values["pair"][0]) == []
    assert values["pair"][1] == 5


def test_a_change_that_does_not_pickle_is_told_and_costs_no_other() -> None:
    home: Namespace = {"a": [], "b": []}

    def cell(ns: Namespace) -> None:
        ns["a"].append(x for x in ())
        ns["b"].append(1)

    _values, _changes, left_out = there_and_back(home, cell)
    assert home == {"a": [], "b": [1]}
    assert list(left_out) == ["a change of a"]


def test_what_holds_a_changed_object_is_found() -> None:
    inner: list[int] = []
    names = {"a": {"x": (inner,)}, "b": [1]}
    assert reaching(names, {id(inner)}, {}) == {id(names["a"])}


def test_slots_and_private_names() -> None:
    class Slotted:
        __slots__ = ("__hidden", "x")

        def __init__(self) -> None:
            self.x, self.__hidden = 1, 2

        def change(self) -> None:
            self.__hidden = 3
            del self.x

        def hidden(self) -> int:
            return self.__hidden

    Slotted.__module__ = "__main__"
    Slotted.__qualname__ = "Slotted"
    thing = Slotted()
    there_and_back({"thing": thing}, lambda ns: ns["thing"].change())
    assert thing.hidden() == 3
    assert not hasattr(thing, "x")
