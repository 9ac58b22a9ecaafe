"""Whether the labels of a node meet conditions, and what is wrong with conditions that come from a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.protocol.values import LabelTerm

OPERATORS = ("in", "not in", "exists", "not exists")
RAYS_PREFIX, OUR_PREFIX = "ray.io/", "atoll.io/"


def matches(labels: Mapping[str, str], terms: Sequence[LabelTerm]) -> bool:
    """Return whether all conditions are met. A node without a label is `not in` whatever is said of it."""
    return all(_matches(labels, term) for term in terms)


def _matches(labels: Mapping[str, str], term: LabelTerm) -> bool:
    value = labels.get(_our(term.key))
    match term.operator:
        case "in":
            return value is not None and value in term.values
        case "not in":
            return value is None or value not in term.values
        case "exists":
            return value is not None
        case _:
            return value is None


def _our(key: str) -> str:
    """Return the name that a label of every node has here: Ray's own names are understood."""
    return OUR_PREFIX + key.removeprefix(RAYS_PREFIX) if key.startswith(RAYS_PREFIX) else key


def describe_terms(terms: Sequence[LabelTerm]) -> str:
    """Return conditions as a person reads them: `zone in (a, b) and ssd exists`."""
    return " and ".join(
        f"{term.key} {term.operator}" + (f" ({', '.join(term.values)})" if term.values else "") for term in terms
    )


def what_is_wrong(terms: Sequence[LabelTerm]) -> str | None:
    """Return why these are no conditions, or None."""
    for term in terms:
        if term.operator not in OPERATORS or not term.key:
            return f"{term.key!r} {term.operator!r} is no condition on a label"
    return None
