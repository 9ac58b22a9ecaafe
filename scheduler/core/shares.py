"""How much each session uses, now and lately, kept up to date as it changes.

    a lease starts or ends ─▶ charge, discharge ─▶ the session is noted ─ before the next decision ─▶ its share is anew
    time passes while somebody waits ─▶ every `TICK_S` all shares: what was held long ago counts less

A session that is gone leaves what it used lately under its name, for whoever comes with that name: a kernel that is
restarted is the same notebook.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from atoll.protocol.machine import Instant
from atoll.resources import Amounts
from atoll.scheduler.core.jobs import Job, JobTable
from atoll.scheduler.core.nodes import NodeTable
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.policy.fair_share import FadingClock, Rules, dominant_share, recent_average, share_lately

SHARE_STEP = 500
"""Queues know shares to so many millionths: finer, and each placement would put what waits in order anew."""

TICK_S = 1.0
MAXIMUM_REMEMBERED = 256


class ShareTable:
    """The shares of all sessions.

    Args:
        turn: The time.
        nodes: What there is of each resource.
        jobs: All sessions.
        rules: What was said about shares.
    """

    def __init__(self, turn: Turn, nodes: NodeTable, jobs: JobTable, rules: Rules) -> None:
        self._turn = turn
        self._nodes = nodes
        self._jobs = jobs
        self._rules = rules
        self._clock = FadingClock(rules.half_life_s, turn.now)
        self._stale: dict[int, Job] = {}
        self._tick_at = Instant(turn.now + TICK_S)
        self._left: OrderedDict[tuple[str, str], tuple[dict[str, float], Instant]] = OrderedDict()

    # ------------------------------------------------------------------------------------------------ what is used

    def charge(self, job: Job, amounts: Mapping[str, int]) -> None:
        """Count what a session holds from now on."""
        job.history.take(amounts, self._read(job))
        self._stale[job.number] = job

    def discharge(self, job: Job, amounts: Mapping[str, int]) -> None:
        """Count it no more."""
        job.history.give_back(amounts, self._read(job))
        self._stale[job.number] = job

    def _read(self, job: Job) -> float:
        """Read the clock by which a session's history is noted."""
        clock, now = self._clock, self._turn.now
        value = clock.value if clock.now == now else clock.read(now)
        if job.clock_began != clock.began:  # it counts anew: for each session when that is next needed
            if job.history.noted:
                job.history.scale(clock.fades(clock.began - job.clock_began))
            job.clock_began = clock.began
        return value

    def stale_all(self) -> None:
        """Compute all shares anew: what they are shares of has changed, or time has passed."""
        self._stale.update((job.number, job) for job in self._jobs)

    # --------------------------------------------------------------------------------------------------- the shares

    def refresh(self) -> list[Job]:
        """Bring shares up to date. Returns the sessions whose place among others may have changed."""
        if self._turn.now >= self._tick_at:
            self.stale_all()
            self._tick_at = self._turn.in_s(TICK_S)
        changed: list[Job] = []
        if self._stale:
            parts = self._nodes.parts
            for job in self._stale.values():
                clock = self._read(job)
                share = share_lately(job.used, job.history.noted, clock, parts, job.weight)
                share -= share % SHARE_STEP
                if share != job.share:
                    job.share = share
                    changed.append(job)
            self._stale.clear()
        return changed

    def next_tick(self) -> Instant | None:
        """Return when shares will have changed with time; None if they do not."""
        return self._tick_at if self._rules.half_life_s else None

    def of(self, job: Job, used: Amounts | None = None) -> int:
        """Return a session's share in millionths, of now and lately; with another use of now, if it is given."""
        if used is None:
            return share_lately(job.used, job.history.noted, self._read(job), self._nodes.parts, job.weight)
        return dominant_share(used, self.recent(job), self._nodes.totals, job.weight)

    def now_of(self, job: Job, used: Amounts | None = None) -> int:
        """Return the same of what it holds now alone."""
        return dominant_share(job.used if used is None else used, {}, self._nodes.totals, job.weight)

    def recent_of(self, job: Job) -> int:
        """Return the same of what it held lately alone."""
        return dominant_share({}, self.recent(job), self._nodes.totals, job.weight)

    def recent(self, job: Job) -> dict[str, float]:
        """Return what it held on average lately, in units."""
        return recent_average(job.used, job.history.noted, self._read(job))

    # ------------------------------------------------------------------------------------------ sessions come and go

    def came(self, job: Job, weight: float) -> None:
        """A session has said its name and the weight that it asks for: what was lately used by that name is its own."""
        job.weight = self._rules.weight_of(job.name, weight)
        left = self._left.pop((job.namespace, job.name), None) if job.name else None
        if left is not None:
            self._remember(job, *left)
        self._stale[job.number] = job

    def _remember(self, job: Job, recent: Mapping[str, float], when: Instant) -> None:
        """Take what was held lately, on average until an instant, for what this session has held."""
        weight = self._read(job) * self._clock.fades(self._turn.now - when)
        noted = job.history.noted
        for name, units in recent.items():
            noted[name] = noted.get(name, 0.0) - units * weight

    def gone(self, job: Job) -> None:
        """A session is forgotten; what it used lately is not."""
        self._stale.pop(job.number, None)
        recent = {name: units for name, units in self.recent(job).items() if units >= 1.0}
        if job.name and recent:
            self._left[job.namespace, job.name] = (recent, self._turn.now)
            self._left.move_to_end((job.namespace, job.name))
            if len(self._left) > MAXIMUM_REMEMBERED:
                self._left.popitem(last=False)
