"""Pack: the fullest node that still fits. For work that shares data, and to keep whole nodes free."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.scheduler.policy.candidate import Candidate


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the node to use among at least one that fits."""
    return min(candidates, key=lambda node: (-node.use_after, node.order))
