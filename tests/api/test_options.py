"""Options are checked when they are given: names, types, values, and what belongs to the definition."""

from __future__ import annotations

from typing import Any

import pytest

import atoll
from atoll.option_schema import NOT_YET
from atoll.options import ActorOptions, CallOptions, TaskOptions


def _nothing() -> None:
    return None


class _Nobody:
    pass


@pytest.mark.parametrize("kind", [TaskOptions, ActorOptions, CallOptions])
def test_the_schema_and_what_is_kept_name_the_same_options(kind: Any) -> None:
    assert set(kind.__struct_fields__) == set(kind.SCHEMA)
    assert set(NOT_YET[kind.WHAT]) <= set(kind.SCHEMA)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_gpu": 1}, ValueError, "unknown option 'num_gpu' of a task. Did you mean num_gpus=1?"),
        ({"gpus": 1}, ValueError, "unknown option 'gpus' of a task. Did you mean num_gpus=1?"),
        ({"mem": 1}, ValueError, "unknown option 'mem' of a task. Did you mean memory=\"4G\"?"),
        ({"zzz": 1}, ValueError, "There are: num_cpus"),
        ({"num_cpus": -1}, ValueError, "num_cpus=-1: an amount cannot be negative"),
        ({"num_cpus": 0.00001}, ValueError, "finer than 0.0001"),
        ({"num_cpus": "2"}, TypeError, "num_cpus='2': give int or float, not str"),
        ({"num_gpus": 1.5}, ValueError, "whole GPUs"),
        ({"memory": -5}, ValueError, "memory=-5"),
        ({"resources": {"CPU": 1}}, ValueError, "use the num_cpus option"),
        ({"resources": {"licence": -1}}, ValueError, "licence: an amount cannot be negative"),
        ({"resources": [1]}, TypeError, "give dict"),
        ({"name": ""}, ValueError, "no name"),
        ({"num_returns": -1}, ValueError, "num_returns=-1"),
        ({"num_returns": "many"}, ValueError, 'or "streaming"'),
        ({"num_returns": 1.0}, TypeError, "num_returns=1.0"),
        ({"max_retries": -2}, ValueError, "without end"),
        ({"max_retries": True}, TypeError, "max_retries=True"),
        ({"retry_exceptions": [int]}, ValueError, "exception classes"),
        ({"retry_exceptions": ValueError}, TypeError, "retry_exceptions"),
        ({"max_calls": -1}, ValueError, "max_calls=-1"),
        ({"_generator_backpressure_num_objects": 0}, ValueError, "may wait unread"),
        ({"max_restarts": 1}, ValueError, "unknown option 'max_restarts' of a task"),
    ],
)
def test_a_task_s_option_that_makes_no_sense_is_refused_where_it_is_given(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        atoll.remote(**options)(_nothing)
    assert text in str(caught.value)
    if "max_calls" not in options:
        with pytest.raises(error):
            atoll.remote(_nothing).options(**options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_restart": 1}, ValueError, "unknown option 'max_restart' of an actor. Did you mean 'max_restarts'"),
        ({"max_retries": 1}, ValueError, "unknown option 'max_retries' of an actor"),
        ({"lifetime": "long"}, ValueError, "'detached'"),
        ({"get_if_exists": True}, ValueError, "needs a name"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency=0"),
        ({"max_restarts": -2}, ValueError, "max_restarts=-2"),
        ({"namespace": 1}, TypeError, "namespace=1"),
    ],
)
def test_an_actor_s_option_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        atoll.remote(**options)(_Nobody)
    assert text in str(caught.value)
    with pytest.raises(error):
        atoll.remote(_Nobody).options(**options)


def test_none_is_as_if_nothing_had_been_said() -> None:
    options = TaskOptions(max_retries=7).updated({"max_retries": None, "num_cpus": None, "retry_exceptions": None})
    assert options == TaskOptions()


def test_what_belongs_to_the_definition_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="max_calls belongs to the definition"):
        atoll.remote(_nothing).options(max_calls=3)
    with pytest.raises(ValueError, match="concurrency_groups belongs to the definition"):
        atoll.remote(_Nobody).options(concurrency_groups={"io": 2})
