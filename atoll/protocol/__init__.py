"""What processes of a cluster say to each other, and how: no sockets, no decisions.

Owns: the control messages (`messages`), those of direct channels (`channel_messages`), the cluster as people see it
(`state`); frames (`framing`), the mutual proof (`handshake`), values as bytes (`serialization`); the connection file
and the directory that it lies in (`cluster_file`, `runtime_directory`); the shape that all cores share (`machine`). One
shell is here, since all daemons use it: `endpoint`, their end of a Unix socket.

Never: knows what a message leads to; unpickles anything by itself.

In: bytes, values. Out: messages, bytes.
"""
