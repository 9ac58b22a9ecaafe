"""Where tasks and actors run, as a user says it: strategies, labels, and placement groups in a real cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll
from atoll.client.session import Session
from atoll.exceptions import ActorDiedError, TaskPlacementGroupRemoved, TaskUnschedulableError
from atoll.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from atoll.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def session(cluster: Path) -> Iterator[Session]:
    """One session for all tests of this module."""
    assert cluster
    yield atoll.init()
    atoll.shutdown()


@atoll.remote
def current() -> PlacementGroup | None:
    return get_current_placement_group()


@atoll.remote
def child_of(depth: int) -> PlacementGroup | None:
    """Return the group of a task that this task's task submits."""
    found: PlacementGroup | None
    found = atoll.get(child_of.options(num_cpus=0).remote(depth - 1)) if depth else get_current_placement_group()
    return found


@atoll.remote(num_cpus=1)
class Home:
    def group(self) -> PlacementGroup | None:
        return get_current_placement_group()

    def group_of_child(self) -> PlacementGroup | None:
        found: PlacementGroup | None = atoll.get(current.options(num_cpus=0).remote())
        return found


def cpus_free(session: Session) -> float:
    return session.state().nodes[0].resources_free["CPU"]


def wait_until_free(session: Session, cpus: float) -> None:
    until = time.monotonic() + PATIENCE_S
    while cpus_free(session) != cpus:
        assert time.monotonic() < until, f"{cpus_free(session)} CPU are free, not {cpus}"
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------- strategies


@pytest.mark.parametrize("strategy", ["DEFAULT", "SPREAD"])
def test_the_strategies_with_a_name(strategy: str) -> None:
    assert atoll.get(current.options(scheduling_strategy=strategy).remote()) is None


@pytest.mark.parametrize("strategy", ["SIDEWAYS", 3, object()])
def test_what_is_no_strategy_is_refused(strategy: object) -> None:
    with pytest.raises(ValueError, match='give "DEFAULT", "SPREAD", or a strategy'):
        current.options(scheduling_strategy=strategy)


def test_affinity_to_a_node(session: Session) -> None:
    here = NodeAffinitySchedulingStrategy(session.state().nodes[0].node_id, soft=False)
    assert atoll.get(current.options(scheduling_strategy=here).remote()) is None
    other = "ab" * 8
    gone = NodeAffinitySchedulingStrategy(other, soft=False)
    with pytest.raises(TaskUnschedulableError, match=f"the node {other}, the only one that was allowed, is not"):
        atoll.get(current.options(scheduling_strategy=gone).remote())
    soft = NodeAffinitySchedulingStrategy(other, soft=True)
    assert atoll.get(current.options(scheduling_strategy=soft).remote()) is None
    with pytest.raises(ValueError, match="is no id of a node"):
        NodeAffinitySchedulingStrategy("nowhere", soft=True)


@pytest.mark.parametrize(
    ("selector", "runs"),
    [
        ({"zone": "a"}, True),
        ({"zone": "!a"}, False),
        ({"zone": "in(a, b)", "disk": "ssd"}, True),
        ({"zone": "in(b,c)"}, False),
        ({"zone": "!in(b, c)"}, True),
        ({"rack": "!7"}, True),
        ({"rack": "7"}, False),
    ],
)
def test_labels_by_selector(selector: dict[str, str], runs: bool) -> None:
    ref = current.options(label_selector=selector).remote()
    if runs:
        assert atoll.get(ref) is None
    else:
        with pytest.raises(TaskUnschedulableError, match="no node has labels with"):
            atoll.get(ref)


@pytest.mark.parametrize("selector", [{"zone": "in("}, {"zone": "!!a"}, {"-": "a"}, {"zone": 3}])
def test_what_is_no_selector_is_refused(selector: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="label_selector"):
        current.options(label_selector=selector)


def test_labels_by_strategy() -> None:
    hard = {"zone": In("a", "b"), "disk": Exists(), "rack": DoesNotExist(), "colour": NotIn("red")}
    soft = {"zone": In("c")}
    strategy = NodeLabelSchedulingStrategy(hard, soft=soft)
    assert atoll.get(current.options(scheduling_strategy=strategy).remote()) is None
    nowhere = NodeLabelSchedulingStrategy({"rack": Exists()})
    with pytest.raises(TaskUnschedulableError, match="rack exists"):
        atoll.get(current.options(scheduling_strategy=nowhere).remote())
    with pytest.raises(ValueError, match="both empty"):
        NodeLabelSchedulingStrategy({})
    with pytest.raises(ValueError, match="needs values"):
        In()


