"""What `atoll.init` takes for the sake of programs that were written for Ray, and what becomes of it here."""

from __future__ import annotations

import warnings
from typing import Any

import msgspec

from atoll.config import Settings, settings

WITHOUT_MEANING = frozenset(
    {
        "configure_logging",
        "dashboard_host",
        "dashboard_port",
        "include_dashboard",
        "logging_config",
        "logging_format",
        "logging_level",
    }
)
"""Arguments of Ray's that say nothing here: the dashboard is Jupyter's page, and this package sets up no logging."""


def must_exist(address: str | None) -> bool:
    """Return whether an address says that the cluster has to run already.

    Raises:
        ValueError: It is the address of another machine's.
    """
    if address in (None, "", "local"):
        return False
    if address == "auto":
        return True
    raise ValueError(
        f"address={address!r}: there is one cluster for each user and host, which is found without an address; "
        "leave it out. For a cluster of many machines, run the program on Ray"
    )


def settings_said(num_cpus: float | None, num_gpus: float | None, object_store_memory: int | None) -> Settings:
    """Return the settings of a cluster that `init` starts.

    Raises:
        ValueError: A value makes no sense.
    """
    said: dict[str, Any] = {}
    if num_cpus is not None:
        if int(num_cpus) != num_cpus or num_cpus < 1:
            raise ValueError(f"num_cpus={num_cpus}: give a whole number from 1")
        said["num_cpus"] = int(num_cpus)
    if object_store_memory is not None:
        if object_store_memory < 1:
            raise ValueError(f"object_store_memory={object_store_memory}: give a size in bytes")
        said["store_capacity_bytes"] = int(object_store_memory)
    if num_gpus:
        warnings.warn(
            f"num_gpus={num_gpus} is left out: GPUs are those that the machine has (or ATOLL_SIMULATED_GPUS)",
            stacklevel=3,
        )
    return msgspec.structs.replace(settings(), **said)


def warn_of_a_running_cluster(num_cpus: float | None, object_store_memory: int | None) -> None:
    """Say that a cluster that runs already is as it was started."""
    said = {"num_cpus": num_cpus, "object_store_memory": object_store_memory}
    named = ", ".join(f"{name}={value}" for name, value in said.items() if value is not None)
    if named:
        warnings.warn(f"{named} is left out: the cluster runs already, and is as it was started", stacklevel=3)


def check_names(others: dict[str, Any]) -> None:
    """Raise TypeError for an argument that neither this package nor Ray has."""
    for name in others:
        if name not in WITHOUT_MEANING:
            raise TypeError(f"init() got an unexpected keyword argument {name!r}")
