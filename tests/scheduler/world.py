"""A scheduler's core with pretended peers: say something, see what is sent, with every invariant checked each time."""

from __future__ import annotations

from typing import TypeVar

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import (
    Action,
    ClosePeer,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Send,
)
from atoll.protocol.state import ClusterState, decode_state
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core.events import PersistRecord, RecordsRestored, RemoveRecord
from atoll.scheduler.core.scheduler import Scheduler

MessageT = TypeVar("MessageT", bound=m.Message)
PYTHON = values.Environment("/usr/bin/python3", ["/usr/lib"], "/home/somebody", {"LANG": "C"})
WALL = 1_700_000_000.0


class World:
    """One core, its peers, its journal and its clock."""

    def __init__(self, *, linger_s: float | None = None, journal: dict[tuple[str, str], bytes] | None = None) -> None:
        self.now = Instant(1000.0)
        self.core = Scheduler(self.now, wall_offset=WALL - self.now, cluster_id="c1", version="0", linger_s=linger_s)
        self.journal: dict[tuple[str, str], bytes] = journal if journal is not None else {}
        self.inbox: dict[Peer, list[m.Message]] = {}
        self.actions: list[Action] = []
        self.agents: dict[Peer, bytes] = {}
        self.running: dict[int, m.StartLease] = {}
        self.environment = ""
        self.checks = True
        self._last_peer = 0
        self._last_worker = 0
        self.event(RecordsRestored([(table, key, value) for (table, key), value in self.journal.items()]))

    # ---------------------------------------------------------------------------------------------- the machinery

    def event(self, event: Event) -> list[Action]:
        actions = self.core.handle(event, self.now)
        if self.checks:
            self.core.check_invariants()
        self.actions += actions
        for action in actions:
            match action:
                case Send():
                    if self.checks:
                        m.decode(m.encode(action.message))
                    self.inbox.setdefault(action.peer, []).append(action.message)
                case ClosePeer():
                    self.inbox.pop(action.peer, None)
                case PersistRecord():
                    self.journal[action.table, action.key] = action.value
                case RemoveRecord():
                    self.journal.pop((action.table, action.key), None)
                case _:
                    pass
        return actions

    def wait(self, seconds: float) -> None:
        """Let time pass, with every deadline on the way."""
        until = Instant(self.now + seconds)
        turns = 0
        while (when := self.core.next_deadline()) is not None and when <= until:
            self.now = max(self.now, when)
            self.event(DeadlineReached())
            turns += 1
            assert turns < 10_000, "the core asks for its deadlines without end"
        self.now = until

    def connect(self, role: str, process_id: bytes) -> Peer:
        self._last_peer += 1
        peer = Peer(self._last_peer)
        self.inbox[peer] = []
        self.event(PeerConnected(peer, role, process_id))
        return peer

    def lose(self, peer: Peer) -> None:
        self.agents.pop(peer, None)
        self.event(PeerLost(peer, "closed the connection"))

    def say(self, peer: Peer, message: m.Message) -> None:
        self.event(Received(peer, message))

    def heard(self, peer: Peer, kind: type[MessageT]) -> list[MessageT]:
        """Take the messages of a type that a peer was sent."""
        box = self.inbox.get(peer, [])
        found = [message for message in box if isinstance(message, kind)]
        self.inbox[peer] = [message for message in box if not isinstance(message, kind)]
        return found

    def only(self, peer: Peer, kind: type[MessageT]) -> MessageT:
        found = self.heard(peer, kind)
        assert len(found) == 1, (found, self.inbox.get(peer))
        return found[0]

    def state(self, peer: Peer) -> ClusterState:
        self.say(peer, m.GetState(99))
        return decode_state(self.only(peer, m.State).state)

    # ----------------------------------------------------------------------------------------------------- peers

    def client(self, number: int = 1, kind: str = "kernel") -> Peer:
        process_id = job_id(number)
        peer = self.connect("client", process_id)
        self.say(peer, m.RegisterJob(1, process_id, kind, f"notebook-{number}.ipynb", 100 + number, "", PYTHON))
        answers = self.heard(peer, m.JobRegistered)
        if answers:
            self.environment = answers[0].environment
        return peer

    def agent(self, number: int = 1, cpus: float = 2, gpus: int = 0, **more: object) -> Peer:
        node_id = b"node%04d" % number
        peer = self.connect("agent", node_id)
        self.agents[peer] = node_id
        self.say(peer, registration(number, cpus, gpus, **more))
        return peer

    def shape(self, **wanted: float) -> values.SchedulingClass:
        """Return a class: `CPU=1, GPU=0.5`; whatever else a class has (`priority`, `node`, ...) as it is."""
        fields = values.SchedulingClass.__struct_fields__
        rest = {key: wanted.pop(key) for key in fields if key in wanted}
        amounts = {name: round(amount * UNITS_PER_ONE) for name, amount in wanted.items()}
        return values.SchedulingClass(amounts, self.environment, **rest)  # type: ignore[arg-type]

    def demand(self, peer: Peer, count: int = 1, key: int = 1, **wanted: float) -> None:
        self.say(peer, m.SetDemand(key, self.shape(**(wanted or {"CPU": 1})), count))

    def group(self, peer: Peer, *bundles: dict[str, float], number: int = 1, **more: object) -> bytes:
        """Ask for a placement group, and return its id."""
        group_id = b"group%011d" % number
        amounts = [{name: round(amount * UNITS_PER_ONE) for name, amount in bundle.items()} for bundle in bundles]
        more.setdefault("strategy", "PACK")
        more.setdefault("name", "")
        spec = values.GroupSpec(group_id, namespace="", bundles=amounts, **more)  # type: ignore[arg-type]
        self.say(peer, m.CreateGroup(7, spec))
        return group_id

    def find_group(self, peer: Peer, group_id: bytes) -> m.GroupChanged:
        self.say(peer, m.FindGroup(8, group_id))
        return self.only(peer, m.GroupChanged)

    def serve(self, *, failing: bool = False) -> None:
        """Let all agents do what they were told, until nothing is left to do."""
        busy = True
        while busy:
            busy = False
            for peer in list(self.agents):
                for message in self.inbox.get(peer, []):
                    busy = self._serve(peer, message, failing=failing) or busy
                    if peer not in self.agents:
                        break

    def _serve(self, peer: Peer, message: m.Message, *, failing: bool) -> bool:
        box = self.inbox[peer]
        match message:
            case m.StartLease():
                box.remove(message)
                if failing:
                    self.say(peer, m.LeaseFailed(message.lease_id, "WorkerCrashedError", "no"))
                    return True
                self._last_worker += 1
                worker = b"work%04d" % self._last_worker
                self.running[message.lease_id] = message
                address = f"/run/{worker.decode()}"
                self.say(peer, m.LeaseStarted(message.lease_id, worker, address, 1000 + self._last_worker))
            case m.EndLease():
                box.remove(message)
                self.running.pop(message.lease_id, None)
                self.say(peer, m.LeaseEnded(message.lease_id))
            case m.StartActor():
                box.remove(message)
                self.say(peer, m.ActorStarted(message.spec.actor_id, message.lease_id))
            case _:
                return False
        return True

    def granted(self, peer: Peer) -> list[m.LeaseGranted]:
        self.serve()
        return self.heard(peer, m.LeaseGranted)

    def actor_spec(self, number: int = 1, name: str = "", **more: object) -> values.ActorSpec:
        shape = more.pop("shape", None) or self.shape(CPU=1)
        return values.ActorSpec(
            b"actor%011d" % number,
            name,
            "",
            "Counter",
            shape,
            b"pickled",
            interface=values.ActorInterface({"add": values.MethodSpec()}),
            **more,  # type: ignore[arg-type]
        )


def job_id(number: int) -> bytes:
    return b"job-%04d" % number


def devices(count: int) -> list[values.Device]:
    return [
        values.Device(f"SIM-GPU-{index}", index, "simulated GPU", 16 * 2**30, simulated=True) for index in range(count)
    ]


def registration(number: int = 1, cpus: float = 2, gpus: int = 0, **more: object) -> m.RegisterNode:
    amounts = {"CPU": round(cpus * UNITS_PER_ONE), "memory": 8 * 2**30 * UNITS_PER_ONE}
    amounts.update(more.pop("resources", {}))  # type: ignore[call-overload]
    return m.RegisterNode(
        1,
        b"node%04d" % number,
        f"host-{number}",
        50 + number,
        f"/run/agent-{number}",
        amounts,
        more.pop("devices", None) or devices(gpus),  # type: ignore[arg-type]
        more.pop("labels", None) or {},  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )
