"""What simulated programs compute: plans of tasks, and values that say which object they are the value of."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, array_like=True, frozen=True):
    """A simulated value.

    Attributes:
        tag: The id of the object that it is the value of: a wrong one in a wrong place is seen at once.
        refs: Ids of the refs inside.
        size_bytes: How large it is said to be.
    """

    tag: bytes
    refs: list[bytes]
    size_bytes: int


class Plan(msgspec.Struct, array_like=True):
    """What a task or a call does when it runs.

    Attributes:
        duration_s: How long it computes.
        failing: How its first attempts end: `raise`, `crash` (the process dies), or empty.
        failures: How many attempts end so.
        sizes: The size of each value that it returns.
        children: Tasks that it submits.
        pass_arguments: Its children take the first ref that it was given as an argument.
        wait: It waits for the children's values, and fails if one of them has failed.
        give_children: Its first value contains the children's refs.
        give_arguments: Its first value contains the refs that it was given.
        puts: So many objects it puts; its first value contains their refs.
        keep: An actor keeps the refs that it was given.
        outputs: Pieces of output that it writes.
        retires: Its worker takes nothing more after it.
        actor: An actor that it calls, and whose answers it waits for; empty for none.
        makes: It makes an actor, calls it, and its first value contains the handle.
        refs: Ids of the refs that it is given inside a container.
        cpus: What it takes, in units.
        gpus: Likewise.
        group: The placement group that it takes from; empty for none.
        bundle: Which part of it; -1 for any.
        preemptible: It gives way to others, and is run anew.
        retries: How often it is tried again.
        retry_exceptions: Also when it raises.
    """

    duration_s: float = 0.0
    failing: str = ""
    failures: int = 0
    sizes: list[int] = msgspec.field(default_factory=lambda: [10])
    children: list[Plan] = msgspec.field(default_factory=list)
    pass_arguments: bool = False
    wait: bool = True
    give_children: bool = False
    give_arguments: bool = False
    puts: int = 0
    keep: bool = False
    outputs: int = 0
    retires: bool = False
    actor: bytes = b""
    makes: bool = False
    refs: list[bytes] = msgspec.field(default_factory=list)
    cpus: int = 10_000
    gpus: int = 0
    group: bytes = b""
    bundle: int = -1
    preemptible: bool = False
    retries: int = 3
    retry_exceptions: bool = False

    @property
    def can_succeed(self) -> bool:
        """Whether it ends well when nothing else goes wrong."""
        tries = self.retries + 1 if self.retries >= 0 else 1 << 30
        own = not self.failing or ((self.failing != "raise" or self.retry_exceptions) and self.failures < tries)
        return own and (not self.wait or all(child.can_succeed for child in self.children))

    @property
    def must_succeed(self) -> bool:
        """Whether it and everything below it can only end well as long as nothing is injected."""
        return self.can_succeed and all(child.must_succeed for child in self.children)


class Program(msgspec.Struct, array_like=True):
    """An actor: how its constructor goes, and what each of its processes does."""

    construction: Plan
    fails_in_incarnations: list[int] = msgspec.field(default_factory=list)


_encode = msgspec.msgpack.Encoder().encode
_value_decoder = msgspec.msgpack.Decoder(Value)
_plan_decoder = msgspec.msgpack.Decoder(Plan)
_program_decoder = msgspec.msgpack.Decoder(Program)


def encode(thing: Value | Plan | Program) -> bytes:
    """Return the bytes that travel."""
    return _encode(thing)


def read_value(data: bytes) -> Value:
    """Read a value."""
    return _value_decoder.decode(data)


def read_plan(data: bytes) -> Plan:
    """Read a plan."""
    return _plan_decoder.decode(data)


def read_program(data: bytes) -> Program:
    """Read an actor's program."""
    return _program_decoder.decode(data)
