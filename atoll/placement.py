"""Where a task or an actor may run: from options as people write them to the fields of a request.

    scheduling_strategy="SPREAD"          even use of all nodes
    scheduling_strategy="DEFAULT"         the usual policy, also within a placement group that captures
    scheduling_strategy=<a strategy>      of `atoll.util.scheduling_strategies`
    label_selector={"zone": "in(a, b)"}   labels that the node must have; `!` says: must not
    accelerator_type="A100"               a model of GPU

What a task submits follows the task into its placement group if that captures what its tasks submit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from atoll.protocol.values import LabelTerm, SchedulingClass

_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_SELECTOR = re.compile(rf"(!?)(?:in\(({_VALUE}(?:, ?{_VALUE})*)\)|({_VALUE})|)")
_KEY = re.compile(rf"(?:{_VALUE}(?:\.{_VALUE})*/)?{_VALUE}")


class Scope:
    """What a process's submissions take from when they do not say: the placement group of what runs here.

    Args:
        group: The placement group from which what runs here takes; empty for none.
        captures: Whether what is submitted from here takes from it too.
    """

    __slots__ = ("captures", "group")

    def __init__(self, group: bytes = b"", captures: bool = False) -> None:
        self.group = group
        self.captures = captures


class SchedulingStrategy:
    """Base of the strategies of `atoll.util.scheduling_strategies`."""

    def fields(self, resources: Mapping[str, int], label: str, scope: Scope) -> dict[str, Any]:
        """Return fields of a `SchedulingClass`.

        Args:
            resources: What the request takes, in units.
            label: What it is for.
            scope: Of the process that asks.

        Raises:
            ValueError: The request can never be met.
        """
        raise NotImplementedError


def placed(
    shape: SchedulingClass,
    scope: Scope,
    strategy: SchedulingStrategy | str | None,
    label_selector: Mapping[str, str] | None,
    accelerator_type: str | Sequence[str] | None,
) -> SchedulingClass:
    """Return a request with what was said about its place.

    Raises:
        ValueError: What was said can never be met, such as a bundle that is too small.
    """
    fields: dict[str, Any] = {}
    if isinstance(strategy, SchedulingStrategy):
        fields = strategy.fields(shape.resources, shape.label, scope)
    elif strategy == "SPREAD":
        fields = {"strategy": "SPREAD"}
    elif strategy is None and scope.captures:
        fields = {"group": scope.group, "capture": True}
    if label_selector:
        fields["labels"] = [*fields.get("labels", ()), *selector_terms(label_selector)]
    if accelerator_type:
        fields["device_types"] = types_of(accelerator_type)
    return msgspec.structs.replace(shape, **fields) if fields else shape


def types_of(accelerator_type: str | Sequence[str] | None) -> list[str]:
    """Return the models that an `accelerator_type` names."""
    return [accelerator_type] if isinstance(accelerator_type, str) else list(accelerator_type or ())


def selector_terms(selector: Mapping[str, str]) -> list[LabelTerm]:
    """Return the conditions that a label selector stands for: `v`, `!v`, `in(a, b)` or `!in(a, b)` for each label.

    Raises:
        ValueError: It is no selector; says which part.
    """
    terms = []
    for key, value in selector.items():
        problem = problem_of_selector({key: value})
        if problem:
            raise ValueError(f"label_selector: {problem}")
        found = _SELECTOR.fullmatch(value)
        assert found is not None, "a selector without a problem can be read"
        negated, several, one = found.groups()
        values = re.split(r", ?", several) if several else [one or ""]
        terms.append(LabelTerm(key, "not in" if negated else "in", values))
    return terms


def problem_of_selector(selector: Mapping[Any, Any]) -> str | None:
    """Return what is wrong with a label selector, or None."""
    for key, value in selector.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            return (
                f"{key!r} is no name of a label: letters, digits, '-', '_' and '.', after a prefix with '/' if need be"
            )
        if not isinstance(value, str) or not _SELECTOR.fullmatch(value):
            return f"{key!r}: {value!r} is no condition; write 'a', '!a', 'in(a, b)' or '!in(a, b)'"
    return None


def problem_of_strategy(strategy: Any) -> str | None:
    """Return what is wrong with a `scheduling_strategy`, or None."""
    if strategy in ("DEFAULT", "SPREAD") or isinstance(strategy, SchedulingStrategy):
        return None
    return 'give "DEFAULT", "SPREAD", or a strategy of atoll.util.scheduling_strategies'
