"""Actors: state, methods, inheritance, constructors, handles."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def counter_class(engine: Any) -> Any:
    """An actor that counts."""

    @engine.remote
    class Counter:
        """Counts."""

        def __init__(self, start: int = 0) -> None:
            self.value = start

        def add(self, amount: int = 1) -> int:
            self.value += amount
            return self.value

        def read(self) -> int:
            return self.value

    return Counter


def test_an_actor_keeps_its_state(engine: Any, counter_class: Any) -> None:
    counter = counter_class.remote(10)
    assert engine.get([counter.add.remote() for _ in range(5)]) == [11, 12, 13, 14, 15]


def test_actors_are_independent(engine: Any, counter_class: Any) -> None:
    first, second = counter_class.remote(), counter_class.remote(100)
    first.add.remote(1)
    second.add.remote(1)
    assert engine.get([first.read.remote(), second.read.remote()]) == [1, 101]


def test_an_actor_is_a_process_of_its_own(engine: Any) -> None:
    @engine.remote
    class Who:
        def pid(self) -> int:
            return os.getpid()

    one, other = Who.remote(), Who.remote()
    pids = engine.get([one.pid.remote(), one.pid.remote(), other.pid.remote()])
    assert pids[0] == pids[1] != pids[2]
    assert os.getpid() not in pids


def test_constructor_by_keyword_and_default(engine: Any, counter_class: Any) -> None:
    assert engine.get(counter_class.remote(start=3).read.remote()) == 3
    assert engine.get(counter_class.remote().read.remote()) == 0


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"begin": 1})], ids=["too many", "unknown"])
def test_a_wrong_constructor_call_fails_where_it_is_made(
    engine: Any, counter_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError):
        counter_class.remote(*args, **kwargs)


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"much": 1})], ids=["too many", "unknown"])
def test_a_wrong_method_call_fails_where_it_is_made(
    engine: Any, counter_class: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    counter = counter_class.remote()
    with pytest.raises(TypeError):
        counter.add.remote(*args, **kwargs)


def test_an_actor_class_is_not_instantiated_directly(counter_class: Any) -> None:
    with pytest.raises(TypeError):
        counter_class()


def test_a_method_is_not_called_directly(counter_class: Any) -> None:
    counter = counter_class.remote()
    with pytest.raises(TypeError):
        counter.add(1)


def test_there_is_no_such_method(counter_class: Any) -> None:
    counter = counter_class.remote()
    with pytest.raises(AttributeError):
        counter.subtract.remote(1)


def test_attributes_are_not_seen_through_a_handle(counter_class: Any) -> None:
    counter = counter_class.remote()
    with pytest.raises(AttributeError):
        _ = counter.value


def test_a_class_without_a_constructor(engine: Any) -> None:
    @engine.remote
    class Plain:
        def one(self) -> int:
            return 1

    assert engine.get(Plain.remote().one.remote()) == 1
    with pytest.raises(TypeError):
        Plain.remote(1)


def test_refs_among_a_constructors_arguments(engine: Any, counter_class: Any) -> None:
    @engine.remote
    def start() -> int:
        return 40

    counter = counter_class.remote(start.remote())
    assert engine.get(counter.add.remote(engine.put(2))) == 42


def test_refs_inside_a_constructors_arguments(engine: Any) -> None:
    @engine.remote
    class Keeper:
        def __init__(self, refs: list[Any]) -> None:
            self.refs = refs

        def read(self) -> Any:
            return engine.get(self.refs[0])

    keeper = Keeper.remote([engine.put(np.ones(100_000))])
    assert engine.get(keeper.read.remote()).sum() == 100_000


def test_inherited_methods(engine: Any) -> None:
    class Base:
        def __init__(self, x: int) -> None:
            self.x = x

        def base(self) -> int:
            return self.x

        def both(self) -> str:
            return "base"

    @engine.remote
    class Derived(Base):
        def __init__(self, x: int) -> None:
            super().__init__(x + 1)

        def both(self) -> str:
            return "derived of " + super().both()

    actor = Derived.remote(1)
    assert engine.get([actor.base.remote(), actor.both.remote()]) == [2, "derived of base"]


def test_an_actor_class_is_not_derived_from(engine: Any, counter_class: Any) -> None:
    with pytest.raises(TypeError):

        class Derived(counter_class):  # type: ignore[misc]
            pass


def test_class_methods_and_static_methods(engine: Any) -> None:
    @engine.remote
    class Helpful:
        factor = 3

        @classmethod
        def of_class(cls, x: int) -> int:
            return cls.factor * x

        @staticmethod
        def of_nobody(x: int) -> int:
            return 2 * x

    actor = Helpful.remote()
    assert engine.get([actor.of_class.remote(5), actor.of_nobody.remote(5)]) == [15, 10]


def test_an_actor_that_is_called(engine: Any) -> None:
    @engine.remote
    class Adder:
        def __init__(self, amount: int) -> None:
            self.amount = amount

        def __call__(self, x: int) -> int:
            return x + self.amount

    adder = Adder.remote(2)
    assert engine.get(adder.__call__.remote(5)) == 7


def test_methods_call_each_other_and_private_ones(engine: Any) -> None:
    @engine.remote
    class Layers:
        def _inner(self) -> int:
            return 20

        def outer(self) -> int:
            return self._inner() + 1

    actor = Layers.remote()
    assert engine.get([actor.outer.remote(), actor._inner.remote()]) == [21, 20]


def test_several_returns_of_a_method(engine: Any) -> None:
    @engine.remote
    class Pair:
        @engine.method(num_returns=2)
        def declared(self) -> Any:
            return 1, 2

        def plain(self) -> Any:
            return 3, 4

    pair = Pair.remote()
    assert engine.get(list(pair.declared.remote())) == [1, 2]
    assert engine.get(list(pair.plain.options(num_returns=2).remote())) == [3, 4]
    assert engine.get(pair.plain.remote()) == (3, 4)


def test_no_returns_of_a_method(engine: Any) -> None:
    @engine.remote
    class Quiet:
        done = False

        @engine.method(num_returns=0)
        def act(self) -> None:
            self.done = True

        def read(self) -> bool:
            return self.done

    quiet = Quiet.remote()
    assert quiet.act.remote() is None
    assert engine.get(quiet.read.remote()) is True


def test_method_wants_options_that_there_are(engine: Any) -> None:
    with pytest.raises((AssertionError, TypeError, ValueError)):
        engine.method(no_such_option=1)(lambda self: None)


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_option": 1},
        {"num_cpus": -1},
        {"max_restarts": -2},
        {"max_task_retries": -2},
        {"lifetime": "some"},
        {"name": 3},
        {"name": ""},
        {"namespace": ""},
        {"num_returns": 2},
        {"max_retries": 2},
        {"max_calls": 2},
        {"get_if_exists": "yes"},
    ],
    ids=str,
)
def test_options_that_make_no_sense_for_an_actor(engine: Any, options: dict[str, Any]) -> None:
    class Some:
        pass

    with pytest.raises((ValueError, TypeError)):
        engine.remote(Some).options(**options).remote()


def test_options_of_an_actor_class_leave_it_as_it_was(engine: Any, counter_class: Any, unique: str) -> None:
    named = counter_class.options(name=unique).remote(5)
    assert engine.get(named.read.remote()) == 5
    assert engine.get(counter_class.remote().read.remote()) == 0


def test_handles_are_arguments_of_tasks(engine: Any, counter_class: Any) -> None:
    @engine.remote
    def bump(counter: Any, times: int) -> None:
        engine.get([counter.add.remote() for _ in range(times)])

    counter = counter_class.remote()
    engine.get([bump.remote(counter, 3) for _ in range(3)])
    assert engine.get(counter.read.remote()) == 9


def test_handles_inside_containers_and_closures(engine: Any, counter_class: Any) -> None:
    counter = counter_class.remote()

    @engine.remote
    def bump(box: dict[str, Any]) -> int:
        engine.get(counter.add.remote())
        return int(engine.get(box["counter"][0].add.remote()))

    assert engine.get(bump.remote({"counter": [counter]})) == 2


def test_handles_are_arguments_of_actors(engine: Any, counter_class: Any) -> None:
    @engine.remote
    class User:
        def __init__(self, counter: Any) -> None:
            self.counter = counter

        def use(self) -> int:
            return int(engine.get(self.counter.add.remote()))

    counter = counter_class.remote(1)
    assert engine.get(User.remote(counter).use.remote()) == 2


def test_handles_are_results(engine: Any, counter_class: Any) -> None:
    @engine.remote
    class Maker:
        def __init__(self) -> None:
            self.made = counter_class.remote(7)

        def give(self) -> Any:
            return self.made

    maker = Maker.remote()
    assert engine.get(engine.get(maker.give.remote()).read.remote()) == 7


def test_a_handle_is_put_and_got(engine: Any, counter_class: Any) -> None:
    counter = counter_class.remote(3)
    assert engine.get(engine.get(engine.put(counter)).add.remote()) == 4


def test_an_actor_passes_itself_on(engine: Any) -> None:
    @engine.remote
    def ask(handle: Any) -> str:
        return str(engine.get(handle.name.remote()))

    @engine.remote(max_concurrency=2)
    class Self:
        def name(self) -> str:
            return "myself"

        def round_trip(self) -> str:
            return str(engine.get(ask.remote(engine.get_runtime_context().current_actor)))

    assert engine.get(Self.remote().round_trip.remote(), timeout=50) == "myself"


def test_actors_make_actors_and_tasks(engine: Any, counter_class: Any) -> None:
    @engine.remote
    def double(x: int) -> int:
        return 2 * x

    @engine.remote
    class Parent:
        def work(self) -> int:
            child = counter_class.remote(20)
            return int(engine.get(double.remote(child.add.remote())))

    assert engine.get(Parent.remote().work.remote()) == 42


def test_a_task_makes_an_actor_and_returns_its_handle(engine: Any, counter_class: Any) -> None:
    @engine.remote
    def make() -> Any:
        return counter_class.remote(6)

    assert engine.get(engine.get(make.remote()).read.remote()) == 6


def test_an_actor_class_travels(engine: Any, counter_class: Any) -> None:
    @engine.remote
    def use(cls: Any) -> int:
        return int(engine.get(cls.remote(8).read.remote()))

    assert engine.get(use.remote(counter_class)) == 8


def test_calls_before_the_constructor_has_ended(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote
    class Slow:
        def __init__(self) -> None:
            until_there(str(tmp_path / "go"))
            self.ready = True

        def ask(self) -> bool:
            return self.ready

    slow = Slow.remote()
    ref = slow.ask.remote()
    assert engine.wait([ref], timeout=0.2)[0] == []
    (tmp_path / "go").touch()
    assert engine.get(ref) is True


def test_creation_waits_for_resources(engine: Any, until_there: Any, tmp_path: Path) -> None:
    @engine.remote(num_cpus=4)
    def hold() -> None:
        (tmp_path / "held").touch()
        until_there(str(tmp_path / "go"))

    @engine.remote(num_cpus=2)
    class Needs:
        def one(self) -> int:
            return 1

    holding = hold.remote()
    until_there(str(tmp_path / "held"))
    ref = Needs.remote().one.remote()
    assert engine.wait([ref], timeout=0.3)[0] == []
    (tmp_path / "go").touch()
    assert engine.get([holding, ref], timeout=30) == [None, 1]


def test_an_actor_needs_no_cpu_while_it_lives(engine: Any, counter_class: Any) -> None:
    actors = [counter_class.remote(i) for i in range(6)]

    @engine.remote(num_cpus=4)
    def whole() -> int:
        return 1

    assert engine.get([actor.read.remote() for actor in actors]) == list(range(6))
    assert engine.get(whole.remote(), timeout=30) == 1


def test_an_actors_resources_are_held_until_it_dies(engine: Any, until_there: Any, eventually: Any) -> None:
    @engine.remote(num_cpus=3)
    class Holder:
        def one(self) -> int:
            return 1

    holder = Holder.remote()
    engine.get(holder.one.remote())
    eventually(lambda: engine.available_resources().get("CPU", 0) <= 1)
    engine.kill(holder)
    eventually(lambda: engine.available_resources().get("CPU", 0) == 4)


def test_an_actor_goes_with_its_last_handle(engine: Any, eventually: Any) -> None:
    @engine.remote
    class Mortal:
        def pid(self) -> int:
            return os.getpid()

    mortal = Mortal.remote()
    pid = engine.get(mortal.pid.remote())
    del mortal

    def gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True

    eventually(gone)


def test_calls_made_before_the_last_handle_went_are_carried_out(engine: Any, tmp_path: Path, until_there: Any) -> None:
    @engine.remote
    class Worker:
        def work(self, name: str) -> str:
            time.sleep(0.05)
            return name

    refs = [Worker.remote().work.remote(name) for name in ("a", "b")]
    assert engine.get(refs, timeout=30) == ["a", "b"]


def test_a_handle_elsewhere_keeps_an_actor(engine: Any, counter_class: Any) -> None:
    @engine.remote
    class Keeper:
        def keep(self, box: list[Any]) -> None:
            self.kept = box[0]

        def use(self) -> int:
            return int(engine.get(self.kept.add.remote()))

    keeper, counter = Keeper.remote(), counter_class.remote(1)
    engine.get(keeper.keep.remote([counter]))
    del counter
    time.sleep(0.3)
    assert engine.get(keeper.use.remote(), timeout=30) == 2


def test_large_arguments_and_results_of_methods(engine: Any) -> None:
    @engine.remote
    class Store:
        def keep(self, values: Any) -> None:
            self.values = values

        def give(self) -> Any:
            return self.values

    values = np.arange(200_000)
    store = Store.remote()
    store.keep.remote(values)
    assert np.array_equal(engine.get(store.give.remote()), values)


def test_an_actors_docstring_is_kept(counter_class: Any) -> None:
    assert counter_class.__doc__ is None or "Counts" in counter_class.__doc__


def test_decorated_methods(engine: Any) -> None:
    import functools

    def twice(function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return 2 * function(*args, **kwargs)

        return wrapped

    @engine.remote
    class Decorated:
        @twice
        def one(self) -> int:
            return 1

    assert engine.get(Decorated.remote().one.remote()) == 2


def test_a_method_that_raises_leaves_the_actor_alive(engine: Any) -> None:
    @engine.remote
    class Fragile:
        value = 0

        def fail(self) -> None:
            self.value = 1
            raise ValueError("no")

        def read(self) -> int:
            return self.value

    fragile = Fragile.remote()
    with pytest.raises(ValueError, match="no"):
        engine.get(fragile.fail.remote())
    assert engine.get(fragile.read.remote()) == 1
