"""`runtime_env`: what a worker has beyond the environment of the kernel or script that submits to it.

Owns what people may write (`env_vars`, `working_dir`, `py_modules`, `pip`, `config`), how it is checked, how what a job
says and what a task says become one, and how directories become archives that are named by their content.

It never builds anything: a node agent starts a process that does (`atoll.nodeagent.environment_setup`). And it never
starts a session.

In goes a dict as Ray's users write it. Out comes an `Environment`, for the scheduler to know by its digest, and
archives in the cluster's `packages` directory.
"""

from __future__ import annotations

from atoll.runtime_env.description import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
