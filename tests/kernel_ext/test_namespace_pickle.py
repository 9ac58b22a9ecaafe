from __future__ import annotations

import dataclasses
import enum
import functools
import io
import sys
import threading
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.kernel_ext.namespace_pickle import AllBut, pack_names, split_names, unpack_names


def home(source: str) -> dict[str, Any]:
    """Run source as a notebook's cell and return the namespace."""
    module = types.ModuleType("__main__")
    exec(compile(source, "/tmp/cell.py", "exec"), module.__dict__)
    return module.__dict__


def travel(names: list[str], sender: dict[str, Any], receiver: dict[str, Any], **options: Any) -> dict[str, Any]:
    packed = pack_names({name: sender[name] for name in names}, sender, **options)
    values = unpack_names(packed, receiver)
    receiver.update(values)
    return values


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), _PLAIN))
def test_plain_values_arrive_as_they_were(values: dict[str, Any]) -> None:
    assert unpack_names(pack_names(values, {}), {}) == values


def test_a_function_is_bound_to_where_it_arrives_and_carries_what_it_reads() -> None:
    sender = home("k = 2\ndef helper(x): return x * k\ndef f(x): return helper(x) + 1\nunread = 5")
    receiver = home("")
    f = travel(["f"], sender, receiver)["f"]
    assert f.__globals__ is receiver
    assert f(3) == 7
    receiver["k"] = 10
    assert f(3) == 31
    assert "unread" not in receiver


def test_on_the_way_back_only_what_is_asked_for_is_carried() -> None:
    sender = home("df = object()\ng = 1\ndef f(): return df, g")
    receiver = home("df = 'mine'")
    f = travel(["f"], sender, receiver, carry={"g"})["f"]
    assert f() == ("mine", 1)
    assert AllBut({"a"}).__contains__("b")
    assert not AllBut({"a"}).__contains__("a")


def test_methods_closures_and_lambdas_are_bound_too() -> None:
    sender = home(
        "n = 1\nclass A:\n    def get(self): return n\n"
        "def make():\n    m = 10\n    return lambda: n + m\nfs = [make()]\na = A()"
    )
    receiver = home("")
    travel(["fs", "a"], sender, receiver)
    receiver["n"] = 5
    assert receiver["a"].get() == 5
    assert receiver["fs"][0]() == 15


def test_what_was_one_object_stays_one() -> None:
    sender = home("a = [1]\nb = {'a': a}\ndef f(): return a")
    receiver = home("")
    travel(["a", "b", "f"], sender, receiver)
    assert receiver["b"]["a"] is receiver["a"] is receiver["f"]()


def test_a_class_comes_home_as_itself() -> None:
    sender = home("class A: pass\na = A()")
    receiver = home("")
    travel(["A", "a"], sender, receiver)
    back = unpack_names(pack_names({"x": receiver["a"]}, receiver), sender)
    assert type(back["x"]) is sender["A"]


def test_dataclasses_enums_and_cached_functions() -> None:
    sender = home("x = 1")
    sender.update(dataclasses=dataclasses, enum=enum, functools=functools)
    source = (
        "@dataclasses.dataclass\nclass P:\n    x: int\nclass C(enum.Enum):\n    RED = 1\n"
        "@functools.lru_cache(maxsize=3)\ndef f(y): return x + y\np = P(2)\nc = C.RED"
    )
    exec(source, sender)
    receiver = home("")
    travel(["p", "c", "f", "P", "C"], sender, receiver)
    assert receiver["p"] == receiver["P"](2)
    assert receiver["c"] is receiver["C"].RED
    assert receiver["f"](2) == 3
    assert receiver["f"].cache_parameters() == {"maxsize": 3, "typed": False}


def test_large_buffers_lie_beside_and_can_be_written_if_they_could() -> None:
    numpy = pytest.importorskip("numpy")
    own, frozen = numpy.arange(10_000), numpy.arange(10_000)
    frozen.flags.writeable = False
    packed = pack_names({"own": own, "frozen": frozen, "small": numpy.arange(3)}, {})
    assert packed.writable == [True, False]
    assert len(packed.data) < 2000
    assert sum(memoryview(buffer).nbytes for buffer in packed.buffers) == 160_000
    packed.buffers = [memoryview(bytes(buffer.raw())) for buffer in packed.buffers]
    values = unpack_names(packed, {})
    values["own"][0] = 7
    assert values["own"][0] == 7
    assert not values["frozen"].flags.writeable
    assert (values["frozen"] == frozen).all()


def test_files_of_cells_are_known() -> None:
    sender = home("def f(): pass")
    assert pack_names({"f": sender["f"]}, sender).code_files == ["/tmp/cell.py"]


def test_modules_travel_by_name() -> None:
    assert unpack_names(pack_names({"m": sys}, {}), {})["m"] is sys


def test_what_does_not_pickle_is_named_with_the_reason() -> None:
    sender = home("def use(): return lock\ndef deep(): return use()")
    sender.update(lock=threading.Lock(), good=1, gen=(i for i in ()))
    values = {name: sender[name] for name in ("lock", "good", "gen", "use", "deep")}
    packed, reasons = split_names(values, sender)
    assert unpack_names(packed, {}) == {"good": 1}
    assert reasons["lock"] == "cannot pickle '_thread.lock' object"
    assert reasons["gen"] == "cannot pickle 'generator' object"
    assert reasons["use"] == "it reads 'lock': cannot pickle '_thread.lock' object"
    assert reasons["deep"] == "it reads 'lock': cannot pickle '_thread.lock' object"


def test_open_files_do_not_travel(tmp_path: Any) -> None:
    with (tmp_path / "x").open("w+") as file:
        _packed, reasons = split_names({"f": file, "text": io.StringIO("x")}, {})
    assert list(reasons) == ["f"]
    assert "belongs to its process" in reasons["f"]


def test_refs_are_taken_out() -> None:
    from atoll.object_ref import ObjectRef

    ref = ObjectRef.__new__(ObjectRef)
    ref._id = b"x" * 20
    packed = pack_names({"a": [ref], "b": ref}, {})
    assert packed.refs == [ref]
    values = unpack_names(packed, {})
    assert values["a"][0] is values["b"] is ref
    ref._session = type("Session", (), {"release": lambda self, _id: None})()
