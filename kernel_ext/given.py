"""What a cell was given and what became of it: changes in place go back as changes in place.

A cell gets copies of the kernel's objects. When it has changed some, the kernel's own objects must become what the
copies are now, so that every other name, list or closure that holds them sees the change, as if the cell had run there.

    kernel                                      worker
    pack, remember numbers ────────────────▶    unpack, remember numbers
                                                `Given`: what each object looks like, before the cell
                                                the cell runs
                                                `changes`: the objects that look different now
    unpack: number 7 is my own object  ◀────    pack: number 7 for what was given, and its new content
    `take_over`: give it the new content

An object's looks are shallow: a list's are its elements' identities. So what changed is found object by object, and
only that travels. Objects that say what they are only as a whole (`__reduce__`) are compared by their bytes, with the
objects that they refer to as numbers. Some can be changed but not given new content from outside, such as a plain
iterator that has ended: then whatever refers to it counts as changed, up to an object that takes new content, or the
name, which is bound anew.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Container
from typing import Any

from atoll.kernel_ext.cell_messages import CHANGES
from atoll.kernel_ext.looks import UNCHANGING, Look, Unfit, look_at
from atoll.kernel_ext.namespace_pickle import Namespace, NamespacePickler, PackedNames, pack_names, why_not

Update = tuple[int, str, Any]
"""An object's place among the seeds, how it takes new content, and the content."""


class Given:
    """The objects that a cell was given, as they look before it runs.

    Args:
        known: The objects by number, in the order of the numbers; see `unpack_names`.
        home: The namespace in which the cell runs.
    """

    def __init__(self, known: dict[int, Any], home: Namespace) -> None:
        objects: dict[int, tuple[int, Any]] = {}
        for number, thing in sorted(known.items()):
            if not isinstance(thing, UNCHANGING) or (isinstance(thing, (str, bytes)) and len(thing) > 1000):
                objects.setdefault(id(thing), (number, thing))
        self._objects = objects
        numbers = {identity: number for identity, (number, _thing) in objects.items()}
        self._looks: list[Look] = []
        for number, thing in objects.values():
            look = None if isinstance(thing, UNCHANGING) or thing is home else look_at(thing, number, home, numbers)
            if look is not None:
                self._looks.append(look)

    def compare(self) -> Changes:
        """Look at all of them again."""
        changed = [look for look in self._looks if look.changed()]
        fit: dict[int, tuple[Look, Any]] = {}
        unfit: dict[int, Look] = {}

        def sort(look: Look) -> None:
            try:
                fit[id(look.thing)] = (look, look.content())
            except Unfit:
                unfit[id(look.thing)] = look

        for look in changed:
            sort(look)
        seen = 0
        while len(unfit) != seen:
            seen = len(unfit)
            for look in self._looks:
                identity = id(look.thing)
                if identity not in fit and identity not in unfit and any(map(unfit.__contains__, look.refers_to())):
                    sort(look)
        seeds = {number: thing for identity, (number, thing) in self._objects.items() if identity not in unfit}
        updates = [(look.number, look.how, content) for look, content in fit.values()]
        return Changes(seeds, updates, {*fit, *unfit}, set(unfit))


class Changes:
    """What a cell has done to what it was given.

    Attributes:
        seeds: The objects that go back as numbers.
        updates: The new content of those that changed; see `take_over`.
        changed: Identities of all that have changed.
        unfit: Identities of those among them whose names must be bound anew.
    """

    def __init__(self, seeds: dict[int, Any], updates: list[Update], changed: set[int], unfit: set[int]) -> None:
        self.seeds = seeds
        self.updates = updates
        self.changed = changed
        self.unfit = unfit


NOTHING = Changes({}, [], set(), set())
"""What a cell has done that is told apart from what it was given."""


class _Reaching(NamespacePickler):
    """Finds out whether a value holds one of some objects."""

    def __init__(self, wanted: set[int], home: Namespace) -> None:
        super().__init__(io.BytesIO(), home, ())
        self._wanted = wanted
        self.found = False

    def persistent_id(self, obj: Any) -> None:
        """Pickle's hook for every object on the way."""
        self.found = self.found or id(obj) in self._wanted


def reaching(names: Namespace, changed: set[int], home: Namespace) -> set[int]:
    """Return the identities of the values that are, or hold, something that has changed."""
    found = set()
    for name, value in names.items():
        if changed and not name.startswith("__"):
            pickler = _Reaching(changed, home)
            with contextlib.suppress(Exception):  # what does not pickle cannot go back anyway
                pickler.dump(value)
            if pickler.found:
                found.add(id(value))
    return found


def pack_result(
    values: Namespace, changes: Changes, home: Namespace, carry: Container[str]
) -> tuple[PackedNames, dict[str, str]]:
    """Pack what a cell set and changed; what does not pickle stays, with the reason.

    Args:
        values: What it set.
        changes: What it did to what it was given.
        home: Its namespace.
        carry: Names that functions take along.
    """
    updates = changes.updates

    def pack(names: Namespace, ups: list[Update]) -> PackedNames:
        return pack_names({**names, CHANGES: ups} if ups else names, home, carry, seeds=changes.seeds)

    try:
        return pack(values, updates), {}
    except Exception:  # whose fault it is comes out below, one by one
        left_out: dict[str, str] = {}
    good_values: Namespace = {}
    for name, value in values.items():
        reason = why_not(name, value, home, carry)
        if reason is None:
            good_values[name] = value
        else:
            left_out[name] = reason
    good_updates = []
    for update in updates:
        try:
            pack({}, [update])
            good_updates.append(update)
        except Exception as error:
            thing = changes.seeds[update[0]]
            called = next((name for name, value in home.items() if value is thing), type(thing).__name__)
            left_out[f"a change of {called}"] = str(error).partition("\n")[0] or type(error).__name__
    return pack(good_values, good_updates), left_out
