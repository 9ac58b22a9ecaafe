"""Framing, handshake, endpoint."""
