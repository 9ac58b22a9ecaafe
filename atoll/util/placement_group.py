"""Placement groups: resources that are reserved together, or not at all. Names, arguments and meanings are Ray's.

    group = placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}], strategy="STRICT_PACK")
    atoll.get(group.ready())
    train.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0)).remote()
    remove_placement_group(group)

This module can be called like the function: `atoll.util.placement_group([...])`.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atoll import exceptions
from atoll.client.connection import failure
from atoll.client.current import current_session, existing_session
from atoll.placement import selector_terms
from atoll.protocol.messages import CreateGroup, Done, Failed, FindGroup, GroupChanged, Message, RemoveGroup, WaitGroup
from atoll.protocol.values import GroupSpec
from atoll.resources import Amounts, amounts_of, from_units

if TYPE_CHECKING:
    from atoll.object_ref import ObjectRef
    from atoll.protocol.state import GroupState

__all__ = [
    "PlacementGroup",
    "check_placement_group_index",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
_ID_BYTES = 16
_ATTEMPTS = 3
_WAIT_S = 3600.0


class PlacementGroup:
    """A handle of a placement group. It can be passed to tasks and actors.

    Args:
        id: Of the group; empty for none.
        bundle_cache: What its bundles take, if that is known.
    """

    def __init__(self, id: bytes, bundle_cache: list[dict[str, float]] | None = None) -> None:  # noqa: A002 - Ray's name
        self.id = id
        self.bundle_cache = bundle_cache

    @staticmethod
    def empty() -> PlacementGroup:
        """Return a handle of no group."""
        return PlacementGroup(b"")

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return not self.id

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """What each bundle takes.

        Raises:
            ValueError: The cluster does not know the group.
        """
        if self.bundle_cache is None:
            self.bundle_cache = [] if self.is_empty else [_people(a) for a in _find(self.id).spec.bundles]
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """Return a ref to the group that has a value when all of its bundles are reserved.

        Waiting for it raises `TaskPlacementGroupRemoved` if the group is removed before.
        """
        import atoll
        from atoll.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self.is_empty:
            return atoll.put(self)
        strategy = PlacementGroupSchedulingStrategy(self)
        check = atoll.remote(_itself).options(num_cpus=0, scheduling_strategy=strategy, name="placement_group.ready")
        ref: ObjectRef[PlacementGroup] = check.remote(self)
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Wait until all bundles are reserved.

        Args:
            timeout_seconds: For how long at most.

        Returns:
            Whether they are.
        """
        session = current_session()
        with session.hooks.blocking():
            try:
                answer = _ask(lambda number: WaitGroup(number, self.id), timeout_s=max(0.0, timeout_seconds))
            except TimeoutError:
                return False
        return isinstance(answer, GroupChanged) and answer.state == "CREATED"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self.bundle_cache)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex() or 'none'})"


def placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    *,
    bundle_label_selector: Sequence[Mapping[str, str]] | None = None,
) -> PlacementGroup:
    """Ask for a placement group and return at once; it is created when there is room for all bundles.

    Args:
        bundles: What each takes: `{"CPU": 1, "GPU": 0.5, "memory": 2**30, "custom": 1}`.
        strategy: `PACK` (as few nodes as can be; what is meant if nothing is said), `SPREAD` (as many), `STRICT_PACK`
            (one), `STRICT_SPREAD` (one for each bundle).
        name: By which `get_placement_group` finds it; a group with a name outlives its job.
        lifetime: `"detached"` outlives its job without a name, too.
        bundle_label_selector: The labels that the node of each bundle must have, as in the option `label_selector`.

    Raises:
        TypeError: The name is no text.
        ValueError: There is no such strategy, a bundle is empty or makes no sense, or the name is taken.
    """
    if not isinstance(name or "", str):
        raise TypeError(f"name={name!r}: give str, not {type(name).__name__}")
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: give one of {', '.join(STRATEGIES)}")
    if lifetime not in (None, "detached"):
        raise ValueError(f'lifetime={lifetime!r}: give "detached", or leave it out')
    amounts = _amounts_of(bundles)
    if bundle_label_selector is not None and len(bundle_label_selector) != len(amounts):
        raise ValueError(f"bundle_label_selector has {len(bundle_label_selector)} entries for {len(amounts)} bundles")
    session = current_session()
    spec = GroupSpec(
        os.urandom(_ID_BYTES),
        name or "",
        session.namespace,
        strategy or "PACK",
        amounts,
        [selector_terms(selector) for selector in bundle_label_selector or ()],
        lifetime == "detached",
    )
    _raise_failure(_ask(lambda number: CreateGroup(number, spec)))
    return PlacementGroup(spec.group_id, [_people(each) for each in amounts])