def test_a_model_of_device() -> None:
    ref = current.options(num_gpus=1, accelerator_type="H100").remote()
    with pytest.raises(TaskUnschedulableError, match="no node has a GPU of type H100; there are: Simulated GPU"):
        atoll.get(ref)
    assert atoll.get(current.options(num_gpus=1, accelerator_type="simulated").remote()) is None


def test_nodes_show_their_labels() -> None:
    labels = atoll.nodes()[0]["Labels"]
    assert (labels["zone"], labels["disk"]) == ("a", "ssd")


def test_custom_resources(session: Session) -> None:
    assert session.state().nodes[0].resources_total["licence"] == 2
    assert atoll.get(current.options(resources={"licence": 0.5}).remote()) is None
    with pytest.raises(TaskUnschedulableError, match="the largest has 2"):
        atoll.get(current.options(resources={"licence": 3}).remote())


# ----------------------------------------------------------------------------------------------- placement groups


def test_a_group_and_what_runs_in_it(session: Session) -> None:
    wait_until_free(session, 2)
    group = placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1}], strategy="PACK")
    assert group.bundle_count == 2
    assert group.bundle_specs == [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}]
    assert atoll.get(group.ready(), timeout=PATIENCE_S) == group
    assert group.wait(5)
    assert cpus_free(session) == 0
    strategy = PlacementGroupSchedulingStrategy(group)
    assert atoll.get(current.options(scheduling_strategy=strategy).remote()) == group
    row = placement_group_table(group)
    assert (row["state"], row["strategy"], row["bundles"][0]) == ("CREATED", "PACK", {"CPU": 1, "GPU": 1})
    assert row["bundles_to_node_id"] == dict.fromkeys((0, 1), session.state().nodes[0].node_id)
    assert placement_group_table()[group.id.hex()] == row
    assert get_current_placement_group() is None
    remove_placement_group(group)
    wait_until_free(session, 2)
    assert placement_group_table(group)["state"] == "REMOVED"
    with pytest.raises(TaskPlacementGroupRemoved):
        atoll.get(current.options(scheduling_strategy=strategy).remote())


def test_what_does_not_fit_waits_and_is_told_so() -> None:
    group = placement_group([{"CPU": 64}])
    assert not group.wait(0.05)
    ready, rest = atoll.wait([group.ready()], timeout=0.05)
    assert not ready
    remove_placement_group(group)
    with pytest.raises(TaskPlacementGroupRemoved):
        atoll.get(rest[0], timeout=PATIENCE_S)


def test_children_follow_only_where_the_group_captures() -> None:
    group = placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    assert atoll.get(child_of.options(scheduling_strategy=inside).remote(2)) == group
    outside = PlacementGroupSchedulingStrategy(group)
    assert atoll.get(child_of.options(scheduling_strategy=outside).remote(1)) is None
    assert atoll.get(child_of.remote(0)) is None, "a worker that served the group before has left it"
    remove_placement_group(group)


def test_an_actor_lives_in_a_group_and_dies_with_it() -> None:
    group = placement_group([{"CPU": 1}], name="homes")
    assert get_placement_group("homes") == group
    strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    home = Home.options(scheduling_strategy=strategy).remote()
    assert atoll.get(home.group.remote()) == group
    assert atoll.get(home.group_of_child.remote()) == group
    remove_placement_group(group)
    with pytest.raises(ActorDiedError, match="TaskPlacementGroupRemoved"):
        atoll.get(home.group.remote())
    with pytest.raises(ValueError, match="homes"):
        get_placement_group("homes")


def test_the_older_options_mean_the_same() -> None:
    group = placement_group([{"CPU": 1}])
    assert atoll.get(current.options(placement_group=group, placement_group_bundle_index=0).remote()) == group
    with pytest.raises(ValueError, match="not by both"):
        current.options(placement_group=group, scheduling_strategy="SPREAD").remote()
    remove_placement_group(group)


def test_a_request_that_no_bundle_can_meet_is_refused_at_once() -> None:
    group = placement_group([{"CPU": 1}])
    with pytest.raises(ValueError, match="does not fit into any bundle"):
        current.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group), num_cpus=2).remote()
    with pytest.raises(ValueError, match="the group has bundles 0 to 0"):
        current.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 1)).remote()
    remove_placement_group(group)


