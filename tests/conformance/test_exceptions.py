"""Exceptions: what user code raises, as its caller catches it."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest


def test_the_users_own_exception_is_caught(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise ValueError("no such carrier")

    with pytest.raises(ValueError, match="no such carrier"):
        engine.get(fail.remote())


def test_it_is_a_task_error_too(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise ValueError("both")

    with pytest.raises(engine.exceptions.RayTaskError) as caught:
        engine.get(fail.remote())
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, engine.exceptions.RayError)


def test_the_cause_is_the_users_exception(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise KeyError("cause")

    with pytest.raises(KeyError) as caught:
        engine.get(fail.remote())
    assert type(caught.value.cause) is KeyError
    assert caught.value.cause.args == ("cause",)


def test_the_text_has_the_remote_traceback(engine: Any) -> None:
    def deep() -> None:
        raise RuntimeError("at the bottom")

    @engine.remote
    def fail() -> None:
        deep()

    with pytest.raises(RuntimeError) as caught:
        engine.get(fail.remote())
    text = str(caught.value)
    assert "fail" in text
    assert "deep" in text
    assert 'raise RuntimeError("at the bottom")' in text
    assert "RuntimeError: at the bottom" in text


def test_own_classes_with_attributes(engine: Any) -> None:
    class OwnError(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(code)
            self.code = code

    @engine.remote
    def fail() -> None:
        raise OwnError(7)

    with pytest.raises(engine.exceptions.RayTaskError) as caught:
        engine.get(fail.remote())
    assert caught.value.cause.code == 7
    assert caught.value.code == 7


def test_a_class_whose_constructor_takes_other_arguments(engine: Any) -> None:
    class OddError(Exception):
        def __init__(self, first: int, second: int) -> None:
            super().__init__(f"{first} and {second}")

    @engine.remote
    def fail() -> None:
        raise OddError(1, 2)

    with pytest.raises(engine.exceptions.RayError, match="1 and 2"):
        engine.get(fail.remote())


def test_an_exception_that_does_not_pickle_comes_as_text(engine: Any) -> None:
    class Closed(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("not for travelling")

    @engine.remote
    def fail() -> None:
        raise Closed("only text")

    with pytest.raises(engine.exceptions.RayError, match="only text"):
        engine.get(fail.remote())


def test_an_exception_that_does_not_unpickle(engine: Any) -> None:
    def explode() -> None:
        raise OSError("cannot be made again")

    class Bomb(Exception):
        def __reduce__(self) -> Any:
            return explode, ()

    @engine.remote
    def fail() -> None:
        raise Bomb("bomb")

    with pytest.raises(engine.exceptions.RayError):
        engine.get(fail.remote())


def test_chained_exceptions_show_both(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        engine.get(fail.remote())
    assert "first" in str(caught.value)


def test_an_error_passes_through_dependents(engine: Any) -> None:
    @engine.remote
    def fail() -> int:
        raise KeyError("origin")

    @engine.remote
    def after(x: int) -> int:
        return x

    with pytest.raises(KeyError):
        engine.get(after.remote(after.remote(fail.remote())))


def test_an_error_passes_through_nested_gets(engine: Any) -> None:
    @engine.remote
    def fail() -> int:
        raise KeyError("inner")

    @engine.remote
    def outer() -> int:
        return int(engine.get(fail.remote()))

    with pytest.raises(KeyError):
        engine.get(outer.remote())


def test_an_error_can_be_caught_in_a_task(engine: Any) -> None:
    @engine.remote
    def fail() -> int:
        raise KeyError("inner")

    @engine.remote
    def outer() -> str:
        try:
            engine.get(fail.remote())
        except KeyError:
            return "caught"
        return "not raised"

    assert engine.get(outer.remote()) == "caught"


def test_get_of_a_list_raises_the_error_among_them(engine: Any) -> None:
    @engine.remote
    def some(i: int) -> int:
        if i == 2:
            raise IndexError(i)
        return i

    with pytest.raises(IndexError):
        engine.get([some.remote(i) for i in range(4)])


def test_an_error_is_raised_at_each_get(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise KeyError("again")

    ref = fail.remote()
    for _ in range(2):
        with pytest.raises(KeyError):
            engine.get(ref)


def test_exceptions_are_values_too(engine: Any) -> None:
    @engine.remote
    def give() -> Exception:
        return ValueError("returned, not raised")

    assert isinstance(engine.get(give.remote()), ValueError)


def test_the_error_of_an_actors_method_is_the_users_own(engine: Any) -> None:
    @engine.remote
    class Some:
        def fail(self) -> None:
            raise OSError(2, "no file")

    with pytest.raises(OSError, match="no file"):
        engine.get(Some.remote().fail.remote())


def test_stop_iteration(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise StopIteration

    with pytest.raises(engine.exceptions.RayTaskError):
        engine.get(fail.remote())


def test_base_exceptions_of_the_users(engine: Any) -> None:
    class Base(BaseException):
        pass

    @engine.remote(max_retries=0)
    def fail() -> None:
        raise Base("not an Exception")

    with pytest.raises(engine.exceptions.RayError):
        engine.get(fail.remote(), timeout=30)


def test_task_errors_pickle(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise ValueError("stored")

    with pytest.raises(engine.exceptions.RayTaskError) as caught:
        engine.get(fail.remote())
    again = pickle.loads(pickle.dumps(caught.value.cause))
    assert isinstance(again, ValueError)


def test_an_error_travels_as_an_argument(engine: Any) -> None:
    @engine.remote
    def fail() -> None:
        raise ValueError("to be passed on")

    @engine.remote
    def look(box: list[Any]) -> bool:
        return isinstance(box[0], ValueError)

    with pytest.raises(ValueError, match="passed on") as caught:
        engine.get(fail.remote())
    assert engine.get(look.remote([caught.value])) is True


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("RayTaskError", "RayError"),
        ("RayActorError", "RayError"),
        ("ActorDiedError", "RayActorError"),
        ("ActorUnavailableError", "RayActorError"),
        ("TaskCancelledError", "RayError"),
        ("GetTimeoutError", "RayError"),
        ("WorkerCrashedError", "RayError"),
        ("ObjectLostError", "RayError"),
        ("OwnerDiedError", "ObjectLostError"),
        ("ObjectReconstructionFailedError", "ObjectLostError"),
        ("ObjectStoreFullError", "RayError"),
        ("OutOfMemoryError", "RayError"),
        ("OutOfDiskError", "RayError"),
        ("NodeDiedError", "RayError"),
        ("PendingCallsLimitExceeded", "RayError"),
        ("RuntimeEnvSetupError", "RayError"),
        ("TaskPlacementGroupRemoved", "RayError"),
        ("ActorPlacementGroupRemoved", "RayError"),
        ("TaskUnschedulableError", "RayError"),
        ("ActorUnschedulableError", "RayError"),
        ("RaySystemError", "RayError"),
        ("AsyncioActorExit", "RayError"),
    ],
)
def test_the_tree_of_errors(engine: Any, name: str, parent: str) -> None:
    assert issubclass(getattr(engine.exceptions, name), getattr(engine.exceptions, parent))


def test_every_error_is_an_exception(engine: Any) -> None:
    assert issubclass(engine.exceptions.RayError, Exception)


def test_a_crash_names_what_happened(engine: Any) -> None:
    @engine.remote(max_retries=0)
    def die() -> None:
        os._exit(3)

    with pytest.raises(engine.exceptions.WorkerCrashedError) as caught:
        engine.get(die.remote(), timeout=30)
    assert str(caught.value)


def test_an_argument_that_does_not_unpickle(engine: Any) -> None:
    def explode() -> None:
        raise OSError("cannot be made there")

    class Bomb:
        def __reduce__(self) -> Any:
            return explode, ()

    @engine.remote
    def take(_value: Any) -> int:
        return 1

    with pytest.raises(engine.exceptions.RayError):
        engine.get(take.remote(Bomb()), timeout=30)
    assert engine.get(take.remote(1), timeout=30) == 1


def test_a_result_that_does_not_unpickle(engine: Any) -> None:
    def explode() -> None:
        raise OSError("cannot be made here")

    class Bomb:
        def __reduce__(self) -> Any:
            return explode, ()

    @engine.remote
    def give() -> Any:
        return Bomb()

    @engine.remote
    def one() -> int:
        return 1

    with pytest.raises((OSError, engine.exceptions.RayError)):
        engine.get(give.remote(), timeout=30)
    assert engine.get(one.remote(), timeout=30) == 1