def _amounts_of(bundles: Any) -> list[Amounts]:
    if not isinstance(bundles, list | tuple) or not bundles:
        raise ValueError(f"bundles is a list of at least one dict such as {{'CPU': 1}}, not {bundles!r}")
    amounts = []
    for bundle in bundles:
        if not isinstance(bundle, Mapping):
            raise ValueError(f"a bundle is a dict such as {{'CPU': 1}}, not {bundle!r}")
        for resource, amount in bundle.items():
            if not isinstance(resource, str) or isinstance(amount, bool) or not isinstance(amount, int | float):
                raise ValueError(f"a bundle is a dict such as {{'CPU': 1}}, not {bundle!r}")
        wanted = amounts_of(bundle)
        if not wanted:
            raise ValueError(f"a bundle takes something: {bundle!r} is empty or has zeros only")
        amounts.append(wanted)
    return amounts


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give a placement group up. What runs in it ends; what waits for it fails with `TaskPlacementGroupRemoved`."""
    if not isinstance(placement_group, PlacementGroup):
        raise TypeError(f"remove_placement_group takes a PlacementGroup, not {type(placement_group).__name__}")
    _raise_failure(_ask(lambda number: RemoveGroup(number, placement_group.id)))


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """Return the placement group of a name, in the session's namespace.

    Raises:
        ValueError: There is none.
    """
    if not placement_group_name:
        raise ValueError("get_placement_group needs a name")
    found = _find(b"", placement_group_name)
    return PlacementGroup(found.spec.group_id, [_people(each) for each in found.spec.bundles])


def get_current_placement_group() -> PlacementGroup | None:
    """Return the placement group in which the task or actor runs that asks; None if it runs in none."""
    session = existing_session()
    group = session.scope.group if session is not None else b""
    return PlacementGroup(group) if group else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """Return what a placement group is and where; of all groups, by their ids as hex, if none is given.

    Removed groups are remembered for a while. A group that is not known is an empty dict.
    """
    groups = {group.group_id: _table_row(group) for group in current_session().state().groups}
    return groups if placement_group is None else groups.get(placement_group.id.hex(), {})


def _table_row(group: GroupState) -> dict[str, Any]:
    return {
        "placement_group_id": group.group_id,
        "name": group.name,
        "bundles": dict(enumerate(group.bundles)),
        "bundles_to_node_id": dict(enumerate(group.nodes)),
        "strategy": group.strategy,
        "state": group.state,
        "stats": {"scheduling_state": group.reason or group.state},
    }


def check_placement_group_index(placement_group: PlacementGroup, bundle_index: int) -> None:
    """Raise ValueError unless the group has a bundle of this number; -1 stands for any."""
    if placement_group.is_empty:
        if bundle_index != -1:
            raise ValueError("without a placement group, placement_group_bundle_index is -1")
    elif not -1 <= bundle_index < placement_group.bundle_count:
        last = placement_group.bundle_count - 1
        raise ValueError(f"placement_group_bundle_index={bundle_index}: the group has bundles 0 to {last}, -1 is any")


def fits_some_bundle(group: PlacementGroup, index: int, resources: Mapping[str, int]) -> bool:
    """Whether a request, in units, fits into a bundle, of this number or any (-1)."""
    bundles = group.bundle_specs if index < 0 else group.bundle_specs[index : index + 1]
    return any(
        all(amounts.get(name, 0) >= units for name, units in resources.items()) for amounts in map(amounts_of, bundles)
    )


def _itself(group: PlacementGroup) -> PlacementGroup:
    return group


def _people(amounts: Amounts) -> dict[str, float]:
    return {name: float(from_units(units)) for name, units in amounts.items()}


def _find(group_id: bytes, name: str = "") -> GroupChanged:
    namespace = current_session().namespace
    answer = _ask(lambda number: FindGroup(number, group_id, name, namespace))
    _raise_failure(answer)
    assert isinstance(answer, GroupChanged)
    return answer


def _ask(make: Any, timeout_s: float | None = 30.0) -> Message:
    """Ask the scheduler; again if it was restarted meanwhile, since all that is asked here can be asked twice."""
    session = current_session()
    for attempt in range(_ATTEMPTS):
        answer = session.ask_scheduler(make(session.next_request()), timeout_s)
        if not (isinstance(answer, Failed) and answer.kind == "ClusterLostError" and attempt < _ATTEMPTS - 1):
            break
    return answer


def _raise_failure(answer: Message) -> None:
    if isinstance(answer, Failed):
        if not hasattr(exceptions, answer.kind):
            raise ValueError(answer.text)
        error = failure(answer)
        raise error if error is not None else ValueError(answer.text)
    assert isinstance(answer, Done | GroupChanged)


class _CallableModule(types.ModuleType):
    """So that `atoll.util.placement_group` is the function and the module, as `ray.util.placement_group` is."""

    def __call__(self, *args: Any, **options: Any) -> PlacementGroup:
        return placement_group(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
