"""What workers run: plain functions and classes, the same for every system, importable by all of them.

A class is made an actor by the adapter. NumPy is imported where it is used, so that a cold start does not pay for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def nothing(*_args: Any) -> None:
    """Do nothing."""


def same(value: Any) -> Any:
    """Return the argument."""
    return value


def apply_to_all(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Apply a function to a batch of items."""
    return [function(item) for item in items]


def whoami(duration_s: float) -> int:
    """Sleep a little, so that every worker gets a share, and return the process."""
    time.sleep(duration_s)
    return os.getpid()


def spin(duration_s: float) -> float:
    """Use the processor for so long; return how much it was."""
    start = time.thread_time()
    while True:
        used = time.thread_time() - start
        if used >= duration_s:
            return used


def pause(duration_s: float) -> float:
    """Hold the worker for so long without using the processor; return how long it really was."""
    start = time.perf_counter()
    time.sleep(duration_s)
    return time.perf_counter() - start


def wait_for_file(path: str) -> None:
    """Hold the worker until a file exists."""
    while not Path(path).exists():
        time.sleep(0.005)


def zeros(size_bytes: int) -> Any:
    """Make an array, and write into its first bytes when that was, on the clock that all processes share."""
    import numpy as np

    array = np.zeros(size_bytes // 8)
    array += 0.0  # so that its pages are there
    array[0] = time.monotonic()
    return array


def measure_of(value: Any) -> int:
    """Touch both ends of an array; return its size in bytes."""
    assert value[0] is not None
    assert value[-1] is not None
    return int(value.nbytes)


def count(*values: Any) -> int:
    """Return how many arguments came."""
    return len(values)


def length(values: Any) -> int:
    """Return how long a container is."""
    return len(values)


def numbers(how_many: int) -> tuple[int, ...]:
    """Return several values."""
    return tuple(range(how_many))


def total(array: Any) -> float:
    """Read a whole array."""
    return float(array.sum())


def step(state: Any) -> Any:
    """Return the next state of a simulator: all of it is copied, a part of it changes."""
    following = state.copy()
    following[0] += 1
    return following


def combine(*parts: Any) -> Any:
    """Add arrays; return the sum and, in the last element, how many bytes came in."""
    import numpy as np

    result = np.zeros_like(parts[0])
    for part in parts:
        result[:-1] += part[:-1]
    result[-1] = sum(part.nbytes for part in parts)
    return result


def predict(weights: Any, batch: Any) -> Any:
    """Apply a model to a batch."""
    return batch @ weights


def predict_from_file(path: str, batch: Any) -> Any:
    """Load the model, then apply it: what a stateless function has to do."""
    import numpy as np

    return batch @ np.load(path)


def train(state: Any, rate: float) -> Any:
    """Return the state after a step of training: weights and their momentum, all of both change."""
    weights, momentum = state
    momentum = 0.9 * momentum + rate * weights
    return weights - momentum, momentum


def train_file(path: str, rate: float) -> None:
    """Load the state, do a step of training, save it: what a stateless function has to do without a store."""
    import numpy as np

    with np.load(path) as saved:
        weights, momentum = train((saved["weights"], saved["momentum"]), rate)
    np.savez(path, weights=weights, momentum=momentum)


def tree(key: str, depth: int, width: int) -> int:
    """Return how many tasks a tree of nested tasks has; every node waits for its children."""
    if depth == 0:
        return 1
    from benchmarks.systems import adapter

    with adapter(key).in_worker() as system:
        submit = system.task(tree)
        return 1 + sum(system.get_all([submit(key, depth - 1, width) for _ in range(width)]))


class Idle:
    """An actor without state."""

    def nothing(self) -> None:
        """Do nothing."""


class Simulator:
    """An actor that keeps a simulator's state."""

    def __init__(self, size_bytes: int) -> None:
        import numpy as np

        self.state = np.zeros(size_bytes // 8)

    def step(self) -> float:
        """Change the state; return a figure of it."""
        self.state[0] += 1
        return float(self.state[0])


class Model:
    """An actor that keeps a model."""

    def __init__(self, path: str) -> None:
        import numpy as np

        self.weights = np.load(path)

    def predict(self, batch: Any) -> Any:
        """Apply it to a batch."""
        return batch @ self.weights


class Trainer:
    """An actor that keeps the state of a training."""

    def __init__(self, path: str) -> None:
        import numpy as np

        with np.load(path) as saved:
            self.weights, self.momentum = saved["weights"], saved["momentum"]

    def train(self, rate: float) -> float:
        """Do a step; return a figure of it."""
        self.weights, self.momentum = train((self.weights, self.momentum), rate)
        return float(self.weights[0, 0])


class Member:
    """An actor that elects a leader with others, by messages from actor to actor (the bully algorithm)."""

    def __init__(self, key: str, number: int) -> None:
        self._key = key
        self._number = number
        self._members: list[Any] = []
        self.leader = -1

    def join(self, members: list[Any]) -> None:
        """Hear who the members are."""
        self._members = members

    def alive(self) -> int:
        """Answer: the own number."""
        return self._number

    def accept(self, leader: int) -> None:
        """Hear who leads."""
        self.leader = leader

    def lead(self, but: int) -> int:
        """Tell all others but the one that knows already; return the own number."""
        from benchmarks.systems import adapter

        self.leader = self._number
        with adapter(self._key).in_worker() as system:
            others = [one for number, one in enumerate(self._members) if number not in (self._number, but)]
            system.get_all([system.method(one, "accept")(self._number) for one in others])
        return self._number

    def elect(self) -> int:
        """Begin an election: ask all that are above, and let the highest that answers tell the others."""
        from benchmarks.systems import adapter

        with adapter(self._key).in_worker() as system:
            above = self._members[self._number + 1 :]
            answers = system.get_all([system.method(one, "alive")() for one in above])
            highest = self._members[max(answers)]
            self.leader = system.get(system.method(highest, "lead")(self._number))
        return self.leader

    def leads(self) -> int:
        """Return who leads."""
        return self.leader


_kept: dict[str, Any] = {}


def keep(key: str, kind: type, args: tuple[Any, ...]) -> None:
    """Make an instance and keep it in this process."""
    _kept[key] = kind(*args)


def call_kept(key: str, name: str, args: tuple[Any, ...]) -> Any:
    """Call a method of a kept instance."""
    return getattr(_kept[key], name)(*args)


def drop(key: str) -> None:
    """Forget a kept instance."""
    del _kept[key]
