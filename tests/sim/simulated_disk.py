"""SIMULATED: the disk of a node. What `atoll.nodeagent.spill` does, with a disk that fills up and files that are torn.

A file holds whose bytes lay at each place when the copy ended: as late as can be, so that a copy of memory that was
given to somebody else meanwhile is seen when it is read back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.nodeagent.core.events import (
    DeleteSpillFile,
    ObjectRestored,
    ObjectsSpilled,
    RestoreFailed,
    RestoreObject,
    SpillFailed,
    SpillObjects,
)
from tests.sim.options import Options
from tests.sim.simulated_store import Extent, Memory

if TYPE_CHECKING:
    from tests.sim.daemon_processes import AgentProcess

BYTES_PER_S = 500e6
FULL_S = (0.05, 3.0)


class SimulatedDisk:
    """The spill files of an agent.

    Args:
        agent: Whose.
        memory: What it copies.
        options: How often something goes wrong.
    """

    def __init__(self, agent: AgentProcess, memory: Memory, options: Options) -> None:
        self._agent = agent
        self._memory = memory
        self._options = options
        self._full_until = 0.0
        self.files: dict[int, dict[int, bytes]] = {}

    def carry_out(self, action: SpillObjects | RestoreObject | DeleteSpillFile) -> None:
        """Do what the core wants, later."""
        agent = self._agent
        if isinstance(action, DeleteSpillFile):
            del self.files[action.file_id]
            return
        pieces = action.pieces if isinstance(action, SpillObjects) else [action.piece]
        delay_s = agent.random.uniform(1e-3, 20e-3) + sum(piece.size_bytes for piece in pieces) / BYTES_PER_S
        if isinstance(action, SpillObjects):
            agent.after(delay_s, "spilled", lambda: self._spill(action))
        else:
            agent.after(delay_s, "restored", lambda: self._restore(action))

    def _spill(self, action: SpillObjects) -> None:
        agent = self._agent
        now = agent.simulation.clock.now
        if agent.random.random() < self._options.failing_disk:
            self._full_until = now + agent.random.uniform(*FULL_S)
        if now < self._full_until:
            agent.simulation.faults["disk full"] += 1
            agent.deliver(SpillFailed(action.file_id, "the disk is full"))
            return
        file = self.files[action.file_id] = {}
        checksums = []
        offset = 0
        for piece in action.pieces:
            content = self._memory.copy_out(Extent(piece.segment_id, piece.offset, piece.size_bytes))
            file[offset] = content
            checksums.append(content)
            offset += piece.size_bytes
        agent.world.outcomes["object spilled"] += len(action.pieces)
        agent.deliver(ObjectsSpilled(action.file_id, checksums))

    def _restore(self, action: RestoreObject) -> None:
        agent = self._agent
        content = self.files[action.file_id][action.file_offset]
        if agent.random.random() < self._options.torn_files:
            agent.simulation.faults["torn spill file"] += 1
            agent.world.lost_on_disk[action.object_id] = None
            agent.deliver(RestoreFailed(action.object_id, "its spill file is torn"))
            return
        assert content == action.checksum, "the checksum that is asked for is not that of the object"
        piece = action.piece
        self._memory.write(agent.name, Extent(piece.segment_id, piece.offset, piece.size_bytes), content)
        agent.world.outcomes["object restored"] += 1
        agent.deliver(ObjectRestored(action.object_id))
