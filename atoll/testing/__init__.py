"""A cluster inside one test: machines with pure cores, a network between them, a virtual clock, one seed.

Owns: the order in which things happen (`simulation`), the time (`clock`), connections between machines and what goes
wrong with them (`network`), and the record of what happened (`transcript`).

Never: imports a daemon, reads a real clock, starts a thread, or draws a number that does not come from the seed. It
knows no message of Atoll's: whoever has cores of the shape in `atoll.protocol.machine` can simulate them.

In: machines (a core each, and how its actions are carried out), a seed, faults to inject. Out: the same run for the
same seed, each core's invariants checked after every step that touched it, and, when something is wrong, an error
that tells the last steps and the command that repeats them.
"""

from atoll.testing.clock import VirtualClock
from atoll.testing.network import Network
from atoll.testing.simulation import Machine, Simulation, SimulationFailure

__all__ = ["Machine", "Network", "Simulation", "SimulationFailure", "VirtualClock"]
