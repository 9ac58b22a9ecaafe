"""Options of tasks and actors: Ray's names, checked when they are given, with a near name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from atoll.protocol.values import SchedulingClass
from atoll.resources import CPU, GPU, MEMORY, Amounts, amounts_of

OutputCallback = Callable[[str, bytes], None]

_NOT_YET = frozenset(
    {
        "accelerator_type",
        "concurrency_groups",
        "label_selector",
        "max_calls",
        "max_pending_calls",
        "runtime_env",
        "scheduling_strategy",
    }
)
"""Options of Ray's that Atoll does not have yet: said so, not ignored."""


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | None = None
    resources: dict[str, float] | None = None
    name: str | None = None

    def updated(self, changes: Mapping[str, Any]) -> Any:
        """Return these options with others in their place.

        Raises:
            ValueError: There is no such option, or its value makes no sense; names the near one.
        """
        known = self.__struct_fields__
        for key in changes:
            if key not in known:
                raise ValueError(_unknown(key, known))
        changed = msgspec.structs.replace(self, **changes)
        changed.check()
        return changed

    def portable(self) -> dict[str, Any]:
        """Return the options as a dict that can travel: without callbacks, which belong to this process."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if not name.startswith("_")}

    def check(self) -> None:
        """Raise ValueError for a value that makes no sense."""
        self.amounts(0)
        if self.name is not None and not _is_name(self.name):
            raise ValueError(f"name={self.name!r} is no name: give a non-empty string")

    def amounts(self, default_cpus: float) -> Amounts:
        """Return what a lease takes, in units."""
        wanted = dict(self.resources or {})
        for taken, option in ((CPU, "num_cpus"), (GPU, "num_gpus"), (MEMORY, "memory")):
            if taken in wanted:
                raise ValueError(f"resources={{{taken!r}: ...}}: say {option}= instead")
        wanted[CPU] = default_cpus if self.num_cpus is None else self.num_cpus
        wanted[GPU] = self.num_gpus or 0
        wanted[MEMORY] = self.memory or 0
        return amounts_of(wanted)

    def scheduling_class(self, environment: str, label: str, default_cpus: float) -> SchedulingClass:
        """Return the shape of a request with these options."""
        return SchedulingClass(resources=self.amounts(default_cpus), environment=environment, label=label)


class TaskOptions(_Common, frozen=True, kw_only=True):
    """What can be said of a task.

    Attributes:
        num_cpus: CPUs that it takes; 1 if not said.
        num_gpus: GPUs: whole, several, or a share of one.
        memory: Bytes of memory.
        resources: Custom resources.
        name: What people see; the function's name if not said.
        num_returns: How many values it returns.
        max_retries: Attempts after one whose worker died; -1 for without end.
        retry_exceptions: Whether an exception of the function's own is retried too.
        _on_output: Takes what the task emits while it runs: a kind and bytes, in order.
    """

    num_returns: int = 1
    max_retries: int = 3
    retry_exceptions: bool = False
    _on_output: OutputCallback | None = None

    def check(self) -> None:
        """Raise ValueError for a value that makes no sense."""
        super().check()
        if not _is_count(self.num_returns, 0):
            raise ValueError(f"num_returns={self.num_returns!r}: give a whole number from 0")
        if not _is_count(self.max_retries, -1):
            raise ValueError(f"max_retries={self.max_retries!r}: give -1 (without end) or a whole number from 0")


class ActorOptions(_Common, frozen=True, kw_only=True):
    """What can be said of an actor.

    Attributes:
        num_cpus: CPUs that it takes while it lives; 0 if not said, as in Ray.
        num_gpus: GPUs, likewise.
        memory: Bytes of memory.
        resources: Custom resources.
        name: By which others find it; such an actor outlives its job.
        namespace: Where the name lives; the session's if not said.
        lifetime: `"detached"` outlives its job without a name, too.
        get_if_exists: Return the actor that has the name instead of failing.
        max_restarts: How often it is made again when its process dies; -1 for without end.
        max_task_retries: How often a call is made again when the process died during it.
        max_concurrency: Calls that may run at once, each in a thread of its own.
    """

    namespace: str | None = None
    lifetime: str | None = None
    get_if_exists: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 1

    def check(self) -> None:
        """Raise ValueError for a value that makes no sense."""
        super().check()
        if self.lifetime not in (None, "detached", "non_detached"):
            raise ValueError(f'lifetime={self.lifetime!r}: give "detached", or leave it out')
        if self.get_if_exists and self.name is None:
            raise ValueError("get_if_exists needs a name= to look for")
        if not _is_count(self.max_concurrency, 1):
            raise ValueError(f"max_concurrency={self.max_concurrency!r}: give a whole number from 1")
        for option in ("max_restarts", "max_task_retries"):
            if not _is_count(getattr(self, option), -1):
                raise ValueError(f"{option}={getattr(self, option)!r}: give -1 (without end) or a whole number from 0")


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of one call of an actor's method.

    Attributes:
        num_returns: How many values it returns.
        name: What people see.
        _on_output: As in `TaskOptions`.
    """

    num_returns: int = 1
    name: str | None = None
    _on_output: OutputCallback | None = None

    def updated(self, changes: Mapping[str, Any]) -> CallOptions:
        """Return these options with others in their place.

        Raises:
            ValueError: There is no such option.
        """
        for key in changes:
            if key not in self.__struct_fields__:
                raise ValueError(_unknown(key, self.__struct_fields__))
        return msgspec.structs.replace(self, **changes)


def _is_count(value: object, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _unknown(key: str, known: tuple[str, ...]) -> str:
    if key in _NOT_YET:
        return f"the option {key!r} of Ray is not in this version of Atoll"
    shown = [name for name in known if not name.startswith("_")]
    near = difflib.get_close_matches(key, shown, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(shown)}."
    return f"unknown option {key!r}. {hint}"
