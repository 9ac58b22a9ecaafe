"""What is said of a hit and of a miss: pure functions of what is known, and of what was known before."""

from __future__ import annotations

import time
from collections.abc import Iterable

from atoll.kernel_ext.cached.bytecode import UNSEEDED
from atoll.kernel_ext.cached.entries import Facts
from atoll.kernel_ext.cached.key import CellKey, Part
from atoll.kernel_ext.cached.observed import NETWORK, PROGRAMS, RANDOM
from atoll.kernel_ext.lines import duration

MAXIMUM_REASONS = 3
MAXIMUM_NAMES = 6
CLOCK = "clock"

_RANDOM_WORDS = frozenset({UNSEEDED, "uuid4", "urandom", "SystemRandom", "token_hex", "token_bytes"})
_SEED_WORDS = frozenset({"seed", "set_seed", "manual_seed"})
_CLOCK_WORDS = frozenset({"now", "today", "utcnow", "time_ns", "localtime", "gmtime"})

_HINTS = {
    NETWORK: "it talks to the network, whose answers are not compared",
    PROGRAMS: "it starts other programs, and what these read is not seen: name it with files=",
    RANDOM: "it uses random numbers without a seed",
    CLOCK: "it asks for the time",
}

_SAID = {
    "code": "the cell's code changed",
    "names": "it keeps other names",
    "python": "another Python",
    "directory": "another working directory",
}


def nearest(key: CellKey, keeps: list[str], notebook: str, known: Iterable[Facts]) -> Facts | None:
    """Return the entry that a cell is to be compared with: of the same names, with the fewest differences."""
    same = [facts for facts in known if facts.keeps == keeps]
    if not same:
        return None
    return min(same, key=lambda facts: (len(differences(facts.parts, key.parts)), facts.notebook != notebook))


def differences(before: Iterable[Part], now: Iterable[Part]) -> list[str]:
    """Return what of a key has changed, in words."""
    old = {(part.kind, part.name): part.digest for part in before}
    new = {(part.kind, part.name): part.digest for part in now}
    found = []
    for place in dict.fromkeys([*new, *old]):
        if old.get(place) == new.get(place):
            continue
        kind, name = place
        if kind in _SAID:
            found.append(_SAID[kind])
        elif kind == "package" and place in old and place in new:
            found.append(f"{name} {old[place]} became {new[place]}")
        elif place not in old:
            found.append(_came(kind, name))
        elif place not in new:
            # What the code does not use any more has gone with the code; alone it is a change, too.
            found.append(f"{_thing(kind, name)} is not used any more")
        else:
            found.append(f"{_thing(kind, name)} changed")
    code = _SAID["code"]
    return [code] if code in found and len(found) > MAXIMUM_REASONS else found


def _thing(kind: str, name: str) -> str:
    return f"{name}=" if kind == "option" else f"the {kind} {name}" if kind != "value" else name


def _came(kind: str, name: str) -> str:
    if kind == "option":
        return f"{name}= was added"
    return f"it uses {_thing(kind, name)}" if kind in ("module", "package") else f"{_thing(kind, name)} is new"


def changed_things(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return what has changed of an entry's dependencies, in words."""
    said = {
        "file": "the file {} changed",
        "new file": "there is a file {} now",
        "gone file": "the file {} is gone",
        "list": "the list of files in {} changed",
        "module": "the module {} changed",
        "variable": "the variable {} of the environment changed",
        "name": "the cluster has something else under the name {}",
        "directory": "another working directory",
    }
    return [said[kind].format(name) for kind, name in found]


def sentence(reasons: list[str]) -> str:
    """Return several reasons as one text."""
    shown = reasons[:MAXIMUM_REASONS]
    more = len(reasons) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def hit(facts: Facts, job: str, now: float) -> list[str]:
    """Return what is said of a hit, in parts.

    Args:
        facts: Of the entry.
        job: This session.
        now: As `time.time()`.
    """
    when = moment(facts.computed, now)
    told = f"computed {when} by {maker(facts, job)} in {duration(facts.seconds)}"
    return ["cached: hit", _kept(facts.keeps), told]


def maker(facts: Facts, job: str) -> str:
    """Return who computed an entry."""
    return "this kernel" if facts.job == job else facts.notebook or "another kernel"


def miss(reason: str, keeps: list[str], seconds: float) -> list[str]:
    """Return what is said of a miss, when it is computed and kept, in parts."""
    return [f"cached: miss ({reason})", f"computed in {duration(seconds)}", f"keeps {_kept(keeps)}"]


def _kept(keeps: list[str]) -> str:
    more = f" and {len(keeps) - MAXIMUM_NAMES} more" if len(keeps) > MAXIMUM_NAMES else ""
    return ", ".join(keeps[:MAXIMUM_NAMES]) + more or "its output"


def moment(then: float, now: float) -> str:
    """Return a time as people say it: the hour today, the day before."""
    when, today = time.localtime(then), time.localtime(now)
    if when[:3] == today[:3]:
        return time.strftime("%H:%M", when)
    return time.strftime("%a %H:%M" if now - then < 6 * 86400 else "%Y-%m-%d %H:%M", when)


def notes_of(key: CellKey, observed: Iterable[str]) -> list[str]:
    """Return what a cell does that cannot be compared, by what it was seen to do and by what its code says."""
    words = key.mentions.words.keys()
    notes = dict.fromkeys(observed)
    if not _RANDOM_WORDS.isdisjoint(words):
        notes.setdefault(RANDOM)
    if not _SEED_WORDS.isdisjoint(words):
        notes.pop(RANDOM, None)
    if not _CLOCK_WORDS.isdisjoint(words) or ({"time"} <= set(words) and "time" in _imports(key)):
        notes.setdefault(CLOCK)
    return list(notes)


def _imports(key: CellKey) -> set[str]:
    found = {name.partition(".")[0] for name, _names, _level in key.mentions.imports}
    return found | {part.name for part in key.parts if part.kind == "package"}


def hints(notes: Iterable[str], changed: Iterable[str] = ()) -> str:
    """Return what a user should know of a kept result; empty for nothing.

    Args:
        notes: What its cell does that cannot be compared.
        changed: Names of values that the cell changes in place and does not keep.
    """
    said = [_HINTS[note] for note in notes if note in _HINTS]
    said += [f"it changes {name} in place and does not keep it" for name in changed]
    return f"note: {', and '.join(said)}" if said else ""
