"""One account: what a cell, function or actor holds, has held and has used. All of them are `usage.py`'s business.

Nearly all changes are a lease that begins or ends, and nearly all leases of an account hold the same. So these are
only counted, by what they hold: a `Tally`. Whatever else changes (what is lent, what a placement group keeps) is noted
by its amounts. Both are histories in the sense of `history.py`, by a clock of microseconds, and are added up together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from atoll.protocol.usage import UsageRow
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core.history import History

MICRO = 1_000_000

Sums = dict[str, int]


class AccountKey(NamedTuple):
    """Whose account: see `UsageRow`."""

    notebook: str
    kind: str
    cell: str
    actor: str = ""


class SavedAccount(msgspec.Struct, frozen=True, array_like=True):
    """An account as the journal keeps it. Sums are decimal, since they may be larger than the journal's integers."""

    key: AccountKey
    until_us: int
    day: int
    held: dict[str, str]
    held_today: dict[str, str]
    used: dict[str, str]
    used_today: dict[str, str]


class Tally:
    """The leases of an account that hold the same.

    Attributes:
        account: Whose.
        amounts: What each holds, in units.
        count: How many there are now.
        noted_us: All changes of that, times when they were made.
        closed: Whether it was added up, and is not to be used any more.
    """

    __slots__ = ("account", "amounts", "closed", "count", "noted_us")

    def __init__(self, account: Account, amounts: Mapping[str, int]) -> None:
        self.account = account
        self.amounts = amounts
        self.count = 0
        self.noted_us = 0
        self.closed = False


class Account:
    """What one cell, function or actor holds, has held and has used.

    Attributes:
        tallies: Its leases, by what they hold.
        history: What else it holds, or less, and has held since it was settled.
        settled_us: Until when what was held is in the sums.
        held: Units times microseconds, before today.
        held_today: Likewise, since midnight.
        used: As `held`, measured.
        used_today: As `held_today`, measured.
        restored_until_us: To when a predecessor of this scheduler has counted; 0 if none has.
        changed: Whether it is not written down as it is.
        changed_us: When it changed last.
    """

    __slots__ = (
        "changed",
        "changed_us",
        "held",
        "held_today",
        "history",
        "key",
        "restored_until_us",
        "settled_us",
        "tallies",
        "used",
        "used_today",
    )

    def __init__(self, key: AccountKey, now_us: int) -> None:
        self.key = key
        self.tallies: dict[tuple[tuple[str, int], ...], Tally] = {}
        self.history: History[int] = History()
        self.settled_us = now_us
        self.held: Sums = {}
        self.held_today: Sums = {}
        self.used: Sums = {}
        self.used_today: Sums = {}
        self.restored_until_us = 0
        self.changed = False
        self.changed_us = now_us

    def tally(self, amounts: Mapping[str, int]) -> Tally:
        """Return where leases are counted that hold so much. It is good for as long as it is not `closed`."""
        what = tuple(amounts.items())
        known = self.tallies.get(what)
        if known is None:
            known = self.tallies[what] = Tally(self, amounts)
        return known

    @property
    def leases(self) -> int:
        """How many leases it has."""
        return sum(tally.count for tally in self.tallies.values())

    def holding(self) -> Sums:
        """Return what it holds now, in units; names that come to nothing are left out."""
        held = self.history.held()
        for tally in self.tallies.values():
            add(held, tally.amounts, tally.count)
        return held

    def settle(self, now_us: int) -> None:
        """Add up what was held until now."""
        if self.history.noted:
            add(self.held_today, self.history.sums(now_us))
            self.history.begin(now_us)
        for tally in list(self.tallies.values()):
            elapsed_us = tally.count * now_us - tally.noted_us
            if elapsed_us:
                add(self.held_today, tally.amounts, elapsed_us)
                tally.noted_us = tally.count * now_us
        self.settled_us = now_us

    def close_unused(self) -> None:
        """Forget the tallies without a lease. To be called when it was settled just now."""
        for what in [what for what, tally in self.tallies.items() if not tally.count]:
            self.tallies.pop(what).closed = True

    def end_day(self) -> None:
        """What was today is before."""
        add(self.held, self.held_today)
        add(self.used, self.used_today)
        self.held_today, self.used_today = {}, {}

    def saved(self, day: int) -> bytes:
        """Return it as the journal keeps it."""
        sums = (self.held, self.held_today, self.used, self.used_today)
        texts = [{name: str(amount) for name, amount in each.items()} for each in sums]
        return encode(SavedAccount(self.key, self.settled_us, day, *texts))

    @classmethod
    def restored(cls, saved: SavedAccount, now_us: int) -> Account:
        """Return an account as a predecessor has left it; it has held nothing since."""
        made = cls(saved.key, now_us)
        made.held, made.held_today = _sums_of(saved.held), _sums_of(saved.held_today)
        made.used, made.used_today = _sums_of(saved.used), _sums_of(saved.used_today)
        made.restored_until_us = saved.until_us
        return made

    def row(self) -> UsageRow:
        """Return it as people see it. To be called when it was settled just now."""
        held, used = dict(self.held), dict(self.used)
        add(held, self.held_today)
        add(used, self.used_today)
        shown = [_seconds(each) for each in (held, used, self.held_today, self.used_today)]
        return UsageRow(*self.key, self.leases, *shown)


def add(sums: Sums, amounts: Mapping[str, int], factor: int = 1) -> None:
    """Add amounts to sums; what comes to nothing is left out."""
    for name, amount in amounts.items():
        total = sums.get(name, 0) + factor * amount
        if total:
            sums[name] = total
        else:
            sums.pop(name, None)


def _sums_of(texts: Mapping[str, str]) -> Sums:
    return {name: int(text) for name, text in texts.items()}


def _seconds(sums: Sums) -> dict[str, float]:
    return {name: amount / (UNITS_PER_ONE * MICRO) for name, amount in sums.items()}


encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SavedAccount)


def read_saved(value: bytes) -> SavedAccount:
    """Read an account's record.

    Raises:
        msgspec.DecodeError: It is of another version, or damaged.
    """
    return _decoder.decode(value)
