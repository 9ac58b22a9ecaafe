"""`%remote defaults`: what every `%%remote` of this notebook says unless its own line says otherwise."""

from __future__ import annotations

from dataclasses import replace

from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine

_NOTHING = ParsedLine()
_defaults = _NOTHING


def current() -> ParsedLine:
    """Return what is said for every cell."""
    return _defaults


def change(said: ParsedLine) -> None:
    """Add to what is said for every cell; with `clear`, say nothing any more but what this line says.

    Raises:
        MagicUsageError: The line is not about defaults.
    """
    global _defaults
    if said.name != "defaults":
        raise MagicUsageError("%remote is about the defaults: %remote defaults gpu=1. To run a cell, write %%remote")
    before = _NOTHING if "clear" in said.flags else _defaults
    _defaults = replace(
        said,
        name=None,
        values={**before.values, **said.values},
        flags=before.flags | (said.flags - {"clear"}),
        texts={**before.texts, **said.texts},
    )


def forget() -> None:
    """Say nothing for every cell: a shell begins, or the magics go."""
    global _defaults
    _defaults = _NOTHING


def with_defaults(said: ParsedLine) -> ParsedLine:
    """Return a cell's line with what is said for every cell. What the line says itself counts more.

    Inside of an actor only what has a meaning there is added. A default for the place gives way as a whole to a line
    that says another.
    """
    added = dict(_defaults.values)
    flags = _defaults.flags
    if said.get("on") is not None:
        added = {name: value for name, value in added.items() if name == "timeout"}
        flags -= {"local", "preemptible"}
    elif any(said.get(name) is not None for name in ("node", "near", "strategy")):
        added = {name: value for name, value in added.items() if name not in ("node", "near", "strategy")}
    if flags & {"local"} and said.flags & {"bg", "dry"}:
        flags -= {"local"}
    return replace(said, values={**added, **said.values}, flags=said.flags | flags)
