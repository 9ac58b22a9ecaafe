"""Placement groups and scheduling strategies, as far as one node shows them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def groups(part: Any) -> Any:
    """The module of placement groups."""
    return part("util.placement_group")


@pytest.fixture
def strategies(part: Any) -> Any:
    """The module of scheduling strategies."""
    return part("util.scheduling_strategies")


@pytest.fixture
def group_of(engine: Any, groups: Any) -> Any:
    """Make placement groups that go with the test."""
    made: list[Any] = []

    def make(bundles: list[dict[str, float]], **options: Any) -> Any:
        made.append(groups.placement_group(bundles, **options))
        return made[-1]

    yield make
    for group in made:
        groups.remove_placement_group(group)


def in_group(strategies: Any, group: Any, index: int = -1, children: bool | None = None) -> Any:
    return strategies.PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=index, placement_group_capture_child_tasks=children
    )


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
def test_a_group_becomes_ready(engine: Any, group_of: Any, strategy: str) -> None:
    group = group_of([{"CPU": 1}, {"CPU": 1}], strategy=strategy)
    engine.get(group.ready(), timeout=30)
    assert group.wait(10) is True
    assert group.bundle_count == 2
    assert group.bundle_specs == [{"CPU": 1}, {"CPU": 1}]


def test_strict_spread_over_one_node_waits(engine: Any, group_of: Any) -> None:
    group = group_of([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(1) is False


def test_a_group_takes_its_resources(engine: Any, group_of: Any, eventually: Any) -> None:
    group = group_of([{"CPU": 3}])
    engine.get(group.ready(), timeout=30)
    eventually(lambda: engine.available_resources().get("CPU", 0) <= 1)


def test_a_removed_group_gives_them_back(engine: Any, groups: Any, eventually: Any) -> None:
    group = groups.placement_group([{"CPU": 4}])
    engine.get(group.ready(), timeout=30)
    groups.remove_placement_group(group)
    eventually(lambda: engine.available_resources().get("CPU", 0) == 4)


def test_a_group_is_had_whole_or_not_at_all(engine: Any, group_of: Any) -> None:
    first = group_of([{"CPU": 3}])
    engine.get(first.ready(), timeout=30)
    second = group_of([{"CPU": 1}, {"CPU": 1}])
    assert second.wait(1) is False


def test_a_waiting_group_is_made_when_there_is_room(engine: Any, groups: Any, group_of: Any) -> None:
    first = groups.placement_group([{"CPU": 4}])
    engine.get(first.ready(), timeout=30)
    second = group_of([{"CPU": 2}])
    assert second.wait(0.5) is False
    groups.remove_placement_group(first)
    assert second.wait(30) is True


def test_a_task_in_a_group(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_cpus=1)
    def inside() -> Any:
        return engine.util.get_current_placement_group()

    group = group_of([{"CPU": 2}])
    found = engine.get(inside.options(scheduling_strategy=in_group(strategies, group)).remote(), timeout=30)
    assert found.id == group.id
    assert engine.get(inside.remote(), timeout=30) is None


def test_a_bundle_limits_what_runs_in_it(
    engine: Any, group_of: Any, strategies: Any, until_there: Any, tmp_path: Path, eventually: Any
) -> None:
    @engine.remote(num_cpus=1)
    def hold(i: int) -> None:
        (tmp_path / f"began-{i}").touch()
        until_there(str(tmp_path / "go"))

    group = group_of([{"CPU": 1}, {"CPU": 1}])
    refs = [hold.options(scheduling_strategy=in_group(strategies, group, 0)).remote(i) for i in range(2)]
    refs += [hold.options(scheduling_strategy=in_group(strategies, group, 1)).remote(2)]
    until_there(str(tmp_path / "began-2"))
    eventually(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    assert engine.wait(refs, timeout=0.3)[0] == []
    assert len(list(tmp_path.glob("began-*"))) == 2
    (tmp_path / "go").touch()
    engine.get(refs, timeout=30)


def test_an_actor_in_a_group(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_cpus=1)
    class Some:
        def group(self) -> Any:
            return engine.util.get_current_placement_group()

    group = group_of([{"CPU": 1}])
    some = Some.options(scheduling_strategy=in_group(strategies, group, 0)).remote()
    assert engine.get(some.group.remote(), timeout=30).id == group.id


def test_children_stay_in_the_group_when_said(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_cpus=1)
    def child() -> Any:
        return engine.util.get_current_placement_group()

    @engine.remote(num_cpus=1)
    def parent() -> Any:
        found = engine.get(child.remote())
        return found.id if found is not None else None

    group = group_of([{"CPU": 2}])
    captured = parent.options(scheduling_strategy=in_group(strategies, group, children=True))
    assert engine.get(captured.remote(), timeout=30) == group.id
    free = parent.options(scheduling_strategy=in_group(strategies, group, children=False))
    assert engine.get(free.remote(), timeout=30) is None


def test_what_runs_in_a_removed_group_ends(engine: Any, groups: Any, strategies: Any, eventually: Any) -> None:
    @engine.remote(num_cpus=1)
    class Some:
        def one(self) -> int:
            return 1

    group = groups.placement_group([{"CPU": 1}])
    some = Some.options(scheduling_strategy=in_group(strategies, group)).remote()
    assert engine.get(some.one.remote(), timeout=30) == 1
    groups.remove_placement_group(group)

    def dead() -> bool:
        try:
            engine.get(some.one.remote(), timeout=30)
        except engine.exceptions.RayActorError:
            return True
        return False

    eventually(dead)


def test_what_waits_for_a_removed_group_fails(
    engine: Any, groups: Any, strategies: Any, until_there: Any, tmp_path: Path
) -> None:
    @engine.remote(num_cpus=1, max_retries=0)
    def hold(name: str) -> None:
        (tmp_path / name).touch()
        until_there(str(tmp_path / "never"))

    group = groups.placement_group([{"CPU": 1}])
    inside = hold.options(scheduling_strategy=in_group(strategies, group))
    running = inside.remote("began")
    until_there(str(tmp_path / "began"))
    waiting = inside.remote("never begun")
    assert engine.wait([running, waiting], timeout=0.5)[0] == []
    groups.remove_placement_group(group)
    with pytest.raises(engine.exceptions.TaskPlacementGroupRemoved):
        engine.get(waiting, timeout=30)


@pytest.mark.parametrize(
    ("bundles", "options"),
    [
        ([], {}),
        ([{}], {}),
        ([{"CPU": 0}], {}),
        ("bundles", {}),
        ([{"CPU": 1}], {"strategy": "SOMEHOW"}),
        ([{"CPU": 1}], {"lifetime": "some"}),
    ],
    ids=str,
)
def test_groups_that_make_no_sense(groups: Any, bundles: Any, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        groups.placement_group(bundles, **options)


def test_a_bundle_that_there_is_not(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_cpus=1)
    def one() -> int:
        return 1

    group = group_of([{"CPU": 1}])
    with pytest.raises(ValueError, match="bundle"):
        one.options(scheduling_strategy=in_group(strategies, group, 3)).remote()


def test_what_fits_no_bundle(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_cpus=3)
    def one() -> int:
        return 1

    group = group_of([{"CPU": 1}])
    with pytest.raises(ValueError):  # noqa: PT011 - engines say it in words of their own
        one.options(scheduling_strategy=in_group(strategies, group)).remote()


def test_a_named_group(engine: Any, groups: Any, group_of: Any, unique: str) -> None:
    group = group_of([{"CPU": 1}], name=unique)
    engine.get(group.ready(), timeout=30)
    assert groups.get_placement_group(unique).id == group.id
    with pytest.raises(ValueError, match=unique):
        groups.get_placement_group(f"not-{unique}")


def test_the_table_of_groups(engine: Any, groups: Any, group_of: Any, unique: str) -> None:
    group = group_of([{"CPU": 1}], name=unique, strategy="SPREAD")
    engine.get(group.ready(), timeout=30)
    row = groups.placement_group_table(group)
    assert row["name"] == unique
    assert row["strategy"] == "SPREAD"
    assert row["state"] == "CREATED"
    groups.remove_placement_group(group)
    assert groups.placement_group_table(group)["state"] == "REMOVED"


def test_a_group_of_gpus(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_gpus=1, num_cpus=0)
    def ids() -> Any:
        return tuple(engine.get_gpu_ids()), os.environ["CUDA_VISIBLE_DEVICES"]

    group = group_of([{"GPU": 1}, {"GPU": 1}])
    found = [
        engine.get(ids.options(scheduling_strategy=in_group(strategies, group, i)).remote(), timeout=30) for i in (0, 1)
    ]
    assert found[0] != found[1]


def test_groups_travel(engine: Any, group_of: Any, strategies: Any) -> None:
    @engine.remote(num_cpus=1)
    def one() -> int:
        return 1

    @engine.remote(num_cpus=0)
    def use(group: Any) -> Any:
        strategy = strategies.PlacementGroupSchedulingStrategy(group)
        return engine.get(one.options(scheduling_strategy=strategy).remote())

    group = group_of([{"CPU": 1}])
    assert engine.get(use.remote(group), timeout=30) == 1


@pytest.mark.parametrize("strategy", ["DEFAULT", "SPREAD"])
def test_scheduling_strategies_by_name(engine: Any, strategy: str) -> None:
    @engine.remote(scheduling_strategy=strategy)
    def one() -> int:
        return 1

    assert engine.get(one.remote(), timeout=30) == 1


@pytest.mark.parametrize("strategy", ["SOMEHOW", 7], ids=str)
def test_scheduling_strategies_that_make_no_sense(engine: Any, strategy: Any) -> None:
    def one() -> int:
        return 1

    with pytest.raises((ValueError, TypeError)):
        engine.remote(scheduling_strategy=strategy)(one).remote()


@pytest.mark.parametrize("soft", [False, True])
def test_node_affinity(engine: Any, strategies: Any, soft: bool) -> None:
    @engine.remote
    def node() -> str:
        return str(engine.get_runtime_context().get_node_id())

    here = engine.get_runtime_context().get_node_id()
    strategy = strategies.NodeAffinitySchedulingStrategy(here, soft=soft)
    assert engine.get(node.options(scheduling_strategy=strategy).remote(), timeout=30) == here


def test_affinity_to_a_node_that_there_is_not(engine: Any, strategies: Any) -> None:
    @engine.remote
    def one() -> int:
        return 1

    nowhere = "ab" * (len(engine.get_runtime_context().get_node_id()) // 2)
    hard = strategies.NodeAffinitySchedulingStrategy(nowhere, soft=False)
    with pytest.raises(engine.exceptions.TaskUnschedulableError):
        engine.get(one.options(scheduling_strategy=hard).remote(), timeout=30)
    soft = strategies.NodeAffinitySchedulingStrategy(nowhere, soft=True)
    assert engine.get(one.options(scheduling_strategy=soft).remote(), timeout=30) == 1
