"""The agent's side of a zygote: starts it, speaks with it, says what became of it in the core's words."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from atoll.exceptions import RuntimeEnvSetupError, VersionMismatchError
from atoll.nodeagent import environment_setup
from atoll.nodeagent.core.events import ForkFailed, ProcessExited, WorkerForked, ZygoteDied, ZygoteReady
from atoll.nodeagent.logs import last_line, tail
from atoll.nodeagent.zygote_messages import (
    Exited,
    Fork,
    Forked,
    ForkRefused,
    Kill,
    Preloaded,
    Prepare,
    Ready,
    decode_in_agent,
    encode,
)
from atoll.protocol.framing import MAXIMUM_BODY_BYTES
from atoll.protocol.handshake import our_versions
from atoll.protocol.machine import Event
from atoll.protocol.stream import Stream
from atoll.protocol.values import Environment

PRELOADED_MODULES = ["cloudpickle", "numpy", "pyarrow"]

_WHILE_PRELOADING = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""So that no library starts a thread in the zygote. Workers get the kernel's own values back."""

_END_WITHIN_S = 2.0
"""A zygote that was told to end kills its workers first."""

_EXIT_WITHIN_S = 0.2
"""One that has closed its socket is in the midst of its exit."""


class ZygoteProcess:
    """A zygote.

    Args:
        digest: Of its environment.
        environment: What it runs in.
        log_path: Where its output goes.
        worker_module: What its workers run.
        deliver: Takes `ZygoteReady`, `ZygoteDied`, `WorkerForked`, `ForkFailed`, `ProcessExited`.
        error_path: Returns where a worker's standard error goes.
        packages: The cluster's directory of archives, for what a `runtime_env` asks for.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        digest: str,
        environment: Environment,
        log_path: Path,
        worker_module: str,
        deliver: Callable[[Event], None],
        error_path: Callable[[bytes], str],
        packages: Path,
    ) -> None:
        self._packages = packages
        self._digest = digest
        self._environment = environment
        self._log_path = log_path
        self._deliver = deliver
        self._error_path = error_path
        self._ready = False
        self.preloaded: Preloaded | None = None
        ours, theirs = socket.socketpair()
        try:
            self._process = self._spawn(theirs.fileno())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._stream = Stream(ours, self._take, self._lost, maximum_body_bytes=MAXIMUM_BODY_BYTES)
        prepare = Prepare(
            sys_path=environment.sys_path,
            worker_module=worker_module,
            preload=PRELOADED_MODULES,
            without=["", environment.working_directory],
        )
        self._stream.write(encode(prepare))

    def _spawn(self, control: int) -> subprocess.Popen[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open(self._log_path, flags, 0o600)
        try:
            self._log_begin = os.fstat(log).st_size
            return subprocess.Popen(
                # -P: a file beside the notebook must not stand for a module that the zygote imports.
                [self._environment.executable, "-P", "-m", *self._program(), "--control-fd", str(control)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(control,),
                start_new_session=True,
                cwd=self._environment.working_directory,
                env=self._environment.variables | _WHILE_PRELOADING,
            )
        finally:
            os.close(log)

    def _program(self) -> list[str]:
        """Return what to run: the zygote, or what makes its environment first and then becomes it."""
        extras = self._environment.extras
        if extras is None:
            return ["atoll.nodeagent.zygote"]
        self._packages.mkdir(mode=0o700, exist_ok=True)
        path = self._packages / f"{self._digest}.extras"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:  # a requirement may hold a password: it is no argument
            file.write(msgspec.msgpack.encode(extras))
        return [environment_setup.__name__, "--extras", str(path), "--packages", str(self._packages)]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fork(self, fork: Fork, locks: Sequence[int] = ()) -> None:
        """Ask for a worker, which inherits these descriptors; it is told apart by its id in what follows."""
        own = self._environment.variables
        variables: dict[str, str | None] = {name: own.get(name) for name in _WHILE_PRELOADING}
        variables["OMP_NUM_THREADS"] = own.get("OMP_NUM_THREADS", str(fork.threads))
        fork = msgspec.structs.replace(fork, variables=variables | fork.variables, locks=len(locks))
        self._stream.write(encode(fork), locks)

    def kill(self, worker_id: bytes) -> None:
        """End a worker."""
        self._stream.write(encode(Kill(worker_id)))

    def _take(self, body: bytes) -> None:
        message = decode_in_agent(body)
        if isinstance(message, Forked):
            self._deliver(WorkerForked(message.worker_id, message.pid))
        elif isinstance(message, Exited):
            self._deliver(self._exit_event(message))
        elif isinstance(message, ForkRefused):
            self._deliver(ForkFailed(message.worker_id, message.text))
        elif isinstance(message, Ready):
            self._take_ready(message)
        else:
            self.preloaded = message

    def _exit_event(self, message: Exited) -> ProcessExited:
        code = os.waitstatus_to_exitcode(message.status)
        return ProcessExited(
            message.worker_id,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            detail=last_line(self._error_path(message.worker_id)) if code else "",
        )

    def _take_ready(self, message: Ready) -> None:
        ours = our_versions()
        if (message.protocol, message.atoll) != (ours.protocol, ours.atoll):
            text = (
                f"the kernel's environment {self._environment.executable} has Atoll {message.atoll}, the cluster runs "
                f"{ours.atoll}: install one version in both, then restart the cluster"
            )
            self.stop()
            self._deliver(ZygoteDied(self._digest, VersionMismatchError.__name__, text))
            return
        self._ready = True
        self._deliver(ZygoteReady(self._digest))

    def _lost(self, _cause: str) -> None:
        """The zygote has ended, or will not be heard any more."""
        self.reap(_EXIT_WITHIN_S)
        killed = self._process.returncode == -signal.SIGKILL  # by the system, for memory, or by somebody: not by itself
        self._deliver(ZygoteDied(self._digest, RuntimeEnvSetupError.__name__, self._why(), self._ready or killed))

    def _why(self) -> str:
        executable = self._environment.executable
        said = tail(self._log_path, self._log_begin)
        if "No module named 'atoll" in said or "No module named atoll" in said:
            return f"the kernel's environment {executable} has no Atoll: run `{executable} -m pip install atoll`"
        code = self._process.returncode
        if code == environment_setup.EXIT_CODE and environment_setup.MARK in said:
            return said.rpartition(environment_setup.MARK)[2].strip()
        line = last_line(self._log_path, self._log_begin)
        ended = f"was ended by signal {-code}" if code is not None and code < 0 else f"exited with code {code}"
        what = "the process that workers are forked from" if self._ready else "no worker can be started: its parent"
        return f"{what}, {executable}, {ended}" + (f": {line}" if line and not self._ready else "")

    def stop(self) -> None:
        """Have it end, and all its workers with it. Nothing is delivered any more."""
        self._stream.close()

    def reap(self, timeout_s: float = _END_WITHIN_S) -> None:
        """Wait until it has ended; kill it if it takes too long. Blocks."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def why_not_started(environment: Environment, error: OSError) -> str:
    """Return a line for the user: what about the kernel's environment is not there."""
    if not Path(environment.working_directory).is_dir():
        return f"the kernel's working directory {environment.working_directory} is not there"
    reason = error.strerror or str(error)
    return f"the kernel's interpreter {environment.executable} cannot be started: {reason}"
