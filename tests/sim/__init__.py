"""The whole cluster in one process: the real cores of scheduler, agents and clients, simulated shells around them.

Real: every decision, since the cores are those that the daemons run. Simulated, and said so in each file: processes,
sockets, shared memory, devices, the journal's disk, user code and its durations. One seed makes everything.
"""
