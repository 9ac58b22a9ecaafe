"""How much each session uses, now and lately, kept up to date as it changes.

    a lease starts or ends ─▶ charge, discharge ─▶ the session is noted ─ before the next decision ─▶ its share is anew
    time passes while somebody waits ─▶ every `TICK_S` all shares: what was held long ago counts less

A session that is gone leaves what it used lately under its name, for whoever comes with that name: a kernel that is
restarted is the same notebook.

What sessions used lately is written down whenever accounts are (`usage`), each with the instant up to which it counts.
A restarted scheduler knows it as it knows that of sessions which are gone; what lives on was held since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec

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

TABLE = "shares"


class Left(msgspec.Struct, frozen=True, array_like=True):
    """What a session has used lately, as the journal keeps it, and as it is remembered when the session is gone.

    Attributes:
        namespace, name: Of the session: whoever comes with them goes on with it.
        recent: What it held on average lately, in units.
        until: The instant to which that counts.
    """

    namespace: str
    name: str
    recent: dict[str, float]
    until: float


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
        self._left: OrderedDict[bytes, Left] = OrderedDict()
        self._written: dict[bytes, None] = {}
        self._restored_until: dict[bytes, float] = {}

    # ------------------------------------------------------------------------------------------------ what is used

    def charge(self, job: Job, amounts: Mapping[str, int]) -> None:
        """Count what a session holds from now on."""
        clock = self._clock
        job.history.take(amounts, clock.value if clock.now == self._turn.now else self._read())
        self._stale[job.number] = job

    def discharge(self, job: Job, amounts: Mapping[str, int]) -> None:
        """Count it no more."""
        clock = self._clock
        job.history.give_back(amounts, clock.value if clock.now == self._turn.now else self._read())
        self._stale[job.number] = job

    def _read(self) -> float:
        """Read the clock by which the sessions' histories are noted."""
        clock, now = self._clock, self._turn.now
        if clock.now == now:
            return clock.value
        began, value = clock.began, clock.read(now)
        if clock.began != began:  # it counts anew
            for job in self._jobs:
                job.history.scale(clock.fades(clock.began - began))
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
            clock, parts = self._clock.value if self._clock.now == self._turn.now else self._read(), self._nodes.parts
            for job in self._stale.values():
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
            return share_lately(job.used, job.history.noted, self._read(), self._nodes.parts, job.weight)
        return dominant_share(used, self.recent(job), self._nodes.totals, job.weight)

    def now_of(self, job: Job, used: Amounts | None = None) -> int:
        """Return the same of what it holds now alone."""
        return dominant_share(job.used if used is None else used, {}, self._nodes.totals, job.weight)

    def recent_of(self, job: Job) -> int:
        """Return the same of what it held lately alone."""
        return dominant_share({}, self.recent(job), self._nodes.totals, job.weight)

    def recent(self, job: Job) -> dict[str, float]:
        """Return what it held on average lately, in units."""
        return recent_average(job.used, job.history.noted, self._read())

    # ------------------------------------------------------------------------------------------ sessions come and go

    def came(self, job: Job, weight: float) -> None:
        """A session has said its name and the weight that it asks for: what was lately used by that name is its own."""
        job.weight = self._rules.weight_of(job.name, weight)
        theirs = [job.job_id] if job.job_id in self._left else self._left_by_name(job)
        for job_id in theirs:
            self._go_on(job, self._left.pop(job_id))
            if job_id != job.job_id:
                self._forget(job_id)
        self._stale[job.number] = job

    def _left_by_name(self, job: Job) -> list[bytes]:
        """Return whose use a new session goes on with: that of sessions of its name which are gone."""
        whose = (job.namespace, job.name)
        return [job_id for job_id, left in self._left.items() if job.name and (left.namespace, left.name) == whose]

    def _go_on(self, job: Job, left: Left) -> None:
        """Take what was held lately for what this session has held."""
        weight = self._read() * self._clock.fades(self._turn.now - left.until)
        job.history.had({name: units * weight for name, units in left.recent.items()})

    def gone(self, job: Job) -> None:
        """A session is forgotten; what it used lately is not."""
        self._stale.pop(job.number, None)
        left = self._lately(job)
        if left is None or not job.name:
            self._forget(job.job_id)
            return
        self._left[job.job_id] = left
        self._write(job.job_id, left)
        if len(self._left) > MAXIMUM_REMEMBERED:
            self._forget(self._left.popitem(last=False)[0])

    def _lately(self, job: Job) -> Left | None:
        """Return what a session has used lately; None if that is next to nothing."""
        recent = {name: units for name, units in self.recent(job).items() if units >= 1.0}
        return Left(job.namespace, job.name, recent, self._turn.now) if recent else None

    # ----------------------------------------------------------------------------------------------------- journal

    def write_down(self) -> None:
        """Write down what all sessions used lately."""
        for job in self._jobs:
            left = self._lately(job)
            if left is not None:
                self._write(job.job_id, left)
            else:
                self._forget(job.job_id)

    def _write(self, job_id: bytes, left: Left) -> None:
        self._written[job_id] = None
        self._turn.persist(TABLE, job_id.hex(), _encode(left))

    def _forget(self, job_id: bytes) -> None:
        if job_id in self._written:
            del self._written[job_id]
            self._turn.remove_record(TABLE, job_id.hex())

    def restore(self, key: str, value: bytes) -> None:
        """Take up what a session had used lately when it was last written down.

        Raises:
            msgspec.DecodeError: It is of another version, or damaged.
            ValueError: Likewise.
        """
        job_id = bytes.fromhex(key)
        self._left[job_id] = left = _decoder.decode(value)
        self._written[job_id] = None
        self._restored_until[job_id] = left.until

    def resume(self, job: Job, amounts: Mapping[str, int], begun: float) -> None:
        """Count what lives on from a predecessor's time, and was held since that was last written down.

        Args:
            job: Whose it is.
            amounts: What is held. The caller says `charge` too.
            begun: When it was taken.
        """
        since = max(begun, self._restored_until.get(job.job_id, begun))
        missed = self._read() * (1.0 - self._clock.fades(max(0.0, self._turn.now - since)))
        job.history.had({name: units * missed for name, units in amounts.items()})
        self._stale[job.number] = job


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Left)
