"""Strategies for `scheduling_strategy=`: on one node, on nodes with labels, in a placement group. Names are Ray's.

More than Ray has: beside an actor, where an object is, and away from what runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from atoll.actor import ActorHandle
from atoll.client.current import existing_session
from atoll.object_ref import ObjectRef
from atoll.placement import SchedulingStrategy, Scope
from atoll.protocol.values import ACTOR_ID, ACTOR_NAME, JOB_NAME, TASK_NAME, LabelTerm, ObjectLocation
from atoll.resources import describe
from atoll.util.placement_group import PlacementGroup, check_placement_group_index, fits_some_bundle

__all__ = [
    "ActorAffinitySchedulingStrategy",
    "AntiAffinitySchedulingStrategy",
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "ObjectAffinitySchedulingStrategy",
    "PlacementGroupSchedulingStrategy",
]


class PlacementGroupSchedulingStrategy(SchedulingStrategy):
    """Run in a placement group.

    Args:
        placement_group: The group; None for none, also where the submitting task's own would be taken.
        placement_group_bundle_index: Which bundle; -1 for any.
        placement_group_capture_child_tasks: Whether what it submits runs in the group too, unless it says otherwise;
            None: if that holds for the task that submits it.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of a request in the group.

        Raises:
            ValueError: There is no such bundle, or none is as large as the request.
        """
        group, index = self.placement_group, self.placement_group_bundle_index
        if group is None or group.is_empty:
            if index != -1:
                raise ValueError("without a placement group, placement_group_bundle_index is -1")
            return {}
        check_placement_group_index(group, index)
        if not fits_some_bundle(group, index, resources):
            place = f"bundle {index}" if index >= 0 else "any bundle"
            raise ValueError(
                f"{label} takes {describe(resources)}, which does not fit into {place} of its placement group: "
                f"{group.bundle_specs}"
            )
        captures = self.placement_group_capture_child_tasks
        return {
            "group": group.id,
            "bundle": index,
            "capture": scope.captures if captures is None else captures,
        }


class NodeAffinitySchedulingStrategy(SchedulingStrategy):
    """Run on one node.

    Args:
        node_id: The node, as hex; `atoll.nodes()` lists them.
        soft: Whether another node will do when this one is gone or could never give the resources. While it is only
            busy, it is waited for.

    Raises:
        ValueError: It is no node's id.
    """

    def __init__(self, node_id: str | bytes, soft: bool) -> None:
        self.node_id = node_id if isinstance(node_id, str) else node_id.hex()
        self.soft = soft
        try:
            known = bytes.fromhex(self.node_id)
        except ValueError:
            known = b""
        if not any(known):
            raise ValueError(f"node_id={self.node_id!r} is no id of a node: give a hex string, as atoll.nodes() has it")

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of a request for the node."""
        return {"node": self.node_id, "node_soft": bool(self.soft)}


class ActorAffinitySchedulingStrategy(SchedulingStrategy):
    """Run on the node where an actor lives.

    Args:
        actor: A handle, or the name of an actor.
        soft: Whether another node will do when that one has no room; else it is waited for, and for the actor too while
            it is being made. If the actor is known to be dead, the request fails.

    Raises:
        ValueError: It is neither a handle nor a name.
    """

    def __init__(self, actor: ActorHandle | str, *, soft: bool = False) -> None:
        self._terms = [_about_actors("in", [actor])[0]]
        self.soft = soft

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of a request beside the actor."""
        return {"labels_soft" if self.soft else "labels": self._terms}


class AntiAffinitySchedulingStrategy(SchedulingStrategy):
    """Run on a node where none of these is: what it competes with for something that is not counted.

    What comes to the node later does not move it.

    Args:
        actors: Handles or names of actors.
        tasks: Names of tasks: of functions, or as `name=` says. With its own name, tasks keep apart from each other.
        jobs: Notebooks or scripts, by the names of their files.
        soft: Whether a node with some of them will do when there is no other.

    Raises:
        ValueError: Nothing is named, or something that is no name.
    """

    def __init__(
        self,
        *,
        actors: Sequence[ActorHandle | str] = (),
        tasks: Sequence[str] = (),
        jobs: Sequence[str] = (),
        soft: bool = False,
    ) -> None:
        self._terms = _about_actors("not in", actors)
        for key, names in ((TASK_NAME, tasks), (JOB_NAME, jobs)):
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{names!r}: give a list of names")
            if names:
                self._terms.append(LabelTerm(key, "not in", list(names)))
        if not self._terms:
            raise ValueError("say what it is to keep away from: actors, tasks or jobs")
        self.soft = soft

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of a request away from all of them."""
        return {"labels_soft" if self.soft else "labels": self._terms}


