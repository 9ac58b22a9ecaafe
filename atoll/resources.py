"""Amounts of resources as integers, so that sums are exact.

A fraction of a GPU that is taken and given back a million times must leave a whole GPU. So every amount is held in
ten-thousandths (as in Ray: four decimal places), and only what people read and write is a float.

Memory (`memory`, `gpu_memory`) is an amount like the others; its unit is a byte, and it is a whole number of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

UNITS_PER_ONE = 10_000
"""Units in an amount of 1."""

CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"
GPU_MEMORY = "gpu_memory"

Amounts = dict[str, int]
"""Resource name to units. This is how amounts travel in messages; zero amounts are left out."""


def to_units(name: str, amount: float) -> int:
    """Convert an amount as people write it.

    Args:
        name: The resource, for the error message.
        amount: Whole or fractional; bytes for memory.

    Returns:
        Ten-thousandths.

    Raises:
        ValueError: The amount is negative, not finite, or finer than a ten-thousandth; or more than one GPU is
            asked for and not a whole number of them (a fraction of a GPU is a share of one device).
    """
    units = amount * UNITS_PER_ONE
    if not 0 <= units < float("inf"):
        raise ValueError(f"{name}={amount} is no amount: it must be zero or more, and finite")
    rounded = round(units)
    if abs(units - rounded) > 1e-4 * max(1.0, rounded * 1e-9):
        raise ValueError(f"{name}={amount} is finer than 0.0001, the smallest share there is")
    if name == GPU and rounded > UNITS_PER_ONE and rounded % UNITS_PER_ONE:
        raise ValueError(f"{name}={amount}: above one, GPUs are whole; ask for {int(amount)} or {int(amount) + 1}")
    return rounded


def from_units(units: int) -> float | int:
    """Convert units to what people read: an int where it is whole."""
    whole, rest = divmod(units, UNITS_PER_ONE)
    return whole if rest == 0 else units / UNITS_PER_ONE


def amounts_of(wanted: Mapping[str, float]) -> Amounts:
    """Convert a mapping as people write it, leaving out zeros.

    Raises:
        ValueError: As `to_units`.
    """
    return {name: units for name, amount in wanted.items() if (units := to_units(name, amount))}


def describe(amounts: Mapping[str, int]) -> str:
    """Return amounts as a person reads them: `2 CPU, 1 GPU, 20 GiB memory`."""
    return ", ".join(_describe_one(name, units) for name, units in sorted(amounts.items())) or "nothing"


def _describe_one(name: str, units: int) -> str:
    if name == MEMORY:
        return f"{format_bytes(units // UNITS_PER_ONE)} memory"
    if name == GPU_MEMORY:
        return f"{format_bytes(units // UNITS_PER_ONE)} GPU memory"
    return f"{from_units(units):g} {name}"


def format_bytes(size: float) -> str:
    """Return a size with a binary unit: `512 B`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def roomy_size(size_bytes: int) -> int:
    """Return the next size that is easy to write and to compare: a power of two, or a quarter of one more. Bytes."""
    step = max(1 << 24, 1 << max(0, size_bytes.bit_length() - 3))
    return max(2**26, -(-size_bytes // step) * step)


def written_size(size_bytes: int) -> str:
    """Return a size as people write it in a request: `4G`, `1.5G`, `768M`."""
    for suffix in ("T", "G", "M", "K"):
        unit = _SUFFIXES[suffix]
        if size_bytes >= unit:
            return f"{size_bytes / unit:.4g}{suffix}"
    return str(size_bytes)


_SUFFIXES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """Read a size as people write it: `20G`, `512MiB`, `1.5 GB`, `1000`. Prefixes are binary.

    Raises:
        ValueError: It is no such size.
    """
    cleaned = text.strip().upper().removesuffix("B").removesuffix("I")
    suffix = cleaned[-1:] if cleaned[-1:] in _SUFFIXES else ""
    try:
        size = float(cleaned.removesuffix(suffix)) * _SUFFIXES[suffix]
    except ValueError:
        raise ValueError(f"{text!r} is no size in bytes; write for example 20G or 512M") from None
    if not 0 <= size < float("inf"):
        raise ValueError(f"{text!r} is no size in bytes: it must be zero or more, and finite")
    return int(size)


AUTO = "auto"
"""In the place of an amount: as much as this code has usually needed."""


class Pool:
    """What something has of each resource, and how much of that is free.

    Args:
        total: What there is.
    """

    __slots__ = ("_free", "_total")

    def __init__(self, total: Mapping[str, int]) -> None:
        self._total = {name: units for name, units in total.items() if units}
        self._free = dict(total)

    @property
    def total(self) -> Amounts:
        """A copy of what there is."""
        return dict(self._total)

    @property
    def free(self) -> Amounts:
        """A copy of what is free. An amount is negative while more is used than there is (see `take_anyway`)."""
        return dict(self._free)

    @property
    def live(self) -> Amounts:
        """What is free, as it changes. Whoever owns the pool may take what fits and give it back there."""
        return self._free

    def copy(self) -> Pool:
        """Return a pool in the same state, to try things on."""
        made = Pool(self._total)
        made._free = dict(self._free)
        return made

    def could_ever_fit(self, wanted: Mapping[str, int]) -> bool:
        """Whether the request fits when nothing else is taken."""
        return all(self._total.get(name, 0) >= units for name, units in wanted.items())

    def fits(self, wanted: Mapping[str, int]) -> bool:
        """Whether the request fits now."""
        free = self._free
        for name, units in wanted.items():  # noqa: SIM110 - called for every placement; a generator takes twice as long
            if free.get(name, 0) < units:
                return False
        return True

    def use_after(self, wanted: Mapping[str, int]) -> float:
        """Return the highest fraction of any resource that would be taken with this request; above 1 if it is lent."""
        highest = 0.0
        free = self._free
        for name, total in self._total.items():
            use = (total - free[name] + wanted[name] if name in wanted else total - free[name]) / total
            if use > highest:
                highest = use
        return highest

    def missing(self, wanted: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """Yield each resource that falls short, with the units that are missing."""
        for name, units in wanted.items():
            free = max(0, self._free.get(name, 0))
            if free < units:
                yield name, units - free

    def take_anyway(self, wanted: Mapping[str, int]) -> None:
        """Take also what is not free: a task that waited, whose CPU was lent meanwhile, goes on at once."""
        for name, units in wanted.items():
            self._free[name] = self._free.get(name, 0) - units

    def give_back(self, taken: Mapping[str, int]) -> None:
        """Give back what was taken."""
        for name, units in taken.items():
            self._free[name] += units
            assert self._free[name] <= self._total.get(name, 0), f"more {name} given back than was taken"
