"""What a type checker knows of tasks. Read by mypy alone; an expected error is an `ignore` that must be needed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, assert_type

import atoll
from atoll import ObjectRef, ObjectRefGenerator


@atoll.remote
def add(a: int, b: int = 1) -> int:
    return a + b


@atoll.remote(num_gpus=1)
def label(text: str, *, loud: bool = False) -> str:
    return text


@atoll.remote
def count(n: int) -> Iterator[int]:
    yield from range(n)


@atoll.remote
def count_fully(n: int) -> Generator[str, None, None]:
    yield str(n)


@atoll.remote(num_returns=2)
def pair(x: int) -> tuple[int, str]:
    return x, str(x)


@atoll.remote
def nothing() -> None:
    return None


assert_type(add.remote(1), ObjectRef[int])
assert_type(add.remote(1, b=2), ObjectRef[int])
assert_type(label.remote("a", loud=True), ObjectRef[str])
assert_type(nothing.remote(), ObjectRef[None])
assert_type(add.options(num_cpus=2).remote(1), ObjectRef[int])
assert_type(atoll.remote(len).remote([1]), ObjectRef[int])

add.remote("1")  # type: ignore[call-overload]
add.remote()  # type: ignore[call-overload]
add.remote(1, 2, 3)  # type: ignore[call-overload]
add.remote(1, c=2)  # type: ignore[call-overload]
label.remote("a", True)  # type: ignore[call-overload]
nothing.remote(1)  # type: ignore[call-overload]

ref = add.remote(1)
assert_type(add.remote(ref), ObjectRef[int])
assert_type(add.remote(1, ref), ObjectRef[int])

assert_type(count.remote(3), ObjectRefGenerator[int])
assert_type(count_fully.remote(3), ObjectRefGenerator[str])
for item in count.remote(3):
    assert_type(item, ObjectRef[int])
    assert_type(atoll.get(item), int)

assert_type(pair.remote(1), Any)
assert_type(add.options(num_returns=2).remote(1), Any)
pair.remote("1")  # type: ignore[arg-type]
