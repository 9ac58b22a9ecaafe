"""Who has held and used how much, for how long: CPU-, GPU- and byte-seconds by notebook, cell and actor.

What is *held* is integrated, not sampled. Each account has a `History`, in which every change is noted with its time,
and which is added up when somebody asks. So a change costs the same however many leases there are, and the sum over all
accounts is at every moment the integral of what is occupied on all nodes. Amounts are integers (units times
microseconds): nothing is lost to rounding in months.

    lease or bundle takes ─▶ noted        asked, written down, midnight ─▶ settled: noted changes become sums
    gives back, lends CPU ─▶ noted        too many accounts ─▶ the longest quiet ones are added up

A lease in a placement group moves what it takes from the group's account to its own, and back.

What is *used* comes from the samples of node agents, and is as fine as those are: see `measured`.

Accounts are written down soon after they change and now and then while they hold something, each with the instant up
to which it counts. Instants are of a clock that all processes of a host share, so a restarted scheduler goes on from
there for every lease that lives on. Of what ended while nobody looked, what came after that instant is not counted: an
account never says more than was held, and a crash of the scheduler costs it at most `WRITE_EVERY_S` of a lease.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from atoll.exceptions import InternalError
from atoll.protocol.machine import Instant
from atoll.protocol.usage import EARLIER, OTHERS, RESERVED, UsageReport
from atoll.scheduler.core.account import MICRO, Account, AccountKey, Sums, Tally, add, encode, read_saved
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.turn import Turn

TABLE, NOTEBOOKS_TABLE = "usage", "usage notebooks"
TIMER = "usage"

WRITE_WITHIN_S = 1.0
"""A change is written down within this time."""

WRITE_EVERY_S = 10.0
"""While something is held, accounts are written down so often."""

MAXIMUM_ACCOUNTS = 2000

_DAY_US = 24 * 3600 * MICRO


class Ledger:
    """All accounts.

    Args:
        turn: The time, and the journal.
        local_offset_s: What local time is ahead of UTC; midnight is there.
    """

    def __init__(self, turn: Turn, local_offset_s: float = 0.0) -> None:
        self._turn = turn
        self._began_us = round(turn.now * MICRO)
        self._since = turn.wall(turn.now)
        self._accounts: dict[AccountKey, Account] = {}
        self._notebooks: dict[bytes, tuple[str, str]] = {}
        self._resumed: dict[int, None] = {}
        self._to_local_us = round((turn.wall_offset + local_offset_s) * MICRO)
        self._day = (self._began_us + self._to_local_us) // _DAY_US
        self._midnight_us = (self._day + 1) * _DAY_US - self._to_local_us
        self._counted, self._counted_us = turn.now, self._began_us

    def __len__(self) -> int:
        return len(self._accounts)

    # ------------------------------------------------------------------------------------------------ whose

    def key_of(self, job: Job, label: str, *, actor: bool = False) -> AccountKey:
        """Return the account of what a job runs under a label."""
        notebook, kind = self._notebook_of(job)
        return AccountKey(notebook, kind, "", label) if actor else AccountKey(notebook, kind, label)

    def key_of_groups(self, job: Job) -> AccountKey:
        """Return the account of what a job's placement groups keep free."""
        return AccountKey(*self._notebook_of(job), RESERVED)

    def _notebook_of(self, job: Job) -> tuple[str, str]:
        known = self._notebooks.get(job.job_id)
        if known is not None:
            return known
        if not job.name:
            return job.job_id.hex(), job.kind
        named = self._notebooks[job.job_id] = (job.name, job.kind)
        self._turn.persist(NOTEBOOKS_TABLE, job.job_id.hex(), msgspec.msgpack.encode(named))
        return named

    def job_forgotten(self, job_id: bytes) -> None:
        """Nothing more comes of a job; its notebook may have others."""
        if self._notebooks.pop(job_id, None) is not None:
            self._turn.remove_record(NOTEBOOKS_TABLE, job_id.hex())

    def keep_only(self, jobs: Iterable[Job]) -> None:
        """Forget which notebook a job was of, where the job did not come back after a restart."""
        there = {job.job_id: None for job in jobs}
        for job_id in [job_id for job_id in self._notebooks if job_id not in there]:
            self.job_forgotten(job_id)

    # ------------------------------------------------------------------------------------------------- held

    def account(self, key: AccountKey) -> Account:
        """Return an account: it is kept for as long as it holds something."""
        account = self._accounts.get(key)
        if account is None:
            while len(self._accounts) >= MAXIMUM_ACCOUNTS and self._add_up_the_quietest():
                pass
            account = self._accounts[key] = Account(key, self._now_us())
        return account

    def lease_began(self, tally: Tally) -> None:
        """Count what a lease holds from now on."""
        now_us = self._counted_us if self._counted == self._turn.now else self._now_us()
        tally.count += 1
        tally.noted_us += now_us
        account = tally.account
        account.changed_us = now_us
        if not account.changed:
            self._note_change(account)

    def lease_ended(self, tally: Tally, lent: Mapping[str, int]) -> None:
        """Count it no more from now on; what it has `lent` is counted no more already."""
        now_us = self._counted_us if self._counted == self._turn.now else self._now_us()
        tally.count -= 1
        tally.noted_us -= now_us
        account = tally.account
        account.changed_us = now_us
        if lent:
            account.history.take(lent, now_us)
        if not account.changed:
            self._note_change(account)

    def take(self, key: AccountKey, amounts: Mapping[str, int]) -> None:
        """Count what is held from now on, otherwise than by leases that begin."""
        account = self.account(key)
        account.history.take(amounts, self._now_us())
        self._changed(account)

    def give_back(self, key: AccountKey, amounts: Mapping[str, int]) -> None:
        """Count it no more from now on."""
        account = self.account(key)
        account.history.give_back(amounts, self._now_us())
        self._changed(account)

    def resume(
        self,
        key: AccountKey,
        amounts: Mapping[str, int],
        begun: float,
        number: int,
        giver: AccountKey | None = None,
    ) -> bool:
        """Count what lives on from a predecessor's time, and was held since it was last counted there.

        Args:
            key: Whose.
            amounts: What is held. The caller says `take` too.
            begun: When it was taken.
            number: Of the lease or bundle: it is resumed once, even if its node comes and goes.
            giver: The account of the placement group that it is taken from, if it is from one.

        Returns:
            Whether it was not resumed before.
        """
        account = self._settled(key)
        if number in self._resumed:
            return False
        self._resumed[number] = None
        now_us, midnight_us = account.settled_us, self._day * _DAY_US - self._to_local_us
        from_us = max(account.restored_until_us or self._began_us, round(begun * MICRO))
        before, today = max(0, midnight_us - from_us), max(0, now_us - max(from_us, midnight_us))
        for each, sign in ((account, 1), *([(self._settled(giver), -1)] if giver is not None else [])):
            add(each.held, {name: sign * units * before for name, units in amounts.items()})
            add(each.held_today, {name: sign * units * today for name, units in amounts.items()})
        return True

    def reassign(self, giver: AccountKey, taker: AccountKey, sums: Mapping[str, int]) -> None:
        """Count for another account what one has held lately, in units times microseconds; no more than it has."""
        has = self._settled(giver).held_today
        moved = {name: min(amount, has.get(name, 0)) for name, amount in sums.items() if has.get(name, 0) > 0}
        if moved:
            add(has, moved, -1)
            add(self._settled(taker).held_today, moved)

    def use(self, key: AccountKey, sums: Mapping[str, int]) -> None:
        """Count what was measured: units times microseconds."""
        add(self._settled(key).used_today, sums)

    def _settled(self, key: AccountKey) -> Account:
        """Return an account, with everything added up until now. It is about to change."""
        now_us = self._now_us()
        account = self.account(key)
        account.settle(now_us)
        self._changed(account)
        return account

    def _changed(self, account: Account) -> None:
        account.changed_us = self._now_us()
        if not account.changed:
            self._note_change(account)

    def _note_change(self, account: Account) -> None:
        account.changed = True
        self._turn.set_earlier(TIMER, self._turn.in_s(WRITE_WITHIN_S))

    def _now_us(self) -> int:
        now = self._turn.now
        if now == self._counted:
            return self._counted_us
        now_us = self._counted_us = round(now * MICRO)
        self._counted = now
        if now_us >= self._midnight_us:
            self._day = (now_us + self._to_local_us) // _DAY_US
            midnight_us = self._day * _DAY_US - self._to_local_us
            self._midnight_us = midnight_us + _DAY_US
            for account in self._accounts.values():
                account.settle(midnight_us)
                account.close_unused()
                account.end_day()
        return now_us

    def _add_up_the_quietest(self) -> bool:
        """Make room: of the accounts that hold nothing, add the one that changed longest ago to a common one.

        False if all hold something: then there are no more than leases, and those are bounded.
        """
        quiet = (each for each in self._accounts.values() if not each.leases and not each.history.held())
        rivals = (each for each in quiet if each.key.notebook != OTHERS)
        victim = min(rivals, key=lambda account: account.changed_us, default=None)
        if victim is None:
            return False
        del self._accounts[victim.key]
        victim.settle(self._now_us())
        victim.close_unused()
        self._turn.remove_record(TABLE, _record_key(victim.key))
        key = victim.key
        alone = key.cell == EARLIER or not any(other.notebook == key.notebook for other in self._accounts)
        target = AccountKey(OTHERS, "", EARLIER) if alone else AccountKey(key.notebook, key.kind, EARLIER)
        heir = self._accounts.get(target)
        if heir is None:
            heir = self._accounts[target] = Account(target, victim.settled_us)
        for name in ("held", "held_today", "used", "used_today"):
            add(getattr(heir, name), getattr(victim, name))
        heir.changed, heir.changed_us = True, max(heir.changed_us, victim.changed_us)
        return True

    # ---------------------------------------------------------------------------------------------- journal

    def write_down(self) -> None:
        """Write down what has changed and what holds something; to be called at the deadline `TIMER`."""
        now_us = self._now_us()
        holding = False
        for account in self._accounts.values():
            if account.holding():
                holding = True
            elif not account.changed:
                continue
            account.settle(now_us)
            account.changed = False
            self._turn.persist(TABLE, _record_key(account.key), account.saved(self._day))
        if holding:
            self._turn.set_earlier(TIMER, self._turn.in_s(WRITE_EVERY_S))

    def restore(self, value: bytes) -> None:
        """Take up an account from the journal.

        Raises:
            msgspec.DecodeError: It is of another version, or damaged.
            ValueError: Likewise.
        """
        saved = read_saved(value)
        account = Account.restored(saved, round(self._turn.now * MICRO))
        if saved.day != self._day:
            account.end_day()
        self._accounts[saved.key] = account
        self._since = min(self._since, self._turn.wall(Instant(saved.until_us / MICRO)))

    def restore_notebook(self, key: str, value: bytes) -> None:
        """Take up which notebook a job is of.

        Raises:
            msgspec.DecodeError: It is of another version, or damaged.
            ValueError: Likewise.
        """
        self._notebooks[bytes.fromhex(key)] = msgspec.msgpack.decode(value, type=tuple[str, str])

    # ----------------------------------------------------------------------------------------------- people

    def report(self) -> UsageReport:
        """Return all accounts as of now, the busiest first."""
        now_us = self._now_us()
        rows = []
        for account in self._accounts.values():
            account.settle(now_us)
            rows.append(account.row())
        rows.sort(key=lambda row: (-row.held.get("GPU", 0.0), -row.held.get("CPU", 0.0), row.notebook, row.cell))
        return UsageReport(self._turn.wall(self._turn.now), self._since, self._day, rows)

    def held_sums(self) -> Sums:
        """Return what all accounts together have held, in units times microseconds."""
        now_us = self._now_us()
        sums: Sums = {}
        for account in self._accounts.values():
            account.settle(now_us)
            add(sums, account.held)
            add(sums, account.held_today)
        return sums

    def check_invariants(self, occupied: Iterator[Mapping[str, int]]) -> None:
        """Raise `InternalError` unless the accounts hold exactly what is occupied on the nodes."""
        total: Sums = {}
        for amounts in occupied:
            add(total, amounts)
        holding: Sums = {}
        for account in self._accounts.values():
            add(holding, account.holding())
        if holding != total:
            raise InternalError(f"accounts hold {holding}, and {total} is occupied")


def _record_key(key: AccountKey) -> str:
    return hashlib.sha256(encode(key)).hexdigest()[:32]
