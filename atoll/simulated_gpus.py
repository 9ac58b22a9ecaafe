"""What simulated GPUs are like and what happens to them, as a file that a test or a demonstration writes.

`ATOLL_SIMULATED_GPUS=/path/gpus.json` makes a node agent read its devices from there, and everything that changes
while it runs: who holds memory, which faults come. The devices themselves are read once. `Script` is the file:

    {"devices": [{"model": "A100-SXM4-80GB", "memory": "80G"}, {"memory": "16G", "numa_node": 1}],
     "links": [{"between": [0, 1], "kind": "NV4"}],
     "processes": [{"gpu": 0, "pid": 123, "memory": "30G", "user": "guest"}],
     "faults": [{"gpu": 1, "text": "XID 79: GPU has fallen off the bus"}]}

`ScriptFile` changes it step by step, also from several processes at once: each change replaces the whole file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

MODEL = "GPU (no device)"
LINK_KINDS = {"PIX": 10, "PXB": 20, "PHB": 30, "NODE": 40, "SYS": 50}
"""How far two devices are apart, by the words of `nvidia-smi topo -m`; `NV4` is nearer than all of them."""

MAXIMUM_NVLINKS = 9


class ScriptedDevice(msgspec.Struct, forbid_unknown_fields=True):
    """A GPU.

    Attributes:
        model: What it claims to be; it is marked as simulated wherever it shows.
        memory: What it claims to have: `16G`.
        numa_node: Near which processor it is.
        parts: Profiles of MIG instances into which it is divided: `1g.10gb`. Then only they are offered.
    """

    model: str = MODEL
    memory: str = "16G"
    numa_node: int = 0
    parts: list[str] = []


class ScriptedLink(msgspec.Struct, forbid_unknown_fields=True):
    """How two devices are connected: `NV1` to `NV9`, or a key of `LINK_KINDS`. Without a link: `NODE` or `SYS`."""

    between: tuple[int, int]
    kind: str

    @property
    def distance(self) -> int:
        """How far apart they are, as in `atoll.protocol.values.Device`.

        Raises:
            ValueError: There is no such kind.
        """
        if self.kind in LINK_KINDS:
            return LINK_KINDS[self.kind]
        count = self.kind.removeprefix("NV")
        if self.kind.startswith("NV") and count.isdigit() and 1 <= int(count) <= MAXIMUM_NVLINKS:
            return 10 - int(count)
        raise ValueError(
            f"link kind {self.kind!r}: write NV1 to NV{MAXIMUM_NVLINKS}, or one of {', '.join(LINK_KINDS)}"
        )


class ScriptedProcess(msgspec.Struct, forbid_unknown_fields=True):
    """A process that holds memory of a device.

    Attributes:
        gpu: The device's number.
        pid: Which process. Without `user` it is one of this machine, and its memory is free when it has ended.
        memory: How much: `30G`.
        user: Somebody who is not here: then the process need not exist.
        name: What the process is called.
        outlives: The memory stays when the process has ended, as after some failures of drivers.
    """

    gpu: int
    pid: int
    memory: str
    user: str = ""
    name: str = "python"
    outlives: bool = False


class ScriptedFault(msgspec.Struct, forbid_unknown_fields=True):
    """A failure of a device. Each entry happens once; `application` ones are laid to the program's charge."""

    gpu: int
    text: str
    application: bool = False


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file.

    Attributes:
        devices: What there is.
        links: How it is connected.
        processes: Who holds memory.
        faults: What fails.
        unreadable: Devices that the driver does not answer for.
        no_checkpoint: Why the driver cannot give up what a process has; empty if it can.
        failing_checkpoints: Which of its steps fail now: `give-up`, `take-back`.
    """

    devices: list[ScriptedDevice] = []
    links: list[ScriptedLink] = []
    processes: list[ScriptedProcess] = []
    faults: list[ScriptedFault] = []
    unreadable: list[int] = []
    no_checkpoint: str = ""
    failing_checkpoints: list[str] = []


def read_script(path: str | Path) -> Script:
    """Read a script.

    Raises:
        ValueError: It cannot be read; one line says why.
    """
    try:
        script = msgspec.json.decode(Path(path).read_bytes(), type=Script)
        for link in script.links:
            link.distance  # noqa: B018 - raises for a kind that there is not
    except (OSError, ValueError) as error:
        raise ValueError(f"the script of simulated GPUs {path} cannot be read: {error}") from None
    return script


class ScriptFile:
    """A script that is changed while an agent reads it.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, script: Script) -> None:
        """Replace the whole script at once."""
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        made.write_bytes(msgspec.json.format(msgspec.json.encode(script)))
        made.rename(self.path)

    @contextlib.contextmanager
    def change(self) -> Iterator[Script]:
        """Give the script to be changed, and write it afterwards. Others who change it wait."""
        with self.path.with_name(f".{self.path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            script = read_script(self.path)
            yield script
            self.write(script)

    def hold(self, gpu: int, pid: int, memory: str, *, user: str = "", outlives: bool = False) -> None:
        """Let a process hold so much memory of a device; `"0"`: none any more."""
        with self.change() as script:
            script.processes = [held for held in script.processes if (held.gpu, held.pid) != (gpu, pid)]
            if memory != "0":
                script.processes.append(ScriptedProcess(gpu, pid, memory, user, outlives=outlives))

    def fail(self, gpu: int, text: str, *, application: bool = False) -> None:
        """Let a device fail once more."""
        with self.change() as script:
            script.faults.append(ScriptedFault(gpu, text, application))
