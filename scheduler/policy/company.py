"""Who a request is to run beside, or away from: conditions on what runs on a node, as on its labels.

    atoll.io/actor-id in (5b1c...)        where this actor lives
    atoll.io/actor not in (llm)           on no node where an actor of this name lives
    atoll.io/task not in (train)          on no node where a task of this name runs
    atoll.io/job not in (sweep.ipynb)     on no node where anything of this notebook runs

They are written as conditions on labels, and hold for what is there when a place is chosen: what comes later does not
move what runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from atoll.protocol.values import ACTOR_ID, ACTOR_NAME, JOB_NAME, TASK_NAME, LabelTerm

KEYS = frozenset({ACTOR_ID, ACTOR_NAME, JOB_NAME, TASK_NAME})

Company = Mapping[str, Collection[str]]


def split(terms: Sequence[LabelTerm]) -> tuple[tuple[LabelTerm, ...], tuple[LabelTerm, ...]]:
    """Return the conditions on labels, and those on company."""
    return (
        tuple(term for term in terms if term.key not in KEYS),
        tuple(term for term in terms if term.key in KEYS),
    )


def suits(company: Company, terms: Sequence[LabelTerm]) -> bool:
    """Return whether all conditions on company are met."""
    return all(_suits(company.get(term.key, ()), term) for term in terms)


def _suits(present: Collection[str], term: LabelTerm) -> bool:
    match term.operator:
        case "in":
            return any(value in present for value in term.values)
        case "not in":
            return not any(value in present for value in term.values)
        case "exists":
            return bool(present)
        case _:
            return not present


def needed_actors(terms: Sequence[LabelTerm]) -> list[str]:
    """Return the ids of actors, as hex, one of which has to be there."""
    return [value for term in terms if term.key == ACTOR_ID and term.operator == "in" for value in term.values]
