"""Which options there are, of what type, what makes sense, and what each is for: one declaration for each.

Whatever tells or takes an option is made from here: the checks and messages of decorators, and the magics' lines, whose
shorter word for an option stands beside it (`gpu=1` is `num_gpus=1`).

The names, types, defaults and refusals are those of Ray's core API. A wrong type is a `TypeError`, a value that makes
no sense is a `ValueError`, as there. None always means: as if it had not been said.

`NOT_YET` lists what Ray has and Atoll has not: such an option is checked like any other and then refused by name, so
that nobody relies on what is not there. Whoever builds one takes it out of there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from atoll.resources import AUTO, parse_bytes

MAXIMUM_ALTERNATIVES = 16

Problem = Callable[[Any], str | None]
"""Returns what is wrong with a value, or None."""


def _nothing(_value: Any) -> str | None:
    return None


def check_text(name: str, value: str) -> None:
    """Raise ValueError for a text that is no Unicode, such as half of a surrogate pair: it cannot be sent."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}={value!r}: {error.reason} at position {error.start}") from None


class Option(NamedTuple):
    """What an option may be.

    Attributes:
        types: A value's type is one of these. `bool` is no `int` here.
        problem: Says what is wrong with a value of such a type.
        help: What it is for, in a line.
        example: A value that is right, as it is written in Python.
        word: What it is called in the line of a magic; empty if it cannot be said there.
    """

    types: tuple[type, ...]
    problem: Problem = _nothing
    help: str = ""
    example: str = ""
    word: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raise TypeError or ValueError for a value that makes no sense; names the option."""
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            wanted = " or ".join(kind.__name__ for kind in self.types)
            raise TypeError(f"{name}={value!r}: give {wanted}, not {type(value).__name__}")
        if isinstance(value, str) and not value.isascii():
            check_text(name, value)
        problem = self.problem(value)
        if problem is not None:
            raise ValueError(f"{name}={value!r}: {problem}")


# --------------------------------------------------------------------------------------------------- kinds of values


def _amount(value: float) -> str | None:
    if not 0 <= value < float("inf"):
        return "an amount cannot be negative or without end"
    if 0 < value < 0.0001:
        return "an amount cannot be finer than 0.0001"
    return None


def _devices(value: float) -> str | None:
    if value > 1 and value != int(value):
        return "give whole GPUs, or a share below 1 of a single one"
    return _amount(value)


def _amounts(value: Mapping[Any, Any]) -> str | None:
    own = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    for name, amount in value.items():
        if name in own:
            return f"use the {own[name]} option for {name}"
        if not isinstance(name, str) or isinstance(amount, bool) or not isinstance(amount, int | float):
            return "give amounts by name, such as {'licence': 1}"
        problem = _amount(amount)
        if problem is not None:
            return f"{name}: {problem}"
    return None


def _name(value: str) -> str | None:
    return None if value else "it is no name: give a non-empty string"


def _from(minimum: int) -> Problem:
    endless = " (without end)" if minimum == -1 else ""

    def problem(value: int) -> str | None:
        if value >= minimum:
            return None
        return f"give -1{endless} or a whole number from 0" if minimum == -1 else f"give a whole number from {minimum}"

    return problem


def _returns(value: int | str) -> str | None:
    if value in ("streaming", "dynamic") or (isinstance(value, int) and value >= 0):
        return None
    return 'give a whole number from 0, or "streaming" or "dynamic" for a generator'


def _exceptions(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if all(isinstance(kind, type) and issubclass(kind, Exception) for kind in value):
        return None
    return "give True, False, or a list of exception classes"


def _selector(value: Mapping[Any, Any]) -> str | None:
    from atoll.placement import problem_of_selector

    return problem_of_selector(value)


def _strategy(value: Any) -> str | None:
    from atoll.placement import problem_of_strategy

    return problem_of_strategy(value)


def _group(value: Any) -> str | None:
    if value == "default" or isinstance(getattr(value, "id", None), bytes):
        return None
    return "give a PlacementGroup, or leave it out"


def _one_of(*choices: str) -> Problem:
    return lambda value: None if value in choices else f"give one of {', '.join(map(repr, choices))}"


def _backpressure(value: int) -> str | None:
    return None if value > 0 or value == -1 else "give how many values may wait unread, or -1 for no limit"


def _size(value: float | str) -> str | None:
    if value == AUTO:
        return None
    if isinstance(value, str):
        try:
            value = parse_bytes(value)
        except ValueError as error:
            return str(error)
    return _amount(value)


def _types(value: str | list[str] | tuple[str, ...]) -> str | None:
    if isinstance(value, str) or (value and all(isinstance(kind, str) for kind in value)):
        return None
    return "give a model such as 'A100', or a list of those that will do"


CHOICE = ("num_cpus", "num_gpus", "gpu_memory", "memory", "resources", "accelerator_type", "label_selector")
"""What an alternative may say; the rest is as in the request itself."""


def _alternatives(value: Any) -> str | None:
    if not value or len(value) > MAXIMUM_ALTERNATIVES or not all(isinstance(each, dict) and each for each in value):
        return f"give a list of 1 to {MAXIMUM_ALTERNATIVES} dicts such as {{'num_cpus': 8}}"
    for each in value:
        for name, given in each.items():
            if name not in CHOICE:
                return f"an alternative has no option {name!r}; there are: {', '.join(CHOICE)}"
            if given == AUTO:
                return f"{name}={AUTO!r} is for the request itself, not for an alternative"
            try:
                COMMON[name].check(name, given)
            except (TypeError, ValueError) as error:
                return str(error)
    return None


def _fallbacks(value: list[Any]) -> str | None:
    for each in value:
        wanted = each.get("label_selector") if isinstance(each, dict) and len(each) == 1 else None
        if not isinstance(wanted, dict):
            return "give a list of dicts such as {'label_selector': {'zone': 'b'}}"
        problem = _selector(wanted)
        if problem is not None:
            return problem
    return None


_ENDLESS = Option((int,), _from(-1))
_COUNT = Option((int,), _from(0))
_RETURNS = Option((int, str), _returns)
_EXCEPTIONS = Option((bool, list, tuple), _exceptions)
_FLAG = Option((bool,))
_TEXT = Option((str,))
_MAPPING = Option((dict,))
_BACKPRESSURE = Option((int,), _backpressure)
_CALLBACK = Option((object,))


# --------------------------------------------------------------------------------------------------------- the options

COMMON: dict[str, Option] = {
    "num_cpus": Option((int, float), _amount, "CPUs that it holds; 1 if not said", "2", "cpu"),
    "num_gpus": Option((int, float), _devices, "GPUs that it holds: 1, 2, or a share such as 0.5", "1", "gpu"),
    "memory": Option(
        (int, float, str),
        _size,
        "memory that is set aside for it, and the most that it may take; auto: as much as this code has taken before",
        '"4G"',
        "mem",
    ),
    "resources": Option(
        (dict,), _amounts, "amounts of the nodes' own resources, such as licences", '{"licence": 1}', "resources"
    ),
    "accelerator_type": Option(
        (str, list, tuple),
        _types,
        "the model of its GPUs, or those that will do; any part of the name",
        '"A100"',
        "gpu",
    ),
    "gpu_memory": Option(
        (int, float, str),
        _size,
        "memory of one GPU: a share as large as that needs; with gpu=, the least that each must have; auto: as for mem",
        '"20G"',
        "gpu_mem",
    ),
    "alternatives": Option(
        (list, tuple), _alternatives, "what will do as well when this is not free", '[{"num_cpus": 8}]', "or"
    ),
    "priority": Option((int,), _nothing, "higher goes first; 0 is usual", "10", "priority"),
    "deadline_s": Option(
        (int, float),
        _amount,
        "so long after it is sent it had better begin: goes first within the notebook",
        "600",
        "deadline",
    ),
    "earliest_s": Option(
        (int, float),
        _amount,
        "it need not begin before so long: no place is looked for earlier",
        "60",
        "earliest",
    ),
    "label_selector": Option(
        (dict,), _selector, "what the labels of its node must be", '{"zone": "in(a, b)"}', "labels"
    ),
    "fallback_strategy": Option((list,), _fallbacks),
    "scheduling_strategy": Option(
        (object,), _strategy, "spread, or a strategy of atoll.util.scheduling_strategies", '"SPREAD"', "strategy"
    ),
    "placement_group": Option((object,), _group),
    "placement_group_bundle_index": Option((int,), _from(-1)),
    "placement_group_capture_child_tasks": _FLAG,
    "runtime_env": Option(
        (dict, str),
        _nothing,
        "what its process has beyond the kernel's environment: variables, packages, files",
        '{"env_vars": {"OMP_NUM_THREADS": "1"}}',
        "env",
    ),
    "name": Option((str,), _name),
    "enable_task_events": _FLAG,
    "_labels": _MAPPING,
    "_metadata": _MAPPING,
}

TASK: dict[str, Option] = {
    **COMMON,
    "num_returns": _RETURNS,
    "max_retries": Option(
        (int,), _from(-1), "how often it is run again when its worker dies; -1 for without end", "2", "retries"
    ),
    "retry_exceptions": _EXCEPTIONS,
    "max_calls": _COUNT,
    "preemptible": Option(
        (bool,),
        _nothing,
        "take what nobody else wants; be ended, and run anew, when somebody does",
        "True",
        "preemptible",
    ),
    "_generator_backpressure_num_objects": _BACKPRESSURE,
    "_on_output": _CALLBACK,
    "_code": Option((bytes,)),
}

ACTOR: dict[str, Option] = {
    **COMMON,
    "namespace": Option((str,), _name),
    "lifetime": Option((str,), _one_of("detached", "non_detached")),
    "get_if_exists": _FLAG,
    "max_restarts": _ENDLESS,
    "max_task_retries": _ENDLESS,
    "max_concurrency": Option((int,), _from(1)),
    "max_pending_calls": _ENDLESS,
    "concurrency_groups": Option((dict, list)),
    "allow_out_of_order_execution": _FLAG,
    "release_gpu_when_idle_s": Option(
        (int, float), _amount, "give its GPUs up when it has not been called for so long, until it is", "600", "idle"
    ),
}

CALL: dict[str, Option] = {
    "num_returns": _RETURNS,
    "name": Option((str,), _name),
    "concurrency_group": Option((str,), _name),
    "max_task_retries": _ENDLESS,
    "retry_exceptions": _EXCEPTIONS,
    "enable_task_events": _FLAG,
    "_generator_backpressure_num_objects": _BACKPRESSURE,
    "_on_output": _CALLBACK,
}

NOT_YET: dict[str, frozenset[str]] = {
    "a task": frozenset({"_labels"}),
    "an actor": frozenset({"_labels"}),
    "a call": frozenset(),
}
"""What Ray has and this version of Atoll has not, by what it is an option of."""


def checked(what: str, schema: Mapping[str, Option], changes: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """Check options and return them, with the default in the place of each None.

    Args:
        what: What they are options of, for people; a key of `NOT_YET`.
        schema: The options that there are.
        changes: What was given.
        defaults: Has an attribute for each option.

    Raises:
        TypeError: A value is of another type.
        ValueError: There is no such option, or its value makes no sense; names the near one.
    """
    values = {}
    for name, given in changes.items():
        option = schema.get(name)
        if option is None:
            raise ValueError(_unknown(name, what, schema))
        default = getattr(defaults, name)
        value = default if given is None else given
        if value is not None:
            option.check(name, value)
            if name in NOT_YET[what] and value != default:
                raise ValueError(f"the option {name!r} of Ray is not in this version of Atoll for {what}")
        values[name] = value
    return values


def _unknown(name: str, what: str, schema: Mapping[str, Option]) -> str:
    """Return what is told of an option that there is not, with the near one; also where a magic's word was meant."""
    shown = {other: other for other in schema if not other.startswith("_")}
    words: dict[str, str] = {}
    for other, option in schema.items():
        if option.word:
            words.setdefault(option.word, other)
    near = difflib.get_close_matches(name, {**words, **shown}, n=1)
    if not near:
        return f"unknown option {name!r} of {what}. There are: {', '.join(shown)}."
    meant = {**words, **shown}[near[0]]
    example = schema[meant].example
    shown_as = f"{meant}={example}" if example else repr(meant)
    return f"unknown option {name!r} of {what}. Did you mean {shown_as}?"
