"""Tasks: one value, several, none, and as many as it turns out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("kind", ["tuple", "list", "generator"])
def test_several_returns(engine: Any, kind: str) -> None:
    if kind == "generator":

        def three() -> Iterator[Any]:
            yield 1
            yield "two"
            yield np.zeros(50_000)
    else:

        def three() -> Any:
            values = 1, "two", np.zeros(50_000)
            return values if kind == "tuple" else list(values)

    one, two, zeros = engine.remote(num_returns=3)(three).remote()
    assert engine.get(one) == 1
    assert engine.get(two) == "two"
    assert engine.get(zeros).shape == (50_000,)


def test_no_returns(engine: Any, tmp_path: Any, until_there: Any) -> None:
    @engine.remote(num_returns=0)
    def act() -> None:
        (tmp_path / "done").touch()

    assert act.remote() is None
    until_there(str(tmp_path / "done"))


def test_one_return_of_a_tuple_is_a_tuple(engine: Any) -> None:
    @engine.remote(num_returns=1)
    def pair() -> tuple[int, int]:
        return 1, 2

    assert engine.get(pair.remote()) == (1, 2)


@pytest.mark.parametrize("given", [(1,), (1, 2, 3)], ids=["too few", "too many"])
def test_a_wrong_number_of_returns_is_an_error_of_each(engine: Any, given: tuple[int, ...]) -> None:
    @engine.remote(num_returns=2, max_retries=0)
    def wrong() -> Any:
        return given

    for ref in wrong.remote():
        with pytest.raises(ValueError, match="2"):
            engine.get(ref)


def test_what_is_not_iterable_cannot_be_several_returns(engine: Any) -> None:
    @engine.remote(num_returns=2)
    def wrong() -> Any:
        return 7

    first, _ = wrong.remote()
    with pytest.raises((TypeError, ValueError)):
        engine.get(first)


def test_an_error_is_the_value_of_each_return(engine: Any) -> None:
    @engine.remote(num_returns=2)
    def fail() -> Any:
        raise KeyError("both")

    for ref in fail.remote():
        with pytest.raises(KeyError):
            engine.get(ref)


def test_what_a_generator_yielded_before_it_raised_is_there(engine: Any) -> None:
    @engine.remote(num_returns=4)
    def midway() -> Any:
        yield 1
        yield np.zeros(50_000)
        raise KeyError("third")

    first, second, third, fourth = midway.remote()
    assert engine.get(first) == 1
    assert engine.get(second).shape == (50_000,)
    for ref in (third, fourth):
        with pytest.raises(KeyError):
            engine.get(ref)


def test_an_actors_generator_that_raises_keeps_what_it_yielded(engine: Any) -> None:
    @engine.remote
    class Source:
        def midway(self) -> Any:
            yield "here"
            raise KeyError("gone")

    first, second = Source.remote().midway.options(num_returns=2).remote()
    assert engine.get(first) == "here"
    with pytest.raises(KeyError):
        engine.get(second)


def test_each_return_can_be_passed_on_by_itself(engine: Any) -> None:
    @engine.remote(num_returns=2)
    def pair() -> Any:
        return 1, 10

    @engine.remote
    def add(a: int, b: int) -> int:
        return a + b

    first, second = pair.remote()
    assert engine.get(add.remote(second, first)) == 11


@pytest.mark.filterwarnings("ignore:num_returns")
def test_dynamic_returns(engine: Any) -> None:
    @engine.remote(num_returns="dynamic")
    def count(n: int) -> Iterator[int]:
        for i in range(n):
            yield i

    refs = engine.get(count.remote(4))
    assert [engine.get(ref) for ref in refs] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:num_returns")
def test_dynamic_returns_can_be_passed_on(engine: Any) -> None:
    @engine.remote(num_returns="dynamic")
    def count(n: int) -> Iterator[int]:
        for i in range(n):
            yield i

    @engine.remote
    def total(refs: Any) -> int:
        return sum(engine.get(list(refs)))

    assert engine.get(total.remote(count.remote(4))) == 6
