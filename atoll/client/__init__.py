"""A process's session with its cluster: everything between the API and the sockets.

Owns: the session (`session`) with its reactor (`reactor`) and channels (`switchboard`, `uplinks`, `channel`,
`open_files`), the shared memory that it has mapped (`store`, `mapping`, `reserved`), how arguments and values travel
(`arguments`, `values`, `loaders`), and finding, starting and stopping the daemons (`launch`, `daemons`, `supervisor`;
`lifeline`, where nobody supervises; `restarts` counts for both). Its decisions are made in `core`, which does no I/O.

Never: decides where something runs (the scheduler does), or imports a daemon: it starts them as processes.

In: submissions and waits of the API's threads; messages. Out: messages; values; errors.
"""
