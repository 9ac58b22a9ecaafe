"""The link to the scheduler: dialled until it is there, and what is said first when it is.

    DialScheduler ──▶ PeerConnected ──RegisterNode──▶ AdoptObject ... NodeRegistered ──▶ linked
          ▲                                                                                │ lost
          └────────────────────────────────────────────────────────────────────────────────┘ too long: the agent ends

A scheduler that was restarted, or another one in its place, knows of this node what is said here: what it is, which
leases and actors go on, whose devices are others'. While it is away, what runs goes on, and what was not begun is
forgotten: it asks for that again.
"""

from __future__ import annotations

from atoll.nodeagent.core.actors import Actors
from atoll.nodeagent.core.events import DialScheduler
from atoll.nodeagent.core.leases import Leases
from atoll.nodeagent.core.lifetimes import Lifetimes
from atoll.nodeagent.core.node import NodeDescription
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.samples import Samples
from atoll.nodeagent.core.transfers import Transfers
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import NodeRegistered, RegisterNode

WITHOUT_SCHEDULER_S = 10.0
"""An agent whose scheduler is away for longer ends, and its workers with it."""


class SchedulerLink:
    """Of one node.

    Args:
        node: What the node is.
        outbox: Knows the scheduler's connection.
        leases: What the node does, likewise the next.
        actors: That live in them.
        lifetimes: Knows the names that the cluster has here.
        transfers: Asks where nodes are.
        samples: Told how the node is.
        now: When the agent begins, without a scheduler.
    """

    def __init__(
        self,
        node: NodeDescription,
        outbox: Outbox,
        leases: Leases,
        actors: Actors,
        lifetimes: Lifetimes,
        transfers: Transfers,
        samples: Samples,
        now: Instant,
    ) -> None:
        self._node = node
        self._outbox = outbox
        self._leases = leases
        self._actors = actors
        self._lifetimes = lifetimes
        self._transfers = transfers
        self._samples = samples
        self._lost_at: Instant | None = now
        self._dialling = False

    def dial(self) -> None:
        """Look for the scheduler, unless that is done already."""
        if not self._dialling:
            self._dialling = True
            self._outbox.do(DialScheduler())

    def connected(self, peer: Peer, now: Instant) -> None:
        """A scheduler is there: it is the one from now on, and hears what goes on here."""
        self._outbox.scheduler = peer
        self._dialling = False
        self._lost_at = None
        self._samples.scheduler_linked(now)
        self._lifetimes.await_confirmations()
        self._transfers.scheduler_linked()
        self._register()

    def _register(self) -> None:
        holding = self._leases.holding()
        node = self._node
        self._outbox.tell_scheduler(
            RegisterNode(
                request=1,
                node_id=node.node_id,
                name=node.name,
                pid=node.pid,
                agent_socket=node.agent_socket,
                resources=node.resources,
                devices=node.devices,
                labels=node.labels,
                leases=[(lease.lease_id, *lease.place) for lease in holding],
                actors=self._actors.living(),
                started=[lease.begun for lease in holding],
                away=self._actors.away(),
                stays=node.stays,
            )
        )
        self._actors.tell_kept()

    def registered(self, _message: NodeRegistered, now: Instant) -> None:
        """The scheduler knows this node, and has said which names it still has here."""
        self._lifetimes.drop_unconfirmed(now)

    def lost(self, now: Instant) -> None:
        """The scheduler is gone, or is not to be spoken with any more."""
        self._outbox.scheduler = None
        self._lost_at = now
        self._samples.scheduler_lost()
        self._leases.forget_unstarted(now)
        self.dial()

    def next_deadline(self) -> Instant | None:
        """Return when the agent ends, as far as this is the cause."""
        return None if self._lost_at is None else Instant(self._lost_at + WITHOUT_SCHEDULER_S)

    def end(self, now: Instant) -> str:
        """Return why the agent is to end now, or nothing."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return ""
        return f"there has been no scheduler for {WITHOUT_SCHEDULER_S:g} s"
