"""The node agent's decisions, as a pure machine.

Owns: which worker serves which lease, which bytes of which segment hold which object, when a device is free again.

Never does: touch a process, a socket, a clock, a file or a device. The shell (`atoll.nodeagent.agent`) does what the
actions say and tells what happened as events.

Comes in: the events of `events.py` and those of `atoll.protocol.machine`. Goes out: their actions.

    agent.py     the whole: one dispatch table;  node.py  what the node is
    scheduler_link.py   the link to the scheduler
    samples.py   what the scheduler is told now and then
    workers.py   the pool of workers and the zygotes that fork them
    leases.py    leases of those workers;  lease.py  one of them
    actors.py    actors that live in leases;  device_leave.py  idle ones give their devices up
    devices.py   how leases come to devices, and when those are free
    device_health.py    which devices have failed too often;  device_watch.py  what is learned of them
    memory_watch.py     what leases use of the host's memory
    store.py     objects: who writes and reads them;  attachments.py  the connections that do
    lifetimes.py     owners, names, pins: when objects go
    objects.py   which there are;  segments.py  where in shared memory they lie
    transfers.py  objects of other nodes: fetched, and taken over from a node that leaves
    room.py      a full store: who waits, what goes to disk
"""
