"""The scheduler: one process a cluster, that decides who gets which worker, and keeps actors and names.

Owns leases and their placement, the queues of what waits, actors and their restarts, the names of the cache, the
jobs, and the life of the cluster. Never runs user code, never unpickles, never sees a task or a value: those go from
client to worker directly. Knows node agents only by what they say.

In: messages over its Unix socket (`atoll.protocol.messages`), its own journal after a restart. Out: messages, the
journal, and, at the end of the cluster, nothing left behind.

    __main__.py   the process      server.py   the thin shell: sockets, timers, journal      journal.py   SQLite
    collecting.py  when memory is looked through
    core/         the decisions    policy/     where to place, one file a policy
"""
