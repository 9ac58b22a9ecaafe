"""What a kernel hands on to its workers: interpreter, search path, working directory, variables; never a secret.

A worker runs the kernel's code, so it must find the same modules and the same variables. But variables travel to
other processes, and are seen by whoever looks at those; so what looks like a secret, or belongs to this one kernel's
own connections, stays behind. `passes_on` is the one place that decides.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from atoll.protocol.values import Environment

_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|_KEY$|_KEY_|^KEY$|APIKEY|API_KEY|_AUTH$|COOKIE", re.IGNORECASE
)
"""Names that hold secrets by custom. Code in a task that needs one is given it as an argument."""

_OF_THIS_PROCESS = (
    "JPY_",  # the kernel's own pipe and session with the Jupyter server
    "JUPYTERHUB_",  # the server's identity towards the hub
    "ATOLL_",  # settings and internals of the cluster, not of a task
    "COLUMNS",
    "LINES",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "CUDA_VISIBLE_DEVICES",  # each worker sees the devices of its lease
)


def passes_on(name: str) -> bool:
    """Tell whether a variable of the kernel reaches its workers."""
    return not name.startswith(_OF_THIS_PROCESS) and _SECRET.search(name) is None


def filter_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that may be passed on, in the order of their names."""
    return {
        name: variables[name]
        for name in sorted(variables)
        if passes_on(name) and _travels(name) and _travels(variables[name])
    }


def capture_environment() -> Environment:
    """Return the environment of this process, as its workers are to have it."""
    directory = _working_directory()
    entries: list[object] = list(sys.path)  # programs put there whatever they like; Python looks at texts only
    return Environment(
        executable=sys.executable,
        sys_path=[str(Path(directory, entry)) for entry in entries if isinstance(entry, str) and _travels(entry)],
        working_directory=directory,
        variables=filter_variables(os.environ),
    )


def _working_directory() -> str:
    """Return the working directory, or the home directory where that one has been deleted."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return str(Path.home())


def _travels(text: str) -> bool:
    """Tell whether a text is UTF-8: messages carry nothing else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest(environment: Environment) -> str:
    """Return a short name for an environment: equal environments have equal ones, in whatever order their variables."""
    ordered = msgspec.structs.replace(environment, variables=dict(sorted(environment.variables.items())))
    return hashlib.blake2b(msgspec.msgpack.encode(ordered), digest_size=8).hexdigest()
