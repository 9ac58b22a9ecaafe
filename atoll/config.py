"""Settings: what a user may say about the cluster before it starts, by environment variables.

Variable                          | Default               | What it says
--------------------------------- | --------------------- | ----------------------------------------------------------
ATOLL_NUM_CPUS                    | cores we may run on   | CPUs that the node offers; a whole number
ATOLL_MEMORY_BYTES                | the machine's         | memory that the node offers; `64G`, `512MiB`
ATOLL_MEMORY_KEPT_FREE_BYTES      | 4 % of the host's     | when the host has less memory left, whoever has most beyond
                                  |                       | what was set aside for it is ended; 128M to 2G if not said
ATOLL_STORE_CAPACITY_BYTES        | 30 % of the memory    | the most that the object store takes
ATOLL_STORE_PREPARED_BYTES        | 128M                  | so much of it is made ready in the background while somebody
                                  |                       | uses it, so that the first large object is written fast;
                                  |                       | `0` for none. It counts as shared memory of the system.
ATOLL_STORE_IDLE_GIVE_BACK_S      | 60                    | memory of the store without objects is given back to the
                                  |                       | system after so long
ATOLL_STORE_PATIENCE_S            | 5                     | how long who needs room in a full store waits while nothing
                                  |                       | can be spilled, before it is told so
ATOLL_SPILL_DIRECTORY             | the session directory | where objects are written that have no room in memory
ATOLL_SIMULATED_GPUS              | 0                     | GPUs that exist for tests and demonstrations only: how many,
                                  |                       | or the path of a script (`atoll.simulated_gpus`)
ATOLL_SIMULATED_GPU_MEMORY_BYTES  | 16G                   | memory of each of those
ATOLL_DEVICE_LOCKS                | in the user's home    | the directory of the locks of devices, for clusters that
                                  |                       | share devices and not a home directory
ATOLL_RESOURCES                   | none                  | what else the node offers: `licence=2,tpu=1`
ATOLL_LABELS                      | none                  | labels of the node: `zone=a,disk=ssd`
ATOLL_WEIGHT                      | 1                     | what this notebook or script may have beside others, as
                                  |                       | with `atoll.init(weight=...)`
ATOLL_WEIGHTS                     | none                  | what notebooks and scripts may have, whatever they say:
                                  |                       | `report.ipynb=2,sweep_*=0.5`, the first that fits
ATOLL_FAIRNESS_HALF_LIFE_S        | 600                   | what a session held so long ago counts half of what it
                                  |                       | holds now, when others want it too; `0`: not at all
ATOLL_LOG_BYTES                   | 10M                   | a log file is rotated at this size
ATOLL_LINGER_S                    | 60                    | how long a cluster without clients stays; `never` ends it
                                  |                       | only with `atoll down`. The Jupyter server and `atoll up`
                                  |                       | start theirs with `never`, kernels with this.
ATOLL_START_TIMEOUT_S             | 20                    | how long the daemons may take until they listen
ATOLL_RUNTIME_DIR                 | Jupyter's             | where the connection file and the session directory are
                                  |                       | (see `atoll.protocol.runtime_directory`)

An empty variable counts as not set. Sizes have binary prefixes. A value that cannot be read raises `ValueError` with
one line that names the variable, the value and an example.

Daemons inherit the environment of who starts them, so the same variables reach them; `Settings.environment` makes
them for settings that were changed in a program.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from atoll.resources import CPU, GPU, GPU_MEMORY, MEMORY, parse_bytes, to_units

_Value = TypeVar("_Value")
_OWN_RESOURCES = (CPU, GPU, GPU_MEMORY, MEMORY)

LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0
"""Of a session beside others."""

STORE_SHARE = 0.3
"""The share of the memory that the object store takes when nothing is said."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a cluster from its start. Sizes in bytes, durations in seconds.

    Attributes:
        num_cpus: CPUs that the node offers.
        memory_bytes: Memory that it offers.
        memory_kept_free_bytes: Memory of the host that is kept free, at the cost of who uses most beyond what was set
            aside for it; 0 for what is usual for its size.
        store_capacity_bytes: The most that the object store takes.
        store_prepared_bytes: So much of it is made ready before somebody needs it.
        store_idle_give_back_s: Its memory without objects is given back to the system after so long.
        store_patience_s: How long somebody waits for room while nothing can be spilled.
        spill_directory: Where spilled objects go; None for the session directory.
        simulated_gpus: Number of simulated GPUs; 0 with a script.
        simulated_gpu_script: What they are like and what happens to them; None for plain ones.
        simulated_gpu_memory_bytes: Memory of each.
        device_locks: The directory of the locks of devices; None for the usual one.
        resources: What else the node offers, by name.
        labels: Of the node, for those who say where their work may run.
        weights: Patterns of notebooks' and scripts' names and their weights, the first that fits.
        fairness_half_life_s: What was held so long ago counts half; 0 for not at all.
        log_bytes: A log file is rotated at this size.
        linger_s: How long the cluster stays without a client; None for ever.
        start_timeout_s: How long the daemons may take until they listen.
    """

    num_cpus: int
    memory_bytes: int
    store_capacity_bytes: int
    store_prepared_bytes: int = 128 * 2**20
    store_idle_give_back_s: float = 60.0
    store_patience_s: float = 5.0
    spill_directory: Path | None = None
    simulated_gpus: int = 0
    simulated_gpu_script: Path | None = None
    simulated_gpu_memory_bytes: int = 16 * 2**30
    device_locks: Path | None = None
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    weights: dict[str, float] = {}
    fairness_half_life_s: float = 600.0
    memory_kept_free_bytes: int = 0
    log_bytes: int = 10 * 2**20
    linger_s: float | None = 60.0
    start_timeout_s: float = 20.0

    def environment(self) -> dict[str, str]:
        """Return the variables from which `settings` reads these settings again."""
        chosen = {} if self.spill_directory is None else {"ATOLL_SPILL_DIRECTORY": str(self.spill_directory)}
        if self.device_locks is not None:
            chosen["ATOLL_DEVICE_LOCKS"] = str(self.device_locks)
        return chosen | {
            "ATOLL_NUM_CPUS": str(self.num_cpus),
            "ATOLL_MEMORY_BYTES": str(self.memory_bytes),
            "ATOLL_MEMORY_KEPT_FREE_BYTES": str(self.memory_kept_free_bytes),
            "ATOLL_STORE_CAPACITY_BYTES": str(self.store_capacity_bytes),
            "ATOLL_STORE_PREPARED_BYTES": str(self.store_prepared_bytes),
            "ATOLL_STORE_IDLE_GIVE_BACK_S": str(self.store_idle_give_back_s),
            "ATOLL_STORE_PATIENCE_S": str(self.store_patience_s),
            "ATOLL_SIMULATED_GPUS": str(self.simulated_gpu_script or self.simulated_gpus),
            "ATOLL_SIMULATED_GPU_MEMORY_BYTES": str(self.simulated_gpu_memory_bytes),
            "ATOLL_RESOURCES": ",".join(f"{name}={amount:g}" for name, amount in self.resources.items()),
            "ATOLL_LABELS": ",".join(f"{name}={value}" for name, value in self.labels.items()),
            "ATOLL_WEIGHTS": ",".join(f"{name}={weight:g}" for name, weight in self.weights.items()),
            "ATOLL_FAIRNESS_HALF_LIFE_S": str(self.fairness_half_life_s),
            "ATOLL_LOG_BYTES": str(self.log_bytes),
            "ATOLL_LINGER_S": "never" if self.linger_s is None else str(self.linger_s),
            "ATOLL_START_TIMEOUT_S": str(self.start_timeout_s),
        }


def settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        environment: Where from; `os.environ` if not given.

    Raises:
        ValueError: A value cannot be read; one line says which and how it is written.
    """
    variables = os.environ if environment is None else environment

    def read(name: str, parse: Callable[[str], _Value], default: _Value, example: str) -> _Value:
        text = variables.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{name}={text!r}: {error}; write for example {name}={example}") from None

    linger_default: float | None = 60.0
    no_gpus: int | Path = 0
    simulated_gpus = read("ATOLL_SIMULATED_GPUS", _number_or_file, no_gpus, "2")
    memory_bytes = read("ATOLL_MEMORY_BYTES", _size, _machine_memory_bytes(), "64G")
    store_default = int(memory_bytes * STORE_SHARE)
    return Settings(
        num_cpus=read("ATOLL_NUM_CPUS", _whole_from_one, _usable_cpus(), "4"),
        memory_bytes=memory_bytes,
        memory_kept_free_bytes=read("ATOLL_MEMORY_KEPT_FREE_BYTES", _size_or_none, 0, "2G"),
        store_capacity_bytes=read("ATOLL_STORE_CAPACITY_BYTES", _size, store_default, "8G"),
        store_prepared_bytes=read("ATOLL_STORE_PREPARED_BYTES", _size_or_none, 128 * 2**20, "128M"),
        store_idle_give_back_s=read("ATOLL_STORE_IDLE_GIVE_BACK_S", _duration, 60.0, "60"),
        store_patience_s=read("ATOLL_STORE_PATIENCE_S", _duration, 5.0, "5"),
        spill_directory=read("ATOLL_SPILL_DIRECTORY", _directory, None, "/mnt/scratch"),
        simulated_gpus=simulated_gpus if isinstance(simulated_gpus, int) else 0,
        simulated_gpu_script=simulated_gpus if isinstance(simulated_gpus, Path) else None,
        simulated_gpu_memory_bytes=read("ATOLL_SIMULATED_GPU_MEMORY_BYTES", _size, 16 * 2**30, "16G"),
        device_locks=read("ATOLL_DEVICE_LOCKS", _directory, None, "/run/user/1000/atoll-devices"),
        resources=read("ATOLL_RESOURCES", _resources, {}, "licence=2,tpu=1"),
        labels=read("ATOLL_LABELS", _pairs, {}, "zone=a,disk=ssd"),
        weights=read("ATOLL_WEIGHTS", _weights, {}, "report.ipynb=2,sweep_*=0.5"),
        fairness_half_life_s=read("ATOLL_FAIRNESS_HALF_LIFE_S", _duration_or_none, 600.0, "3600"),
        log_bytes=read("ATOLL_LOG_BYTES", _size, 10 * 2**20, "10M"),
        linger_s=read("ATOLL_LINGER_S", _linger, linger_default, "60"),
        start_timeout_s=read("ATOLL_START_TIMEOUT_S", _duration, 20.0, "20"),
    )


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise ValueError("not a list of name=value")
        pairs[name] = value
    return pairs


