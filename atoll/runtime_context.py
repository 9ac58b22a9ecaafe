"""`atoll.get_runtime_context()`: what code can ask about where it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.client import context
from atoll.client.current import current_session
from atoll.resources import from_units

if TYPE_CHECKING:
    from atoll.actor import ActorHandle


class RuntimeContext:
    """The task, the actor, the job and the node that the calling code belongs to. Ids are hexadecimal digits."""

    def get_job_id(self) -> str:
        """Return the job: one session of a notebook or script."""
        return current_session().job.hex()

    def get_node_id(self) -> str:
        """Return the node that this process is on."""
        return current_session().node_id.hex()

    def get_worker_id(self) -> str:
        """Return this process's id."""
        return current_session().process_id.hex()

    def get_task_id(self) -> str | None:
        """Return the task or call that this code belongs to; None outside of one."""
        task = context.current_task()
        return task.task_id.hex() if task is not None else None

    def get_task_name(self) -> str | None:
        """Return its name, as people see it; None outside of a task."""
        task = context.current_task()
        if task is None:
            return None
        actor = context.current_actor()
        return f"{actor.class_name}.{task.name}" if actor is not None and task.name == task.method else task.name

    def get_task_function_name(self) -> str | None:
        """Return the name of the function or method that the task runs; None outside of a task."""
        task = context.current_task()
        if task is None:
            return None
        actor = context.current_actor()
        return f"{actor.class_name}.{task.method}" if actor is not None else task.name

    def get_actor_id(self) -> str | None:
        """Return the actor that lives in this process; None if none does."""
        actor = context.current_actor()
        return actor.actor_id.hex() if actor is not None else None

    def get_actor_name(self) -> str | None:
        """Return its name, empty for an actor without one; None if this is no actor."""
        actor = context.current_actor()
        return actor.name if actor is not None else None

    @property
    def namespace(self) -> str:
        """Where the names of this job's actors live."""
        return current_session().namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor has begun anew, after a process of it died."""
        actor = context.current_actor()
        return actor is not None and actor.restarted

    @property
    def current_actor(self) -> ActorHandle:
        """A handle of the actor that this is.

        Raises:
            RuntimeError: This is no actor.
        """
        from atoll.actor import handle_of

        actor = context.current_actor()
        if actor is None:
            raise RuntimeError("there is no current actor: this code does not run in one")
        return handle_of(actor.actor_id, actor.class_name, actor.interface, current_session())

    def get_assigned_resources(self) -> dict[str, float]:
        """Return what this worker's lease holds: `{"CPU": 1.0}` for a usual task."""
        return {name: from_units(units) for name, units in context.current_resources().items() if units}

    def get_runtime_env_string(self) -> str:
        """Return the `runtime_env` of this process as JSON; `{}` for none."""
        from atoll.runtime_env.environments import base_environment

        return base_environment(current_session()).runtime_env or "{}"

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The `runtime_env` of this process, of its job and task together."""
        found: dict[str, Any] = json.loads(self.get_runtime_env_string())
        return found

    def get_session_name(self) -> str:
        """Return the name of the cluster's directory: another for each cluster."""
        return Path(current_session().cluster.directory).name

    def get_temp_dir(self) -> str:
        """Return the cluster's directory, which goes with it."""
        return current_session().cluster.directory

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Return the numbers of the GPUs that the task may use."""
        task = context.current_task()
        return {"GPU": [str(number) for number in task.gpu_ids] if task is not None else []}

    def get(self) -> dict[str, Any]:
        """Return the ids as a dict."""
        found = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "worker_id": self.get_worker_id(),
            "namespace": self.namespace,
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
        }
        return {name: value for name, value in found.items() if value is not None}


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Return what answers questions about where the calling code runs."""
    return _context
