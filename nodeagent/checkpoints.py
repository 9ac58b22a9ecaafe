"""The driver copies what a process has on its GPUs into the host's memory, and back: NVIDIA's process checkpoint.

    lock ─▶ checkpoint ─▶ (the process has nothing on any device) ─▶ restore ─▶ unlock

Each half runs in a short-lived process of its own (`python -m atoll.nodeagent.checkpoints give-up PID`), so that the
node agent never loads the driver: what fails there, or takes long, costs that process only. The functions are those of
libcuda, from driver 550 on; a process of the same user may be checkpointed without any privilege. It is restored to the
same devices.

What could not be checkpointed is unlocked again, and goes on as before.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any, Protocol, runtime_checkable

GIVE_UP, TAKE_BACK = "give-up", "take-back"
LOCK_WITHIN_MS = 10_000
WITHIN_S = 600.0
_SUCCESS = 0
_NEEDED = ("Lock", "Checkpoint", "Restore", "Unlock")
_ARGUMENT_BYTES = 64
"""All of the functions take a block of 64 bytes at most, where 0 is what is usual."""


@runtime_checkable
class Checkpoints(Protocol):
    """Who can do it on this node. Calls block: they are made in a thread."""

    def why_not(self) -> str:
        """Return why it cannot be done here; empty if it can."""
        ...

    def give_up(self, pid: int) -> str:
        """Copy what a process has on its devices away. Returns why that could not be; then it has it still."""
        ...

    def take_back(self, pid: int) -> str:
        """Copy it back. Returns why that could not be."""
        ...


class NoCheckpoints:
    """A node where nobody can.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def why_not(self) -> str:
        """Return the reason."""
        return self._reason

    def give_up(self, pid: int) -> str:
        """Return the reason."""
        return self._reason

    def take_back(self, pid: int) -> str:
        """Return the reason."""
        return self._reason


class DriverCheckpoints:
    """NVIDIA's driver, in a process of its own for each call."""

    def why_not(self) -> str:
        """Ask whether the library has the functions."""
        return _in_a_process("can")

    def give_up(self, pid: int) -> str:
        """See `Checkpoints`."""
        return _in_a_process(GIVE_UP, str(pid))

    def take_back(self, pid: int) -> str:
        """See `Checkpoints`."""
        return _in_a_process(TAKE_BACK, str(pid))


def _in_a_process(*arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "atoll.nodeagent.checkpoints", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the driver could not be asked: {error}"
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"the driver's helper ended with code {done.returncode}"


# -------------------------------------------------------------------------------------------- in the helper's process


class DriverError(Exception):
    """The driver said no; the text says to what, and why."""


class Driver:
    """The functions of libcuda.

    Args:
        library: The library; loaded if None.

    Raises:
        DriverError: There is none, or it is too old.
    """

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = ctypes.CDLL("libcuda.so.1")
            except OSError:
                raise DriverError("there is no libcuda.so.1") from None
        self._library = library
        for name in _NEEDED:
            if not hasattr(library, f"cuCheckpointProcess{name}"):
                raise DriverError("the driver is older than 550 and has no process checkpoint")

    def initialise(self) -> None:
        """Prepare the library: a restore needs it, or a driver that stays loaded."""
        self._check("cuInit", self._library.cuInit(0))

    def call(self, name: str, pid: int, first: int = 0) -> None:
        """Call one of the functions for a process; `first` is the first number of its block of arguments."""
        block = (ctypes.c_uint * (_ARGUMENT_BYTES // ctypes.sizeof(ctypes.c_uint)))()
        block[0] = first
        self._check(name, getattr(self._library, f"cuCheckpointProcess{name}")(ctypes.c_int(pid), ctypes.byref(block)))

    def _check(self, name: str, status: int) -> None:
        if status == _SUCCESS:
            return
        text = ctypes.c_char_p()
        if self._library.cuGetErrorString(status, ctypes.byref(text)) == _SUCCESS and text.value:
            raise DriverError(f"{name}: {text.value.decode(errors='replace')}")
        raise DriverError(f"{name}: error {status}")


def give_up(driver: Driver, pid: int) -> None:
    """Lock a process and checkpoint it; one that cannot be checkpointed is unlocked.

    Raises:
        DriverError: It has what it had.
    """
    driver.initialise()
    driver.call("Lock", pid, LOCK_WITHIN_MS)
    try:
        driver.call("Checkpoint", pid)
    except DriverError:
        driver.call("Unlock", pid)
        raise


def take_back(driver: Driver, pid: int) -> None:
    """Restore a process and unlock it.

    Raises:
        DriverError: It is as it was, or of no use any more.
    """
    driver.initialise()
    driver.call("Restore", pid)
    driver.call("Unlock", pid)


def main(arguments: list[str]) -> None:
    """Do what the arguments say: `can`, `give-up PID` or `take-back PID`."""
    try:
        driver = Driver()
        if arguments[0] == GIVE_UP:
            give_up(driver, int(arguments[1]))
        elif arguments[0] == TAKE_BACK:
            take_back(driver, int(arguments[1]))
    except DriverError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