def session_weight(environment: Mapping[str, str] | None = None) -> float:
    """Return the weight that this process's session asks for.

    Raises:
        ValueError: `ATOLL_WEIGHT` is none.
    """
    text = (os.environ if environment is None else environment).get("ATOLL_WEIGHT", "").strip()
    try:
        return check_weight(float(text)) if text else 1.0
    except ValueError as error:
        raise ValueError(f"ATOLL_WEIGHT={text!r}: {error}; write for example ATOLL_WEIGHT=2") from None


def check_weight(weight: float) -> float:
    """Return a weight that is one.

    Raises:
        ValueError: It is none.
    """
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise ValueError(f"a weight is a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, and 1 is usual")
    return float(weight)


def _weights(text: str) -> dict[str, float]:
    return {name: check_weight(float(value)) for name, value in _pairs(text).items()}


def _duration_or_none(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else _duration(text)


def _resources(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in _pairs(text).items():
        if name in _OWN_RESOURCES:
            raise ValueError(f"{name} has a setting of its own")
        try:
            found[name] = float(value)
            to_units(name, found[name])
        except ValueError:
            raise ValueError(f"{value!r} is no amount of {name}") from None
    return found


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("not a whole number of 0 or more")
    return int(text)


def _number_or_file(text: str) -> int | Path:
    if "/" not in text:
        return _whole(text)
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise ValueError("no file is there")
    return path


def _whole_from_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("not a whole number of 1 or more")
    return int(text)


def _size(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError:
        raise ValueError("not a size in bytes") from None
    if size < 1:
        raise ValueError("a size must be more than 0")
    return size


def _size_or_none(text: str) -> int:
    return 0 if text == "0" else _size(text)


def _directory(text: str) -> Path | None:
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise ValueError("no directory is there")
    return path


def _duration(text: str) -> float:
    try:
        duration_s = float(text)
    except ValueError:
        raise ValueError("not a number of seconds") from None
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError("not a number of seconds above 0")
    return duration_s


def _linger(text: str) -> float | None:
    return None if text.lower() == "never" else _duration(text)


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0))


def _machine_memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its control group's limit if that is less."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            size = min(size, int(text))
    return size
