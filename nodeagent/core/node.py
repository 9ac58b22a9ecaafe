"""What a node is, as it registers, and what its agent does, in numbers."""

from __future__ import annotations

import msgspec

from atoll.protocol.values import Device
from atoll.resources import Amounts


class NodeDescription(msgspec.Struct, frozen=True):
    """What a node is, as it registers.

    Attributes:
        node_id: The process id of the agent.
        name: The host's name.
        pid: Of the agent.
        agent_socket: Where processes attach.
        resources: What it has, in units.
        devices: Its devices.
        labels: For policies.
        store_capacity_bytes: What its object store may hold.
        stays: As in `RegisterNode`.
    """

    node_id: bytes
    name: str
    pid: int
    agent_socket: str
    resources: Amounts
    devices: list[Device]
    labels: dict[str, str]
    store_capacity_bytes: int
    stays: bool = False


class AgentStatistics(msgspec.Struct, frozen=True):
    """What a node agent is doing, in numbers."""

    workers: dict[str, int]
    leases: dict[str, int]
    objects: int
    used_bytes: int
    segment_bytes: int
    warm_bytes: int
    attached: int
    spilled_bytes: int = 0
    spill_files: int = 0
    waiting_for_room: int = 0
