"""From what a magic's line says of a place to options of tasks: names of nodes, actors and objects become nodes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.grammar.values import Places
from atoll.protocol.state import ClusterState

NODE_LABEL = "atoll.io/node-id"
"""The label by which every node is known."""


def options_of(said: ParsedLine, state: Callable[[], ClusterState]) -> dict[str, Any]:
    """Return what a line asks for, as options of tasks.

    Args:
        said: The line.
        state: Returns the cluster's state; asked only if the line names something in it.

    Raises:
        MagicUsageError: It names something that is not there, or says in two ways where to run.
    """
    options = said.api_options()
    places: Places | None = said.get("node")
    near: str | None = said.get("near")
    ways = [f"{name}=" for name in ("node", "near", "strategy") if said.get(name) is not None]
    if len(ways) > 1:
        raise MagicUsageError(f"{' and '.join(ways)} both say where it runs: give one of them")
    if places is not None:
        _at_nodes(options, places, state())
    elif near is not None:
        options["scheduling_strategy"] = _affinity(_node_of(near, state()), soft=True)
    _check_together(said, options)
    return options


def _check_together(said: ParsedLine, options: dict[str, Any]) -> None:
    """Refuse what each option alone may say, and together they may not: before anything is sent."""
    from atoll.options import ActorOptions, TaskOptions

    kind = ActorOptions if said.grammar is not None and said.grammar.magic_name == "actor" else TaskOptions
    try:
        kind().updated(options).amounts(1)
    except ValueError as error:
        raise MagicUsageError(said.in_its_words(str(error))) from None


def _at_nodes(options: dict[str, Any], places: Places, state: ClusterState) -> None:
    found = [_node_named(name, state) for name in places.nodes]
    if len(found) == 1 and places.manner != "not":
        options["scheduling_strategy"] = _affinity(found[0], soft=places.manner == "rather")
        return
    mark = "!" if places.manner == "not" else ""
    options["label_selector"] = {**options.get("label_selector", {}), NODE_LABEL: f"{mark}in({', '.join(found)})"}


def _affinity(node_id: str, *, soft: bool) -> Any:
    from atoll.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=soft)


def _node_named(name: str, state: ClusterState) -> str:
    """Return the id of a node, as hex, from its name or the beginning of its id."""
    named = [node.node_id for node in state.nodes if node.name == name]
    found = named or [node.node_id for node in state.nodes if len(name) >= 4 and node.node_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = " or ".join(f"node={node_id[:8]}" for node_id in found)
        raise MagicUsageError(f"{len(found)} nodes are called {name!r}: say which by its id, {shown}")
    raise MagicUsageError(f"there is no node {name!r}{_near(name, (node.name for node in state.nodes), 'node=')}")


def _node_of(name: str, state: ClusterState) -> str:
    """Return the id of the node where an actor lives or an object of the cache lies."""
    actors = {actor.name: actor.node_id for actor in state.actors if actor.name and actor.state != "dead"}
    objects = {each.name: each.node_id for each in state.objects if each.name}
    node = actors.get(name) or objects.get(name)
    if node:
        return node
    if name in actors:
        raise MagicUsageError(f"the actor {name} has no place yet: %why {name} says why")
    hint = _near(name, (*actors, *objects), "near=")
    raise MagicUsageError(f"no actor and no object in shared memory is called {name!r}{hint}")


def _near(name: str, known: Iterable[str], key: str) -> str:
    names = sorted({each for each in known if each})
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f". Did you mean {key}{near[0]}?"
    return f"; there are: {', '.join(names)}" if names else "; there is none"
