"""The scheduler's decisions, pure: events in, actions out, time as an argument.

Owns jobs, demands, leases, nodes and their devices, actors, names, and when the cluster ends. Never touches a socket,
a thread, a clock, a file or randomness, and never looks into a user's payload. In: `Received`, `PeerConnected`,
`PeerLost`, `DeadlineReached`, `RecordsRestored`, `StopAsked`; out: `Send`, `ClosePeer`, `PersistRecord`,
`RemoveRecord`, `Warn`, `Exit`.

    scheduler.py   the composition: who may say what, and what happens after every event
    clients.py     the desk for clients and workers        agents.py   the desk for node agents
    lifetime.py    when the cluster ends                   cluster.py  the tables, put together
    demand.py, demands.py  what is wanted                  queues.py   what waits, in order
    lease.py, leases.py  from waiting to held and back     starting.py who is next, and where
    lending.py     what leases lend for a while            placement.py  where requests go
    supply.py      what a node or a bundle has to give     history.py  what is held, over time
    group.py, groups.py  placement groups                  nodes.py    resources and devices
    shares.py      what sessions use, now and lately       reservations.py  nodes that are promised
    fairness.py, recalling.py  what to ask back for who waits, and when to think of it
    preempting.py  what to end for who waits               durations.py  how long tasks usually run
    requests.py    what is no request at all
    jobs.py        sessions and peers                      actor.py, actors.py  actors and their names
    strays.py      what lost nodes leave of actors
    names.py       the cache                               spans.py    the timeline
    account.py, usage.py  what was held, for people        measured.py what is used
    draining.py    nodes that are emptied
    state.py       all of it for people                    events.py, turn.py  what goes in and out
"""
