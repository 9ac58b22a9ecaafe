"""Beside an actor, where an object is, away from others: as a user says it, in a real cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import atoll
from atoll.client.session import Session
from atoll.exceptions import TaskUnschedulableError
from atoll.util.scheduling_strategies import (
    ActorAffinitySchedulingStrategy,
    AntiAffinitySchedulingStrategy,
    ObjectAffinitySchedulingStrategy,
)
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def session(cluster: Path) -> Iterator[Session]:
    assert cluster
    yield atoll.init()
    atoll.shutdown()


@atoll.remote(num_cpus=0)
def node() -> str:
    return atoll.get_runtime_context().get_node_id()


@atoll.remote(num_cpus=0)
class Model:
    def node(self) -> str:
        return atoll.get_runtime_context().get_node_id()


def test_beside_an_actor_and_away_from_it() -> None:
    model = Model.options(name="the-model").remote()
    home = atoll.get(model.node.remote())
    for actor in (model, "the-model"):
        beside = ActorAffinitySchedulingStrategy(actor)
        assert atoll.get(node.options(scheduling_strategy=beside).remote()) == home
        away = node.options(scheduling_strategy=AntiAffinitySchedulingStrategy(actors=[actor])).remote()
        assert atoll.wait([away], timeout=0.2)[0] == [], "there is no other node"
        assert "no node has atoll.io/actor" in str(atoll.why(away))
        atoll.cancel(away)
        soft = AntiAffinitySchedulingStrategy(actors=[actor], soft=True)
        assert atoll.get(node.options(scheduling_strategy=soft).remote()) == home
    waits = node.options(scheduling_strategy=AntiAffinitySchedulingStrategy(actors=[model])).remote()
    atoll.kill(model)
    assert atoll.get(waits, timeout=PATIENCE_S) == home, "it has gone"
    # A place of its own shape: one that an earlier task beside the actor had may be kept for half a second.
    late = node.options(num_cpus=0.25, scheduling_strategy=ActorAffinitySchedulingStrategy(model)).remote()
    with pytest.raises(TaskUnschedulableError, match="is dead"):
        atoll.get(late, timeout=PATIENCE_S)


def test_where_an_object_is() -> None:
    large, small = atoll.put(np.zeros(1_000_000)), atoll.put(1)
    for ref in (large, small):
        for soft in (False, True):
            there = ObjectAffinitySchedulingStrategy(ref, soft=soft)
            assert atoll.get(node.options(scheduling_strategy=there).remote())


def test_a_task_that_need_not_begin_yet() -> None:
    began = time.monotonic()
    ref = node.options(earliest_s=0.3).remote()
    assert "not to begin before" in str(atoll.why(ref))
    assert atoll.get(ref, timeout=PATIENCE_S)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    "wrong", [{}, {"actors": "llm"}, {"actors": [3]}, {"tasks": "load"}, {"jobs": [1]}, {"actors": [""]}]
)
def test_what_names_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"give a list|say what|neither a handle"):
        AntiAffinitySchedulingStrategy(**wrong)  # type: ignore[arg-type]