class ObjectAffinitySchedulingStrategy(SchedulingStrategy):
    """Run on the node where an object is.

    A value that is small, or not there yet, is nowhere in particular, and then nothing is said about the place.

    Args:
        ref: The object.
        soft: Whether another node will do when that one is gone or could never give the resources. While it is only
            busy, it is waited for.
    """

    def __init__(self, ref: ObjectRef[Any], *, soft: bool = True) -> None:
        self.ref = ref
        self.soft = soft

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of a request for the node that has the object now."""
        node = _node_of(self.ref)
        return {"node": node.hex(), "node_soft": bool(self.soft)} if node else {}


def _node_of(ref: ObjectRef[Any]) -> bytes:
    """Return the node that has an object; empty if none has it yet, or it is small and in this process."""
    session = existing_session()
    entry = session.core.objects.entries.get(ref.binary()) if session is not None else None
    return entry.value.node_id if entry is not None and isinstance(entry.value, ObjectLocation) else b""


def _about_actors(operator: str, actors: Sequence[ActorHandle | str]) -> list[LabelTerm]:
    if isinstance(actors, str):
        raise ValueError(f"{actors!r}: give a list of actors")
    found: dict[str, list[str]] = {}
    for actor in actors:
        if isinstance(actor, str) and actor:
            found.setdefault(ACTOR_NAME, []).append(actor)
        elif isinstance(actor, ActorHandle):
            found.setdefault(ACTOR_ID, []).append(actor._actor_id.hex())
        else:
            raise ValueError(f"{actor!r} is neither a handle nor the name of an actor")
    return [LabelTerm(key, operator, values) for key, values in found.items()]


class _Operator:
    operator = ""

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError(f'{type(self).__name__}() needs values: {type(self).__name__}("a", "b")')
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{type(self).__name__}: labels are strings, and {value!r} is none")
        self.values = list(values)


class In(_Operator):
    """The label is one of these."""

    operator = "in"


class NotIn(_Operator):
    """The label is none of these, or is not there."""

    operator = "not in"


class Exists(_Operator):
    """The label is there."""

    operator = "exists"

    def __init__(self) -> None:
        self.values = []


class DoesNotExist(_Operator):
    """The label is not there."""

    operator = "not exists"

    def __init__(self) -> None:
        self.values = []


class NodeLabelSchedulingStrategy(SchedulingStrategy):
    """Run on a node with labels.

    Args:
        hard: What the labels must be, such as `{"zone": In("a", "b"), "ssd": Exists()}`.
        soft: What they had better be.

    Raises:
        ValueError: Both are empty, or something in them is no condition.
    """

    def __init__(self, hard: Mapping[str, _Operator] | None, *, soft: Mapping[str, _Operator] | None = None) -> None:
        self.hard = _terms("hard", hard)
        self.soft = _terms("soft", soft)
        if not self.hard and not self.soft:
            raise ValueError("hard and soft are both empty: give at least one condition")

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return the fields of a request with conditions on labels."""
        return {"labels": self.hard, "labels_soft": self.soft}


def _terms(name: str, conditions: Mapping[str, _Operator] | None) -> list[LabelTerm]:
    if conditions is None:
        return []
    if not isinstance(conditions, Mapping):
        raise ValueError(f'{name} is a mapping such as {{"zone": In("a")}}, not {type(conditions).__name__}')
    terms = []
    for key, condition in conditions.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: labels have names that are strings, and {key!r} is none")
        if not isinstance(condition, _Operator):
            raise ValueError(
                f"{name}: {key!r}: give In(...), NotIn(...), Exists() or DoesNotExist(), not {condition!r}"
            )
        terms.append(LabelTerm(key, condition.operator, condition.values))
    return terms
