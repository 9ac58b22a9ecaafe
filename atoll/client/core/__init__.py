"""The client's core: what a process that submits tasks and owns objects decides, without any I/O.

Owns: the tasks that this process has submitted and that have not ended, by scheduling class (`dispatch`); its calls to
actors (`actor_calls`); the objects that it owns or borrows and who refers to them (`objects`). `client.ClientCore`
composes them.

Never: touches a socket, thread, clock, file or random number; pickles or unpickles what users wrote; blocks.

In: tasks and calls submitted, refs released, messages from scheduler, workers, owners and borrowers, peers that come
and go, deadlines. Out: messages to send, processes to connect to, objects that have become ready, output to show.
"""
