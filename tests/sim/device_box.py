"""SIMULATED: a box with GPUs, two notebooks that want them, and a node agent that is killed and comes back (R15).

Real: the cores of the scheduler and of the agents, one after the other. Simulated: processes (they live, hang in the
driver, and die), the locks of devices (held by a process while it lives, inherited by its children), the driver
(which frees a dead process's memory when it likes), what is written down of faults, and the messages, which come in
order and late.

What is checked after every step is seen from outside: which living processes hold which device, and whose memory lies
on it, and that nobody is given a device that is quarantined. Each safeguard can be switched off, to see
that the check would find what it guards against.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from atoll.nodeagent.core import events as e
from atoll.nodeagent.core.agent import AgentCore
from atoll.nodeagent.core.device_health import FAULTS_WITHIN_S, MAXIMUM_FAULTS, QUARANTINE_S
from atoll.nodeagent.core.node import NodeDescription
from atoll.protocol import messages as m
from atoll.protocol.machine import DeadlineReached, Event, Instant, Peer, PeerConnected, PeerLost, Received, Send
from atoll.protocol.values import Device, DeviceSample
from atoll.resources import CPU, GPU, UNITS_PER_ONE
from tests.scheduler.world import World

GIB = 2**30
GPUS = 3
SCHEDULER = Peer(1)
STEP_S = 0.2


@dataclass
class Process:
    """A worker. `doomed` is set when its agent is dead: it follows as soon as the driver lets it."""

    worker_id: bytes
    pid: int
    devices: list[str]
    peer: Peer | None = None
    shares: dict[str, int] = field(default_factory=dict)
    doomed: bool = False
    begun: bool = False


class DeviceBox:
    """The box, its cluster and its users.

    Args:
        seed: Of everything.
        locks: Whether devices are locked.
        measured: Whether the agent is told the truth about memory; else that all is free.
        written_down: Whether what devices have failed at outlives the agent.
    """

    def __init__(self, seed: int, *, locks: bool = True, measured: bool = True, written_down: bool = True) -> None:
        self.random = random.Random(f"{seed}/devices")
        self.locks, self.measured, self.written_down = locks, measured, written_down
        self.world = World()
        self.counts: Counter[str] = Counter()
        self.devices = [Device(f"SIM-GPU-{n}", n, "simulated GPU", 16 * GIB, simulated=True) for n in range(GPUS)]
        self.lock_holders: dict[str, dict[bytes, None]] = {device.uuid: {} for device in self.devices}
        self.memory: dict[str, dict[int, int]] = {device.uuid: {} for device in self.devices}
        self.processes: dict[bytes, Process] = {}
        self.clients: dict[int, Peer] = {}
        self.held: dict[int, list[int]] = {1: [], 2: []}
        self.to_agent: deque[Event] = deque()
        self.to_scheduler: deque[m.Message] = deque()
        self._numbers, self._agents = 0, 0
        self.agent: AgentCore | None = None
        self.written: dict[str, e.DeviceRecord] = {}
        self.faults: dict[str, list[float]] = {device.uuid: [] for device in self.devices}
        self.quarantined: dict[str, float] = {}
        self.start_agent()
        while self.to_agent or self.to_scheduler:
            self._deliver()
        for number in (1, 2):
            self.clients[number] = self.world.client(number)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # ------------------------------------------------------------------------------------------------- the agent

    def start_agent(self) -> None:
        """An agent comes: the first, or one after another that died."""
        self._agents += 1
        node_id = b"node%04d" % self._agents
        resources = {CPU: 8 * UNITS_PER_ONE, GPU: GPUS * UNITS_PER_ONE}
        node = NodeDescription(node_id, "box", 1, "/agent", resources, self.devices, {}, GIB)
        known = list(self.written.values()) if self.written_down else []
        self.agent = AgentCore(node, lambda: b"wk%06d" % self._number(), self.world.now, device_records=known)
        self.agent_id = node_id
        self.agent_peer = self.world.connect("agent", node_id)
        self._carry_out(self.agent.start())
        self.give(PeerConnected(SCHEDULER, "scheduler", b"schedule"))

    def kill_agent(self) -> None:
        """The agent dies; its workers follow when the driver lets them."""
        self.agent = None
        self.to_agent.clear()
        self.to_scheduler.clear()
        for holders in self.lock_holders.values():
            holders.pop(self.agent_id, None)
        for process in self.processes.values():
            process.doomed = True
        self.world.lose(self.agent_peer)

    def give(self, event: Event) -> None:
        """Let something happen to the agent, now."""
        if self.agent is not None:
            self._carry_out(self.agent.handle(event, self.world.now))
        if self.agent is not None:
            self.agent.check_invariants()

    def _carry_out(self, actions: list[object]) -> None:
        for action in actions:
            match action:
                case Send() if action.peer == SCHEDULER:
                    self.to_scheduler.append(action.message)
                case Send():
                    self._told(action.peer, action.message)
                case e.StartZygote():
                    self.to_agent.append(e.ZygoteReady(action.digest))
                case e.ForkWorker():
                    self._fork(action)
                case e.KillWorker():
                    self.end_process(self.processes.get(action.worker_id))
                case e.ClaimDevices():
                    self.to_agent.append(self._claim(action))
                case e.UnlockDevices():
                    for uuid in action.uuids:
                        self.lock_holders[uuid].pop(self.agent_id, None)
                case e.MeasureDeviceMemory():
                    found = self._memory(action.uuids, action.worker_pid)
                    self.to_agent.append(e.DeviceMemoryMeasured(action.lease_id, found))
                case e.ObserveNode():
                    self.to_agent.append(self._observed())
                case e.RememberDevice() | e.ForgetDevice():
                    self._write_down(action)
                case e.MeasureMemory():
                    self.to_agent.append(e.MemoryMeasured([], 64 * GIB, 32 * GIB))
                case _:
                    pass

    # ------------------------------------------------------------------------------------------------- processes

    def _fork(self, action: e.ForkWorker) -> None:
        process = Process(action.worker_id, 1000 + self._number(), list(action.devices))
        self.processes[process.worker_id] = process
        for uuid in process.devices:
            self.lock_holders[uuid][process.worker_id] = None  # inherited
        self.to_agent.append(e.WorkerForked(process.worker_id, process.pid))
        process.peer = Peer(10_000 + self._number())
        self.to_agent.append(PeerConnected(process.peer, "worker", process.worker_id))
        self.to_agent.append(Received(process.peer, m.WorkerStarted("/worker", process.pid)))

    def _told(self, peer: Peer, message: m.Message) -> None:
        process = next((process for process in self.processes.values() if process.peer == peer), None)
        if process is None:
            return
        if isinstance(message, m.BeginLease):
            self.counts["warm"] += bool(process.begun)
            process.begun = True
            process.shares = {share.uuid: share.units for share in message.devices}
            self._check_memory(process)
            for uuid in process.shares:
                assert self.quarantined.get(uuid, 0.0) <= self.world.now, f"{uuid} is quarantined, and given"
                self.memory[uuid][process.pid] = self.random.choice([640, 640, 1024, 4096]) * 2**20
        elif isinstance(message, m.FinishLease):
            process.shares = {}
        elif isinstance(message, m.StopWorker):
            self.end_process(process)

    def end_process(self, process: Process | None) -> None:
        """A process is gone, and its locks with it; its memory is for the driver to free."""
        if process is None or self.processes.pop(process.worker_id, None) is None:
            return
        for holders in self.lock_holders.values():
            holders.pop(process.worker_id, None)
        if not process.doomed and process.peer is not None:
            self.to_agent.append(PeerLost(process.peer))
            self.to_agent.append(e.ProcessExited(process.worker_id, None, 9))

    # --------------------------------------------------------------------------------------------------- devices

    def _claim(self, action: e.ClaimDevices) -> e.DevicesClaimed:
        refused = {
            uuid: "held by a worker whose node agent has ended"
            for uuid in action.uuids
            if self.locks and self.lock_holders[uuid] and self.agent_id not in self.lock_holders[uuid]
        }
        if not refused:
            for uuid in action.uuids:
                self.lock_holders[uuid][self.agent_id] = None
        samples = []
        for uuid in action.uuids:
            ours = {process.pid for process in self.processes.values() if not process.doomed}
            foreign = sum(size for pid, size in self.memory[uuid].items() if pid not in ours) if self.measured else 0
            samples.append(DeviceSample(uuid, 0.0, foreign, foreign, trouble=refused.get(uuid, "")))
        return e.DevicesClaimed(action.lease_id, samples, self._memory(action.uuids, 0), refused)

    def _memory(self, uuids: list[str], worker_pid: int) -> list[e.DeviceMemory]:
        if not self.measured:
            return [e.DeviceMemory(uuid, 0, 0, 0) for uuid in uuids]
        living = {process.pid for process in self.processes.values()}
        found = []
        for uuid in uuids:
            held = self.memory[uuid]
            others = sum(size for pid, size in held.items() if pid in living and pid != worker_pid)
            found.append(e.DeviceMemory(uuid, sum(held.values()), held.get(worker_pid, 0), others))
        return found

    def free_memory(self) -> None:
        """The driver frees the memory of some processes that are gone."""
        living = {process.pid for process in self.processes.values()}
        for held in self.memory.values():
            for pid in [pid for pid in held if pid not in living and self.random.random() < 0.5]:
                del held[pid]

    def _observed(self, *faults: e.DeviceFault) -> e.NodeObserved:
        return e.NodeObserved(0.0, 0, GIB, [DeviceSample(device.uuid, 0.0, 0) for device in self.devices], [], faults)

    def _write_down(self, action: e.RememberDevice | e.ForgetDevice) -> None:
        if isinstance(action, e.RememberDevice):
            self.written[action.record.uuid] = action.record
        else:
            self.written.pop(action.uuid, None)

    # ---------------------------------------------------------------------------------------------------- a step

    def step(self) -> None:
        """Let one thing happen, some messages come, and time pass; then look."""
        self.world.checks = self.random.random() < 0.1  # of everything, every time, would take most of the time
        acts = [self.acquire, self.release, self.crash, self.restart_agent, self.free_memory, self.fail, self.lift]
        self.random.choices(acts, weights=[6, 5, 2, 0.3, 3, 0.15, 0.6])[0]()
        for process in [process for process in self.processes.values() if process.doomed]:
            if self.random.random() < 0.15:
                self.end_process(process)
        for _message in range(self.random.randrange(12)):
            self._deliver()
        self._pass_time(self.random.uniform(0.0, STEP_S))
        self.check()

    def _deliver(self) -> None:
        if self.to_agent and (not self.to_scheduler or self.random.random() < 0.5):
            self.give(self.to_agent.popleft())
        elif self.to_scheduler:
            self.world.say(self.agent_peer, self.to_scheduler.popleft())
        inbox = self.world.inbox.get(self.agent_peer)
        if self.agent is not None and inbox:
            self.to_agent.extend(Received(SCHEDULER, message) for message in inbox)
            inbox.clear()
        for number, client in self.clients.items():
            self.held[number] += [granted.lease_id for granted in self.world.heard(client, m.LeaseGranted)]
            gone = {lost.lease_id for lost in self.world.heard(client, m.LeaseLost)}
            self.held[number] = [lease_id for lease_id in self.held[number] if lease_id not in gone]
            self.world.inbox[client].clear()

    def _pass_time(self, seconds: float) -> None:
        until = Instant(self.world.now + seconds)
        while self.agent is not None and (due := self.agent.next_deadline()) is not None and due <= until:
            self.world.wait(max(0.0, due - self.world.now))
            self.give(DeadlineReached())
        self.world.wait(max(0.0, until - self.world.now))

    def acquire(self) -> None:
        """A notebook wants devices: a whole one, two, or a share."""
        number = self.random.choice((1, 2))
        self.counts["acquire"] += 1
        gpus = self.random.choice([1, 1, 1, 2, 0.5, 0.25])
        self.world.demand(self.clients[number], self.random.randint(0, 2), key=int(gpus * 4), GPU=gpus)

    def release(self) -> None:
        """A notebook gives a lease back."""
        number = self.random.choice((1, 2))
        if self.held[number]:
            self.counts["release"] += 1
            lease_id = self.held[number].pop(self.random.randrange(len(self.held[number])))
            self.world.say(self.clients[number], m.ReturnLease(lease_id))

    def crash(self) -> None:
        """A worker dies."""
        living = [process for process in self.processes.values() if process.shares and not process.doomed]
        if living:
            self.counts["crash"] += 1
            self.end_process(self.random.choice(living))

    def restart_agent(self) -> None:
        """The agent dies and another comes, while workers of the first may still hang in the driver."""
        self.counts["agent restart"] += 1
        self.kill_agent()
        self.start_agent()

    def fail(self) -> None:
        """A device fails, and the agent learns it now."""
        uuid = self.random.choice(self.devices).uuid
        since = self.world.now - FAULTS_WITHIN_S
        self.faults[uuid] = [when for when in self.faults[uuid] if when > since] + [self.world.now]
        if len(self.faults[uuid]) >= MAXIMUM_FAULTS and self.quarantined.get(uuid, 0.0) <= self.world.now:
            self.counts["quarantine"] += 1
            self.quarantined[uuid] = self.world.now + QUARANTINE_S
        self.give(self._observed(e.DeviceFault(uuid, "XID 79")))

    def lift(self) -> None:
        """Somebody has looked after a device that is quarantined."""
        uuid = next((uuid for uuid, until in self.quarantined.items() if until > self.world.now), None)
        if uuid is not None:
            self.counts["lift"] += 1
            self.give(Received(SCHEDULER, m.ReleaseDevice(0, uuid)))
            self.faults[uuid].clear()
            del self.quarantined[uuid]

    # -------------------------------------------------------------------------------------------------- checking

    def check(self) -> None:
        """No device is held by more processes than share it."""
        held: dict[str, dict[int, int]] = {}
        for process in self.processes.values():
            for uuid, units in process.shares.items():
                held.setdefault(uuid, {})[process.pid] = units
        for uuid, holders in held.items():
            self.counts["held at once"] = max(self.counts["held at once"], len(held))
            assert sum(holders.values()) <= UNITS_PER_ONE, f"{uuid} is held by {holders}"

    def _check_memory(self, process: Process) -> None:
        """Who begins on a whole device finds it empty of what the dead have left."""
        for uuid, units in process.shares.items():
            if units == UNITS_PER_ONE:
                left = {pid: size for pid, size in self.memory[uuid].items() if pid != process.pid}
                assert not left, f"{uuid} is given to {process.pid} while memory of {left} lies on it"
                self.counts["began on a whole device"] += 1
