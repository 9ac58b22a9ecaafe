"""What the agent and a zygote say to each other, over a socket pair that nobody else has.

    agent ─▶ zygote   Prepare (first), Fork, Kill
    zygote ─▶ agent   Ready, Preloaded, Forked, ForkRefused, Exited

The cluster's key travels here, and neither in arguments nor in variables (claim S11).
"""

from __future__ import annotations

from typing import Any

import msgspec


class ZygoteMessage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all of them."""


class WorkerStart(msgspec.Struct, frozen=True, array_like=True):
    """All that a worker needs to know to begin.

    Attributes:
        worker_id: Its process id in the cluster.
        node_id: The node's.
        agent_socket: Where it attaches.
        scheduler_socket: Where it asks for leases of its own.
        socket_path: Where it is to listen.
        key: The cluster's key.
        environment: The digest of its environment.
    """

    worker_id: bytes
    node_id: bytes
    agent_socket: str
    scheduler_socket: str
    socket_path: str
    key: bytes
    environment: str


class Prepare(ZygoteMessage, frozen=True):
    """How to become a zygote.

    Attributes:
        sys_path: Of the kernel.
        worker_module: Has `run_worker(start)`.
        preload: Modules that workers are likely to need and that start no threads; those that are not there are
            left out.
        without: Directories of `sys_path` that nothing is preloaded from: the notebook's own modules may change.
    """

    sys_path: list[str]
    worker_module: str
    preload: list[str]
    without: list[str]


class Fork(ZygoteMessage, frozen=True):
    """Fork a worker.

    Attributes:
        start: For `run_worker`.
        variables: Environment variables to set, or to take away (None).
        threads: How many threads libraries may use.
        output_path: Where its standard output goes.
        error_path: Where its standard error goes.
        urgent: Not to wait for the rest of the preload.
        locks: How many descriptors come with it: locks of devices, which the worker is to hold as long as it lives.
    """

    start: WorkerStart
    variables: dict[str, str | None]
    threads: int
    output_path: str
    error_path: str
    urgent: bool
    locks: int = 0


class Kill(ZygoteMessage, frozen=True):
    """End a worker and whatever it started. The zygote is its parent, so no other process can be hit by mistake."""

    worker_id: bytes


class Ready(ZygoteMessage, frozen=True):
    """It forks from now on. What it says of itself is compared with the agent."""

    pid: int
    protocol: int
    atoll: str
    python: str


class Preloaded(ZygoteMessage, frozen=True):
    """Everything that was to be imported is; `modules` are those that were found."""

    modules: list[str]
    duration_s: float


class Forked(ZygoteMessage, frozen=True):
    """A worker's process exists."""

    worker_id: bytes
    pid: int


class ForkRefused(ZygoteMessage, frozen=True):
    """No process could be made."""

    worker_id: bytes
    text: str


class Exited(ZygoteMessage, frozen=True):
    """A worker has ended, and what it had started is gone. `status` is that of waitpid."""

    worker_id: bytes
    pid: int
    status: int


_encoder = msgspec.msgpack.Encoder()
_to_zygote: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Prepare | Fork | Kill)
_to_agent: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Ready | Preloaded | Forked | ForkRefused | Exited)


def encode(message: ZygoteMessage) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(message)


def decode_in_zygote(data: bytes) -> Prepare | Fork | Kill:
    """Read what the agent said.

    Raises:
        msgspec.DecodeError: It is of another version.
    """
    message: Prepare | Fork | Kill = _to_zygote.decode(data)
    return message


def decode_in_agent(data: bytes) -> Ready | Preloaded | Forked | ForkRefused | Exited:
    """Read what a zygote said.

    Raises:
        msgspec.DecodeError: It is of another version.
    """
    message: Ready | Preloaded | Forked | ForkRefused | Exited = _to_agent.decode(data)
    return message
