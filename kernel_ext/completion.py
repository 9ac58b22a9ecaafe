"""Completion of a magic's line in IPython's completer; a cell's body stays Python's.

The candidates come from the magic's grammar. What exists in the cluster now (actors, nodes, GPU types, cells) is asked
only where a value of that kind is to be completed.

It is a matcher of IPython's, not a `complete_command` hook: a hook is given only what stands after the last of
IPython's own delimiters, of which `=` is one, and cannot keep Jedi's Python names out of a line that is no Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher

from atoll.exceptions import AtollError
from atoll.kernel_ext import grammar, queues
from atoll.kernel_ext.background.handle import BackgroundCell
from atoll.kernel_ext.detached import kept_numbers
from atoll.kernel_ext.engine.contract import Engine
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import Grammar
from atoll.kernel_ext.kept import cached_names, named
from atoll.kernel_ext.views import actors_view, gpus_view, jobs_view, objects_view

_SPACE = re.compile(r"[\s,]")
"""What would end a word of a line."""

IDENTIFIER = "atoll.magics"
"""Of the matcher, as IPython lists and disables them."""


def install(shell: Any, grammars: Sequence[Grammar]) -> None:
    """Let the shell complete the lines of these magics."""
    uninstall(shell)
    shell.Completer.custom_matchers.append(matcher(grammars, shell.user_ns))


def uninstall(shell: Any) -> None:
    """Take the completion away."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [other for other in matchers if getattr(other, "matcher_identifier", "") != IDENTIFIER]


def matcher(grammars: Sequence[Grammar], namespace: Mapping[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """Return what IPython's completer asks; see its `context_matcher`.

    Args:
        grammars: Of the magics.
        namespace: The user's names.
    """

    def known(kind: str) -> Iterable[str]:
        if kind == "name":
            return [name for name in namespace if not name.startswith("_")]
        handles = [name for name, value in namespace.items() if isinstance(value, BackgroundCell) and name[0] != "_"]
        return [*(handles if kind in ("cell", "why") else ()), *known_values(kind)]

    by_magic = {schema.magic: schema for schema in grammars}

    def complete(context: Any) -> dict[str, Any]:
        line = str(context.text_until_cursor).rpartition("\n")[2]
        magic = line.split(maxsplit=1)[0] if line.strip() else ""
        schema = by_magic.get(magic)
        text = line.lstrip()[len(magic) :]
        if schema is None or not text or (schema.kind == "cell" and context.cursor_line > 0):
            return {"completions": []}
        word, found = grammar.completions(schema, text, known)
        return {
            "completions": [SimpleCompletion(text=candidate, type="param") for candidate in found],
            "matched_fragment": word,
            "suppress": True,
            "ordered": True,
        }

    asked: Callable[[Any], dict[str, Any]] = context_matcher(identifier=IDENTIFIER)(complete)
    return asked


def _actors(engine: Engine) -> Iterable[str]:
    return (actor.name for actor in engine.state().actors if actor.name and actor.state != "dead")


def _cells(engine: Engine) -> Iterable[str]:
    """Return the cells whose output is kept, the newest first."""
    directory = engine.directory()
    return (f"t{number}" for number in reversed(kept_numbers(directory))) if directory else ()


def _near(engine: Engine) -> Iterable[str]:
    return (*_actors(engine), *(each.name for each in engine.state().objects if each.name))


def _models(engine: Engine) -> Iterable[str]:
    """Return the models of the GPUs, as short as people call them."""
    return (short_model(device.model) for node in engine.state().nodes for device in node.devices)


def short_model(model: str) -> str:
    """Return the part of a GPU's name by which it is asked for: `H100` of `NVIDIA H100 80GB HBM3`."""
    words: list[str] = re.findall(r"\w+", model) or [model]
    numbered = [word for word in words if re.fullmatch(r"[A-Za-z]*\d+[A-Za-z]*", word)]
    return numbered[0] if numbered else words[-1]


def _cached(engine: Engine) -> Iterable[str]:
    return cached_names(engine)


def _kept(engine: Engine) -> Iterable[str]:
    return (info.name for info in named(engine.names()))


KINDS: Mapping[str, Callable[[Engine], Iterable[str]]] = {
    "actor": _actors,
    "cell": _cells,
    "cached": _cached,
    "kept": _kept,
    "defaults": lambda _engine: ("defaults",),
    "gpu": _models,
    "label": lambda engine: (f"{name}:{value}" for node in engine.state().nodes for name, value in node.labels.items()),
    "near": _near,
    "device": lambda engine: gpus_view(engine.state()).known(),
    "actors": lambda engine: actors_view(engine.state()).known(),
    "job": lambda engine: jobs_view(engine.state()).known(),
    "object": lambda engine: objects_view(engine.state()).known(),
    "node": lambda engine: (node.name for node in engine.state().nodes),
    "queue": lambda engine: queues.names(engine.directory()),
    "why": lambda engine: (*_cells(engine), *_actors(engine)),
    "strategy": lambda _engine: ("spread", "default"),
}
"""What there is of each kind that a grammar names."""


def known_values(kind: str) -> list[str]:
    """Return what there is of a kind, if the cluster can be asked."""
    try:
        return list(dict.fromkeys(name for name in KINDS[kind](current_engine()) if not _SPACE.search(name)))
    except (AtollError, OSError):
        return []
