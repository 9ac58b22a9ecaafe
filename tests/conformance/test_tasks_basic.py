"""Tasks: calling them, and what their arguments and results are."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

WHOLE = 7


def test_a_task_returns_its_value(engine: Any) -> None:
    @engine.remote
    def add(a: int, b: int) -> int:
        return a + b

    assert engine.get(add.remote(1, 2)) == 3


def test_a_task_runs_in_another_process(engine: Any) -> None:
    @engine.remote
    def pid() -> int:
        return os.getpid()

    assert engine.get(pid.remote()) != os.getpid()


def test_a_list_of_refs_gives_values_in_its_order(engine: Any) -> None:
    @engine.remote
    def square(x: int) -> int:
        return x * x

    assert engine.get([square.remote(i) for i in range(50)]) == [i * i for i in range(50)]


@pytest.mark.parametrize(
    "value", [None, 0, "", (), [1, [2]], {"a": {"b": 1}}, {1, 2}, b"\0bytes", 1.5, "ü", frozenset()]
)
def test_values_come_back_as_they_are(engine: Any, value: Any) -> None:
    @engine.remote
    def same(x: Any) -> Any:
        return x

    back = engine.get(same.remote(value))
    assert back == value
    assert type(back) is type(value)


def test_defaults_keywords_and_variadics(engine: Any) -> None:
    @engine.remote
    def show(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> Any:
        return a, b, rest, c, more

    assert engine.get(show.remote(1)) == (1, 2, (), 3, {})
    assert engine.get(show.remote(1, b=5)) == (1, 5, (), 3, {})
    assert engine.get(show.remote(1, 4, 6, 7, c=8, d=9)) == (1, 4, (6, 7), 8, {"d": 9})
    assert engine.get(show.remote(a=1, z=0)) == (1, 2, (), 3, {"z": 0})


def test_missing_arguments_fail_where_they_are_missing(engine: Any) -> None:
    @engine.remote
    def two(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError):
        two.remote(1)


def test_too_many_arguments_fail_where_they_are_given(engine: Any) -> None:
    @engine.remote
    def two(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError):
        two.remote(1, 2, 3)


def test_an_unknown_keyword_fails_where_it_is_given(engine: Any) -> None:
    @engine.remote
    def two(a: int, b: int = 1) -> int:
        return a + b

    with pytest.raises(TypeError):
        two.remote(1, c=3)


def test_an_argument_given_twice_fails_where_it_is_given(engine: Any) -> None:
    @engine.remote
    def two(a: int, b: int = 1) -> int:
        return a + b

    with pytest.raises(TypeError):
        two.remote(1, a=3)


def test_a_missing_keyword_only_argument_fails_where_it_is_missing(engine: Any) -> None:
    @engine.remote
    def one(*, needed: int) -> int:
        return needed

    with pytest.raises(TypeError):
        one.remote()
    assert engine.get(one.remote(needed=4)) == 4


def test_a_remote_function_is_not_called_directly(engine: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    with pytest.raises(TypeError):
        one()


def test_only_functions_and_classes_are_made_remote(engine: Any) -> None:
    class Neither:
        pass

    with pytest.raises(TypeError):
        engine.remote(num_cpus=1)(Neither())


def test_an_async_function_is_no_task(engine: Any) -> None:
    async def work() -> int:
        return 1

    with pytest.raises(ValueError, match="async"):
        engine.remote(work).remote()


def test_top_level_refs_arrive_as_values(engine: Any) -> None:
    @engine.remote
    def look(a: Any, *rest: Any, k: Any) -> Any:
        return a, rest, k

    assert engine.get(look.remote(engine.put(1), engine.put(2), 3, k=engine.put(4))) == (1, (2, 3), 4)


@pytest.mark.parametrize("shape", ["list", "tuple", "dict", "deep", "object"])
def test_refs_inside_containers_arrive_as_refs(engine: Any, shape: str) -> None:
    class Box:
        def __init__(self, content: Any) -> None:
            self.content = content

    @engine.remote
    def look(box: Any, shape: str) -> Any:
        if shape == "deep":
            inner = box["a"][0][0]
        elif shape == "object":
            inner = box.content
        else:
            inner = box["a" if shape == "dict" else 0]
        assert isinstance(inner, engine.ObjectRef)
        return engine.get(inner)

    ref = engine.put("found")
    box = {"list": [ref], "tuple": (ref,), "dict": {"a": ref}, "deep": {"a": [(ref,)]}, "object": Box(ref)}[shape]
    assert engine.get(look.remote(box, shape)) == "found"


def test_a_ref_in_a_closure(engine: Any) -> None:
    ref = engine.put(41)

    @engine.remote
    def look() -> int:
        return int(engine.get(ref)) + 1

    assert engine.get(look.remote()) == 42


def test_a_chain_of_dependencies(engine: Any) -> None:
    @engine.remote
    def next_of(x: int) -> int:
        return x + 1

    ref = engine.put(0)
    for _ in range(15):
        ref = next_of.remote(ref)
    assert engine.get(ref) == 15


def test_a_diamond_of_dependencies(engine: Any) -> None:
    @engine.remote
    def add(*values: int) -> int:
        return sum(values)

    top = add.remote(1, 1)
    left, right = add.remote(top, 1), add.remote(top, 2)
    assert engine.get(add.remote(left, right, top)) == 9


def test_a_task_waits_for_its_arguments(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote
    def late() -> str:
        until_there(str(tmp_path / "go"))
        return "late"

    @engine.remote
    def after(value: str) -> str:
        return "after " + value

    ref = after.remote(late.remote())
    assert engine.wait([ref], timeout=0.2) == ([], [ref])
    (tmp_path / "go").touch()
    assert engine.get(ref) == "after late"


def test_lambdas_and_closures(engine: Any) -> None:
    factor = 3
    assert engine.get(engine.remote(lambda x: x * factor).remote(5)) == 15


def test_a_function_uses_its_modules_globals(engine: Any) -> None:
    def whole() -> int:
        return WHOLE

    assert engine.get(engine.remote(whole).remote()) == 7


def test_a_function_travels_as_it_was_at_its_first_call(engine: Any) -> None:
    captured = [1]

    @engine.remote
    def look() -> list[int]:
        return captured

    assert engine.get(look.remote()) == [1]
    captured.append(2)
    assert engine.get(look.remote()) == [1]


def test_locally_defined_classes_travel_both_ways(engine: Any) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def moved(self) -> Point:
            return Point(self.x + 1)

    @engine.remote
    def move(point: Any) -> Any:
        return point.moved()

    back = engine.get(move.remote(Point(4)))
    assert back.x == 5
    assert back.moved().x == 6


def test_a_function_calls_itself(engine: Any) -> None:
    @engine.remote
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * int(engine.get(factorial.remote(n - 1)))

    assert engine.get(factorial.remote(4)) == 24


def test_tasks_nest_deeper_than_there_are_cpus(engine: Any) -> None:
    @engine.remote(num_cpus=2)
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + int(engine.get(down.remote(depth - 1)))

    assert engine.get(down.remote(4), timeout=50) == 4


def test_a_task_that_waits_with_wait_gives_its_cpus_too(engine: Any) -> None:
    @engine.remote(num_cpus=4)
    def inner() -> int:
        return 1

    @engine.remote(num_cpus=4)
    def outer() -> int:
        ref = inner.remote()
        engine.wait([ref])
        return int(engine.get(ref))

    assert engine.get(outer.remote(), timeout=50) == 1


def test_a_remote_function_is_an_argument_and_a_result(engine: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    @engine.remote
    def call(function: Any) -> Any:
        return engine.get(function.remote()), function

    value, back = engine.get(call.remote(one))
    assert value == 1
    assert engine.get(back.remote()) == 1


def test_a_task_returns_refs(engine: Any) -> None:
    @engine.remote
    def make() -> list[Any]:
        return [engine.put(np.arange(50_000)), engine.put("small")]

    stored, small = engine.get(make.remote())
    assert engine.get(stored).sum() == np.arange(50_000).sum()
    assert engine.get(small) == "small"


def test_a_task_returns_a_ref_itself(engine: Any) -> None:
    @engine.remote
    def make() -> Any:
        return engine.put("inside")

    inner = engine.get(make.remote())
    assert isinstance(inner, engine.ObjectRef)
    assert engine.get(inner) == "inside"


def test_arguments_are_copies(engine: Any) -> None:
    @engine.remote
    def spoil(values: list[int]) -> list[int]:
        values.append(99)
        return values

    mine = [1]
    assert engine.get(spoil.remote(mine)) == [1, 99]
    assert mine == [1]


def test_large_arguments_and_results(engine: Any) -> None:
    @engine.remote
    def double(values: Any) -> Any:
        return values * 2

    values = np.arange(200_000)
    assert np.array_equal(engine.get(double.remote(values)), values * 2)


def test_one_ref_twice_among_the_arguments(engine: Any) -> None:
    @engine.remote
    def both(a: Any, b: Any) -> int:
        return int(a.sum() + b.sum())

    ref = engine.put(np.ones(100_000))
    assert engine.get(both.remote(ref, ref)) == 200_000


def test_options_leave_the_original_as_it_was(engine: Any) -> None:
    @engine.remote
    def two() -> Any:
        return 1, 2

    first, second = two.options(num_returns=2).remote()
    assert engine.get([first, second]) == [1, 2]
    assert engine.get(two.remote()) == (1, 2)


def test_options_of_options(engine: Any) -> None:
    @engine.remote(num_returns=2)
    def two() -> Any:
        return 1, 2

    refs = two.options(num_cpus=1).remote()
    assert engine.get(list(refs)) == [1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"num_cpus": -1},
        {"num_gpus": -1},
        {"num_returns": -1},
        {"num_returns": "some"},
        {"max_retries": -2},
        {"max_calls": -1},
        {"resources": {"CPU": 1}},
        {"resources": {"GPU": 1}},
        {"max_restarts": 1},
        {"max_concurrency": 2},
        {"lifetime": "detached"},
    ],
    ids=str,
)
def test_options_that_make_no_sense_for_a_task(engine: Any, options: dict[str, Any]) -> None:
    def one() -> int:
        return 1

    with pytest.raises((ValueError, TypeError)):
        engine.remote(**options)(one)
    with pytest.raises((ValueError, TypeError)):
        engine.remote(one).options(**options).remote()


def test_threads_of_libraries_follow_num_cpus(engine: Any) -> None:
    @engine.remote(num_cpus=2)
    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    assert engine.get(threads.remote()) == "2"
    assert engine.get(threads.options(num_cpus=1).remote()) == "1"


def test_num_cpus_zero_runs_when_all_cpus_are_taken(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote(num_cpus=4)
    def hold() -> None:
        (tmp_path / "held").touch()
        until_there(str(tmp_path / "go"))

    @engine.remote(num_cpus=0)
    def light() -> str:
        return "ran"

    holding = hold.remote()
    until_there(str(tmp_path / "held"))
    try:
        assert engine.get(light.remote(), timeout=30) == "ran"
    finally:
        (tmp_path / "go").touch()
    engine.get(holding)


def test_resources_limit_what_runs_at_once(engine: Any, until_there: Any, tmp_path: Any) -> None:
    @engine.remote(num_cpus=2)
    def hold(number: int) -> None:
        (tmp_path / f"began-{number}").touch()
        until_there(str(tmp_path / "go"))

    refs = [hold.remote(number) for number in range(3)]
    try:
        while len(list(tmp_path.glob("began-*"))) < 2:
            assert not engine.wait(refs, timeout=0.05)[0]
        assert engine.wait(refs, timeout=0.3) == ([], refs)
        assert len(list(tmp_path.glob("began-*"))) == 2
    finally:
        (tmp_path / "go").touch()
    engine.get(refs)


def test_what_a_task_prints_is_shown_where_it_was_submitted(script: Any) -> None:
    done = script(
        """
        @engine.remote
        def talk():
            print("hello from afar")

        engine.init(address="auto") if engine.__name__ == "ray" else engine.init()
        engine.get(talk.remote())
        import time
        time.sleep(2 if engine.__name__ == "ray" else 0)  # it shows output a while later
        """
    )
    assert done.returncode == 0, done.stderr
    assert "hello from afar" in done.stdout + done.stderr
