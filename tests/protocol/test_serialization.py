"""Values to bytes and back."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.exceptions import SerializationError, TaskError
from atoll.protocol.serialization import (
    ALIGNMENT_BYTES,
    IN_BAND_BYTES,
    Serialized,
    deserialize,
    pack_inline,
    serialize,
    serialize_code,
)

simple = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def there_and_back(value: Any) -> Any:
    """Write a value into one piece of memory, as the store does, and read it."""
    serialized = serialize(value)
    layout = serialized.layout()
    memory = bytearray(layout.total_bytes)
    memory[: layout.pickle_bytes] = serialized.data
    for (start, size), view in zip(layout.buffers, serialized.buffers, strict=True):
        assert start % ALIGNMENT_BYTES == 0
        memory[start : start + size] = view
    read = memoryview(memory).toreadonly()
    return deserialize(read[: layout.pickle_bytes], [read[start : start + size] for start, size in layout.buffers])


@given(simple)
def test_simple_values_survive_both_ways(value: Any) -> None:
    assert there_and_back(value) == value
    assert deserialize(pack_inline(serialize(value), value)) == value


@given(st.integers(0, 3), st.sampled_from(["f8", "i4", "u1", "c16", "M8[s]"]), st.booleans())
def test_arrays_of_any_shape_and_order_survive(dimensions: int, kind: str, transposed: bool) -> None:
    array = np.arange(3 * 40**dimensions).astype(kind).reshape((3,) + (40,) * dimensions)
    array = array.T if transposed else array
    back = there_and_back(array)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_large_buffers_are_kept_apart_and_not_copied() -> None:
    array = np.arange(IN_BAND_BYTES)
    serialized = serialize({"big": array, "small": np.arange(3)})
    assert [view.nbytes for view in serialized.buffers] == [array.nbytes]
    assert np.shares_memory(np.frombuffer(serialized.buffers[0], dtype=array.dtype), array)
    assert len(serialized.data) < 1000


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_kept_apart_and_keep_their_type(kind: type) -> None:
    value = kind(b"ab" * IN_BAND_BYTES)
    serialized = serialize(value)
    assert len(serialized.buffers) == 1
    back = there_and_back(value)
    assert (type(back), back) == (kind, value)


def test_one_object_in_two_places_stays_one() -> None:
    inner = [1, 2]
    one, other = there_and_back((inner, inner))
    assert one is other


def test_a_function_of_main_travels_by_value_and_one_of_a_module_by_name() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def double(x):\n    return 2 * x", scope)
    payload, captured = serialize_code(scope["double"])
    assert captured == []
    assert pickle.loads(payload)(21) == 42
    assert len(serialize_code(pytest.raises)[0]) < 100


def test_what_does_not_pickle_says_why() -> None:
    with pytest.raises(SerializationError, match=r"cannot send a generator: .*generator") as caught:
        serialize(i for i in range(3))
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value, TypeError)


def test_an_error_in_a_users_reduce_is_shown() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("holds a socket")

    with pytest.raises(SerializationError, match="holds a socket"):
        serialize([Stubborn()])


def test_layout_of_nothing_and_of_much() -> None:
    empty = Serialized(b"x", [], []).layout()
    assert (empty.pickle_bytes, empty.buffers, empty.total_bytes) == (1, [], 1)
    views = [memoryview(b"a" * size) for size in (1, 64, 65)]
    much = Serialized(b"y" * 70, views, []).layout()
    assert much.buffers == [(128, 1), (192, 64), (256, 65)]
    assert much.total_bytes == 321


class AwkwardError(Exception):
    """Its constructor cannot be called with its `args`."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@pytest.mark.parametrize("cause", [ValueError("no"), OSError(2, "gone"), AwkwardError("odd", 7), KeyError("k")])
def test_task_errors_keep_the_users_exception(cause: Exception) -> None:
    error = pickle.loads(serialize(TaskError("f", "trace", cause, "pid 1")).data).as_instance_of_cause()
    assert isinstance(error, TaskError)
    assert isinstance(error, type(cause))
    assert error.args == cause.args
    assert getattr(error, "code", None) == getattr(cause, "code", None)
    assert "trace" in str(error)
    again = pickle.loads(serialize(error).data)
    assert type(again.cause) is type(cause)
