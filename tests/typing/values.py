"""What a type checker knows of values, waiting and actors. Read by mypy alone, as `calls.py` is."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, assert_type

import atoll
from atoll import ObjectRef
from atoll.actor import ActorClass, ActorHandle

number = atoll.put(1)
text = atoll.put("a")

assert_type(number, ObjectRef[int])
assert_type(atoll.get(number), int)
assert_type(atoll.get(number, timeout=1.5), int)
assert_type(atoll.get([number, number]), list[int])
assert_type(atoll.get((number, number)), list[int])
assert_type(atoll.get([number, text]), list[object])
assert_type(number.future(), Future[int])

ready, rest = atoll.wait([number, number], num_returns=1)
assert_type(ready, list[ObjectRef[int]])
assert_type(rest, list[ObjectRef[int]])

atoll.get(1)  # type: ignore[call-overload]
atoll.get([1])  # type: ignore[arg-type]
atoll.wait(number)  # type: ignore[arg-type]
atoll.cancel(1)  # type: ignore[arg-type]
atoll.kill(number)  # type: ignore[arg-type]


async def awaited() -> int:
    assert_type(await text, str)
    return await number


class Counter:
    def add(self, amount: int) -> int:
        return amount


CounterActor = atoll.remote(Counter)
assert_type(CounterActor, ActorClass)
assert_type(atoll.remote(num_gpus=1)(Counter), ActorClass)
handle = CounterActor.remote()
assert_type(handle, ActorHandle)
assert_type(CounterActor.options(name="gpu").remote(), ActorHandle)
assert_type(handle.add.remote(1), ObjectRef[Any])
handle.add(1)
