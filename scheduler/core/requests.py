"""Whether what a client asks for is a request at all: what comes from outside is not believed."""

from __future__ import annotations

from atoll.protocol.values import SchedulingClass
from atoll.resources import GPU, GPU_MEMORY, UNITS_PER_ONE, Amounts
from atoll.scheduler.core.placement import POLICIES
from atoll.scheduler.policy import company, labels
from atoll.scheduler.policy.locality import MAXIMUM_NODES

MAXIMUM_CHOICES = 16
MAXIMUM_PRIORITY = 1_000_000


def what_is_wrong(scheduling_class: SchedulingClass) -> str | None:
    """Return why a class is no request at all, or None."""
    for resources in (scheduling_class.resources, *(choice.resources for choice in scheduling_class.choices)):
        wrong = _what_is_wrong_with_amounts(resources)
        if wrong is not None:
            return wrong
    if scheduling_class.strategy not in POLICIES:
        return f"{scheduling_class.strategy!r} is no scheduling strategy; there are SPREAD and PACK"
    if len(scheduling_class.choices) > MAXIMUM_CHOICES or abs(scheduling_class.priority) > MAXIMUM_PRIORITY:
        return (
            f"there are at most {MAXIMUM_CHOICES} choices, and priorities from -{MAXIMUM_PRIORITY} to the same above 0"
        )
    if not 0 <= scheduling_class.deadline_s < float("inf"):
        return f"a deadline in {scheduling_class.deadline_s} s is none"
    if not 0 <= scheduling_class.earliest_s < float("inf"):
        return f"a beginning in {scheduling_class.earliest_s} s is none"
    near = scheduling_class.near
    if len(near) > MAXIMUM_NODES or any(not 0 <= size < 1 << 60 for _node_id, size in near):
        return f"at most {MAXIMUM_NODES} nodes are named that have what is taken"
    terms = [term for choice in scheduling_class.choices for term in choice.labels]
    terms += [*scheduling_class.labels, *scheduling_class.labels_soft]
    if any(not _is_hex(value) for value in company.needed_actors(terms)):
        return "the id of an actor is written as hex"
    return labels.what_is_wrong(terms)


def _is_hex(text: str) -> bool:
    try:
        return bool(bytes.fromhex(text))
    except ValueError:
        return False


def _what_is_wrong_with_amounts(resources: Amounts) -> str | None:
    for name, units in resources.items():
        if not name or not 0 < units < 1 << 60:
            return f"{units} units of {name!r} are no amount"
        if name == GPU and units > UNITS_PER_ONE and units % UNITS_PER_ONE:
            return f"{units / UNITS_PER_ONE:g} GPU: above one, GPUs are whole"
    if 0 < resources.get(GPU, 0) < UNITS_PER_ONE and GPU_MEMORY in resources:
        return "a share of a GPU is asked for by its size or by its memory, not by both"
    return None
