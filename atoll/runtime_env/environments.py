"""From a `runtime_env` to the environment of a worker: what a job says and what a task says become one.

As in Ray: a task's environment variables are added to its job's, and replace those of the same name; every other field
of the task's stands in the place of the job's. What a task submits itself inherits the task's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.client.connection import failure
from atoll.protocol.environment_messages import AddEnvironment, EnvironmentFound, GetEnvironment
from atoll.protocol.values import Environment, Extras
from atoll.runtime_env.archives import pack
from atoll.runtime_env.description import DEFAULT_TIMEOUT_S, checked

if TYPE_CHECKING:
    from atoll.client.session import Session


def packages_directory(cluster_directory: str) -> Path:
    """Return where the archives of a cluster lie."""
    return Path(cluster_directory) / "packages"


def extended(base: Environment, given: Mapping[str, Any] | str, packages: Path) -> Environment:
    """Return an environment with what a `runtime_env` says of it.

    Args:
        base: Of the job, or of the task that submits.
        given: What people wrote.
        packages: Where archives lie.

    Raises:
        TypeError: A value is of another type.
        ValueError: A field or its value makes no sense.
        RuntimeEnvSetupError: A directory cannot be packed.
    """
    fields = checked(given)
    before: dict[str, Any] = json.loads(base.runtime_env) if base.runtime_env else {}
    merged = before | fields
    if "env_vars" in before and "env_vars" in fields:
        merged["env_vars"] = before["env_vars"] | fields["env_vars"]
    return msgspec.structs.replace(
        base,
        variables=base.variables | fields.get("env_vars", {}),
        extras=_extras(base.extras, fields, packages),
        runtime_env=json.dumps(merged, sort_keys=True),
    )


def _extras(base: Extras | None, fields: dict[str, Any], packages: Path) -> Extras | None:
    changes: dict[str, Any] = {}
    excludes = fields.get("excludes", [])
    if "working_dir" in fields:
        changes["working_archive"] = pack(Path(fields["working_dir"]), packages, excludes)
    if "py_modules" in fields:
        changes["module_archives"] = [_module_archive(Path(item), packages, excludes) for item in fields["py_modules"]]
    if "pip" in fields:
        pip = fields["pip"]
        changes["requirements"] = pip["packages"]
        changes["pip_options"] = pip["pip_install_options"]
        changes["pip_version"] = pip["pip_version"]
        changes["pip_check"] = pip["pip_check"]
    if "config" in fields:
        seconds = fields["config"].get("setup_timeout_seconds", DEFAULT_TIMEOUT_S)
        changes["timeout_s"] = 0.0 if seconds == -1 else float(seconds)
    if not changes:
        return base
    made: Extras = msgspec.structs.replace(base or Extras(), **changes)
    return made if made.working_archive or made.module_archives or made.requirements else None


def _module_archive(source: Path, packages: Path, excludes: list[str]) -> str:
    return pack(source, packages, excludes, inside=source.name if source.is_dir() else "")


def environment_of(session: Session, given: Mapping[str, Any] | str | None) -> str:
    """Return the digest of the environment for tasks or actors of this session with a `runtime_env`.

    Raises:
        TypeError: A value is of another type.
        ValueError: A field or its value makes no sense.
        RuntimeEnvSetupError: A directory cannot be packed, or the cluster refuses the environment.
    """
    if not given:
        return session.environment
    environment = extended(base_environment(session), given, packages_directory(session.cluster.directory))
    for digest, known in session.environments.items():
        if known == environment:
            return digest
    answer = _ask(session, AddEnvironment(session.next_request(), environment))
    session.environments[answer.digest] = environment
    return answer.digest


def base_environment(session: Session) -> Environment:
    """Return the environment of a session's workers; a worker asks the cluster for its own."""
    introduced = session.introduction.environment
    if introduced is None:
        introduced = _ask(session, GetEnvironment(session.next_request(), session.environment)).environment
        session.introduction.environment = introduced
    return introduced


def _ask(session: Session, message: AddEnvironment | GetEnvironment) -> EnvironmentFound:
    answer = session.ask_scheduler(message)
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, EnvironmentFound)
    return answer
