"""How much each session uses, now and lately, kept up to date as it changes.

    a lease starts or ends ─▶ charge, discharge ─▶ the session is noted ─ before the next decision ─▶ its share is anew
    time passes while somebody waits ─▶ every `TICK_S` all shares: what was held long ago counts less

A session that is gone leaves what it used lately under its name, for whoever comes with that name: a kernel that is
restarted is the same notebook.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from atoll.protocol.machine import Instant
from atoll.resources import Amounts
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.nodes import NodeTable
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.policy.fair_share import Rules, dominant_share, follow

SHARE_STEP = 500
"""Queues know shares to so many millionths: finer, and each placement would put what waits in order anew."""

TICK_S = 1.0
MAXIMUM_REMEMBERED = 256


class ShareTable:
    """The shares of all sessions.

    Args:
        turn: The time.
        nodes: What there is of each resource.
        rules: What was said about shares.
    """

    def __init__(self, turn: Turn, nodes: NodeTable, rules: Rules) -> None:
        self._turn = turn
        self._nodes = nodes
        self._rules = rules
        self._half_life_s = rules.half_life_s
        self._stale: dict[bytes, Job] = {}
        self._tick_at = Instant(turn.now + TICK_S)
        self._left: OrderedDict[tuple[str, str], tuple[dict[str, float], Instant]] = OrderedDict()

    # ------------------------------------------------------------------------------------------------ what is used

    def charge(self, job: Job, amounts: Mapping[str, int]) -> None:
        """Count what a session holds from now on."""
        self._account(job)
        job.charge(amounts)
        self._stale[job.job_id] = job

    def discharge(self, job: Job, amounts: Mapping[str, int]) -> None:
        """Count it no more."""
        self._account(job)
        job.discharge(amounts)
        self._stale[job.job_id] = job

    def _account(self, job: Job) -> None:
        elapsed_s = self._turn.now - job.accounted
        if elapsed_s > 0.0:
            job.accounted = self._turn.now
            if job.used or job.recent:
                follow(job.recent, job.used, elapsed_s, self._half_life_s)

    def stale(self, jobs: Iterable[Job]) -> None:
        """Compute these shares anew: what they are shares of has changed, or their weights."""
        self._stale.update((job.job_id, job) for job in jobs)

    # --------------------------------------------------------------------------------------------------- the shares

    def refresh(self, jobs: Iterable[Job]) -> list[Job]:
        """Bring shares up to date. Returns the sessions whose place among others may have changed.

        Args:
            jobs: All sessions, whose shares change with time.
        """
        if self._turn.now >= self._tick_at:
            self.stale(jobs)
            self._tick_at = self._turn.in_s(TICK_S)
        if not self._stale:
            return []
        changed = []
        for job in self._stale.values():
            share = self.of(job)
            share -= share % SHARE_STEP
            if share != job.share:
                job.share = share
                changed.append(job)
        self._stale.clear()
        return changed

    def next_tick(self) -> Instant | None:
        """Return when shares will have changed with time; None if they do not."""
        return self._tick_at if self._half_life_s else None

    def of(self, job: Job, used: Amounts | None = None) -> int:
        """Return a session's share in millionths, of now and lately; with another use of now, if it is given."""
        self._account(job)
        held = job.used if used is None else used
        return dominant_share(held, job.recent, self._nodes.totals, job.weight)

    def now_of(self, job: Job, used: Amounts | None = None) -> int:
        """Return the same of what it holds now alone."""
        return dominant_share(job.used if used is None else used, {}, self._nodes.totals, job.weight)

    def recent_of(self, job: Job) -> int:
        """Return the same of what it held lately alone."""
        self._account(job)
        return dominant_share({}, job.recent, self._nodes.totals, job.weight)

    # ------------------------------------------------------------------------------------------ sessions come and go

    def came(self, job: Job, weight: float) -> None:
        """A session has said its name and the weight that it asks for: what was lately used by that name is its own."""
        job.weight = self._rules.weight_of(job.name, weight)
        left = self._left.pop((job.namespace, job.name), None) if job.name else None
        if left is not None:
            recent, when = left
            follow(recent, {}, self._turn.now - when, self._half_life_s)
            for name, units in recent.items():
                job.recent[name] = job.recent.get(name, 0.0) + units
        self.stale([job])

    def gone(self, job: Job) -> None:
        """A session is forgotten; what it used lately is not."""
        self._stale.pop(job.job_id, None)
        self._account(job)
        if job.name and job.recent:
            self._left[job.namespace, job.name] = (job.recent, self._turn.now)
            self._left.move_to_end((job.namespace, job.name))
            if len(self._left) > MAXIMUM_REMEMBERED:
                self._left.popitem(last=False)