@pytest.mark.parametrize(
    ("bundles", "more", "text"),
    [
        ([], {}, "at least one dict"),
        ({"CPU": 1}, {}, "at least one dict"),
        ([{}], {}, "takes something"),
        ([{"CPU": 0}], {}, "takes something"),
        ([{"CPU": "1"}], {}, "a bundle is a dict"),
        ([{"CPU": 1}], {"strategy": "SIDEWAYS"}, "give one of PACK"),
        ([{"CPU": 1}], {"lifetime": "eternal"}, "detached"),
        ([{"CPU": 1}], {"bundle_label_selector": [{}, {}]}, "2 entries for 1"),
    ],
)
def test_what_is_no_group_is_refused(bundles: list[dict[str, float]], more: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        placement_group(bundles, **more)  # type: ignore[arg-type]


def test_two_groups_cannot_have_one_name() -> None:
    first = placement_group([{"CPU": 1}], name="same")
    with pytest.raises(ValueError, match="is taken"):
        placement_group([{"CPU": 1}], name="same")
    remove_placement_group(first)


def test_a_handle_travels_and_an_empty_one_is_ready() -> None:
    group = placement_group([{"CPU": 1}])

    @atoll.remote(num_cpus=0)
    def look(given: PlacementGroup) -> tuple[int, bool]:
        return given.bundle_count, given.wait(10)

    assert atoll.get(look.remote(group)) == (1, True)
    remove_placement_group(group)
    assert PlacementGroup.empty().is_empty
    assert atoll.get(PlacementGroup.empty().ready()).is_empty


def test_the_module_can_be_called_as_in_ray() -> None:
    import atoll.util

    group = atoll.util.placement_group([{"CPU": 1}])
    assert atoll.get(group.ready(), timeout=PATIENCE_S) == group
    remove_placement_group(group)


# ------------------------------------------------------------------------------------- what else can be asked for


@atoll.remote(num_cpus=0)
def devices_and_cpus() -> tuple[int, str]:
    import os

    return len(list(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))), os.environ["OMP_NUM_THREADS"]


def test_device_memory_and_alternatives(session: Session) -> None:
    with_memory = devices_and_cpus.options(gpu_memory="4G")
    assert atoll.get(with_memory.remote()) == (1, "1")
    either = devices_and_cpus.options(num_gpus=3, alternatives=[{"num_cpus": 2}])
    assert atoll.get(either.remote()) == (0, "2")
    with pytest.raises(TaskUnschedulableError, match="no GPU has 1 TiB of memory; the largest has 16 GiB"):
        atoll.get(devices_and_cpus.options(gpu_memory="1T").remote())
    fallback = [{"label_selector": {"zone": "a"}}]
    assert atoll.get(current.options(label_selector={"zone": "z"}, fallback_strategy=fallback).remote()) is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gpu_memory": "much"}, "no size in bytes"),
        ({"gpu_memory": "4G", "num_gpus": 0.5}, "give one of them"),
        ({"alternatives": [{"max_retries": 1}]}, "an alternative has no option 'max_retries'"),
        ({"alternatives": [{"num_cpus": -1}]}, "cannot be negative"),
        ({"alternatives": [{}]}, "list of 1 to 16"),
        ({"fallback_strategy": [{"num_cpus": 1}]}, "label_selector"),
        ({"accelerator_type": [1]}, "give a model"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        current.options(**options).remote()


def test_opportunistic_work_gives_way_and_is_run_anew(session: Session, tmp_path: Path) -> None:
    wait_until_free(session, 2)

    @atoll.remote(num_cpus=2, preemptible=True, max_retries=0)
    def long(directory: Path) -> int:
        attempts = directory / "attempts"
        with attempts.open("a") as file:
            file.write("x")
        while attempts.read_text() == "x":
            time.sleep(0.01)
        return len(attempts.read_text())

    ref = long.remote(tmp_path)
    until = time.monotonic() + PATIENCE_S
    while not (tmp_path / "attempts").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert atoll.get(current.remote(), timeout=PATIENCE_S) is None
    assert atoll.get(ref, timeout=PATIENCE_S) == 2


# ------------------------------------------------------------------------------------------------------- reasons


def test_why_and_what_if(session: Session) -> None:
    wait_until_free(session, 2)
    found = atoll.simulate(num_cpus=2)
    assert (found.state, found.starts_in_s) == ("fits", 0.0)
    assert atoll.simulate(num_gpus=3).state == "impossible"
    home = Home.options(num_cpus=2).remote()
    atoll.get(home.group.remote())
    waiting = current.options(name="large", num_cpus=2).remote()
    until = time.monotonic() + PATIENCE_S
    while (found := atoll.why(waiting)).state != "waits":
        assert time.monotonic() < until, found
        time.sleep(0.01)
    assert [holder.what for holder in found.nodes[0].holders] == ["Home"]
    assert "Home" in str(found)
    assert [change.kind for change in found.changes] == ["end"]
    behind = current.options(num_cpus=0).remote()
    assert atoll.get(behind) is None
    assert atoll.why(behind).text == "it has a value"
    assert "has its process" in atoll.why(home).text
    atoll.kill(home)
    assert atoll.get(waiting, timeout=PATIENCE_S) is None
    with pytest.raises(TypeError, match="why takes"):
        atoll.why(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown option"):
        atoll.simulate(gpus=1)
