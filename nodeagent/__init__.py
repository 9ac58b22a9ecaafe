"""The node agent: one process a node, which owns the node's workers, shared memory and devices.

Owns: the worker processes (through a zygote for each Python environment), the object store (segments of shared
memory and which object lies where), the devices' return to the free ones, the logs of workers, the samples of what
the node does.

Never does: place a lease (the scheduler does), unpickle anything, or hold user code in its own process.

Comes in: `StartLease`, `EndLease`, `StartActor`, `DefineEnvironment` and the like from the scheduler; `CreateObject`,
`GetObject` and the like from clients and workers of this node; forks and exits from the zygotes.
Goes out: `LeaseStarted`, `LeaseEnded`, `NodeSampled` to the scheduler; `ObjectCreated`, `ObjectFound` with
descriptors to processes; `BeginLease`, `ConstructActor` to workers.

    core/       decides: events in, actions out, no process, socket or clock
    agent.py    carries out: a tornado loop between the sockets, the zygotes and the core
    zygotes.py  the agent's side of a zygote;  zygote.py  the zygote itself;  zygote_messages.py  what they say
    worker.py   what runs in a worker, with executor.py, task_queue.py, output.py, results.py, spans.py, streams.py
    concurrency.py  calls of an actor that run at once: threads, event loops; with concurrent_calls.py, async_streams.py
    leaving.py      how an actor ends itself
    memory.py       segments and spill files made, filled and given back, in threads;  spill.py  the files themselves
    segments.py processes.py    what only Linux has
    monitor.py logs.py          what is measured, the workers' output
    gpus.py     who knows the devices: nvml.py, or simulated_gpus.py;  device_locks.py  who may use them
    device_records.py   what they have failed at, for the agents that come
    device_errors.py    what CUDA says to workers
    host_memory.py  what processes and the host use of memory
"""
