"""Options of tasks and actors: Ray's names, checked when they are given, with a near name for a wrong one.

`option_schema` says which there are and what makes sense; here they are kept, and turned into requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from atoll.option_schema import ACTOR, CALL, TASK, Option, checked
from atoll.placement import SchedulingStrategy, Scope, placed, selector_terms, types_of
from atoll.protocol.values import Choice, SchedulingClass
from atoll.resources import AUTO, CPU, GPU, GPU_MEMORY, MEMORY, UNITS_PER_ONE, Amounts, amounts_of, parse_bytes

if TYPE_CHECKING:
    from atoll.client.session import Session

OutputCallback = Callable[[str, bytes], None]

STREAMING = "streaming"


class _Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Options that can be replaced by others, each checked.

    Attributes:
        WHAT: What they are options of, for people.
        SCHEMA: What they may be.
        ONLY_FIRST: Those that belong to the definition and cannot be changed by `.options()`.
    """

    WHAT: ClassVar[str]
    SCHEMA: ClassVar[dict[str, Option]]
    ONLY_FIRST: ClassVar[tuple[str, ...]] = ()

    def updated(self, changes: Mapping[str, Any], *, later: bool = False) -> Any:
        """Return these options with others in their place.

        Args:
            changes: What was given. None stands for the default.
            later: Whether the definition is there already: this is `.options()`.

        Raises:
            TypeError: A value is of another type.
            ValueError: There is no such option, or its value makes no sense; names the near one.
        """
        for name in self.ONLY_FIRST if later else ():
            if name in changes:
                raise ValueError(f"{name} belongs to the definition of {self.WHAT}: say it there, not in .options()")
        changed = msgspec.structs.replace(self, **checked(self.WHAT, self.SCHEMA, changes, type(self)()))
        changed.check()
        return changed

    def portable(self) -> dict[str, Any]:
        """Return the options as a dict that can travel: without what belongs to this process."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "_on_output"}

    def check(self) -> None:
        """Raise ValueError for options that make no sense together."""


class _Common(_Checked, frozen=True, kw_only=True):
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: float | str | None = None
    resources: dict[str, float] | None = None
    accelerator_type: str | list[str] | tuple[str, ...] | None = None
    gpu_memory: float | str | None = None
    alternatives: list[dict[str, Any]] | tuple[dict[str, Any], ...] | None = None
    priority: int = 0
    deadline_s: float = 0.0
    earliest_s: float = 0.0
    label_selector: dict[str, str] | None = None
    fallback_strategy: list[Any] | None = None
    scheduling_strategy: Any = None
    placement_group: Any = "default"
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: bool | None = None
    runtime_env: Any = None
    name: str | None = None
    enable_task_events: bool = True
    _labels: dict[str, str] | None = None
    _metadata: dict[str, Any] | None = None

    def amounts(self, default_cpus: float) -> Amounts:
        """Return what a lease takes, in units."""
        wanted = dict(self.resources or {})
        wanted[CPU] = default_cpus if self.num_cpus is None else self.num_cpus
        wanted[GPU] = self.num_gpus or 0
        wanted[MEMORY] = _size_of(self.memory)
        amounts = amounts_of(wanted)
        size = _size_of(self.gpu_memory)
        if size:
            amounts[GPU_MEMORY] = int(size) * UNITS_PER_ONE
        if self.gpu_memory and 0 < amounts.get(GPU, 0) < UNITS_PER_ONE:
            raise ValueError("num_gpus below 1 and gpu_memory both say how large a share of a GPU is: give one of them")
        if self.gpu_memory == AUTO and amounts.get(GPU):
            raise ValueError('gpu_memory="auto" says how much of a GPU it takes: leave num_gpus out')
        return amounts

    def _auto(self) -> list[str]:
        """Return the resources of which it takes what its code has usually needed."""
        given = {MEMORY: self.memory, GPU_MEMORY: self.gpu_memory}
        return [name for name, value in given.items() if value == AUTO]

    def _choices(self, default_cpus: float) -> list[Choice]:
        """Return what will do instead: by other labels, and by other resources."""
        choices = []
        for fallback in self.fallback_strategy or ():
            terms = selector_terms(fallback["label_selector"])
            choices.append(Choice(self.amounts(default_cpus), terms, types_of(self.accelerator_type)))
        for alternative in self.alternatives or ():
            other = _Common(**alternative)
            terms = selector_terms(other.label_selector or self.label_selector or {})
            choices.append(Choice(other.amounts(default_cpus), terms, types_of(other.accelerator_type)))
        return choices

    def environment_in(self, session: Session) -> str:
        """Return the digest of the environment of the worker: the session's, or one that `runtime_env` asks for.

        Raises:
            TypeError: A field of `runtime_env` is of another type.
            ValueError: A field makes no sense.
            RuntimeEnvSetupError: A directory cannot be packed.
        """
        if not self.runtime_env:
            return session.environment
        from atoll.runtime_env.environments import environment_of

        return environment_of(session, self.runtime_env)

    def scheduling_class(
        self, environment: str, label: str, default_cpus: float, scope: Scope, code: bytes = b""
    ) -> SchedulingClass:
        """Return the shape of a request with these options.

        Args:
            environment: Of the workers.
            label: What people see.
            default_cpus: CPUs if nothing was said.
            scope: Of the process that asks.
            code: Digest of what runs, under which its needs are learned.

        Raises:
            ValueError: It can never be met.
        """
        shape = SchedulingClass(
            resources=self.amounts(default_cpus),
            environment=environment,
            label=label,
            priority=self.priority,
            choices=self._choices(default_cpus),
            preemptible=getattr(self, "preemptible", False),
            deadline_s=float(self.deadline_s),
            earliest_s=float(self.earliest_s),
            auto=self._auto(),
            code=code,
        )
        strategy = self.scheduling_strategy
        if self.placement_group != "default":
            strategy = self._in_group()
        return placed(shape, scope, strategy, self.label_selector, self.accelerator_type)

    def _in_group(self) -> SchedulingStrategy:
        """Return the strategy that the older options of Ray stand for."""
        from atoll.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self.scheduling_strategy is not None:
            raise ValueError("say where it runs by scheduling_strategy or by placement_group, not by both")
        return PlacementGroupSchedulingStrategy(
            self.placement_group, self.placement_group_bundle_index, self.placement_group_capture_child_tasks
        )


def _size_of(given: float | str | None) -> float:
    """Return a size as it was given in bytes; 0 for none, and for what is to be learned."""
    if not given or given == AUTO:
        return 0
    return parse_bytes(given) if isinstance(given, str) else given


class TaskOptions(_Common, frozen=True, kw_only=True):
    """What can be said of a task.

    Attributes:
        num_cpus: CPUs that it takes; 1 if not said.
        num_gpus: GPUs: whole, several, or a share of one.
        memory: Memory, in bytes or as `"2G"`: a process that takes more is ended. `"auto"`: as much as this code has
            usually needed, with some room, and at first its share of a node by CPUs.
        resources: Custom resources.
        accelerator_type: The model of its GPUs, or a list of those that will do; without GPUs, of some on its node.
        gpu_memory: Memory of one GPU, in bytes or as `"20G"`: a share of a GPU as large as that needs, or, with
            `num_gpus`, the least that each must have. `"auto"`: as for `memory`, and at first a whole GPU.
        alternatives: What will do as well when this is not free, the best first: dicts of options, for example
            `[{"num_cpus": 8}]` for a task that would rather have a GPU.
        priority: Higher goes first; 0 is usual.
        deadline_s: So long after it was submitted it had better begin. Orders what one session waits for.
        earliest_s: A hint that it need not begin before so long: no place is looked for earlier. A worker that this
            session holds for such tasks already is used at once.
        label_selector: Labels that its node must have.
        fallback_strategy: Other labels that will do, `[{"label_selector": {...}}]`, tried in order.
        scheduling_strategy: Where it is placed: `"SPREAD"`, `"DEFAULT"`, or a strategy of
            `atoll.util.scheduling_strategies`.
        placement_group: The group that it runs in; a scheduling strategy says more.
        placement_group_bundle_index: Which bundle of it; -1 for any.
        placement_group_capture_child_tasks: Whether what it submits runs in the group too.
        runtime_env: What the environment of its worker has beyond this process's.
        name: What people see; the function's name if not said.
        enable_task_events: Ray's; what runs is always seen here.
        num_returns: How many values it returns; `"streaming"` for a generator's as it yields them, `"dynamic"` for
            a generator's all at once. None is 1, and `"streaming"` for a generator function.
        max_retries: Attempts after one whose worker died; -1 for without end.
        retry_exceptions: Whether an exception of the function's own is retried too, or the classes of those that are.
        preemptible: It takes what nobody else wants. When somebody does, it is ended, and run anew later.
        max_calls: After so many calls of the function a worker is replaced; 0 for never.
        _generator_backpressure_num_objects: So many values of a stream may wait unread before the generator waits.
        _labels: Ray's, for its own use.
        _metadata: Ray's, for its own use.
        _on_output: Takes what the task emits while it runs: a kind and bytes, in order.
        _code: What the task runs, where its function alone does not say it: under this its needs are learned.
    """

    WHAT = "a task"
    SCHEMA = TASK
    ONLY_FIRST = ("max_calls",)

    num_returns: int | str | None = None
    max_retries: int = 3
    retry_exceptions: bool | list[type[Exception]] | tuple[type[Exception], ...] = False
    max_calls: int = 0
    preemptible: bool = False
    _generator_backpressure_num_objects: int | None = None
    _on_output: OutputCallback | None = None
    _code: bytes = b""


class ActorOptions(_Common, frozen=True, kw_only=True):
    """What can be said of an actor. Those of tasks that say where it runs mean the same here.

    Attributes:
        num_cpus: CPUs that it takes while it lives; 0 if not said, also to be placed (Ray asks for 1 for that).
        name: By which others find it.
        namespace: Where the name lives; the session's if not said.
        lifetime: `"detached"` outlives its handles and its job.
        get_if_exists: Return the actor that has the name instead of failing.
        max_restarts: How often it is made again when its process dies; -1 for without end.
        max_task_retries: How often a call is made again when the process died during it; -1 for without end.
        max_concurrency: Calls that may run at once, each in a thread of its own. None is 1, and 1000 for an actor
            with coroutine methods.
        max_pending_calls: Calls that may wait at one handle; -1 for without limit.
        concurrency_groups: How many calls of each named group of methods may run at once.
        allow_out_of_order_execution: Whether a call may overtake one that waits for its arguments.
        release_gpu_when_idle_s: So long without a call it keeps its GPUs; then it gives them up, by its methods
            `offload()` and `restore()` or by the driver, and takes them back at the next call.
    """

    WHAT = "an actor"
    SCHEMA = ACTOR
    ONLY_FIRST = ("concurrency_groups",)

    namespace: str | None = None
    lifetime: str | None = None
    get_if_exists: bool = False
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int | None = None
    max_pending_calls: int = -1
    concurrency_groups: dict[str, int] | list[dict[str, Any]] | None = None
    allow_out_of_order_execution: bool | None = None
    release_gpu_when_idle_s: float = 0.0

    def check(self) -> None:
        """Raise ValueError for options that make no sense together."""
        if self.release_gpu_when_idle_s and not (self.num_gpus or self.gpu_memory):
            raise ValueError("release_gpu_when_idle_s is for an actor that holds GPUs: give num_gpus or gpu_memory")
        if self.release_gpu_when_idle_s and ((self.max_concurrency or 1) > 1 or self.concurrency_groups):
            raise ValueError("release_gpu_when_idle_s is for an actor that answers one call after the other")
        if self.get_if_exists and self.name is None:
            raise ValueError("get_if_exists needs a name= to look for")


class CallOptions(_Checked, frozen=True, kw_only=True):
    """What can be said of one call of an actor's method.

    Attributes:
        num_returns: As in `TaskOptions`.
        name: What people see.
        concurrency_group: The group whose threads run it.
        max_task_retries: As in `ActorOptions`, for this call; the actor's if not said.
        retry_exceptions: As in `TaskOptions`.
        enable_task_events: As in `TaskOptions`.
        _generator_backpressure_num_objects: As in `TaskOptions`.
        _on_output: As in `TaskOptions`.
    """

    WHAT = "a call"
    SCHEMA = CALL

    num_returns: int | str | None = None
    name: str | None = None
    concurrency_group: str | None = None
    max_task_retries: int | None = None
    retry_exceptions: bool | list[type[Exception]] | tuple[type[Exception], ...] = False
    enable_task_events: bool = True
    _generator_backpressure_num_objects: int | None = None
    _on_output: OutputCallback | None = None
